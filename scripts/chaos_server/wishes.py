"""What each job asks for, drawn by the seed: the same run asks the same.

Knows nothing of servers, or of when a job is submitted.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

#: First words of the stand-in's prompts (scripts/stand_in/painter.py), and how often each comes.
KINDS = {
    "paint": 880,
    "slow": 50,
    "flagged": 20,
    "memory": 20,
    "bug": 20,
    "crash-once": 5,
    "cuda-once": 5,
}
#: What is done with a job after it was accepted, and how often.
AFTERWARDS = {"": 90, "cancel": 5, "delete": 5}
SIZES = ((512, 512), (576, 512), (512, 640))
FORMATS = ("png", "jpeg", "webp")
#: Seconds of a slow one: several jobs of the usual kind end beside it.
SLOW_S = 0.3
#: Seeds begin here: a job is known by its own, in the store and in the painter's journal.
FIRST_SEED = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What a job asks for.

    Attributes:
        number: of the job, from 0.
        kind: the prompt's first word.
        grey: of the control image, and so of the pictures.
        width: of the pictures, in pixels.
        height: likewise.
        format: of the pictures.
        pictures: how many.
        is_upload: whether the control image is uploaded first, instead of sent inside.
        is_sync: whether the answer is to wait for the end.
        has_webhook: whether its end is to be told.
        then: what the client does after it was accepted: nothing, cancel, delete.
        patience: after how many polls it does so; with more than it takes, after the end.
    """

    number: int
    kind: str
    grey: int
    width: int
    height: int
    format: str
    pictures: int
    is_upload: bool
    is_sync: bool
    has_webhook: bool
    then: str
    patience: int

    @property
    def seed(self) -> int:
        """What no other job of the run has."""
        return FIRST_SEED + self.number

    @property
    def key(self) -> str:
        """Its Idempotency-Key."""
        return f"chaos-{self.number}"

    def prompt(self, once_folder: str) -> str:
        """What the stand-in is told.

        Args:
            once_folder: where it notes that what happens once has happened.
        """
        if self.kind == "slow":
            return f"slow {SLOW_S}"
        return f"{self.kind} {once_folder}/{self.number}" if "-once" in self.kind else self.kind


def make_wishes(seed: int, count: int) -> list[Wish]:
    """All jobs of a run; each kind is among the first ones, however few they are."""
    draw = random.Random(f"wishes {seed}")
    return [_make(draw, number) for number in range(count)]


def _make(draw: random.Random, number: int) -> Wish:
    kinds = list(KINDS)
    kind = draw.choices(kinds, list(KINDS.values()))[0]
    width, height = draw.choice(SIZES)
    then = draw.choices(list(AFTERWARDS), list(AFTERWARDS.values()))[0]
    is_first = number < len(kinds)
    return Wish(
        number=number,
        kind=kinds[number] if is_first else kind,
        grey=draw.randrange(256),
        width=width,
        height=height,
        format=draw.choices(FORMATS, (3, 1, 1))[0],
        pictures=draw.choices((1, 2), (9, 1))[0],
        is_upload=draw.random() < 0.2,
        is_sync=draw.random() < 0.03,
        has_webhook=draw.random() < 0.15,
        then="" if is_first else then,
        patience=draw.choice((0, 0, 1, 2, 5, 1000)),
    )
