"""What the tests of runs share: a suite of two cases, tasks, outcomes, a side that is asked."""

from __future__ import annotations

import hashlib
import io
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image

from depthflux.bench.hosted.folder import RunFolder
from depthflux.bench.hosted.outcomes import Outcome, Picture, Times
from depthflux.bench.hosted.plan import Task
from depthflux.bench.hosted.run_files import Intent, SideFacts, Submission
from depthflux.bench.hosted.suites import Case, Suite
from depthflux.errors import CancelledError

FIELDS = {
    "prompt": "a room",
    "control_scale": 1.0,
    "seed": 5,
    "num_images": 1,
    "size": "512*640",
    "num_inference_steps": 1,
    "guidance_scale": 3.5,
    "enable_safety_checker": True,
}
RECORDED_AT = "2026-01-02T03:04:05+00:00"


def picture(level: int = 100, size: tuple[int, int] = (64, 80), kind: str = "PNG") -> bytes:
    """A picture with depth in it: dark at the top, bright at the bottom."""
    buffer = io.BytesIO()
    grey = Image.linear_gradient("L").resize(size).point(lambda value: value * level // 255)
    grey.convert("RGB").save(buffer, kind)
    return buffer.getvalue()


def make_suite(folder: Path, names: Sequence[str] = ("ant", "bee"), **fields: object) -> Suite:
    """A suite whose cases have a picture each."""
    cases = []
    for number, name in enumerate(names):
        path = folder / f"{name}-source.png"
        path.write_bytes(picture(200 - number))
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        cases.append(Case(name, path, digest, {**FIELDS, **fields}))
    return Suite("small", "", folder / "small.toml", "0" * 64, tuple(cases))


def tasks_of_suite(suite: Suite, repeat: int = 1) -> list[Task]:
    """Every case, so many times."""
    return [
        Task(
            f"{case.name}-{number}",
            case,
            number,
            {**case.fields, "seed": case.fields["seed"] + number},
        )
        for number in range(repeat)
        for case in suite.cases
    ]


def facts(name: str = "hosted", **more: object) -> SideFacts:
    """What is known of a side that has not answered yet."""
    asked = {"concurrency": 1, "poll_interval_seconds": 0.5, "sync_mode": False}
    given = {"label": name, "address": "", "recorded_at": RECORDED_AT, **asked, **more}
    return SideFacts(name=name, **given)  # type: ignore[arg-type]


def failed(key: str, *, charged: bool = True, status: str = "failed", at: float = 10.0) -> Outcome:
    """A task that took two seconds to fail."""
    return Outcome(
        task=key,
        status=status,  # type: ignore[arg-type]
        error="it fell over",
        code=1403,
        prediction="",
        began_at=at,
        ended_at=at + 2,
        times=None,
        pictures=[],
        polls=1,
        retries=0,
        is_charged=charged,
    )


def completed(
    folder: RunFolder,
    side: str,
    task: Task,
    *,
    at: float = 10.0,
    total: float = 4.0,
    data: bytes | None = None,
    flagged: bool | None = False,
    is_timed: bool = True,
    inference: float | None = 1.0,
) -> Outcome:
    """A completed task, its pictures written as a side writes them."""
    taken = folder.task(side, task.key)
    taken.intend(Intent(task=task.key, fields=task.fields, began_at=at))
    taken.submit(Submission(prediction="f" * 32, polled_on=not is_timed))
    pictures = []
    for index in range(task.pictures):
        file = data or picture(120 + index, (512, 640))
        with Image.open(io.BytesIO(file)) as opened:
            (width, height), kind = opened.size, str(opened.format).lower()
        pictures.append(
            Picture(
                file=taken.write_picture(f"{index}.{kind}", file),
                sha256=hashlib.sha256(file).hexdigest(),
                media_type=f"image/{kind}",
                width=width,
                height=height,
                bytes=len(file),
                flagged=flagged,
            )
        )
    times = Times(
        submit_seconds=0.1,
        queue_seconds=0.5,
        inference_seconds=inference,
        download_seconds=0.2,
        total_seconds=total,
    )
    return Outcome(
        task=task.key,
        status="completed",
        error="",
        code=None,
        prediction="f" * 32,
        began_at=at,
        ended_at=at + total,
        times=times if is_timed else None,
        pictures=pictures,
        polls=3,
        retries=0,
        is_charged=True,
    )


class ScriptedSide:
    """A side whose answers are a test's; it notes what it is asked, and in which order."""

    def __init__(
        self,
        folder: RunFolder,
        answer: Callable[[Task], Outcome],
        *,
        name: str = "hosted",
        is_paid: bool = True,
        stop: threading.Event | None = None,
    ) -> None:
        self.name, self.is_paid = name, is_paid
        self.asked: list[str] = []
        self.followed: list[str] = []
        self.prepared: list[str] = []
        self.under_way = self.most_under_way = 0
        self._folder, self._answer, self._stop = folder, answer, stop
        self._lock = threading.Lock()

    def prepare(self, tasks: Sequence[Task]) -> None:
        self.prepared = [task.key for task in tasks]

    def ask(self, task: Task) -> Outcome:
        taken = self._folder.task(self.name, task.key)
        with self._lock:
            self.asked.append(task.key)
            self.under_way += 1
            self.most_under_way = max(self.most_under_way, self.under_way)
        taken.intend(Intent(task=task.key, fields=task.fields, began_at=10.0))
        try:
            return self._answer(task)
        finally:
            with self._lock:
                self.under_way -= 1

    def follow(self, task: Task) -> Outcome:
        self.followed.append(task.key)
        return self._answer(task)

    def withdraw(self, task: Task) -> None:
        self._folder.task(self.name, task.key).withdraw()

    def wait_for_the_end(self) -> None:
        """As a side waits between two polls."""
        assert self._stop is not None
        if self._stop.wait(30):
            raise CancelledError("cancelled.")
