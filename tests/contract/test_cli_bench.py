"""`depthflux bench speed`: one real contest at a small size, and what is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from PIL import Image

from depthflux.bench.chart import WIDTH, draw_chart

Call = Callable[..., Result]

#: A number's name, or that of an object it is in, ends in its unit or says what is counted.
UNITS = re.compile(
    r"(seconds|milliseconds|bytes|teraflops|teraflops_per_second|megahertz|watts|celsius|percent|"
    r"mebibytes|levels|tokens|calls|number|processors|load_average_before|threads|times|width|"
    r"fraction_of_\w+|graphs_compiled|graph_breaks|ratios|blocks|steps|repeat|warmup|num_images|"
    r"seed|version|settings)$"
)


@pytest.fixture(scope="module")
def contest(cli: Call, tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, Path]:
    """The small model, E against exact with one step, and F, which a CPU cannot run."""
    folder = tmp_path_factory.mktemp("bench") / "out"
    words = "--model small --systems E,F,exact --device cpu --steps 1 --repeat 1 --warmup 1 --json"
    return cli("bench", "speed", *words.split(), "--out", folder), folder


@pytest.fixture(scope="module")
def document(contest: tuple[Result, Path]) -> dict[str, Any]:
    result, _ = contest
    assert result.exit_code == 0, result.stderr
    parsed: dict[str, Any] = json.loads(result.stdout)
    return parsed


def numbers(value: object, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The path of every number in a document."""
    if isinstance(value, dict):
        for key, child in value.items():
            yield from numbers(child, (*path, key))
    elif isinstance(value, list):
        for child in value:
            yield from numbers(child, path)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield path


def test_the_document_on_standard_output_is_the_one_that_is_written(
    contest: tuple[Result, Path], document: dict[str, Any]
) -> None:
    _, folder = contest

    assert json.loads((folder / "speed.json").read_text(encoding="utf-8")) == document
    assert document["finished"] is True


def test_every_number_has_its_unit_in_its_name(document: dict[str, Any]) -> None:
    without = [
        ".".join(path) for path in numbers(document) if not any(UNITS.search(key) for key in path)
    ]

    assert without == []


def test_the_document_says_what_was_measured_where_and_with_what(
    document: dict[str, Any],
) -> None:
    assert {"torch", "diffusers", "depthflux", "torchao"} <= document["versions"].keys()
    assert document["device"]["torch"] == "cpu"
    assert document["device"]["nvidia_smi_missing"] == "the run was on cpu"
    assert document["plan"]["dtype"] == "float32"
    assert document["card"]["sizes"]["512*512"]["image_tokens"] == 1024
    assert document["card"]["weights_bytes"]["transformer"] > 10**7
    assert document["systems"]["exact"]["settings"]["order"] == "hoisted"
    assert document["systems"]["exact"]["linear_weights_number"].keys() == {"float32"}


def test_a_system_that_cannot_run_here_is_told_with_its_reason(
    contest: tuple[Result, Path], document: dict[str, Any]
) -> None:
    assert document["systems"]["F"] == {
        "available": False,
        "reason": "cpu has no fp8 matrix products",
    }
    assert list(document["systems"]) == ["E", "F", "exact"]
    assert "F: not available here: cpu has no fp8 matrix products" in contest[0].stderr


def test_both_sides_paint_the_same_picture(document: dict[str, Any]) -> None:
    measured = document["sizes"]["512*512"]["systems"]["exact"]

    assert measured["difference_from_E_levels"] < 0.05


def test_phases_fill_the_whole_call_on_both_sides(document: dict[str, Any]) -> None:
    systems = document["sizes"]["512*512"]["systems"]

    for name in ("E", "exact"):
        new = systems[name]["new"]
        phases = {phase: figures["median"] for phase, figures in new["phases_milliseconds"].items()}
        parts = sum(phases[phase] for phase in ("prompt", "control", "denoise", "decode"))
        whole = 1000 * new["wall_seconds"]["median"]
        assert 0.8 * whole < parts <= 1.001 * whole
        assert new["outside_seconds"]["median"] == pytest.approx(
            new["wall_seconds"]["median"] - new["denoise_seconds"]["median"], abs=2e-3
        )
    assert systems["E"]["again"] is None
    assert systems["exact"]["again"] is not None


def test_nothing_is_compiled_in_the_timed_rounds_and_attention_is_the_fused_one(
    document: dict[str, Any],
) -> None:
    for measured in document["sizes"]["512*512"]["systems"].values():
        assert measured["compiled_in_rounds"] == {"graphs_compiled": 0, "graph_breaks": 0}
        operators = measured["checked"]["attention_operators_calls"]
        assert operators["aten::_scaled_dot_product_flash_attention_for_cpu"] >= 9


def test_the_card_is_told_before_anything_is_loaded_and_the_table_at_the_end(
    contest: tuple[Result, Path],
) -> None:
    told = contest[0].stderr

    card, loading = told.index("1024 image tokens, "), told.index("loading E")
    assert card < loading < told.index("whole call, s")


def test_the_chart_shows_a_bar_for_each_system_that_ran(
    contest: tuple[Result, Path], document: dict[str, Any]
) -> None:
    with Image.open(contest[1] / "speed.png") as written:
        pixels = np.asarray(written)

    drawn = np.asarray(draw_chart(document))
    assert np.array_equal(pixels, drawn)
    assert pixels.shape[1] == WIDTH
    colours = {tuple(colour) for colour in pixels.reshape(-1, 3)}
    assert {(31, 105, 180), (112, 118, 128)} <= colours, "a bar of each side"


def test_the_chart_s_bars_are_as_long_as_the_medians(document: dict[str, Any]) -> None:
    changed = json.loads(json.dumps(document))
    for name, seconds in (("E", 4.0), ("exact", 2.0)):
        new = changed["sizes"]["512*512"]["systems"][name]["new"]
        new["denoise_seconds"] = dict.fromkeys(("median", "min", "max"), seconds)
        new["wall_seconds"] = dict.fromkeys(("median", "min", "max"), 5.0)

    pixels = np.asarray(draw_chart(changed))

    longest = {
        colour: (pixels == colour).all(axis=-1).sum(axis=1).max()
        for colour in ((112, 118, 128), (31, 105, 180))
    }
    assert longest[112, 118, 128] == pytest.approx(2 * longest[31, 105, 180], rel=0.02)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        pytest.param(["--systems", "E,exakt"], "exakt: there is no such system", id="system"),
        pytest.param(["--repeat", "0"], "repeat=0 is out of range", id="repeat"),
        pytest.param(["--size", "520*512"], "multiples of 32 only", id="size"),
        pytest.param(["--model", "flux"], "flux: there is no such model", id="model"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line_and_leaves_nothing(
    words: list[str], message: str, cli: Call, tmp_path: Path
) -> None:
    result = cli("bench", "speed", *words, "--out", tmp_path / "out")

    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert not (tmp_path / "out").exists()


def test_a_device_that_is_not_there_is_refused(cli: Call, tmp_path: Path) -> None:
    result = cli("bench", "speed", "--device", "cuda:7", "--out", tmp_path / "out")

    assert result.exit_code == 3
    assert "sees 0 CUDA devices" in result.stderr
    assert not (tmp_path / "out").exists()


def test_an_earlier_runs_figures_are_not_overwritten_unasked(cli: Call, tmp_path: Path) -> None:
    (tmp_path / "speed.json").write_text("precious")

    result = cli("bench", "speed", "--out", tmp_path)

    assert result.exit_code == 2
    assert "add --force to overwrite it" in result.stderr
    assert (tmp_path / "speed.json").read_text() == "precious"
