"""The result of a comparison: one document, from which the table, the JSON and the page are made.

Units stand in the names. `None` is what could not be measured, and the `notes` say why. Knows
nothing of measuring, and nothing of how it is shown.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

SCHEMA = 1

#: What may be said of two sides. `unknown`: too few cases for an interval of 95 %.
#: `not comparable`: the sides were not asked alike, see the caveats.
Verdict = Literal["better", "worse", "no difference shown", "unknown", "not comparable"]


class Strict(BaseModel):
    """A part of a document: nothing unknown, nothing repaired, never changed."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Bounded(Strict):
    """A figure and its interval of 95 %; a bound is None where the sample is too small for it."""

    value: float
    low: float | None
    high: float | None


class Quantiles(Strict):
    """The distribution of a time over tasks, in seconds.

    Attributes:
        count: how many tasks.
        p50: the median, with a distribution-free interval.
        p95: the 95th percentile, likewise; no upper bound below 72 tasks.
    """

    count: int
    p50: Bounded
    p95: Bounded


class TimeQuantiles(Strict):
    """`outcomes.Times` over all completed tasks of a side; None where none was measured."""

    submit: Quantiles | None
    queue: Quantiles | None
    inference: Quantiles | None
    download: Quantiles | None
    total: Quantiles | None


class Counts(Strict):
    """What became of a side's tasks, and of its pictures.

    Attributes:
        tasks: asked for by the plan.
        completed: tasks; likewise failed and lost.
        timed: completed tasks that were seen from their beginning, and so have times.
        not_run: tasks that were never sent, such as beyond the highest cost.
        pictures: in completed tasks.
        exact_size: pictures of exactly the asked size.
        told_safety: pictures of which the side says whether they are safe for work.
        flagged: those that it says are not; None where it never says.
    """

    tasks: int
    completed: int
    failed: int
    lost: int
    timed: int
    not_run: int
    pictures: int
    exact_size: int
    told_safety: int
    flagged: int | None


class Failure(Strict):
    """One task that was not completed.

    Attributes:
        task: its key.
        status: failed or lost.
        code: as in the outcome.
        error: one line.
    """

    task: str
    status: Literal["failed", "lost"]
    code: int | None
    error: str


class Cost(Strict):
    """What a side's pictures cost.

    Attributes:
        usd_per_picture: None where price or power is not known.
        usd_total: of all that is charged.
        mean_watts: drawn by the GPU while the side worked; None for a hosted side.
        joules_per_picture: likewise.
        how: one sentence: where the figures come from, or why there are none.
    """

    usd_per_picture: float | None
    usd_total: float | None
    mean_watts: float | None
    joules_per_picture: float | None
    how: str


class Side(Strict):
    """One of the two that were compared.

    Attributes:
        name: `hosted`, `local` or `against`; also its folder in the run's.
        label: what a person calls it, such as `api.wavespeed.ai` or `depthflux exact`.
        address: of the hosted API, less query and secrets; empty for a local profile.
        model: `data.model` of its answers; empty where nothing was answered.
        profile: the local profile's name; empty for a hosted side.
        settings: the profile's effective settings as JSON values; empty for a hosted side.
        device: what it ran on, such as `NVIDIA H200`; empty for a hosted side.
        gpu: what nvidia-smi states of it, such as `driver_version`; empty where that is not known.
        concurrency: tasks under way at a time.
        poll_interval_seconds: between two polls of one task.
        sync_mode: whether answers were awaited in the submission itself.
        recorded_at: when its answers were recorded, RFC 3339; empty where they are this run's own.
        counts: tasks and pictures.
        failures: every task that was not completed.
        seconds: distributions.
        wall_seconds: in which at least one task was under way, each moment once, pauses after 429
            among them; tasks that were not seen from their beginning are left out. None where
            there were none.
        pictures_per_minute: pictures of tasks whose times were seen over `wall_seconds`, at the
            side's concurrency; failed tasks have their share of the seconds.
        upload_seconds: of each control image, once a side; None where none was uploaded.
        cost: money.
        formats: how many pictures of each media type.
    """

    name: str
    label: str
    address: str
    model: str
    profile: str
    settings: dict[str, Any]
    device: str
    gpu: dict[str, str]
    concurrency: int
    poll_interval_seconds: float
    sync_mode: bool
    recorded_at: str
    counts: Counts
    failures: list[Failure]
    seconds: TimeQuantiles
    wall_seconds: float | None
    pictures_per_minute: float | None
    upload_seconds: Quantiles | None
    cost: Cost
    formats: dict[str, int]


class Compared(Strict):
    """One measure over the cases that both sides have, as a person would ask for it.

    Attributes:
        name: such as `structure`; no two measures' are equal.
        unit: such as `Spearman's rho`, `CLIP score`, `seconds`, `dB`.
        how: one sentence: what is computed, with which model.
        higher_is_better: False for seconds; None where neither is better, as for differences.
        first: mean of the first side over the cases that are compared, for a ratio the geometric
            mean; None for a measure of two pictures.
        second: likewise of the second side.
        difference: second less first, paired by case, or for times second over first (a ratio);
            for a measure of two pictures its mean; None where nothing could be compared.
        is_ratio: whether `difference` is a ratio, whose neutral value is 1 and not 0.
        cases: how many cases the interval stands on.
        verdict: of the second side against the first; `unknown` for differences without a better.
        missing: why there is no figure, one line; empty where there is.
        caveats: what has to be read together with the verdict, one sentence each.
    """

    name: str
    unit: str
    how: str
    higher_is_better: bool | None
    first: float | None
    second: float | None
    difference: Bounded | None
    is_ratio: bool
    cases: int
    verdict: Verdict
    missing: str
    caveats: list[str]


class PictureFigures(Strict):
    """One pair of pictures of a case, the figures None where they were not measured.

    Attributes:
        task: the task's key on both sides.
        index: of the picture in the task, from 0.
        seed: the picture's own.
        files: by side, path in the run's folder; a side without the picture is left out.
        depth_files: by side, the depth that was estimated from the picture, a grey PNG.
        structure: by side.
        prompt_agreement: by side.
        ssim: of the two pictures.
        psnr_db: likewise; None also where they are equal, see `is_equal`.
        lpips: likewise.
        is_equal: whether every pixel is.
        flagged: by side, where it says so.
    """

    task: str
    index: int
    seed: int
    files: dict[str, str]
    depth_files: dict[str, str]
    structure: dict[str, float]
    prompt_agreement: dict[str, float]
    ssim: float | None
    psnr_db: float | None
    lpips: float | None
    is_equal: bool | None
    flagged: dict[str, bool]


class CaseFigures(Strict):
    """One case of the suite.

    Attributes:
        name: the case's.
        fields: of its request, less the control image.
        control_file: the control image in the run's folder.
        depth_file: its depth, near = white, in the run's folder; empty where not estimated.
        pictures: pairs, in the order of repetitions.
        total_seconds: by side, median over repetitions.
    """

    name: str
    fields: dict[str, Any]
    control_file: str
    depth_file: str
    pictures: list[PictureFigures]
    total_seconds: dict[str, float]


class Plan(Strict):
    """What was asked for.

    Attributes:
        suite: its name.
        suite_sha256: of the suite's file and its pictures.
        repeat: repetitions of each case.
        concurrency: tasks under way at a time.
        sync_mode: whether answers were awaited in the submission itself.
        poll_interval_seconds: between two polls of one task.
        price_usd_per_picture: of the hosted side; None where not given.
        electricity_usd_per_kwh: likewise.
        max_cost_usd: likewise.
    """

    suite: str
    suite_sha256: str
    repeat: int
    concurrency: int
    sync_mode: bool
    poll_interval_seconds: float
    price_usd_per_picture: float | None
    electricity_usd_per_kwh: float | None
    max_cost_usd: float | None


class Document(Strict):
    """A whole comparison.

    Attributes:
        schema_version: `SCHEMA`.
        kind: what wrote it.
        date: RFC 3339.
        command: as it was called, less secrets.
        commit: of depthflux; None outside a repository.
        versions: of depthflux, torch and the metrics' libraries.
        host: of `bench.host`.
        estimator: name, licence and source of the depth estimator that judged structure; empty
            where none did.
        plan: what was asked for.
        sides: first what is compared with, then the local profile.
        speed: measures of time.
        quality: measures of which one side may be better.
        difference: how far two pictures lie apart; no quality between stacks.
        same_noise: whether a seed means the same noise on both sides: two profiles of one model.
        cases: in the suite's order.
        notes: what a reader has to know, one sentence each.
    """

    schema_version: int = SCHEMA
    kind: Literal["depthflux bench hosted"] = "depthflux bench hosted"
    date: str
    command: str
    commit: str | None
    versions: dict[str, Any]
    host: dict[str, Any]
    estimator: dict[str, str]
    plan: Plan
    sides: list[Side] = Field(min_length=2, max_length=2)
    speed: list[Compared]
    quality: list[Compared]
    difference: list[Compared]
    same_noise: bool
    cases: list[CaseFigures]
    notes: list[str]
