"""Comparisons that were made up, with pictures: what the report's tests show.

The figures are drawn from a fixed seed; no one of them was ever measured.
"""

from __future__ import annotations

import random
from pathlib import Path
from statistics import fmean, median
from typing import Any

from unit.bench.report.sample_cases import PROMPTS, make_cases

from depthflux.bench.document import (
    Bounded,
    CaseFigures,
    Compared,
    Cost,
    Counts,
    Document,
    Failure,
    Plan,
    Quantiles,
    Side,
    TimeQuantiles,
)


def hosted_document(folder: Path, **changed: Any) -> Document:
    """The hosted side against a local profile: 12 cases twice, one failure, no inference told."""
    cases = make_cases(folder, ("hosted", "local"), repeat=2, lost={"case-04-1"})
    measured = _measured(cases, "hosted", "local")
    sides = [_hosted_side(), _local_side()]
    return _document(sides, cases, same_noise=False, **{**measured, **changed})


def profiles_document(folder: Path) -> Document:
    """Two local profiles, which share their noise; some pictures are equal."""
    cases = make_cases(folder, ("against", "local"), repeat=1, lost=set(), is_equal=True)
    sides = [
        _side(
            name,
            label,
            profile=label.split()[-1],
            settings={"profile": label.split()[-1]},
            device="NVIDIA H200",
            model="wavespeed-ai/flux-control-lora-depth",
            counts=_counts(tasks=12, completed=12, failed=0, flagged=0),
            failures=[],
            seconds=_times(seconds, seed=seed, inference=seconds - 0.3),
            cost=_NO_COST,
            formats={"image/png": 12},
        )
        for name, label, seconds, seed in (
            ("against", "depthflux reference", 9.0, 3),
            ("local", "depthflux fast", 4.0, 4),
        )
    ]
    measured = _measured(cases, "against", "local")
    return _document(sides, cases, same_noise=True, **measured)


def failed_document(error: str = "HTTP 500: Internal Server Error") -> Document:
    """Everything failed on both sides."""
    sides = [
        _failed_side("hosted", "127.0.0.1:8000", error),
        _failed_side("local", "depthflux demo", error),
    ]
    cases = [
        CaseFigures(
            name=f"case-{number:02}",
            fields={"prompt": PROMPTS[number % 3], "seed": number},
            control_file="",
            depth_file="",
            pictures=[],
            total_seconds={},
        )
        for number in range(12)
    ]
    missing = [
        _compared("structure", missing="No pair of pictures could be compared."),
    ]
    return _document(
        sides, cases, same_noise=False, quality=missing, speed=[], difference=[], estimator={}
    )


def _hosted_side() -> Side:
    return _side(
        "hosted",
        "api.wavespeed.ai",
        address="https://api.wavespeed.ai",
        model="wavespeed-ai/flux-control-lora-depth",
        counts=_counts(tasks=24, completed=23, failed=1, flagged=1),
        failures=[
            Failure(
                task="case-04-1",
                status="failed",
                code=1403,
                error="The content may be not safe; try another prompt.",
            )
        ],
        seconds=_times(7.2, seed=1, inference=None),
        cost=Cost(
            usd_per_picture=0.03,
            usd_total=0.72,
            mean_watts=None,
            joules_per_picture=None,
            how="The price was given with --price-per-picture.",
        ),
        formats={"image/jpeg": 23},
    )


def _local_side() -> Side:
    return _side(
        "local",
        "depthflux exact",
        profile="exact",
        settings={"profile": "exact", "dtype": "bfloat16", "compile": True, "threads": None},
        device="NVIDIA H200",
        model="wavespeed-ai/flux-control-lora-depth",
        counts=_counts(tasks=24, completed=24, failed=0, flagged=0),
        failures=[],
        seconds=_times(4.4, seed=2, inference=4.1),
        cost=Cost(
            usd_per_picture=0.000204,
            usd_total=0.0049,
            mean_watts=611.0,
            joules_per_picture=2448.0,
            how="Power drawn by the GPU while tasks were under way, at 0.30 USD a kWh.",
        ),
        formats={"image/png": 24},
    )


def _failed_side(name: str, label: str, error: str) -> Side:
    nothing = TimeQuantiles(submit=None, queue=None, inference=None, download=None, total=None)
    return _side(
        name,
        label,
        counts=Counts(
            tasks=12,
            completed=0,
            failed=11,
            lost=1,
            timed=0,
            not_run=0,
            pictures=0,
            exact_size=0,
            told_safety=0,
            flagged=None,
        ),
        failures=[
            Failure(
                task=f"case-{number:02}-0",
                status="lost" if number == 0 else "failed",
                code=None if number == 0 else 500,
                error=error,
            )
            for number in range(12)
        ],
        seconds=nothing,
        wall_seconds=None,
        pictures_per_minute=None,
        upload_seconds=None,
        cost=_NO_COST,
        formats={},
    )


_NO_COST = Cost(
    usd_per_picture=None,
    usd_total=None,
    mean_watts=None,
    joules_per_picture=None,
    how="No price of electricity was given, with --electricity-per-kwh.",
)


def _document(
    sides: list[Side], cases: list[CaseFigures], *, same_noise: bool, **changed: Any
) -> Document:
    values: dict[str, Any] = {
        "date": "2026-11-30T05:30:00+00:00",
        "command": "depthflux bench hosted --suite standard --out run --repeat 2",
        "commit": "0123abc",
        "versions": {"depthflux": "0.9.0", "torch": "2.13.0", "torchmetrics": "1.8.2"},
        "host": {"machine": "x86_64", "processors": 16, "memory_bytes": 137438953472},
        "estimator": {
            "name": "Depth-Anything-V2-Small",
            "licence": "Apache-2.0",
            "source": "depth-anything/Depth-Anything-V2-Small-hf",
        },
        "plan": Plan(
            suite="standard",
            suite_sha256="5f" * 32,
            repeat=2,
            concurrency=2,
            sync_mode=False,
            poll_interval_seconds=0.5,
            price_usd_per_picture=0.03,
            electricity_usd_per_kwh=0.3,
            max_cost_usd=None,
        ),
        "sides": sides,
        "same_noise": same_noise,
        "cases": cases,
        "notes": [
            "Pictures of the hosted side are JPEG files, those of the local side PNG; JPEG's loss "
            "is part of what is compared.",
            "The hosted price is not published in its answers; it was given.",
        ],
    }
    return Document(**{**values, **changed})


def _measured(cases: list[CaseFigures], first: str, second: str) -> dict[str, list[Compared]]:
    return {
        "speed": _speed(cases, first, second),
        "quality": _quality(cases, first, second),
        "difference": _differences(cases),
    }


def _side(name: str, label: str, **given: Any) -> Side:
    values: dict[str, Any] = {
        "name": name,
        "label": label,
        "address": "",
        "model": "",
        "profile": "",
        "settings": {},
        "device": "",
        "gpu": {},
        "concurrency": 2,
        "poll_interval_seconds": 0.5,
        "sync_mode": False,
        "recorded_at": "",
        "wall_seconds": 93.0,
        "pictures_per_minute": 15.5,
        "upload_seconds": Quantiles(
            count=12,
            p50=Bounded(value=0.31, low=0.28, high=0.4),
            p95=Bounded(value=0.52, low=0.4, high=None),
        ),
    }
    return Side(**{**values, **given})


def _counts(*, tasks: int, completed: int, failed: int, flagged: int) -> Counts:
    return Counts(
        tasks=tasks,
        completed=completed,
        failed=failed,
        lost=0,
        timed=completed,
        not_run=0,
        pictures=completed,
        exact_size=completed,
        told_safety=completed,
        flagged=flagged,
    )


def _times(total: float, *, seed: int, inference: float | None) -> TimeQuantiles:
    return TimeQuantiles(
        submit=_quantiles(0.2, seed),
        queue=None if inference is None else _quantiles(0.25, seed + 10),
        inference=None if inference is None else _quantiles(inference, seed + 20),
        download=_quantiles(0.12, seed + 30),
        total=_quantiles(total, seed + 40),
    )


def _quantiles(centre: float, seed: int) -> Quantiles:
    drawn = random.Random(seed)
    values = sorted(centre * drawn.uniform(0.85, 1.35) for _ in range(24))
    return Quantiles(
        count=24,
        p50=Bounded(value=median(values), low=values[7], high=values[16]),
        p95=Bounded(value=values[22], low=values[19], high=None),
    )


def _compared(name: str, **given: Any) -> Compared:
    values: dict[str, Any] = {
        "name": name,
        "unit": "Spearman's rho",
        "how": "Rank correlation of the depth in the picture with the control image's.",
        "higher_is_better": True,
        "first": None,
        "second": None,
        "difference": None,
        "is_ratio": False,
        "cases": 0,
        "verdict": "unknown",
        "missing": "",
        "caveats": [],
    }
    return Compared(**{**values, **given})


def _speed(cases: list[CaseFigures], first: str, second: str) -> list[Compared]:
    means = [
        fmean(case.total_seconds[side] for case in cases if side in case.total_seconds)
        for side in (first, second)
    ]
    return [
        _compared(
            "total_time",
            unit="seconds",
            how="Median total time of each case; the ratio is a geometric mean over cases",
            higher_is_better=False,
            first=means[0],
            second=means[1],
            difference=Bounded(value=0.61, low=0.56, high=0.66),
            is_ratio=True,
            cases=len(cases),
            verdict="better",
        ),
        _compared(
            "inference_time",
            unit="seconds",
            how="As reported by the sides.",
            higher_is_better=False,
            is_ratio=True,
            missing="The first side reports no inference time.",
        ),
    ]


def _quality(cases: list[CaseFigures], first: str, second: str) -> list[Compared]:
    def mean(side: str) -> float:
        pairs = [pair for case in cases for pair in case.pictures]
        return fmean(pair.structure[side] for pair in pairs if side in pair.structure)

    return [
        _compared(
            "structure",
            first=mean(first),
            second=mean(second),
            difference=Bounded(value=0.021, low=0.006, high=0.037),
            cases=len(cases),
            verdict="better",
        ),
        _compared(
            "prompt_agreement",
            unit="CLIP score",
            how="100 times the cosine of CLIP's embeddings of picture and prompt.",
            first=31.2,
            second=31.0,
            difference=Bounded(value=-0.2, low=-0.71, high=0.33),
            cases=len(cases),
            verdict="no difference shown",
        ),
    ]


def _differences(cases: list[CaseFigures]) -> list[Compared]:
    return [
        _compared(
            "ssim",
            unit="0 to 1",
            how="Structural similarity of both pictures.",
            higher_is_better=None,
            difference=Bounded(value=0.412, low=0.36, high=0.47),
            cases=len(cases),
        ),
        _compared(
            "lpips",
            unit="0 is alike",
            how="Learned distance of both pictures.",
            higher_is_better=None,
            missing="torchvision is not installed, whose AlexNet it needs.",
        ),
    ]
