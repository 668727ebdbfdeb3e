"""Warm-up: after it nothing compiles, whatever a request asks for, and the next start reuses it.

The blocks are compiled as in service, by Inductor, on a miniature with several blocks of each kind:
the first and the later ones must share a graph.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from PIL import Image
from torch._dynamo.utils import counters

import depthflux
from depthflux.engine.compilation import Compilation
from depthflux.engine.compile_cache import VARIABLES
from depthflux.engine.conditioning import condition, encode_prompt
from depthflux.engine.engine import Engine
from depthflux.engine.warmup import Part, warm_up
from depthflux.errors import InvalidParameterError

# Inductor imports modules that other libraries have deprecated; none of it is ours to mend.
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"
)

#: Twelve sizes from 512 to 1536, those of the model cards and odd ones among them.
SERVED = [
    (512, 512), (512, 768), (768, 512), (640, 1536), (1536, 640), (768, 1344), (832, 1216),
    (864, 1632), (1024, 1024), (1024, 1536), (1280, 960), (1536, 1536),
]  # fmt: skip
WARM_SIZES = ("512*512", "640*512")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from train_demo import architecture

    several = dataclasses.replace(architecture.SIZES["tiny"], double_blocks=2, single_blocks=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(architecture.SIZES, "tiny", several)
        folder = tmp_path_factory.mktemp("several-blocks")
        return architecture.write_untrained(folder / "model", vae_scale_factor=16)


@pytest.fixture(scope="module")
def warm(model: Path) -> Iterator[tuple[Engine, list[Part]]]:
    """A warm engine that denoises up to four pictures together, and what warming it up said."""
    with pytest.MonkeyPatch.context() as patch:
        for variable in VARIABLES:
            patch.setenv(variable, "to be restored")
            patch.delenv(variable)
        torch._dynamo.reset()
        counters.clear()
        engine = load(model, max_batch=4)
        told: list[Part] = []
        parts = warm_up(engine, sizes=WARM_SIZES, on_part=told.append)
        assert told == parts
        yield engine, parts
        torch._dynamo.reset()


@pytest.fixture
def _nothing_may_compile() -> Iterator[None]:
    torch.compiler.set_stance("fail_on_recompile")
    yield
    torch.compiler.set_stance("default")


def load(model: Path, **settings: object) -> Engine:
    values = {"device": "cpu", "dtype": "float32", "compile": True} | settings
    return depthflux.load("exact", model=str(model), **values)


def denoise(engine: Engine, width: int, height: int, pictures: int, *, steps: int = 1) -> None:
    """The loop alone at a size's number of tokens; estimating and decoding would take minutes."""
    cells = (height // engine.model.grid * 2, width // engine.model.grid * 2)
    control = DiagonalGaussianDistribution(torch.zeros(1, 32, *cells))
    with torch.no_grad():
        prompt = encode_prompt(engine.model, f"a room of {width}")
        conditioning = condition(
            engine.model, prompt, control, steps=steps, guidance_scale=1 + width / 1000
        )
        seeds = range(pictures)
        for together in engine._batches(seeds):
            engine._denoise(conditioning, together, lambda _: None)


def test_warming_up_makes_a_graph_for_each_kind_of_block_alone_and_in_batches(
    warm: tuple[Engine, list[Part]],
) -> None:
    _, parts = warm

    assert [(part.name, part.graphs) for part in parts] == [
        ("512*512, 1 picture", 2),
        ("640*512, 1 picture", 0),
        ("512*512, 2 pictures", 2),
        ("640*512, 2 pictures", 0),
    ]
    assert all(part.seconds > 0 for part in parts)
    assert not counters["graph_break"]


@pytest.mark.usefixtures("_nothing_may_compile")
@pytest.mark.parametrize("pictures", [1, 2, 3, 4])
def test_after_warm_up_no_size_and_number_of_pictures_compiles(
    warm: tuple[Engine, list[Part]], pictures: int
) -> None:
    engine, _ = warm

    for width, height in SERVED:
        denoise(engine, width, height, pictures)


@pytest.mark.usefixtures("_nothing_may_compile")
def test_after_warm_up_no_number_of_steps_compiles(warm: tuple[Engine, list[Part]]) -> None:
    engine, _ = warm

    for steps in (1, 2, 3, 28, 50):
        denoise(engine, 256, 256, 1, steps=steps)


@pytest.mark.usefixtures("_nothing_may_compile")
def test_after_warm_up_requests_of_every_kind_compile_nothing(
    warm: tuple[Engine, list[Part]], room: Image.Image
) -> None:
    engine, _ = warm
    first = {"prompt": "a red sphere", "control_image": room, "size": "512*512", "seed": 7}

    for change in (
        {"num_inference_steps": 1},
        {"num_inference_steps": 3, "control_scale": 0.4, "num_images": 3},
        {"num_inference_steps": 2, "guidance_scale": 9.0, "size": "512*640", "num_images": 2},
        {"num_inference_steps": 2, "prompt": "two cubes " * 40, "num_images": 4},
    ):
        assert engine.generate(**first | change).images


@pytest.mark.usefixtures("_nothing_may_compile")
def test_an_engine_that_denoises_one_picture_at_a_time_needs_no_other_graphs(
    warm: tuple[Engine, list[Part]], model: Path
) -> None:
    engine = load(model, max_batch=1)

    for pictures, (width, height) in enumerate(SERVED[:4], start=1):
        denoise(engine, width, height, pictures)


@pytest.mark.usefixtures("_nothing_may_compile")
def test_a_request_from_another_thread_compiles_nothing(
    warm: tuple[Engine, list[Part]], room: Image.Image
) -> None:
    engine, _ = warm
    painted = []

    def serve() -> None:
        request = {"prompt": "a cube", "control_image": room, "num_inference_steps": 1}
        painted.append(engine.generate(**request, size="512*512"))

    thread = threading.Thread(target=serve)
    thread.start()
    thread.join()

    assert len(painted) == 1


def test_a_request_during_warm_up_waits_for_it(
    warm: tuple[Engine, list[Part]], room: Image.Image
) -> None:
    engine, _ = warm
    torch._dynamo.reset()  # as after a start
    before = counters["stats"]["unique_graphs"]
    warming = threading.Thread(target=warm_up, args=(engine,), kwargs={"sizes": ["512*512"]})
    warming.start()
    while not engine._running:
        time.sleep(0.001)

    graphs: list[int] = []
    engine.generate(
        prompt="a cube",
        control_image=room,
        size="512*512",
        num_inference_steps=1,
        on_step=lambda *_: graphs.append(counters["stats"]["unique_graphs"] - before),
    )
    warming.join()

    assert graphs[0] >= 2, "both kinds of block were compiled before the request's only step"


def test_a_size_is_judged_even_where_there_is_nothing_to_warm_up(miniature_16x: Path) -> None:
    with pytest.raises(InvalidParameterError, match="size"):
        warm_up(load(miniature_16x, compile=False), sizes=["foo"])


def test_a_model_without_a_depth_estimator_is_warmed_up_with_a_depth_map(
    miniature_16x: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(miniature_16x, folder)
    shutil.rmtree(folder / "depth_estimator")
    engine = load(folder, compile=False)
    engine.compilation = Compilation(True, "believed")  # compiling would add nothing to see

    parts = warm_up(engine, sizes=["512*512"])

    assert [part.name for part in parts] == ["512*512, 1 picture"]


def test_an_engine_that_does_not_compile_has_nothing_to_warm_up(miniature_16x: Path) -> None:
    assert warm_up(load(miniature_16x, compile=False)) == []


def test_a_size_that_no_request_may_have_is_refused(warm: tuple[Engine, list[Part]]) -> None:
    with pytest.raises(InvalidParameterError, match="size"):
        warm_up(warm[0], sizes=["10*10"])


def test_the_next_start_takes_the_graphs_from_the_cache_and_says_so(
    warm: tuple[Engine, list[Part]], model: Path
) -> None:
    environment = {k: v for k, v in os.environ.items() if k not in VARIABLES}
    words = "warmup --profile exact --device cpu --dtype float32 --compile --size 512*512 --json"

    run = subprocess.run(
        [sys.executable, "-m", "depthflux", *words.split(), "--model", str(model)],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )

    assert run.returncode == 0, run.stderr
    document = json.loads(run.stdout)
    (part,) = document["parts"]
    assert (part["graphs"], part["from_cache"]) == (2, 2)
    assert document["seconds"] >= part["seconds"]
    assert any(Path(document["folder"]).iterdir())
    assert "512*512, 1 picture: " in run.stderr
    assert " s, 2 graphs, 2 of them from the cache" in run.stderr
