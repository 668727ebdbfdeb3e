"""The parts of the contest against diffusers, in order of importance, and what each needs.

A part runs in a process of its own with its own E beside it and leaves one document, so that a
machine can be taken away at any moment. Knows nothing of how anything is measured.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from depthflux.errors import InvalidParameterError, unknown_name_problem

#: No part may take longer, whatever time there is.
LONGEST_SECONDS = 480.0
SIZES = {"full": ("1024*1024", "864*1632"), "small": ("512*512",)}
#: Rounds that are wanted of each contest, where there is time.
REPEAT = {"full": 7, "small": 2}


@dataclass(frozen=True)
class Part:
    """One process of the contest.

    Attributes:
        name: of its document, without `.json`.
        group: what it is asked for by, together with others.
        kind: `speed`, `graphs` or `start`.
        systems: as `depthflux bench speed` takes them; of `start`, each in a process of its own.
        sizes: what is painted; `graphs` paints sizes of its own.
        seconds: that it needs at least; guessed on the slow side, for a GPU like an H200.
        options: `static_shapes` of the plan; of `start`, the systems and the caches they find.
    """

    name: str
    group: str
    kind: str
    systems: str
    sizes: tuple[str, ...]
    seconds: float
    options: dict[str, Any] = field(default_factory=dict)


#: Group, part, systems and seconds of the contests at each size.
CONTESTS = (
    ("exact", "exact", "E,exact", 240.0),
    ("exact", "exact-compiled-diffusers", "E,C,exact", 450.0),
    ("fast", "fast", "E,fast", 240.0),
    ("turbo", "turbo", "E,turbo", 240.0),
    ("F", "flux-fast", "E,F,fast", 450.0),
    ("memory", "gpu24", "E,gpu24", 240.0),
    ("memory", "gpu16", "E,gpu16", 240.0),
    ("memory", "gpu12", "E,gpu12", 240.0),
)
GROUPS = ("exact", "fast", "turbo", "F", "memory", "start")
#: A start: the system, and whether it finds what an earlier one compiled.
#: The first brings the libraries from the disk for all and does not count; the last E does.
STARTS = (("E", "empty"), ("exact", "empty"), ("exact", "warm"), ("E", "empty"))
COMPILED = (("C", "empty"),)
#: What a part needs for the small model, on a CPU.
SMALL_SECONDS = 20.0


def all_parts(model: str, sizes: Sequence[str] = ()) -> list[Part]:
    """Every part in the order in which they run.

    Args:
        model: `full` or `small`.
        sizes: painted in the contests, the first in everything else; without them the model's.
    """
    sizes = tuple(sizes) or SIZES[model]
    parts = [
        part for group in GROUPS for part in (*_contests(group, sizes), *_others(group, sizes[:1]))
    ]
    if model == "small":
        return [replace(part, seconds=SMALL_SECONDS) for part in parts]
    return parts


def chosen_parts(parts: Sequence[Part], names: Iterable[str]) -> list[Part]:
    """The parts of some groups or of some names, in their own order; all where there are none.

    Raises:
        InvalidParameterError: there is no such group and no such part.
    """
    asked = list(names)
    known = [*GROUPS, *(part.name for part in parts)]
    for name in asked:
        if name not in known:
            raise InvalidParameterError(
                unknown_name_problem(name, known, kind="part"),
                field="parts",
                value=name,
                allowed=", ".join(known),
            )
    return [part for part in parts if not asked or part.group in asked or part.name in asked]


def _contests(group: str, sizes: Sequence[str]) -> list[Part]:
    return [
        Part(f"{name}-{size.replace('*', 'x')}", group, "speed", systems, (size,), seconds)
        for of, name, systems, seconds in CONTESTS
        if of == group
        for size in sizes
    ]


def _others(group: str, size: tuple[str, ...]) -> list[Part]:
    """What a group has beside its contests."""
    if group == "start":
        return [Part("start", group, "start", "", size, 440.0, {"starts": STARTS})]
    if group != "exact":
        return []
    return [
        Part("exact-static", group, "speed", "E,exact", size, 240.0, {"static_shapes": True}),
        Part("graphs", group, "graphs", "exact", size, 240.0),
        Part("start-compiled-diffusers", group, "start", "", size, 450.0, {"starts": COMPILED}),
    ]
