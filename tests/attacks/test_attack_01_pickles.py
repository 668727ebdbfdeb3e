"""Attack 1: weights that are programs. Whatever a file is called, no pickle is ever opened."""

from __future__ import annotations

import ast
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pickle_bombs
import pytest
import source_code
import torch
from torch._inductor.runtime.cache_dir_utils import default_cache_dir

import depthflux
from depthflux.engine import compile_cache
from depthflux.engine.compile_cache import compile_cache_name, use_compile_cache
from depthflux.engine.prompt_store import PromptStore
from depthflux.model.placement import Placement
from depthflux.server.messages import parse_from_worker
from depthflux.settings import EngineSettings
from stand_in.running import PICTURE, SUBMIT, StandInServer

FORMS = pytest.mark.parametrize("form", pickle_bombs.FORMS)
WEIGHTS = (
    "vae/diffusion_pytorch_model.safetensors",
    "text_encoder/model.safetensors",
    "depth_estimator/model.safetensors",
    "control_lora.safetensors",
)
#: Modules that run what they read.
RUNNING_READERS = {
    "pickle",
    "cPickle",
    "_pickle",
    "marshal",
    "shelve",
    "dill",
    "cloudpickle",
    "joblib",
    "jsonpickle",
    "numpy.ma.mrecords",
    "multiprocessing.connection",
}
#: Functions that do, unless told not to.
RUNNING_CALLS = {
    "torch.load",
    "torch.jit.load",
    "torch.hub.load",
    "np.load",
    "numpy.load",
    "np.memmap.load",
    "pd.read_pickle",
    "torch.package.PackageImporter",
}
CPU = Placement(torch.device("cpu"), torch.float32, "as set")
SETTINGS = EngineSettings(model="demo", compile=True)


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / "opened"


@pytest.fixture
def folder(miniature_8x: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(miniature_8x, tmp_path / "model"))


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Path]:
    """The user's cache folder, and torch's variables as on a new machine."""
    with pytest.MonkeyPatch.context() as patch:
        for variable in compile_cache.VARIABLES:
            patch.setenv(variable, "to be restored")
            patch.delenv(variable)
        patch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        patch.setattr(compile_cache, "_ours", {})
        yield tmp_path / "cache" / "depthflux"


def refusal(folder: Path) -> str:
    with pytest.raises(depthflux.SetupError) as caught:
        depthflux.load("reference", model=str(folder))
    return str(caught.value)


@FORMS
@pytest.mark.parametrize("name", WEIGHTS, ids=lambda name: name.partition("/")[0])
def test_a_pickle_under_the_name_of_weights_is_refused_unopened(
    form: str, name: str, folder: Path, marker: Path
) -> None:
    (folder / name).write_bytes(pickle_bombs.FORMS[form](marker))

    said = refusal(folder)

    assert "truncated or damaged" in said or "no safetensors file" in said
    assert not marker.exists()


@pytest.mark.parametrize(
    ("weights", "pickled"),
    [
        ("vae/diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin"),
        ("text_encoder_2/model.safetensors", "pytorch_model.bin"),
        ("transformer/diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.ckpt"),
        ("text_encoder/model.safetensors", "model.pt"),
        ("text_encoder/model.safetensors", "model.pth"),
    ],
)
def test_a_folder_that_has_pickles_only_lacks_its_weights(
    weights: str, pickled: str, folder: Path, marker: Path
) -> None:
    (folder / weights).unlink()
    (folder / weights).with_name(pickled).write_bytes(pickle_bombs.zipped(marker))

    said = refusal(folder)

    assert f"{pickled}: pickles are not read" in said
    assert not marker.exists()


@pytest.mark.parametrize("shard", ["evil.bin", "../evil.safetensors", "evil.safetensors\n.bin"])
def test_an_index_of_shards_cannot_name_a_pickle(shard: str, folder: Path, marker: Path) -> None:
    (folder / "vae" / "evil.bin").write_bytes(pickle_bombs.zipped(marker))
    index = folder / "vae" / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": shard}}))

    said = refusal(folder)

    assert "only safetensors files beside it" in said
    assert not marker.exists()


def test_a_vocabulary_that_is_a_pickle_is_no_tokenizer(folder: Path, marker: Path) -> None:
    for name in ("tokenizer.json", "spiece.model", "added_tokens.json"):
        (folder / "tokenizer_2" / name).write_bytes(pickle_bombs.plain(marker))

    said = refusal(folder)

    assert "tokenizer_2 is no tokenizer" in said
    assert not marker.exists()


@FORMS
def test_a_lora_of_a_request_that_is_a_pickle_is_refused_unopened(
    form: str, miniature_8x: Path, tmp_path: Path, marker: Path, depth_ramp: Any
) -> None:
    engine = depthflux.load("reference", model=str(miniature_8x), loras_dir=str(tmp_path))
    (tmp_path / "style.safetensors").write_bytes(pickle_bombs.FORMS[form](marker))

    with pytest.raises(depthflux.InvalidParameterError, match="loras"):
        engine.generate(
            prompt="x", control_image=depth_ramp, preprocess_depth=False, loras=[{"path": "style"}]
        )

    assert not marker.exists()


@pytest.mark.parametrize(
    "path", ["style.pt", "style.ckpt", "style.bin", "/weights/style.pt", "../style", "C:\\style"]
)
def test_a_request_over_http_cannot_name_a_pickle(path: str, server: StandInServer) -> None:
    fields = {"prompt": "paint", "control_image": PICTURE, "loras": [{"path": path}]}

    response = httpx.post(server.address + SUBMIT, json=fields)

    assert response.status_code == 400
    assert "loras" in response.json()["message"]


#: torchvision's AlexNet, which LPIPS needs, is published as a pickle alone. torch reads it for
#: tensors only, where a person has put it, and what holds more is refused: see test_closeness.py,
#: test_a_damaged_or_foreign_file_of_weights_is_refused.
ALEXNET = "bench/quality/closeness.py"


def test_only_tensors_are_read_of_the_one_pickle_there_is() -> None:
    (reading,) = [
        call
        for place, name, call in source_code.calls()
        if place.partition(":")[0] == ALEXNET and name == "torch.load"
    ]

    said = {given.arg: ast.unparse(given.value) for given in reading.keywords}
    assert said == {"map_location": "'cpu'", "weights_only": "True"}


def test_nothing_in_the_source_could_open_one() -> None:
    readers = [
        f"{place} imports {name}"
        for place, name in source_code.imports()
        if name in RUNNING_READERS or name.partition(".")[0] in RUNNING_READERS
        # For the error alone that torch raises of it.
        if (place, name) != (ALEXNET, "pickle")
    ]
    loaders = [
        f"{place} calls {name}"
        for place, name, _ in source_code.calls()
        if name in RUNNING_CALLS and place.partition(":")[0] != ALEXNET
    ]
    allowing = [
        place
        for place, _, call in source_code.calls()
        for given in call.keywords
        if given.arg in ("allow_pickle", "weights_only", "allow_dangerous_deserialization")
        and place.partition(":")[0] != ALEXNET
    ]
    # Its default is to look for pickles where there is no safetensors file.
    unsaid = [
        place
        for place, name, call in source_code.calls()
        if name.endswith("ForDepthEstimation.from_pretrained")
        and not any(
            given.arg == "use_safetensors" and ast.unparse(given.value) == "True"
            for given in call.keywords
        )
    ]

    assert readers + loaders + allowing + unsaid == []


@pytest.mark.parametrize("form", ["plain", "ancient"])
def test_a_worker_that_was_taken_over_cannot_send_the_server_a_pickle(
    form: str, marker: Path
) -> None:
    line = pickle_bombs.FORMS[form](marker).replace(b"\n", b" ") + b"\n"

    assert parse_from_worker(line) is None
    assert not marker.exists()


@FORMS
def test_a_pickle_in_the_store_of_prompts_is_passed_over(
    form: str, tmp_path: Path, marker: Path
) -> None:
    key = "0" * 64
    (tmp_path / f"{key}.safetensors").write_bytes(pickle_bombs.FORMS[form](marker))

    assert PromptStore(tmp_path).read(key) is None
    assert not marker.exists()


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702])
@pytest.mark.parametrize("inner", [False, True], ids=["the-folder", "a-folder-in-it"])
def test_compiled_code_that_others_could_have_written_is_not_used(
    mode: int, inner: bool, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """torch keeps pickles and machine code there, and runs both."""
    planted = cache / "compile"
    planted.mkdir(parents=True, mode=0o700)
    if inner:
        planted = planted / compile_cache_name(SETTINGS, CPU)
        planted.mkdir()
    planted.chmod(mode)

    used = use_compile_cache(SETTINGS, CPU)

    assert not used.is_relative_to(cache)
    assert used.parent.stat().st_mode & 0o777 == 0o700
    assert f"{planted} has mode {mode:04o}" in caplog.text
    assert planted.stat().st_mode & 0o777 == mode


def test_compiled_code_that_another_user_has_made_is_not_used(
    cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (cache / "compile").mkdir(parents=True, mode=0o755)
    owner = os.geteuid()
    monkeypatch.setattr(compile_cache.os, "geteuid", lambda: owner + 1)

    used = use_compile_cache(SETTINGS, CPU)

    assert not used.is_relative_to(cache)
    assert f"belongs to user {owner}, this process to user {owner + 1}" in caplog.text
    assert "has mode" not in caplog.text


def test_compiled_code_is_kept_for_its_owner_alone(cache: Path) -> None:
    before = os.umask(0)
    try:
        folder = use_compile_cache(SETTINGS, CPU)
    finally:
        os.umask(before)

    for private in (cache / "compile", folder.parent):
        assert private.stat().st_mode & 0o777 == 0o700


def test_without_a_home_no_folder_is_used_whose_name_can_be_guessed(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch's own default is one in /tmp called after the user: whoever makes it first owns it."""
    monkeypatch.setattr(compile_cache, "cache_folder", lambda: None)

    used = use_compile_cache(SETTINGS, CPU)

    assert not used.is_relative_to(default_cache_dir())
    assert "depthflux-compile-" in str(used)
    assert used.parent.parent.stat().st_mode & 0o777 == 0o700
    assert not cache.exists()
