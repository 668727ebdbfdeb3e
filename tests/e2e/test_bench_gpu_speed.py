"""`scripts/bench-gpu speed`, rehearsed on the CPU with the small model: ended by force, gone on."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from torch._dynamo.utils import counters

from bench_gpu.parts import GROUPS, LONGEST_SECONDS, all_parts, chosen_parts
from bench_gpu.published import goals_section, speed_section
from bench_gpu.speed import extent, missing, read_documents
from depthflux.bench.first_picture import run_first_picture
from depthflux.bench.graphs import run_graphs
from depthflux.bench.plan import SpeedPlan, make_plan

SCRIPT = Path(__file__).parents[2] / "scripts" / "bench-gpu"
SMALL = ["--model", "small", "--device", "cpu", "--steps", "1", "--repeat", "1", "--warmup", "1"]
PARTS = ("exact-512x512", "gpu24-512x512")


def command(folder: Path, *words: str) -> list[str]:
    given = ["--out", str(folder / "out"), "--folder", str(folder / "kept")]
    return ["sh", str(SCRIPT), "speed", *SMALL, *given, "--parts", ",".join(PARTS), *words]


def bench(folder: Path, *words: str) -> tuple[dict[str, Any], str]:
    run = subprocess.run(
        command(folder, *words),
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHON": sys.executable},
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1]), run.stderr


def wait_until(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + 240
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def measuring(folder: Path) -> list[str]:
    """Processes that measure for a folder, by what keeps their compiled code."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):  # one that has just ended
            if str(folder / "kept") in path.read_text(encoding="utf-8", errors="replace"):
                found.append(path.parent.name)
    return found


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a run was killed after the first round of its first part."""
    folder = tmp_path_factory.mktemp("bench")
    partial = folder / "out" / f"{PARTS[0]}.partial.json"
    with subprocess.Popen(
        command(folder, "--repeat", "100"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"PYTHON": sys.executable},
    ) as process:
        wait_until(partial.exists)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    return folder


@pytest.fixture(scope="module")
def resumed(killed: Path) -> tuple[Path, dict[str, Any]]:
    """The same folder after the next call, and what that one said."""
    wait_until(lambda: not measuring(killed))
    summary, _ = bench(killed, "--commit", "0123456")
    return killed / "out", summary


def document(out: Path, part: str) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads((out / f"{part}.json").read_text(encoding="utf-8"))
    return parsed


def test_a_killed_run_keeps_its_rounds_and_ends_what_it_started(killed: Path) -> None:
    wait_until(lambda: not measuring(killed))
    (kept,) = read_documents(killed / "out")

    assert kept["finished"] is False
    assert kept["sizes"]["512*512"]["rounds_number"] >= 1
    assert kept["sizes"]["512*512"]["ratios"]["E/exact"]["denoise"]["median"] > 0
    assert not (killed / "out" / f"{PARTS[0]}.json").exists()


def test_the_next_call_makes_the_parts_whole(resumed: tuple[Path, dict[str, Any]]) -> None:
    out, summary = resumed

    assert summary["parts"] == dict.fromkeys(PARTS, "done")
    assert not list(out.glob("*.partial.json"))
    for part in PARTS:
        measured = document(out, part)
        assert measured["part"] == part
        assert measured["finished"] is True
        assert measured["sizes"]["512*512"]["rounds_number"] == 1
        assert list(measured["systems"]) == ["E", part.split("-")[0]], "its own E beside it"
        with Image.open(out / f"{part}.png") as chart:
            assert chart.width == 1280


def test_a_document_says_how_it_was_measured(resumed: tuple[Path, dict[str, Any]]) -> None:
    measured = document(resumed[0], PARTS[0])

    assert measured["command"].startswith("scripts/bench-gpu speed --model small")
    assert measured["commit"] == "0123456"
    assert measured["plan"]["settings"] == {"device": "cpu"}


def test_whole_parts_are_passed_over(resumed: tuple[Path, dict[str, Any]]) -> None:
    out, _ = resumed
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}

    summary, _ = bench(out.parent)

    assert summary["parts"] == dict.fromkeys(PARTS, "there already")
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == before


def test_figures_of_another_number_of_steps_are_not_taken_for_these(
    resumed: tuple[Path, dict[str, Any]],
) -> None:
    out = resumed[0]
    folder = out.parent if out.name == "out" else out
    words = command(folder, "--steps", "2")

    run = subprocess.run(
        words, capture_output=True, text=True, env=os.environ | {"PYTHON": sys.executable}
    )

    assert run.returncode == 1
    assert "has steps=1, not 2; name another --out" in run.stdout


def test_goals_that_only_a_gpu_can_reach_are_not_measured(
    resumed: tuple[Path, dict[str, Any]],
) -> None:
    assert {row["measured"] for row in resumed[1]["goals"]} == {None}


def test_without_time_no_part_is_begun(tmp_path: Path) -> None:
    summary, _ = bench(tmp_path, "--minutes", "0.01")

    reasons = set(summary["parts"].values())
    assert reasons == {"not begun: 1 s were left, and it may take 20 s"}
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        pytest.param(["--parts", "exakt"], "exakt: there is no such part", id="part"),
        pytest.param(["--sizes", "520*512"], "multiples of 16 only", id="size"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(
    words: list[str], message: str, tmp_path: Path
) -> None:
    run = subprocess.run(
        ["sh", SCRIPT, "speed", *SMALL, "--out", tmp_path / "out", *words],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHON": sys.executable},
    )

    assert run.returncode == 1
    (line,) = run.stderr.splitlines()
    assert message in line
    assert not (tmp_path / "out").exists()


def test_parts_are_in_the_order_of_importance_and_none_is_too_long() -> None:
    parts = all_parts("full")

    assert list(dict.fromkeys(part.group for part in parts)) == list(GROUPS)
    assert [part.name for part in parts][:2] == ["exact-1024x1024", "exact-864x1632"]
    assert len({part.name for part in parts}) == len(parts)
    assert max(part.seconds for part in parts) <= LONGEST_SECONDS
    contests = [part for part in parts if part.kind == "speed"]
    assert all(part.systems.split(",")[0] == "E" for part in contests)


def test_parts_are_chosen_by_group_or_by_name() -> None:
    chosen = chosen_parts(all_parts("full"), ["start", "fast"])
    (single,) = chosen_parts(all_parts("full"), ["gpu16-864x1632"])

    assert [part.name for part in chosen] == ["fast-1024x1024", "fast-864x1632", "start"]
    assert single.systems == "E,gpu16"


def test_a_part_of_which_a_system_failed_is_not_whole() -> None:
    told = {
        "systems": {"E": {"available": True}, "F": {"available": False, "reason": "no fp8"}},
        "sizes": {"512*512": {"failed": {"C": "failed: no kernel"}}},
    }

    assert list(missing(told)) == ["F is not available here: no fp8", "C failed: no kernel"]


def test_what_holds_more_is_told_by_rounds_pictures_and_starts() -> None:
    assert extent({}) == 0
    assert extent({"sizes": {"a": {"rounds_number": 2}, "b": {"rounds_number": 1}}}) == 3
    assert extent({"starts": [{}]}) < extent({"starts": [{}, {}]})


def plan_of(systems: str, **settings: Any) -> SpeedPlan:
    return make_plan(
        model="small",
        sizes=["512*512"],
        systems=systems,
        steps=1,
        repeat=1,
        warmup=1,
        num_images=1,
        seed=1,
        settings={"device": "cpu", **settings},
    )


def test_a_start_is_told_from_the_process_s_first_moment() -> None:
    lines: list[str] = []
    # Of a process; here other tests may have compiled before.
    counters.clear()
    told = run_first_picture(plan_of("E"), say=lines.append, started=time.time() - 100)

    moments = [told[f"{name}_after_seconds"] for name in ("imported", "loaded", "first_picture")]
    assert 100 <= moments[0] < moments[1] < moments[2]
    assert moments[2] - moments[1] == pytest.approx(told["first_call_seconds"], rel=0.2)
    both = told["first_call_seconds"], told["second_call_seconds"]
    assert told["compile_seconds"] == pytest.approx(both[0] - both[1], abs=2e-3)
    assert told["graphs_compiled"] == 0, "E is not compiled"


def test_every_size_is_painted_in_every_number_after_warming_up() -> None:
    kept: list[int] = []
    told = run_graphs(
        plan_of("exact", compile=False),
        say=lambda _line: None,
        keep=lambda document: kept.append(len(document["painted"])),
        numbers=(1, 2),
    )

    assert [(one["size"], one["num_images"]) for one in told["painted"]] == [
        ("512*512", 1),
        ("512*512", 2),
    ]
    assert [one["num_images"] for one in told["warm_up"]] == [1, 2]
    assert {one["graphs_compiled"] + one["graph_breaks"] for one in told["painted"]} == {0}
    assert told["system"]["settings"]["compiled"] is False
    assert kept == [2]


def as_on_a_gpu(measured: dict[str, Any]) -> dict[str, Any]:
    changed: dict[str, Any] = json.loads(json.dumps(measured))
    changed["device"] |= {"name": "NVIDIA H200", "torch": "cuda:0"}
    changed["plan"]["model"] = "full"
    for system in changed["sizes"]["512*512"]["systems"].values():
        system["peak_device_bytes"] = 34_400_000_000
    return changed


def test_pages_show_what_was_measured_on_a_gpu(
    resumed: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    folder = tmp_path / "h200-2026-11-24"
    folder.mkdir()
    for part in PARTS:
        measured = as_on_a_gpu(document(resumed[0], part))
        (folder / f"{part}.json").write_text(json.dumps(measured), encoding="utf-8")

    page = speed_section(tmp_path)

    rows = re.findall(r"^\| NVIDIA H200 \| (.*) \|$", page, flags=re.MULTILINE)
    cells = [row.split(" | ") for row in rows]
    assert [cell[1].partition(",")[0] for cell in cells] == ["E", "exact", "gpu24"]
    assert {cell[0] for cell in cells} == {"512*512"}
    assert {cell[4] for cell in cells} == {"34.4"}
    assert {cell[6] for cell in cells} == {"0123456"}
    assert "`scripts/bench-gpu speed --model small" in page
    assert "`h200-2026-11-24`:" in goals_section(tmp_path)


def test_without_a_gpu_pages_say_so_and_show_what_a_cpu_did(
    resumed: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    assert speed_section(tmp_path).startswith("Nothing was measured on a GPU yet")
    assert "| E " not in speed_section(tmp_path)

    folder = tmp_path / "cpu-2026-11-24"
    folder.mkdir()
    demo = document(resumed[0], PARTS[0])
    demo["plan"]["model"] = "demo"
    (folder / "speed.json").write_text(json.dumps(demo), encoding="utf-8")
    page = speed_section(tmp_path)

    assert page.startswith("Nothing was measured on a GPU yet")
    assert "| 512*512 | E | " in page
    assert "| 512*512 | exact, not compiled | " in page
    assert "not measured" in goals_section(tmp_path)
