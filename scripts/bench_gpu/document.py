"""The document that a run leaves, written anew whenever something is known, so nothing is lost.

It knows nothing of how anything is measured.
"""

import json
from pathlib import Path
from typing import Any

#: Where the random weights' pictures would mislead a reader.
NOTICE = (
    "Random weights of FLUX.1-dev's shapes: times and memory are those of the real ones; what the "
    "pictures show means nothing."
)
NOTICE_TINY = "A rehearsal at a width of 32: its figures are no benchmark of anything."


class Document:
    """A run's document.

    Attributes:
        data: what is written; `stages` holds an entry by arm and name for each stage.
    """

    def __init__(self, path: Path, data: dict[str, Any]) -> None:
        self._path = path
        self.data = data | {"stages": {}, "finished": False}
        self.write()

    @property
    def stages(self) -> dict[str, dict[str, Any]]:
        """Entries by `arm/stage`: state, reason, wall seconds, result, GPU."""
        stages: dict[str, dict[str, Any]] = self.data["stages"]
        return stages

    def result(self, stage: str) -> dict[str, Any]:
        """A stage's result; empty where it has none."""
        return self.stages.get(stage, {}).get("result") or {}

    def running(self) -> list[str]:
        """Stages that were started and not heard of again."""
        return [name for name, entry in self.stages.items() if entry["state"] == "started"]

    def write(self) -> None:
        """Write it, whole or not at all."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        partial = self._path.with_suffix(".partial")
        partial.write_text(json.dumps(self.data, indent=2) + "\n", encoding="utf-8")
        partial.replace(self._path)


def checks(document: Document) -> dict[str, bool | None]:
    """What must be true; None where the stages that would show it have no result.

    control_scale_bit_equal: whatever came before, equal scales end with equal weights, whether on
        weights just loaded, after other scales, in another process, or with the unfused weights
        kept elsewhere.
    scale_0_is_the_base: at 0 the weights are those that were loaded.
    nothing_recompiled: no graph was compiled after the first steps, over other sizes, numbers of
        pictures, seeds and scales, and none broke.
    repeats_bit_equal: the same request gives the same picture, alone or as the first of four.
    """
    return {
        "control_scale_bit_equal": _scales_agree(document),
        "scale_0_is_the_base": _zero_is_base(document),
        "nothing_recompiled": _nothing_recompiled(document),
        "repeats_bit_equal": _repeats_agree(document),
    }


def _changes(document: Document) -> dict[str, list[dict[str, Any]]]:
    """The changes of control_scale by arm."""
    suffix = "/control_scale"
    return {
        name.removesuffix(suffix): document.result(name)["changes"]
        for name in document.stages
        if name.endswith(suffix) and document.result(name)
    }


def _scales_agree(document: Document) -> bool | None:
    found: dict[float, list[str]] = {}
    for changes in _changes(document).values():
        for change in changes:
            found.setdefault(change["control_scale"], []).append(change["weights_fingerprint"])
    several = [prints for prints in found.values() if len(prints) > 1]
    return all(len(set(prints)) == 1 for prints in several) if several else None


def _zero_is_base(document: Document) -> bool | None:
    pairs = [
        (change["weights_fingerprint"], document.result(f"{arm}/load")["weights_fingerprint"])
        for arm, changes in _changes(document).items()
        for change in changes
        if change["control_scale"] == 0
    ]
    return all(zero == base for zero, base in pairs) if pairs else None


def _nothing_recompiled(document: Document) -> bool | None:
    first = document.result("compiled/first_steps")
    later = [
        document.result(name)
        for name in document.stages
        if name.startswith("compiled/") and "graphs_compiled" in document.result(name)
    ]
    if not first or len(later) < 2 or not first["compiled"]:
        return None
    return all(
        row["graphs_compiled"] == first["graphs_compiled"] and row["graph_breaks"] == 0
        for row in later
    )


def _repeats_agree(document: Document) -> bool | None:
    """Each row's repeats agree, and one picture is the first of four."""
    rows = [document.result(name) for name in document.stages]
    rows = [row for row in rows if "pictures_sha256" in row]
    if not rows:
        return None
    repeated = all(len(row["pictures_sha256"]) == 1 for row in rows)
    firsts: dict[str, set[str]] = {}
    for name in document.stages:
        for pictures in document.result(name).get("pictures_sha256", ()):
            firsts.setdefault(name.rpartition(",")[0], set()).add(pictures[0])
    return repeated and all(len(first) == 1 for first in firsts.values())


def table(document: Document) -> str:
    """The figures to look at first, a line each."""
    lines = []
    for name, entry in document.stages.items():
        result = entry.get("result") or {}
        lines.append(f"{name:32} {_shown(entry, result)}")
    for name, holds in (document.data.get("checks") or {}).items():
        lines.append(f"{name:32} {'not known' if holds is None else 'yes' if holds else 'NO'}")
    return "\n".join(lines)


def _shown(entry: dict[str, Any], result: dict[str, Any]) -> str:
    if entry["state"] != "done":
        return f"{entry['state']}: {entry.get('reason', '')}"
    peak = result.get("device_peak_bytes")
    memory = f", {peak / 1e9:.1f} GB at most" if peak else ""
    if "load_seconds" in result:
        return f"{result['load_seconds']:.1f} s, hashing {result['hash_seconds']:.1f} s{memory}"
    if "changes" in result:
        seconds = (f"{row['control_scale']:g}: {row['seconds']:.2f} s" for row in result["changes"])
        return ", ".join(seconds)
    if "generate_seconds" in result:
        rate = result["step_teraflops_per_second"]
        step = result["step_milliseconds"]
        each = f", {step['median']:.1f} ms a step, {rate:.4g} TFLOP/s" if step else ""
        return f"{result['generate_seconds']['median']:.2f} s{each}{memory}"
    return f"{entry['wall_seconds']:.1f} s{memory}"
