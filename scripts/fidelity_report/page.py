"""The figures as docs/fidelity.md: prose and tables from one source.

What the prose says of a figure is computed from it. Measures nothing and imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from fidelity_report.law_page import law
from fidelity_report.markdown import (
    kept,
    listed,
    megabytes,
    names,
    number,
    percent,
    prose,
    ranged,
    table,
)
from fidelity_report.names import (
    BFLOAT16,
    COMPAT,
    COMPILED,
    DEMO,
    EAGER,
    INT8,
    PIXELS,
    REFERENCE,
    SKIPPED,
    STAGES,
    TURBO,
    UNHOISTED,
)
from fidelity_report.traps import TRAPS

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "fidelity.md"
REPORT = ROOT / "docs" / "benchmarks" / "fidelity.json"
#: Most that a compiled step may err, as a ratio to diffusers' own bfloat16.
GOAL = 1.05
#: Most that the hoisted order may change the latents of a run in float32, relatively.
HOISTING_GOAL = 1e-5
Report = dict[str, Any]


def render(report: Report) -> str:
    """The page."""
    sections = (head, promises, stage_by_stage, deep_model, law, changes, traps, method)
    return "".join(section(report) for section in sections).rstrip("\n") + "\n"


def head(report: Report) -> str:
    """What the page is, and what it was measured on."""
    return (
        "# Fidelity\n\n"
        + prose(
            """How far depthflux is from diffusers' `FluxControlPipeline`, measured. This page is
            written by `scripts/fidelity` from [fidelity.json](benchmarks/fidelity.json)."""
        )
        + prose(
            f"""Measured {report["date"]} at commit {report["commit"]} with `{report["command"]}`:
            {report["machine"]} ({report["cpu"]}), {report["threads"]} thread, torch
            {report["torch"]}, diffusers {report["diffusers"]}, transformers
            {report["transformers"]}, peft {report["peft"]}. No GPU and none of FLUX.1-dev's weights
            were at hand: the models are the packaged miniature and a random transformer of FLUX's
            depth. **How large any of these differences is with FLUX's own weights, or on a GPU, is
            not known from this page.**"""
        )
    )


def promises(report: Report) -> str:
    """What is promised, and whether it was kept."""
    rows = (*bit_promises(report), *error_promises(report), *law_promises(report))
    return "## What is promised\n\n" + table(["promise", "kept", "measured"], rows)


def bit_promises(report: Report) -> Iterable[Sequence[str]]:
    """Where depthflux equals diffusers to the bit."""
    stages, pictures = report["stages"], f"{report['setting']['scenes']} pictures"
    yield (
        "`reference`: the pipeline's picture, and all before it, to the bit (float32)",
        kept(all(entry["equal"] for entry in stages[REFERENCE].values())),
        pictures,
    )
    yield (
        "`order=diffusers`, `compat=diffusers` in bfloat16: the bfloat16 pipeline's latents to the "
        "bit",
        kept(all(stages[COMPAT][stage]["equal"] for stage in STAGES if stage not in PIXELS)),
        pictures,
    )


def error_promises(report: Report) -> Iterable[Sequence[str]]:
    """How little the hoisted order, and compiling, may err."""
    stages, deep = report["stages"], report["random_model"]
    hoisting, steps = report["hoisting"], deep[DEMO]["error"]
    yield (
        f"the hoisted order in float32: at most {number(HOISTING_GOAL)} from diffusers' order, for "
        "equal control latents",
        kept(
            hoisting["same_control"]
            and max(hoisting["all_steps"]["max"], steps["max"]) <= HOISTING_GOAL
        ),
        f"miniature, all steps, at most {number(hoisting['all_steps']['max'])}; random model, one "
        f"step, at most {number(steps['max'])}",
    )
    ratios = {"miniature": stages[COMPILED]["step"]["ratio"]}
    if COMPILED in deep:
        ratios["random model"] = deep[COMPILED]["ratio"]
    yield (
        f"`exact`, compiled: one step errs at most {GOAL} of what diffusers' bfloat16 does",
        kept(all(ratio["median"] <= GOAL for ratio in ratios.values())),
        ", ".join(f"{name} {ranged(ratio)}" for name, ratio in ratios.items()),
    )


def law_promises(report: Report) -> Iterable[Sequence[str]]:
    """What changes of the control scale leave."""
    sequences, zero = report["law"]["sequences"], report["law"]["scale_zero"]["ours"]
    yield (
        "any sequence of control scales ends where a fresh fuse ends (bfloat16)",
        kept(sequences["ours"] == 0),
        f"{percent(sequences['ours'])} of the weights differ",
    )
    yield (
        "control scale 0 is the base model to the bit, weights and (`order=diffusers`) output",
        kept(zero["weights_different"] == 0 and zero["step_equal"]),
        f"{percent(zero['weights_different'])} of the weights differ",
    )


def stage_by_stage(report: Report) -> str:
    """The miniature's runs: errors, ratios, and one step by its noise level."""
    setting, stages = report["setting"], report["stages"]
    header = ["", *STAGES.values()]
    errors = [(name, *(error_cell(e, stage) for stage in STAGES)) for name, e in stages.items()]
    ratios = [
        (name, *(ratio_cell(stages[name], stage) for stage in STAGES))
        for name in (COMPAT, UNHOISTED, EAGER, COMPILED, SKIPPED, INT8, TURBO)
        if name in stages
    ]
    return (
        "## Stage by stage\n\n"
        + prose(
            f"""The miniature, its tensors rounded to bfloat16 as FLUX's are, {setting["scenes"]}
            unseen scenes, {setting["size"]}, {setting["steps"]} steps. The oracle is
            `FluxControlPipeline` in float32. The error is the norm of the difference over the norm
            of the oracle's result; for decoding and picture it is the mean difference in grey
            levels of 255. Medians; **=** marks what equals the pipeline of the same dtype to the
            bit."""
        )
        + table(header, errors)
        + prose(
            """"All steps" and "picture" are whole runs from the same seed. "One step" and
            "decoding" stand alone, on the oracle's inputs rounded to bfloat16. The float64 row,
            which has float32 inside where diffusers insists on it, shows what float32 itself
            rounds; its runs draw other random numbers and are left out. Rows without an order have
            the profiles' own, the hoisted: what is constant over the steps is computed once."""
        )
        + prose(
            "The errors over those of diffusers' own bfloat16, pair by pair: median [least, most]."
        )
        + table(header, ratios)
        + prose("One step by its noise level t, the same ratio:")
        + by_level(stages, setting["levels"])
        + listed(remarks(stages, report["hoisting"]["all_steps"]))
    )


def by_level(stages: Report, levels: Sequence[float]) -> str:
    """One step's ratios by noise level."""
    rows = [
        (name, *(ranged(stages[name]["step"]["by_level"][str(level)]["ratio"]) for level in levels))
        for name in (UNHOISTED, EAGER, COMPILED)
    ]
    return table(["", *(f"t = {level:g}" for level in levels)], rows)


def remarks(stages: Report, hoisting: Report) -> Iterable[str]:
    """What the tables show."""
    whole, control = stages[DEMO]["all_steps"]["error"], stages[DEMO]["control"]["error"]
    yield f"""In float32 and from the same control latents, hoisting changes the latents after all
        steps by {number(hoisting["median"])}, at most {number(hoisting["max"])}. In whole runs of
        `demo` the control latents differ by at most {number(control["max"])} and the latents after
        all steps by at most {number(whole["max"])}."""
    if stages[EAGER]["step"]["ratio"]["median"] < stages[UNHOISTED]["step"]["ratio"]["median"]:
        yield """Hoisted steps err less than diffusers': modulations, gates, the first and the last
            layer and the latents are float32, and what a norm puts out is rounded once."""
    if stages[COMPILED]["step"]["ratio"]["median"] < stages[EAGER]["step"]["ratio"]["median"]:
        yield """Compiled steps err less than eager ones: inside a fused kernel the numbers stay
            float32."""
    own = stages[BFLOAT16]
    times = own["step_of_run"]["error"]["median"] / own["step"]["error"]["median"]
    yield f"""Diffusers, as Black Forest Labs' own code, multiplies timestep and guidance by 1000 in
        bfloat16, which has 8 bits: 3500 becomes 3504. "One step" is measured where that loses
        nothing; at the run's own timesteps a step of diffusers' errs {times:.1f} times as much. The
        hoisted order does it in float32. That is nearer to the float32 pipeline; whether it is
        nearer to what FLUX.1-dev was trained with is not known."""
    if stages[UNHOISTED]["decode"]["ratio"]["median"] < 1:
        yield """Decoding errs less than diffusers': depthflux makes float32 of the pixels before
            their range is moved, diffusers after it."""
    skipped, exact = (stages[name]["picture"]["error"]["median"] for name in (SKIPPED, EAGER))
    yield f"""Half the steps extrapolated make a picture of the miniature {number(skipped)} grey
        levels wrong, where bfloat16 alone makes it {number(exact)}. Its runs are smoother than
        FLUX's may be."""
    if INT8 in stages:
        step, turbo = stages[INT8]["step"]["ratio"], stages[TURBO]["picture"]["error"]["median"]
        yield f"""int8 in the blocks' large linears makes one step err {ranged(step)} times what
            diffusers' bfloat16 does, and with half the steps skipped a picture by {number(turbo)}
            grey levels. fp8 takes a GPU and is not measured."""
    if stages[EAGER]["all_steps"]["ratio"]["max"] > 1:
        yield """A run can err more than diffusers' although each step errs less: the errors of
            text, control latents and steps add up or cancel, scene by scene."""


def deep_model(report: Report) -> str:
    """One step through as many blocks as FLUX has."""
    setting = report["setting"]
    double, single = setting["random_blocks"]
    rows = [
        (name, number(e["error"]["median"]) + (" =" if e["equal"] else ""), ranged(e["ratio"]))
        for name, e in report["random_model"].items()
    ]
    return (
        "## One step through FLUX's depth\n\n"
        + prose(
            f"""Rounding adds up with depth, and the miniature is shallow. This is a random
            transformer of {double} double and {single} single blocks (FLUX has 19 and 38), with
            heads as wide as FLUX's but a width of {setting["random_width"]} instead of 3072, and a
            random control LoRA of rank {setting["random_rank"]} with norms; one step at each of the
            noise levels, from the same inputs."""
        )
        + table(["", "error", "over diffusers' bfloat16's"], rows)
    )


def changes(report: Report) -> str:
    """What a change of the control scale costs."""
    entry = report["changes"]
    flux, each = entry["flux"], entry["milliseconds_each_linear"]
    rows = [
        (
            f"`{master}`",
            "{median:.0f} ms [{min:.0f}, {max:.0f}]".format(**cost["milliseconds"]),
            megabytes(cost["bytes_for_a_moment"]),
            megabytes(cost["bytes_kept"]),
        )
        for master, cost in entry["masters"].items()
    ]
    return (
        "## What a change of the control scale costs\n\n"
        + prose(
            f"""The miniature in float32, {entry["linears"]} linears; processor time of one thread,
            by `master`, which says where the unfused weights are. On the CPU `host` and `device`
            are the same memory."""
        )
        + table(["master", "time", "memory for the moment", "memory kept"], rows)
        + prose(
            f"""So small a model's time is that of calls, most of them peft's: {each:.1f} ms a
            linear. One linear is changed at a time, so that for the moment a change needs
            {entry["bytes_for_a_moment_each_number_of_the_largest"]:.1f} bytes for each weight of
            the largest."""
        )
        + prose(
            f"""**Derived for FLUX.1-dev, not measured:** {flux["linears"]} linears; a change reads
            {flux["gigabytes_read"]:.1f} GB of unfused weights (`file`: from the disk, where they
            are not cached); `host` keeps {flux["gigabytes_kept"]:.1f} GB of memory, pinned where
            there is CUDA, and `device` {flux["gigabytes_kept"]:.1f} GB of the device's;
            {flux["gigabytes_for_a_moment"]:.2f} GB of the device's for the moment; besides reading
            and computing, about {flux["seconds_of_calls"]:.1f} s of calls on a processor like this
            one."""
        )
    )


def traps(_: Report) -> str:
    """Upstream's traps."""
    rows = [
        (str(index), trap.what, trap.answer, names(trap.upstream), names(trap.ours))
        for index, trap in enumerate(TRAPS, start=1)
    ]
    return (
        "## Traps in diffusers, and how depthflux answers\n\n"
        + prose(
            """Each is shown to exist in the installed diffusers. Where such a test fails, diffusers
            has changed, and its message says what to do. The tests are in `tests/unit/model`."""
        )
        + table(["", "trap", "answer", "shown to exist by", "answer shown by"], rows)
    )


def method(_: Report) -> str:
    """How to make the page again."""
    return """## Making this page

    scripts/fidelity             # measures, writes figures and page: about eight minutes
    scripts/fidelity --render    # writes the page from the figures
    scripts/fidelity --check     # exits 1 where they do not belong together

""" + prose(
        """Hooks on the text encoders and the decoder watch whole runs of both sides alike, with one
        thread, fixed seeds, and scenes that the miniature was not trained on. One step is given the
        same inputs everywhere; in the hoisted order, its constants are made of them. The compiled
        rows need g++."""
    )


def error_cell(entry: Report, stage: str) -> str:
    """A median error, marked where it is bit-equal."""
    if stage not in entry:
        return ""
    return number(entry[stage]["error"]["median"]) + (" =" if entry[stage]["equal"] else "")


def ratio_cell(entry: Report, stage: str) -> str:
    """A ratio with its spread; a plain mark where it is bit-equal."""
    return "=" if entry[stage]["equal"] else ranged(entry[stage]["ratio"])
