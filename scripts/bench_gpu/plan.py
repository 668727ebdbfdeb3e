"""What is measured, in order of importance, and how long each part may take.

An arm is one way of loading the model; its stages run one after another in one process. It knows
nothing of how anything is measured.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bench_gpu.card import picture_card
from bench_gpu.sizes import Size

#: Steps of what is painted to warm up or to be looked into, not to be timed.
FEW_STEPS = 2
#: The changes of control_scale. Each arm begins with the first of its own, on weights that were
#: just loaded; the same scales come again later, and in another arm from another beginning.
SCALES = {
    "compiled": (1.0, 0.5, 0.0, 1.0),
    "eager": (0.5, 0.0, 1.0, 0.5, 1.0),
    "device": (1.0, 0.5, 0.0, 1.0),
    # Prepared with the first, which then changes nothing.
    "prepared": (1.0, 0.5, 1.0),
}


@dataclass(frozen=True)
class Pace:
    """Rates to plan with, on the slow side; they decide what is still begun, and no result.

    Attributes:
        start_seconds: a process with its imports.
        hash_bytes: hashed in a second.
        read_bytes: of files brought to the device in a second.
        write_bytes: of files written in a second.
        fuse_bytes: of unfused weights that a change of scale goes through in a second.
        flops: of a denoising step, in a second.
        compile_seconds: compiling both kinds of blocks.
    """

    start_seconds: float
    hash_bytes: float
    read_bytes: float
    write_bytes: float
    fuse_bytes: float
    flops: float
    compile_seconds: float


PACES = {
    "cuda": Pace(25, 8e8, 1e9, 5e8, 2e9, 2.5e14, 90),
    "cpu": Pace(10, 3e8, 1e9, 5e8, 1e9, 1e9, 20),
}


@dataclass(frozen=True)
class Stage:
    """One thing to be measured.

    Attributes:
        name: in the document, after the arm's.
        kind: the function that measures it.
        seconds: that it is expected to take at most.
        options: what the function is told.
        loaded: whether the model must have been loaded.
    """

    name: str
    kind: str
    seconds: float
    options: Mapping[str, Any] = field(default_factory=dict)
    loaded: bool = True


@dataclass(frozen=True)
class Arm:
    """One way of loading the model, and what is measured with it.

    Attributes:
        name: in the document.
        settings: of the engine, beside those that all arms share.
        stages: in order of importance; loading goes before what needs it.
    """

    name: str
    settings: Mapping[str, Any]
    stages: tuple[Stage, ...]


class Planner:
    """Makes the arms for one model on one kind of device."""

    def __init__(
        self, size: Size, weights_bytes: Mapping[str, int], *, on_cuda: bool, repeat: int
    ) -> None:
        self._size = size
        self._weights = weights_bytes
        self._pace = PACES["cuda" if on_cuda else "cpu"]
        self._repeat = repeat

    @property
    def start_seconds(self) -> float:
        """A process with its imports."""
        return self._pace.start_seconds

    def arms(self) -> list[Arm]:
        """All of them, the most important first."""
        first = self._size.pictures[0]
        compiled = (
            # The first arm hashes the files; later ones find the hashes remembered.
            self._load(hashing=True),
            self._changes("compiled"),
            Stage("first_steps", "first_steps", self._pace.compile_seconds, {"picture": first}),
            self._pictures(first),
            self._pictures(first, number=4),
            *map(self._pictures, self._size.pictures[1:]),
            self._recompiling(),
            Stage("kernels", "kernels", self._paint_seconds(first, FEW_STEPS), {"picture": first}),
            Stage("ceilings", "ceilings", 5, {"picture": first}),
            Stage("safety", "safety", 5, {"picture": first}),
        )
        eager = (
            self._load(),
            self._changes("eager"),
            *map(self._pictures, self._size.pictures),
        )
        device = (self._load(), self._changes("device"))
        prepared = (self._prepare(), self._load(), self._changes("prepared"))
        return [
            Arm("compiled", {"master": "file", "compile": True}, compiled),
            Arm("eager", {"master": "host", "compile": False}, eager),
            Arm("device", {"master": "device", "compile": False}, device),
            Arm("prepared", {"master": "file", "compile": False}, prepared),
        ]

    def _load(self, *, hashing: bool = False) -> Stage:
        total = sum(self._weights.values())
        seconds = total / self._pace.read_bytes
        seconds += total / self._pace.hash_bytes if hashing else 0
        return Stage("load", "load", seconds, loaded=False)

    def _prepare(self) -> Stage:
        base, pace = self._weights["transformer"], self._pace
        rates = (pace.read_bytes, pace.fuse_bytes, pace.write_bytes, pace.hash_bytes)
        seconds = sum(base / rate for rate in rates)
        scale = {"scale": SCALES["prepared"][0]}
        return Stage("prepare", "prepare", seconds, scale, loaded=False)

    def _changes(self, arm: str) -> Stage:
        scales = SCALES[arm]
        once = self._weights["transformer"] / self._pace.fuse_bytes
        return Stage("control_scale", "control_scale", once * len(scales), {"scales": scales})

    def _pictures(self, picture: str, number: int = 1) -> Stage:
        # Four are painted once: each is as long as one alone.
        repeat = self._repeat if number == 1 else 1
        steps = repeat * number * self._size.steps + FEW_STEPS
        options = {"picture": picture, "number": number, "repeat": repeat}
        seconds = self._paint_seconds(picture, steps)
        return Stage(f"{picture}, {number} of", "pictures", seconds, options)

    def _recompiling(self) -> Stage:
        pictures = self._size.odd_pictures
        changes = 2 * self._weights["transformer"] / self._pace.fuse_bytes
        painting = sum(self._paint_seconds(picture, FEW_STEPS) for picture in pictures)
        return Stage("recompiling", "recompiling", changes + painting, {"pictures": pictures})

    def _paint_seconds(self, picture: str, steps: int) -> float:
        step: float = picture_card(self._size, picture)["step_teraflops"]["total"] * 1e12
        return 1 + steps * step / self._pace.flops
