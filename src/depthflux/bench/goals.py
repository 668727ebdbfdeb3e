"""What depthflux is meant to reach on a GPU, held against documents of what was measured there.

Ratios are of one run on one machine, at full size with random weights. Where several documents
hold a figure, the one of the most rounds counts, then the latest. Knows nothing of torch or files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

Document = dict[str, Any]

#: The sizes at which ratios are wanted, and the one for everything else.
SIZES = ("1024*1024", "864*1632")
SIZE = SIZES[0]
STEPS = 28


class Row(NamedTuple):
    """One goal.

    Attributes:
        measure: what is measured, in words.
        least: what must be reached.
        aim: what is meant to be reached.
        at_most: whether smaller is better.
        measured: the figure; None where no document has it.
    """

    measure: str
    least: float
    aim: float
    at_most: bool
    measured: float | None

    @property
    def met(self) -> bool | None:
        """Whether the least is reached; None where nothing was measured."""
        return self._reaches(self.least)

    @property
    def aim_met(self) -> bool | None:
        """Whether the aim is reached; None where nothing was measured."""
        return self._reaches(self.aim)

    def _reaches(self, goal: float) -> bool | None:
        if self.measured is None:
            return None
        return self.measured <= goal if self.at_most else self.measured >= goal


def goals(documents: Sequence[Document]) -> list[Row]:
    """Every goal with what documents of one machine say of it.

    Args:
        documents: of `scripts/bench-gpu speed`; those of other models, of another number of steps
            or of a CPU do not count.
    """
    counted = [one for one in documents if counts(one) and one["plan"]["steps"] == STEPS]
    return [*_speed_rows(counted), *_other_rows(counted)]


def counts(document: Document) -> bool:
    """Whether a document was measured at full size on a GPU."""
    device = document.get("device", {}).get("torch", "")
    full: bool = document.get("plan", {}).get("model") == "full"
    return full and device.startswith("cuda")


def _speed_rows(documents: Sequence[Document]) -> Iterator[Row]:
    ratios = (
        ("E", "exact", 1.55, 1.75),
        ("C", "exact", 1.03, 1.12),
        ("E", "fast", 2.2, 2.5),
        ("F", "fast", 0.97, 1.05),
        ("E", "turbo", 3.3, 4.0),
    )
    for baseline, tier, least, aim in ratios:
        for size in SIZES:
            words = f"{tier}: {baseline} / ours, denoising, {size}"
            value = _ratio(documents, baseline, tier, size)
            yield Row(words, least, aim, False, value)
    for size in SIZES:
        words = f"exact: part of the measured bfloat16 matrix rate, all operations, {size}"
        value = _figure(documents, "exact", size, _rate_fraction)
        yield Row(words, 0.65, 0.75, False, value)
    for size in SIZES:
        words = f"exact: whole call less denoising, same image and prompt again, s, {size}"
        value = _figure(documents, "exact", size, _outside_again)
        yield Row(words, 0.25, 0.12, True, value)


def _other_rows(documents: Sequence[Document]) -> Iterator[Row]:
    words = f"dynamic shapes slower than static ones, %, {SIZE}"
    yield Row(words, 5.0, 2.0, True, _dynamic_percent(documents))
    for name, words, least, aim in (
        ("exact", "resident", 35.0, 34.0),
        ("gpu24", "modulation hoisted, T5 freed", 21.5, 20.5),
        ("gpu16", "8 bits, modulation hoisted, T5 freed", 13.0, 12.0),
    ):
        value = _figure(documents, name, SIZE, _peak_gigabytes)
        yield Row(f"{name}: peak memory, {words}, GB, {SIZE}", least, aim, True, value)
    words = f"compile time, regional / full graph, {SIZE}"
    yield Row(words, 0.2, 0.14, True, _compile_ratio(documents))
    words = "graphs compiled after warm-up, 12 sizes, 1 to 4 pictures"
    yield Row(words, 0, 0, True, _graphs(documents))
    words = f"process start to first picture, warm caches: exact / E, {SIZE}"
    yield Row(words, 1.0, 0.7, True, _start_ratio(documents))


def _ratio(
    documents: Sequence[Document], baseline: str, tier: str, size: str, *, static: bool = False
) -> float | None:
    """A baseline's denoising over a tier's, the median of the rounds' pairs."""
    found = []
    for document in _speed(documents, static=static):
        measured = document["sizes"].get(size, {})
        pairs = (measured.get("ratios", {}).get(f"{baseline}/{tier}") or {}).get("denoise")
        if pairs:
            found.append((len(pairs["rounds"]), document["date"], float(pairs["median"])))
    return max(found)[-1] if found else None


def _figure(
    documents: Sequence[Document], name: str, size: str, take: Callable[[Document], float | None]
) -> float | None:
    """A figure of a system at a size."""
    found = []
    for document in _speed(documents, static=False):
        measured = document["sizes"].get(size, {})
        system = measured.get("systems", {}).get(name)
        value = None if system is None else take(system)
        if value is not None:
            found.append((measured["rounds_number"], document["date"], value))
    return max(found)[-1] if found else None


def _rate_fraction(system: Document) -> float | None:
    value: float | None = system["rates"].get("fraction_of_products_rate")
    return value


def _outside_again(system: Document) -> float | None:
    return float(system["again"]["outside_seconds"]["median"]) if system["again"] else None


def _peak_gigabytes(system: Document) -> float | None:
    peak = system["peak_device_bytes"]
    return None if peak is None else round(peak / 1e9, 2)


def _speed(documents: Sequence[Document], *, static: bool) -> Iterator[Document]:
    for document in documents:
        if document["benchmark"] == "speed" and document["plan"]["static_shapes"] is static:
            yield document


def _dynamic_percent(documents: Sequence[Document]) -> float | None:
    """How much longer blocks denoise that serve all sizes, each kind measured against its own E."""
    dynamic = _ratio(documents, "E", "exact", SIZE)
    static = _ratio(documents, "E", "exact", SIZE, static=True)
    if dynamic is None or static is None:
        return None
    return round(100 * (static / dynamic - 1), 2)


def _starts(documents: Sequence[Document]) -> dict[tuple[str, str], Document]:
    """The latest start of each system with each kind of caches."""
    ordered = sorted(documents, key=lambda document: str(document["date"]))
    return {
        (start["plan"]["systems"][0], start["caches"]): start
        for document in ordered
        if document["benchmark"] == "start"
        for start in document["starts"]
    }


def _compile_ratio(documents: Sequence[Document]) -> float | None:
    starts = _starts(documents)
    regional, full = starts.get(("exact", "empty")), starts.get(("C", "empty"))
    if regional is None or full is None:
        return None
    return round(float(regional["compile_seconds"] / full["compile_seconds"]), 3)


def _start_ratio(documents: Sequence[Document]) -> float | None:
    starts = _starts(documents)
    ours, theirs = starts.get(("exact", "warm")), starts.get(("E", "empty"))
    if ours is None or theirs is None:
        return None
    after = "first_picture_after_seconds"
    return round(float(ours[after] / theirs[after]), 3)


def _graphs(documents: Sequence[Document]) -> float | None:
    """Graphs and breaks after the warm-up; of a whole run, with blocks that are compiled."""
    for document in sorted(documents, key=lambda document: str(document["date"]), reverse=True):
        if document["benchmark"] == "graphs" and document["finished"]:
            if not document["system"]["settings"]["compiled"]:
                return None
            painted = document["painted"]
            return float(sum(one["graphs_compiled"] + one["graph_breaks"] for one in painted))
    return None
