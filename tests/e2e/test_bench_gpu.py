"""scripts/bench-gpu, rehearsed on the CPU with a model of FLUX's parts at a width of 32."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bench_gpu.plan import Planner
from bench_gpu.sizes import FULL, TINY

SCRIPT = Path(__file__).parents[2] / "scripts" / "bench-gpu"
CPU = torch.device("cpu")


def start(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        ["sh", SCRIPT, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHON": sys.executable},
    )


def bench(*arguments: object) -> tuple[int, str, str]:
    process = start(*arguments)
    out, errors = process.communicate()
    return process.returncode, out, errors


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model's files."""
    folder = tmp_path_factory.mktemp("bench") / "tiny"
    code, out, errors = bench("make", "--folder", folder, "--size", "tiny")
    assert code == 0, errors
    assert json.loads(out.splitlines()[-1])["size"] == "tiny"
    return folder


@pytest.fixture(scope="module")
def rehearsal(folder: Path) -> dict[str, Any]:
    """The document of a whole rehearsal."""
    code, out, errors = bench("run", "--folder", folder, "--device", "cpu")
    assert code == 0, errors
    document: dict[str, Any] = json.loads(out.splitlines()[-1])
    return document


def results(document: dict[str, Any], ending: str) -> dict[str, dict[str, Any]]:
    return {
        name: entry["result"] for name, entry in document["stages"].items() if name.endswith(ending)
    }


def test_everything_that_is_planned_is_measured_and_written_to_the_document(
    rehearsal: dict[str, Any], folder: Path
) -> None:
    weights = rehearsal["model"]["weights_bytes"]
    arms = Planner(TINY, weights, on_cuda=False, repeat=TINY.repeat).arms()
    planned = [f"{arm.name}/{stage.name}" for arm in arms for stage in arm.stages]

    assert list(rehearsal["stages"]) == planned
    assert {entry["state"] for entry in rehearsal["stages"].values()} == {"done"}
    assert rehearsal["finished"] is True
    assert json.loads((folder / "result.json").read_text()) == rehearsal
    assert not (folder / "prepared").exists(), "24 GB at full size; not to be left behind"


def test_the_document_says_what_it_was_measured_on(rehearsal: dict[str, Any]) -> None:
    assert rehearsal["command"].startswith("scripts/bench-gpu run --folder ")
    assert {"date", "commit", "host", "gpu", "machine", "model", "card", "null"} <= set(rehearsal)
    assert {"torch", "diffusers", "peft"} <= set(rehearsal["machine"]["versions"])
    assert "rehearsal" in rehearsal["notice"], "the figures of a tiny model are no benchmark"


def test_what_only_cuda_has_is_null_with_a_reason(rehearsal: dict[str, Any]) -> None:
    load = rehearsal["stages"]["compiled/load"]["result"]
    kernels = rehearsal["stages"]["compiled/kernels"]["result"]

    assert load["device_peak_bytes"] is None
    assert kernels["attention_kernels"] is None
    assert kernels["attention_operators_calls"], "the operators are known on the CPU, too"
    assert rehearsal["gpu"] is None
    assert set(rehearsal["null"]) >= {"gpu", "device_*_bytes", "*_kernels"}


def test_loading_is_measured_with_how_warm_the_files_were(rehearsal: dict[str, Any]) -> None:
    loads = results(rehearsal, "/load")

    assert set(loads) == {"compiled/load", "eager/load", "device/load", "prepared/load"}
    assert [load["prepared"] for load in loads.values()] == [False, False, False, True]
    masters = [load["settings"]["master"] for load in loads.values()]
    assert masters == ["file", "host", "device", "file"]
    for load in loads.values():
        assert load["load_seconds"] > 0
        assert load["host_peak_bytes"] > 10**7
        assert load["load_page_cache_share_before"] is None or (
            0 <= load["load_page_cache_share_before"] <= 1
        )


def test_equal_control_scales_end_bit_equal_whatever_came_before(
    rehearsal: dict[str, Any],
) -> None:
    arms = [arm["changes"] for arm in results(rehearsal, "/control_scale").values()]
    changes = [row for arm in arms for row in arm]
    fresh = [arm[0] for arm in arms]

    assert rehearsal["checks"]["control_scale_bit_equal"] is True
    assert rehearsal["checks"]["scale_0_is_the_base"] is True
    assert len({row["weights_fingerprint"] for row in changes}) == 3, "for 0, 0.5 and 1"
    assert {row["control_scale"] for row in fresh} == {0.5, 1.0}, "each was fused on loaded weights"
    assert fresh[-1]["linears_changed"] == 0, "what was prepared is fused already"
    assert fresh[0]["linears_changed"] == 36


def test_nothing_is_compiled_again_after_the_first_steps(rehearsal: dict[str, Any]) -> None:
    first = rehearsal["stages"]["compiled/first_steps"]["result"]
    after = rehearsal["stages"]["compiled/recompiling"]["result"]

    assert rehearsal["checks"]["nothing_recompiled"] is True
    assert first["compiled"] is True
    assert first["graphs_compiled"] == after["graphs_compiled"] > 0
    assert after["graph_breaks"] == 0


def test_pictures_are_timed_by_phase_and_by_step(rehearsal: dict[str, Any]) -> None:
    size = TINY.pictures[0]
    one = rehearsal["stages"][f"compiled/{size}, 1 of"]["result"]
    four = rehearsal["stages"][f"compiled/{size}, 4 of"]["result"]

    assert {"denoise", "decode", "prompt", "control", "encode"} <= set(one["phases_milliseconds"])
    assert one["step_milliseconds"]["min"] <= one["step_milliseconds"]["median"]
    assert one["step_teraflops_per_second"] > 0
    assert len(four["pictures_sha256"][0]) == len(set(four["pictures_sha256"][0])) == 4
    assert four["pictures_sha256"][0][0] == one["pictures_sha256"][0][0]
    assert rehearsal["checks"]["repeats_bit_equal"] is True


def test_without_time_nothing_is_begun_and_the_document_says_so(
    folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "new" / "short.json"
    code, _, errors = bench(
        "run", "--folder", folder, "--device", "cpu", "--minutes", "0.01", "--out", out
    )
    document = json.loads(out.read_text())

    assert code == 0, errors
    assert {entry["state"] for entry in document["stages"].values()} == {"skipped"}
    assert "1 s were left" in document["stages"]["compiled/load"]["reason"]
    assert set(document["checks"].values()) == {None}


@pytest.mark.parametrize(("how", "code"), [(signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_ending_the_run_in_any_way_ends_the_process_that_measures(
    how: signal.Signals, code: int, folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "ended.json"
    with start("run", "--folder", folder, "--device", "cpu", "--out", out) as process:
        wait_until(lambda: bool(measuring(folder)))
        process.send_signal(how)

    assert process.returncode == code
    wait_until(lambda: not measuring(folder))


def measuring(folder: Path) -> list[str]:
    """Processes that measure a folder's model."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # one that has just ended
            lines.append(path.read_text(encoding="utf-8", errors="replace"))
    return [line for line in lines if "bench_gpu.child" in line and str(folder) in line]


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_making_leaves_a_finished_model_alone_and_refuses_another_in_its_place(
    folder: Path,
) -> None:
    from bench_gpu.making import make

    before = sorted((path, path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file())
    assert make(folder, TINY, seed=0, device=CPU)["size"] == "tiny"

    with pytest.raises(SystemExit, match="holds the tiny model of seed 0"):
        make(folder, FULL, seed=0, device=CPU)
    after = sorted((path, path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file())
    assert after == before


def test_running_without_a_model_says_what_makes_one(tmp_path: Path) -> None:
    code, _, errors = bench("run", "--folder", tmp_path, "--device", "cpu")

    assert code == 1
    assert errors.strip().endswith(f"run: bench-gpu make --folder {tmp_path}")
