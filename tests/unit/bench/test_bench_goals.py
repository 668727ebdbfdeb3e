"""What is reached of the goals, by documents that were made up."""

from __future__ import annotations

from typing import Any

import pytest

from depthflux.bench.goals import Row, goals

FULL_GPU = {"date": "2026-11-24T10:00:00+00:00", "device": {"torch": "cuda:0"}}
PLAN = {"model": "full", "steps": 28}
#: The goals: measure, what must be reached, the aim.
WANTED = [
    ("exact: E / ours, denoising, 1024*1024", 1.55, 1.75),
    ("exact: C / ours, denoising, 1024*1024", 1.03, 1.12),
    ("exact: part of the measured bfloat16 matrix rate, all operations, 1024*1024", 0.65, 0.75),
    ("fast: E / ours, denoising, 1024*1024", 2.2, 2.5),
    ("fast: F / ours, denoising, 1024*1024", 0.97, 1.05),
    ("turbo: E / ours, denoising, 1024*1024", 3.3, 4.0),
    ("dynamic shapes slower than static ones, %, 1024*1024", 5, 2),
    ("exact: whole call less denoising, same image and prompt again, s, 1024*1024", 0.25, 0.12),
    ("exact: peak memory, resident, GB, 1024*1024", 35, 34),
    ("gpu24: peak memory, modulation hoisted, T5 freed, GB, 1024*1024", 21.5, 20.5),
    ("gpu16: peak memory, 8 bits, modulation hoisted, T5 freed, GB, 1024*1024", 13, 12),
    ("compile time, regional / full graph, 1024*1024", 0.2, 0.14),
    ("graphs compiled after warm-up, 12 sizes, 1 to 4 pictures", 0, 0),
    ("process start to first picture, warm caches: exact / E, 1024*1024", 1.0, 0.7),
]


def speed(
    ratios: dict[str, list[float]],
    *,
    static: bool = False,
    model: str = "full",
    steps: int = 28,
    systems: dict[str, Any] | None = None,
    **changed: Any,
) -> dict[str, Any]:
    """A document of one contest at 1024*1024."""
    rounds = len(next(iter(ratios.values()), [0.0]))
    measured = {
        "rounds_number": rounds,
        "systems": systems or {},
        "ratios": {
            name: {"denoise": {"rounds": pairs, "median": sorted(pairs)[len(pairs) // 2]}}
            for name, pairs in ratios.items()
        },
    }
    plan = {"model": model, "static_shapes": static, "steps": steps}
    return {
        "benchmark": "speed",
        **FULL_GPU,
        "plan": plan,
        "sizes": {"1024*1024": measured},
        **changed,
    }


def system(**changed: Any) -> dict[str, Any]:
    figures = {"rates": {}, "again": None, "peak_device_bytes": None}
    return figures | changed


def start(name: str, caches: str, **seconds: float) -> dict[str, Any]:
    return {"plan": {"systems": [name]}, "caches": caches, **seconds}


def starts(*of: dict[str, Any]) -> dict[str, Any]:
    return {"benchmark": "start", **FULL_GPU, "plan": PLAN, "starts": list(of)}


def graphs(compiled_each: int, *, finished: bool = True, compiled: bool = True) -> dict[str, Any]:
    return {
        "benchmark": "graphs",
        **FULL_GPU,
        "plan": PLAN,
        "finished": finished,
        "system": {"settings": {"compiled": compiled}},
        "painted": [{"graphs_compiled": compiled_each, "graph_breaks": 0}] * 3,
    }


def row(measure: str, *documents: dict[str, Any]) -> Row:
    (found,) = [one for one in goals(documents) if one.measure.startswith(measure)]
    return found


def test_every_row_of_the_goals_is_there_and_without_documents_not_measured() -> None:
    rows = goals([])

    by_name = {one.measure: (one.least, one.aim) for one in rows}
    assert [by_name[name] for name, *_ in WANTED] == [(least, aim) for _, least, aim in WANTED]
    assert {one.measured for one in rows} == {None}
    assert {one.met for one in rows} == {None}


@pytest.mark.parametrize(
    ("ratio", "met", "aim_met"), [(1.5, False, False), (1.6, True, False), (1.75, True, True)]
)
def test_a_ratio_is_held_against_what_must_be_and_the_aim(
    ratio: float, met: bool, aim_met: bool
) -> None:
    found = row("exact: E / ours, denoising, 1024*1024", speed({"E/exact": [ratio]}))

    assert (found.measured, found.met, found.aim_met) == (ratio, met, aim_met)


def test_the_document_of_the_most_rounds_counts_then_the_latest() -> None:
    short = speed({"E/exact": [1.9]}, date="2026-11-26")
    early = speed({"E/exact": [1.6, 1.6, 1.6]}, date="2026-11-24")
    late = speed({"E/exact": [1.7, 1.7, 1.7]}, date="2026-11-25")

    assert row("exact: E / ours, denoising, 1024", short, late, early).measured == 1.7


@pytest.mark.parametrize(
    "document",
    [
        pytest.param(speed({"E/exact": [9.0]}, model="small"), id="small"),
        pytest.param(speed({"E/exact": [9.0]}, steps=4), id="steps"),
        pytest.param(speed({"E/exact": [9.0]}, device={"torch": "cpu"}), id="cpu"),
        pytest.param({"part": "exact", "finished": False, "stopped": "failed"}, id="nothing"),
    ],
)
def test_only_the_full_model_on_a_gpu_counts(document: dict[str, Any]) -> None:
    assert row("exact: E / ours, denoising, 1024", document).measured is None


def test_static_blocks_count_against_dynamic_ones_by_each_one_s_own_e() -> None:
    dynamic, static = speed({"E/exact": [1.6]}), speed({"E/exact": [1.68]}, static=True)

    assert row("dynamic shapes", dynamic, static).measured == 5.0
    assert row("dynamic shapes", static).measured is None
    assert row("exact: E / ours, denoising, 1024", dynamic, static).measured == 1.6


def test_a_system_s_own_figures_are_read_in_their_units() -> None:
    again = {"outside_seconds": {"median": 0.2}}
    figures = system(
        rates={"fraction_of_products_rate": 0.7}, again=again, peak_device_bytes=34_400_000_000
    )
    hoisted = system(peak_device_bytes=21_600_000_000)
    document = speed({"E/exact": [1.0]}, systems={"exact": figures, "gpu24": hoisted})

    rate = "exact: part of the measured bfloat16 matrix rate, all operations, 1024"
    outside = "exact: whole call less denoising, same image and prompt again, s, 1024"
    assert row(rate, document).measured == 0.7
    assert row(outside, document).measured == 0.2
    assert row("exact: peak memory", document).met is True
    assert row("exact: peak memory", document).aim_met is False
    assert row("gpu24: peak memory", document).met is False


def test_compile_times_and_starts_are_ratios_of_processes() -> None:
    first = "first_picture_after_seconds"
    told = starts(
        start("E", "empty", **{first: 100.0, "compile_seconds": 1.0}),
        start("exact", "empty", **{first: 150.0, "compile_seconds": 60.0}),
        start("exact", "warm", **{first: 60.0, "compile_seconds": 5.0}),
    )
    full = starts(start("C", "empty", **{first: 500.0, "compile_seconds": 400.0}))

    assert row("compile time", told).measured is None
    assert row("compile time", told, full).measured == 0.15
    assert row("process start", told).measured == 0.6


def test_graphs_are_counted_in_a_whole_run_of_compiled_blocks() -> None:
    assert row("graphs compiled", graphs(0)).met is True
    assert row("graphs compiled", graphs(1)).measured == 3
    assert row("graphs compiled", graphs(1)).met is False
    assert row("graphs compiled", graphs(0, finished=False)).measured is None
    assert row("graphs compiled", graphs(0, compiled=False)).measured is None
