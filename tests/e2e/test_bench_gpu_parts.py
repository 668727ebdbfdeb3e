"""The parts of scripts/bench-gpu, each on its own: what it draws, counts, watches and concludes."""

from __future__ import annotations

import json
import mmap
import os
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from bench_gpu.document import Document, checks
from bench_gpu.drawing import total_bytes, write_drawn
from bench_gpu.fingerprint import fingerprint
from bench_gpu.memory import PeakMemory
from bench_gpu.page_cache import resident_share
from bench_gpu.plan import Planner
from bench_gpu.shapes import component_shapes, control_lora_shapes
from bench_gpu.sizes import FULL, TINY
from bench_gpu.watching import Ending, Listener
from depthflux.bench.clocks import StepMarks
from depthflux.bench.gpu_samples import GpuSamples

CPU = torch.device("cpu")


@pytest.fixture
def document(tmp_path: Path) -> Document:
    return Document(tmp_path / "document.json", {})


def test_a_process_that_dies_leaves_what_it_told_and_a_failure(
    document: Document, tmp_path: Path
) -> None:
    arms = Planner(TINY, {"transformer": 1}, on_cuda=False, repeat=1).arms()[2:3]
    with GpuSamples("cpu") as samples:
        listener = Listener(document, samples)
        listener.hear({"stage": "device/load", "state": "done", "result": {"load_seconds": 1.0}})
        listener.hear({"stage": "device/control_scale", "state": "started"})
        written = json.loads((tmp_path / "document.json").read_text())
        listener.lost(arms, Ending("failed", "signal SIGKILL"))

    assert written["stages"]["device/load"]["result"] == {"load_seconds": 1.0}
    assert written["finished"] is False
    assert document.stages["device/control_scale"]["state"] == "failed"
    assert document.stages["device/control_scale"]["reason"] == "signal SIGKILL"


def test_a_process_that_dies_before_its_first_word_is_a_failure_all_the_same(
    document: Document,
) -> None:
    arms = Planner(TINY, {"transformer": 1}, on_cuda=False, repeat=1).arms()[2:3]
    with GpuSamples("cpu") as samples:
        Listener(document, samples).lost(arms, Ending("failed", "status 1: no torch"))

    assert [entry["state"] for entry in document.stages.values()] == ["failed", "skipped"]


def test_checks_see_weights_that_drifted_graphs_that_grew_and_pictures_that_differ(
    document: Document,
) -> None:
    def change(scale: float, weights: str) -> dict[str, object]:
        return {"control_scale": scale, "weights_fingerprint": weights}

    for stage, result in {
        "eager/load": {"weights_fingerprint": "base"},
        "eager/control_scale": {
            "changes": [change(1, "a"), change(0, "not the base"), change(1, "b")]
        },
        "compiled/first_steps": {"compiled": True, "graphs_compiled": 2, "graph_breaks": 0},
        "compiled/recompiling": {"graphs_compiled": 3, "graph_breaks": 0},
        "compiled/512*512, 1 of": {"pictures_sha256": [["x"], ["y"]]},
    }.items():
        document.stages[stage] = {"state": "done", "result": result}

    assert set(checks(document).values()) == {False}


def test_the_full_model_has_flux_s_numbers_of_weights() -> None:
    millions = {name: total_bytes(shapes) / 2e6 for name, shapes in component_shapes(FULL).items()}

    assert millions == pytest.approx(
        {"transformer": 11901.4, "text_encoder_2": 4762.3, "text_encoder": 123.1, "vae": 83.8},
        rel=1e-3,
    )
    # The published file has 1,244,440,512 bytes.
    assert total_bytes(control_lora_shapes(FULL)) == pytest.approx(1_244_440_512, rel=1e-3)


def test_what_is_drawn_is_a_safetensors_file_of_seeded_noise(tmp_path: Path) -> None:
    shapes = {"a.weight": (64, 64), "norm.weight": (4096,), "b.bias": (4096,)}
    for name, seed in (("first", 0), ("again", 0), ("other", 1)):
        path = tmp_path / f"{name}.safetensors"
        write_drawn(path, shapes, prefix="part", seed=seed, device=CPU)

    first, again, other = (
        load_file(tmp_path / f"{name}.safetensors") for name in ("first", "again", "other")
    )
    assert {name: tuple(tensor.shape) for name, tensor in first.items()} == shapes
    assert {tensor.dtype for tensor in first.values()} == {torch.bfloat16}
    assert all(torch.equal(first[name], again[name]) for name in shapes)
    assert not torch.equal(first["a.weight"], other["a.weight"])
    assert first["a.weight"].float().std() == pytest.approx(0.02, rel=0.1)
    assert first["norm.weight"].float().mean() == pytest.approx(1, abs=0.01)
    assert first["b.bias"].float().mean() == pytest.approx(0, abs=0.01)


def test_a_fingerprint_tells_one_bit_and_two_numbers_that_changed_places() -> None:
    module = torch.nn.Linear(300, 200, dtype=torch.bfloat16)
    # As drawn, two numbers of a bfloat16 bias are equal now and then.
    module.bias.data[:2] = torch.tensor([1.0, 2.0])
    whole = fingerprint(module)

    twin = torch.nn.Linear(300, 200, dtype=torch.bfloat16)
    twin.load_state_dict(module.state_dict())
    assert fingerprint(twin) == whole
    twin.weight.data.view(torch.int16)[17, 5] ^= 1
    assert fingerprint(twin) != whole
    twin.load_state_dict(module.state_dict())
    twin.bias.data[:2] = twin.bias.data[:2].flip(0)
    assert fingerprint(twin) != whole


def test_a_picture_s_first_step_is_not_counted() -> None:
    clock = StepMarks(CPU, steps=3)
    for pause in (0, 0.001, 0.001, 0.05, 0.001, 0.001):  # the fourth belongs to a second picture
        time.sleep(pause)
        clock.mark()

    assert len(clock.milliseconds()) == 4
    assert max(clock.milliseconds()) < 40


def test_peak_memory_sees_what_is_gone_again() -> None:
    with PeakMemory(CPU) as memory:
        # Fresh pages: the allocator may have some left over from earlier tests.
        held = mmap.mmap(-1, 2**26)
        held[:: mmap.PAGESIZE] = b"x" * (2**26 // mmap.PAGESIZE)
        time.sleep(0.1)
        held.close()

    before, peak = memory.figures["host_before_bytes"], memory.figures["host_peak_bytes"]
    assert before is not None
    assert peak is not None
    assert peak - before >= 2**26
    assert memory.figures["device_peak_bytes"] is None


def test_the_page_cache_s_share_of_a_file_is_told(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 2**20)
    read = path.read_bytes()

    assert len(read) == 2**20
    assert resident_share([path]) == pytest.approx(1, abs=0.1)


@pytest.fixture
def nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program of that name that answers as one GPU would."""
    program = tmp_path / "nvidia-smi"
    program.write_text(
        "#!/bin/sh\n"
        'case "$*" in\n'
        "*-lms*) while :; do echo '1980, 650.5, 60, [N/A], 40000'; sleep 0.02; done ;;\n"
        "*) echo 'NVIDIA H200, 580.1, 143771, 700.00, 1980, GPU-1' ;;\n"
        "esac\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")


def test_the_gpu_s_clock_and_power_are_sampled_while_it_works(nvidia_smi: None) -> None:
    begin = time.time()
    with GpuSamples("cuda") as samples:
        described = samples.describe()
        while (told := samples.within([(begin, time.time())])) is None and time.time() < begin + 10:
            time.sleep(0.02)

    assert described is not None
    assert described["driver_version"] == "580.1"
    assert told is not None
    assert told["sm_megahertz"]["median"] == 1980
    assert told["watts"]["max"] == 650.5
    assert "busy_percent" not in told, "what the GPU does not tell is left out"


def test_without_nvidia_smi_it_is_told_and_nothing_is_sampled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    with GpuSamples("cuda") as samples:
        assert samples.describe() is None
        assert samples.within([(0, time.time())]) is None
    assert samples.missing == "there is no nvidia-smi"
