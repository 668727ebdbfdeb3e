"""A speed document as rows of words, for a person to read.

Knows nothing of terminals.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

HEADINGS = (
    "system",
    "denoise, s",
    "step, ms",
    "outside, s",
    "whole call, s",
    "again, s",
    "E/",
    "C/",
    "F/",
    "TFLOP/s",
    "of the roofline",
    "peak GB",
)
NOTHING = "-"


def rows(document: dict[str, Any], size: str) -> Iterator[tuple[str, ...]]:
    """One size's rows under `HEADINGS`; a system that is not available has its reason instead."""
    measured = document["sizes"][size]
    for name, system in document["systems"].items():
        if name in measured["systems"]:
            yield _row(name, measured)
        else:
            yield (name, why_missing(name, system, measured))


def why_missing(name: str, system: dict[str, Any], measured: dict[str, Any]) -> str:
    """Why a system has no figures at a size, in words."""
    if name in measured["failed"]:
        return str(measured["failed"][name])
    return f"not available here: {system['reason']}"


def card_lines(card: dict[str, Any]) -> Iterator[str]:
    """The card in words, a line each."""
    weights = ", ".join(
        f"{name} {number / 1e9:.2f}" for name, number in card["weights_bytes"].items()
    )
    blocks = card["blocks"]
    yield (
        f"{card['model']}: {blocks['double']} double and {blocks['single']} single blocks, "
        f"width {card['width']}, {card['text_tokens']} text tokens"
    )
    yield f"weights in GB: {weights} (modulation is part of the transformer)"
    for size, facts in card["sizes"].items():
        flops = facts["step_teraflops"]
        asked = "" if facts["asked"] == size else f" (asked: {facts['asked']})"
        yield (
            f"{size}{asked}: {facts['image_tokens']} image tokens, {flops['total']:.4g} TFLOP a "
            f"step, {flops['linear']:.4g} in linears and {flops['attention']:.4g} in attention"
        )


def _row(name: str, measured: dict[str, Any]) -> tuple[str, ...]:
    system = measured["systems"][name]
    new, again, rates = system["new"], system["again"], system["rates"]
    peak = system["peak_device_bytes"]
    return (
        name,
        _spread(new["denoise_seconds"]),
        _median(new["step_milliseconds"], "{:.4g}"),
        _median(new["outside_seconds"], "{:.3f}"),
        _spread(new["wall_seconds"]),
        _median(again and again["wall_seconds"], "{:.3f}"),
        *(_ratio(measured, f"{baseline}/{name}") for baseline in "ECF"),
        _figure(rates["teraflops_per_second"], "{:.4g}"),
        _figure(rates.get("fraction_of_roofline"), "{:.2f}"),
        NOTHING if peak is None else f"{peak / 1e9:.2f}",
    )


def _ratio(measured: dict[str, Any], name: str) -> str:
    ratios = measured["ratios"].get(name)
    return _median(ratios and ratios["denoise"], "{:.2f}")


def _spread(figures: dict[str, float] | None) -> str:
    if figures is None:
        return NOTHING
    return "{median:.3f} ({min:.3f} to {max:.3f})".format_map(figures)


def _median(figures: dict[str, Any] | None, form: str) -> str:
    return NOTHING if figures is None else form.format(figures["median"])


def _figure(value: float | None, form: str) -> str:
    return NOTHING if value is None else form.format(value)
