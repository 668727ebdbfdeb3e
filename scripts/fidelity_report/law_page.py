"""The control LoRA's law as a section of docs/fidelity.md: where ours differs from diffusers'."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from fidelity_report.markdown import listed, percent, prose, ranged, table
from fidelity_report.names import UNHOISTED

Report = dict[str, Any]
OTHERS = (
    "A picture has a seed and a run of its own; diffusers draws a batch from one generator.",
    "Sizes off the model's grid are painted larger and cropped; diffusers rounds them down.",
    "A control image of another shape is placed by `fit`; diffusers stretches it.",
    "LoRA tensors that fit nothing are an error; diffusers drops them with a warning.",
)


def law(report: Report) -> str:
    """What differs on purpose, and by how much."""
    return (
        "## Where depthflux differs, by intent\n\n"
        + prose(
            """With `compat = "diffusers"`, which the `reference` profile has, conversion, norms and
            rounding are diffusers'. Otherwise the law is the file's own: weights W + s · (B·A),
            norms n + s · (n_control - n), computed in float32 and rounded once
            (`model/control_lora.py`)."""
        )
        + table(
            ["what", "depthflux", "diffusers", "measured difference"],
            [
                *conversion(report["law"]["conversion"]),
                *norms(report["law"]["norms"], report["law"]["scale_zero"]["diffusers"]),
                *changes_of_scale(report["law"]["sequences"]),
                *pixels(report["stages"][UNHOISTED]["decode"]),
            ],
        )
        + prose(
            """Velocities are of one step of the random model at noise level 0.5, in float32 and
            diffusers' order, so that the law alone differs. Its LoRA is random and a tenth of the
            weights in size; with the published one the effects may be far smaller or larger."""
        )
        + rounding(report["law"]["rounding"])
        + prose(
            """Other differences are no matter of rounding; [architecture.md](architecture.md) says
            more:"""
        )
        + listed(OTHERS)
    )


def conversion(entry: Report) -> Iterable[Sequence[str]]:
    """The last AdaLN."""
    changed = entry["linears"] - entry["converted_alike"]
    yield (
        f"conversion of `norm_out`, the last AdaLN ({changed} of {entry['linears']} linears)",
        "swaps the halves of B's rows",
        "swaps the halves of A's rank, too",
        f"cosine to the published delta: ours {entry['cosine_ours']:.4f}, diffusers' "
        f"{entry['cosine_diffusers']:.4f} (random factors of rank 128 at FLUX's width); one step's "
        f"velocity changes by {percent(entry['velocity_change_diffusers'])}, without the delta by "
        f"{percent(entry['velocity_change_without'])}",
    )


def norms(entry: Report, zero: Report) -> Iterable[Sequence[str]]:
    """The q/k norms."""
    parts = [
        f"s = {float(scale):g}: norms {percent(change['norms_change'])}, velocity "
        f"{percent(change['velocity_change'])}"
        for scale, change in entry.items()
    ]
    base = "is" if zero["step_equal"] else "is not"
    yield (
        "q/k norms at control scale s",
        "follow s",
        "the LoRA's at every s",
        "; ".join(parts) + f"; scale 0 {base} the base model",
    )


def changes_of_scale(entry: Report) -> Iterable[Sequence[str]]:
    """One scale after another."""
    theirs = entry["diffusers"]
    scales = ", ".join(f"{scale:g}" for scale in entry["scales"])
    yield (
        "a change of the control scale",
        "starts from the unfused files",
        "`unfuse_lora()`, `fuse_lora()` in place",
        f"weights changed by one fuse and unfuse in bfloat16: "
        f"{percent(theirs['base_after_one_cycle'])}, by {theirs['cycles']}: "
        f"{percent(theirs['base_after_all_cycles'])}; of ours, after {scales}: "
        f"{percent(entry['ours'])}. `lora_scale` 0.3, then 0.3, gives "
        f"{theirs['scale_after_0.3_and_0.3']:g}; 0, then 1, gives "
        f"{theirs['scale_after_0_and_1']:g}",
    )


def pixels(entry: Report) -> Iterable[Sequence[str]]:
    """Decoded pixels."""
    yield (
        "pixels in bfloat16",
        "float32 before the range is moved",
        "after it",
        f"decoding's error is {ranged(entry['ratio'])} of diffusers'",
    )


def rounding(entry: Report) -> str:
    """How far bfloat16 weights are from the exact sums."""
    sizes = [f"{entry[model]['delta_over_weight']:.2f}" for model in ("miniature", "random_model")]
    rows = [
        (
            f"{model.replace('_', ' ')}, {side}",
            percent(figures[side]["not_the_nearest"]),
            f"{figures[side]['mean_error_ulp']:.2f}",
        )
        for model, figures in entry.items()
        for side in ("ours", "diffusers")
    ]
    return (
        prose("Weights in bfloat16, at control scale 0.7, against the sum in float64:")
        + table(["", "not the nearest number", "mean error, units of the last place"], rows)
        + prose(
            f"""Rounding to the nearest leaves 0.25 units. |s · B·A| over |W| is {sizes[0]} for the
            miniature and {sizes[1]} for the random model: the smaller the delta, the fewer weights
            are rounded otherwise. A few sums fall so near to the middle of two numbers that float32
            and float64 part."""
        )
    )
