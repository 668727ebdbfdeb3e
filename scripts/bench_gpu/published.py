"""Documents in docs/benchmarks as tables for a page: what was measured, and what of the goals.

A folder holds the documents of one machine; its name says which and when. Knows nothing of how
anything is measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench_gpu.speed import read_documents
from depthflux.bench.goals import Row, counts, goals

Document = dict[str, Any]
HEADINGS = ("device", "size", "system", "s a picture", "E / it", "peak GB", "date", "commit")
NOT_ON_A_GPU = (
    "Nothing was measured on a GPU yet; `scripts/bench-gpu speed` does it, rehearsed on the CPU.\n"
)
GPU_NOTE = """\
FLUX.1-dev's shapes with random weights, one picture; the whole call and, in brackets, its
denoising, medians of interleaved runs, prompt and image new each time. E is diffusers'
`FluxControlPipeline` with the LoRA fused, C the same compiled, F the flux-fast recipe, the others
are depthflux's profiles; *E / it* compares denoising within one run. Held against the goals in
[docs/benchmarks](docs/benchmarks/README.md).
"""
CPU_NOTE = """\
On CPUs, the packaged miniature beside diffusers' own pipeline (E) on the same pictures; the whole
call and, in brackets, its denoising, medians of interleaved runs; *E / it* compares denoising:
"""
#: Order of the rows.
SYSTEMS = ("E", "C", "F", "exact", "fast", "turbo", "gpu24", "gpu16", "gpu12")


def speed_section(benchmarks: Path) -> str:
    """What FLUX's shapes take on GPUs; without any such document, what the demo takes on a CPU."""
    on_gpus = [one for one in _speed_documents(benchmarks) if counts(one)]
    if on_gpus:
        return f"{GPU_NOTE}\n{_table(on_gpus)}\n"
    on_cpus = [one for one in _speed_documents(benchmarks, "cpu-*") if _is_demo(one)]
    if not on_cpus:
        return f"{NOT_ON_A_GPU}\n"
    return f"{NOT_ON_A_GPU}\n{CPU_NOTE}\n{_table(on_cpus)}\n"


def goals_section(benchmarks: Path) -> str:
    """The goals with what was reached, a table for each GPU; an empty one where there is none."""
    folders = [path for path in sorted(benchmarks.iterdir()) if path.is_dir()]
    found = {path.name: read_documents(path) for path in folders}
    measured = {name: all_ for name, all_ in found.items() if any(map(counts, all_))}
    if not measured:
        return f"{NOT_ON_A_GPU}\n{_goals_table(goals([]))}"
    return "\n".join(f"`{name}`:\n\n{_goals_table(goals(all_))}" for name, all_ in measured.items())


def _speed_documents(benchmarks: Path, pattern: str = "*") -> list[Document]:
    return [
        document
        for folder in sorted(benchmarks.glob(pattern))
        if folder.is_dir()
        for document in read_documents(folder)
        if document["benchmark"] == "speed" and not document["plan"]["static_shapes"]
    ]


def _is_demo(document: Document) -> bool:
    return bool(document["plan"]["model"] == "demo")


def _table(documents: Sequence[Document]) -> str:
    """A row for each device, size and system: the document with the most rounds tells it."""
    best: dict[tuple[str, str, str, int], Document] = {}
    for document in documents:
        for size, measured in document["sizes"].items():
            for system in measured["systems"]:
                images = document["plan"]["num_images"]
                key = (document["device"]["name"], size, system, images)
                held = best.get(key)
                if held is None or _weight(document, size) > _weight(held, size):
                    best[key] = document
    lines = [f"| {' | '.join(HEADINGS)} |", "|---" * len(HEADINGS) + "|"]
    lines += [_row(document, *key[1:]) for key, document in sorted(best.items(), key=_place)]
    commands = dict.fromkeys(
        document["command"] for _, document in sorted(best.items(), key=_place)
    )
    told = ", ".join(f"`{command}`" for command in commands)
    steps = sorted({document["plan"]["steps"] for document in best.values()})
    asked = " or ".join(map(str, steps))
    return "\n".join([*lines, "", f"{asked} steps; measured with {told}."]) + "\n"


def _weight(document: Document, size: str) -> tuple[int, str]:
    return document["sizes"][size]["rounds_number"], document["date"]


def _place(entry: tuple[tuple[str, str, str, int], Document]) -> tuple[object, ...]:
    """A row's place: by device, size and number of pictures, diffusers before depthflux."""
    (device, size, system, images), _ = entry
    return (
        device,
        len(size),
        size,
        images,
        SYSTEMS.index(system) if system in SYSTEMS else 99,
        system,
    )


def _row(document: Document, size: str, system: str, images: int) -> str:
    measured = document["sizes"][size]
    figures = measured["systems"][system]
    new, peak = figures["new"], figures["peak_device_bytes"]
    whole, denoise = (new[name]["median"] / images for name in ("wall_seconds", "denoise_seconds"))
    ratio = (measured["ratios"].get(f"E/{system}") or {}).get("denoise")
    settings = document["systems"][system]["settings"]
    compiled = ", not compiled" if settings.get("compiled") is False else ""
    cells = (
        _device(document),
        size if images == 1 else f"{size}, {images} pictures",
        f"{system}{compiled}",
        f"{whole:.3g} ({denoise:.3g})",
        "-" if ratio is None else f"{ratio['median']:.2f}",
        "-" if peak is None else f"{peak / 1e9:.1f}",
        document["date"][:10],
        document["commit"] or "unknown",
    )
    return f"| {' | '.join(cells)} |"


def _device(document: Document) -> str:
    device = document["device"]
    name: str = device["name"]
    if device["torch"] != "cpu":
        return name
    threads = device["threads"]
    return f"{name}, {threads} thread{'s' if threads > 1 else ''}"


def _goals_table(rows: Sequence[Row]) -> str:
    lines = ["| measure | must be | aim | measured | reached |", "|---|---|---|---|---|"]
    for row in rows:
        sign = "≤" if row.at_most else "≥"
        measured = "not measured" if row.measured is None else f"{row.measured:g}"
        lines.append(
            f"| {row.measure} | {sign} {row.least:g} | {row.aim:g} | {measured} | {_reached(row)} |"
        )
    return "\n".join(lines) + "\n"


def _reached(row: Row) -> str:
    if row.met is None:
        return "-"
    return "the aim" if row.aim_met else "yes" if row.met else "**no**"
