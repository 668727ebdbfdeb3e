"""Each stage of a run beside the pipeline in float32, as a ratio to its own bfloat16's error.

The oracle is FluxControlPipeline in float32: `reference` promises its picture to the bit, and what
float32 itself rounds is measured against float64. Text embeddings, control latents, all steps and
the picture are read off whole runs. One denoising step and the decoding are given the oracle's
inputs, rounded to bfloat16 for everybody, so that only their own error counts.
"""

from __future__ import annotations

import gc
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fidelity_report.figures import relative_error, rounded, spread
from fidelity_report.models import Case
from fidelity_report.names import (
    BFLOAT16,
    COMPAT,
    COMPILED,
    DEMO,
    DEMO_UNHOISTED,
    EAGER,
    FLOAT64,
    INT8,
    ORACLE,
    REFERENCE,
    SKIPPED,
    STAGES,
    TURBO,
    UNHOISTED,
)
from fidelity_report.systems import Inputs, System, Trace, cast, engine_system, pipeline_system

#: Noise levels and a guidance scale whose thousandfold is a number that bfloat16 has: diffusers
#: rounds it, 3500 to 3504, which is no error of the step itself.
LEVELS = (1.0, 0.5, 0.25, 0.125)
GUIDANCE = 4.0


@dataclass(frozen=True)
class Row:
    """One system: how it is loaded, and which one it must equal where anything must."""

    load: Callable[[], System]
    twin: str


def rows(folder: Path, *, steps: int, compiled: bool) -> dict[str, Row]:
    """The systems in the order of the table."""

    def pipeline(dtype: torch.dtype) -> Callable[[], System]:
        return lambda: pipeline_system(folder, dtype, steps=steps)

    def engine(profile: str, **settings: Any) -> Callable[[], System]:
        return lambda: engine_system(folder, profile, steps=steps, **settings)

    table = {
        FLOAT64: Row(pipeline(torch.float64), ORACLE),
        BFLOAT16: Row(pipeline(torch.bfloat16), BFLOAT16),
        REFERENCE: Row(engine("reference"), ORACLE),
        DEMO_UNHOISTED: Row(engine("demo", order="diffusers"), ORACLE),
        DEMO: Row(engine("demo"), ORACLE),
        COMPAT: Row(
            engine("exact", compile=False, order="diffusers", compat="diffusers"), BFLOAT16
        ),
        UNHOISTED: Row(engine("exact", compile=False, order="diffusers"), BFLOAT16),
        EAGER: Row(engine("exact", compile=False), BFLOAT16),
        SKIPPED: Row(engine("exact", compile=False, skip_steps=0.5), BFLOAT16),
    }
    if compiled:
        table[COMPILED] = Row(engine("exact", compile=True), BFLOAT16)
        table[INT8] = Row(engine("fast", compile=True, quantize="int8"), BFLOAT16)
        table[TURBO] = Row(engine("turbo", compile=True, quantize="int8"), BFLOAT16)
    return table


#: For each stage, what came out in each case (and at each level).
Outcome = dict[str, list[Any]]


def measure_stages(
    folder: Path, cases: list[Case], *, steps: int, compiled: bool
) -> dict[str, dict[str, Any]]:
    """Errors, ratios and equality by system and stage.

    Args:
        folder: the model's.
        cases: what is painted.
        steps: of each run.
        compiled: whether the compiled engine is measured, too.
    """
    oracle = pipeline_system(folder, torch.float32, steps=steps)
    truths = [oracle.run(case) for case in cases]
    table = rows(folder, steps=steps, compiled=compiled)
    wanted = watch(oracle, truths, cases, known=truths)
    outcomes = {ORACLE: wanted}
    for name, row in table.items():
        print(f"measuring {name}", flush=True)
        # float64 draws other random numbers from the same seed: its runs cannot be compared.
        outcomes[name] = watch(row.load(), truths, cases, runs=name != FLOAT64)
        gc.collect()
    errors = {name: errors_of(outcome, wanted) for name, outcome in outcomes.items()}
    report = {
        name: {
            stage: summary(errors[name][stage], errors[BFLOAT16][stage])
            | {"equal": equal(outcomes[name][stage], outcomes[row.twin][stage])}
            for stage in errors[name]
        }
        for name, row in table.items()
    }
    for name, stages in report.items():
        stages["step"]["by_level"] = by_level(errors[name]["step"], errors[BFLOAT16]["step"])
    return report


def watch(
    system: System,
    truths: list[Trace],
    cases: list[Case],
    *,
    known: list[Trace] | None = None,
    runs: bool = True,
) -> Outcome:
    """What a system makes of the cases; of the oracle's inputs where a stage is to stand alone."""
    outcome: Outcome = {stage: [] for stage in STAGES}
    traces = known or [system.run(case) for case in cases]
    for truth, trace in zip(truths, traces, strict=True):
        outcome["pooled"].append(trace.pooled)
        outcome["tokens"].append(trace.tokens)
        outcome["control"].append(trace.control)
        outcome["all_steps"].append(trace.latents)
        outcome["picture"].append(trace.picture)
        outcome["step"] += [system.velocity(inputs_at(truth, level)) for level in LEVELS]
        outcome["step_of_run"] += [
            system.velocity(bfloat16_numbers(inputs)) for inputs in truth.calls
        ]
        outcome["decode"].append(system.decode(truth.latents.bfloat16().float()))
    if not runs:
        del outcome["control"], outcome["all_steps"], outcome["picture"]
    return outcome


def inputs_at(truth: Trace, level: float) -> Inputs:
    """One step's inputs at a noise level t: latents (1 - t) · picture + t · noise."""
    latents = torch.lerp(truth.latents, truth.noise, level)
    changed = {
        "hidden_states": torch.cat([latents, truth.control], dim=2),
        "timestep": torch.tensor([level]),
        "guidance": torch.tensor([GUIDANCE]),
    }
    return bfloat16_numbers(truth.calls[0] | changed)


def bfloat16_numbers(inputs: Inputs) -> Inputs:
    """Inputs as numbers that bfloat16 has, in float32."""
    return cast(cast(inputs, torch.bfloat16), torch.float32)


def errors_of(outcome: Outcome, wanted: Outcome) -> dict[str, list[float]]:
    """Relative errors; for pictures the mean difference in grey levels of 255."""
    return {
        stage: [error(g, w) for g, w in zip(got, wanted[stage], strict=True)]
        for stage, got in outcome.items()
    }


def error(got: Any, wanted: Any) -> float:
    """Of one result: relative, or in grey levels for a picture."""
    if isinstance(got, np.ndarray):
        return float(np.abs(got.astype(float) - wanted.astype(float)).mean())
    return relative_error(got, wanted)


def summary(errors: list[float], yardstick: list[float]) -> dict[str, Any]:
    """Errors, and their ratios to diffusers' bfloat16's, pair by pair.

    `of_sums` is the ratio of root mean squares: one figure for all cases.
    """
    pairs = list(zip(errors, yardstick, strict=True))
    if not all(theirs for _, theirs in pairs):
        return {"error": spread(errors)}
    squares = [
        statistics.fmean(value**2 for value in values) for values in zip(*pairs, strict=True)
    ]
    return {
        "error": spread(errors),
        "ratio": spread(ours / theirs for ours, theirs in pairs)
        | {"of_sums": rounded((squares[0] / squares[1]) ** 0.5)},
    }


def by_level(errors: list[float], yardstick: list[float]) -> dict[str, Any]:
    """One step's errors and ratios for each noise level; cases come one after another."""
    count = len(LEVELS)
    return {
        str(level): summary(errors[index::count], yardstick[index::count])
        for index, level in enumerate(LEVELS)
    }


def equal(one: list[Any], other: list[Any]) -> bool:
    """Whether all results are the same to the bit."""
    return all(
        np.array_equal(a, b) if isinstance(a, np.ndarray) else torch.equal(a, b.to(a.dtype))
        for a, b in zip(one, other, strict=True)
    )


def measure_hoisting(folder: Path, cases: list[Case], *, steps: int) -> dict[str, Any]:
    """What the order alone changes in float32: the hoisted runs' errors against diffusers' order.

    The encoder has its channels first on both sides, so that both start from the same control
    latents: what its layout in memory changes is no matter of the order.
    """
    unhoisted = engine_system(folder, "demo", steps=steps, order="diffusers")
    hoisted = engine_system(folder, "demo", steps=steps)
    hoisted.modules.vae.encoder.to(memory_format=torch.contiguous_format)
    runs = [(hoisted.run(case), unhoisted.run(case)) for case in cases]
    return {
        "same_control": all(torch.equal(ours.control, theirs.control) for ours, theirs in runs),
        "all_steps": spread(relative_error(ours.latents, theirs.latents) for ours, theirs in runs),
    }


def random_inputs(folder: Path, case: Case) -> list[Inputs]:
    """A random model's inputs for one step at every level: text of a case, latents drawn."""
    truth = pipeline_system(folder, torch.float32, steps=1).run(case)
    truth.latents = torch.randn(truth.latents.shape, generator=torch.Generator().manual_seed(1))
    return [inputs_at(truth, level) for level in LEVELS]


def measure_step(folder: Path, inputs: list[Inputs], *, compiled: bool) -> dict[str, Any]:
    """One denoising step from given inputs, by system: errors, ratios and equality."""
    table = {ORACLE: Row(lambda: pipeline_system(folder, torch.float32, steps=1), ORACLE)}
    table |= rows(folder, steps=1, compiled=compiled)
    got = {}
    for name, row in table.items():
        print(f"measuring one step of {name}", flush=True)
        system = row.load()
        got[name] = [system.velocity(given) for given in inputs]
        del system
        gc.collect()
    wanted = got[ORACLE]
    errors = {
        name: [relative_error(*pair) for pair in zip(velocities, wanted, strict=True)]
        for name, velocities in got.items()
    }
    return {
        name: summary(errors[name], errors[BFLOAT16]) | {"equal": equal(got[name], got[row.twin])}
        for name, row in table.items()
        if name != ORACLE
    }
