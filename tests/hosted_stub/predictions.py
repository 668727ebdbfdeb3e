"""Tasks: accepted, queued, worked at, finished; and the prediction that the service says of each.

Knows nothing of HTTP. Work is a timetable made at acceptance: a task starts when a place is free
and takes its pictures' seconds; polls only decide when what has happened is shown.
"""

import base64
import binascii
import heapq
import secrets
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from .behaviour import Behaviour, Failure
from .painting import encode, open_control_image, paint
from .parameters import DEFAULT_CONTROL_IMAGE, Asked, read
from .storage import Storage

MODEL = "wavespeed-ai/flux-control-lora-depth"
MEDIA_ACCESS_FAILED = Failure("Failed to download image from the provided URL.", 1402)


@dataclass
class Prediction:
    """One accepted, and so paid, submission."""

    number: int
    """Among all submissions with the right key, from 0; refused ones count too."""
    id: str
    """32 hexadecimal digits."""
    version: str
    """"v2" or "v3"."""
    body: dict[str, Any]
    """The JSON object as it was sent."""
    asked: Asked
    created_at: str
    starts_s: float
    """By ``time.monotonic()``, as ``finishes_s``."""
    finishes_s: float
    polls: int = 0
    """Answered polls."""
    final: bool = False
    """Whether "completed" or "failed" has been shown."""
    outputs: list[str] | None = None
    failure: Failure | None = None
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)


def _now_rfc3339() -> str:
    seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{nanoseconds:09d}Z"


def _decode_inline(text: str) -> bytes | None:
    naked = text.partition(",")[2] if text.startswith("data:") else text
    try:
        return base64.b64decode(naked, validate=True)
    except (binascii.Error, ValueError):
        return None


class Tasks:
    """All tasks of one stub."""

    def __init__(self, behaviour: Behaviour, storage: Storage, origin: str) -> None:
        self._behaviour = behaviour
        self._storage = storage
        self._origin = behaviour.urls_elsewhere or origin
        self._lock = threading.Lock()
        self._accepted: list[Prediction] = []
        self._by_id: dict[str, Prediction] = {}
        self._places: list[float] = []  # when each place in work is free again
        self._minute: deque[tuple[float, int]] = deque()  # when accepted, how many pictures

    def snapshot(self) -> list[Prediction]:
        """Accepted submissions in order, deleted ones too."""
        with self._lock:
            return list(self._accepted)

    def find(self, identifier: str) -> Prediction | None:
        """The prediction of an id, or None."""
        with self._lock:
            return self._by_id.get(identifier)

    def listed(self) -> list[Prediction]:
        """Predictions that are not deleted, newest first."""
        with self._lock:
            return list(self._by_id.values())[::-1]

    def delete(self, identifier: str) -> bool:
        """Forgets a prediction; whether there was one."""
        with self._lock:
            return self._by_id.pop(identifier, None) is not None

    def accept(self, number: int, version: str, body: dict[str, Any]) -> Prediction | None:
        """Takes a submission without a fault; None where the minute's pictures are used up."""
        asked = read(body)
        with self._lock:
            now = time.monotonic()
            if not self._fits_the_minute(now, asked.num_images):
                return None
            starts = self._take_place(now)
            finishes = starts + self._behaviour.picture_seconds * asked.num_images
            heapq.heappush(self._places, finishes)
            prediction = Prediction(
                number=number,
                id=secrets.token_hex(16),
                version=version,
                body=body,
                asked=asked,
                created_at=_now_rfc3339(),
                starts_s=starts,
                finishes_s=finishes,
                failure=self._behaviour.failing(number),
            )
            self._accepted.append(prediction)
            self._by_id[prediction.id] = prediction
            return prediction

    def _fits_the_minute(self, now: float, pictures: int) -> bool:
        limit = self._behaviour.images_per_minute
        if limit is None:
            return True
        while self._minute and self._minute[0][0] <= now - self._behaviour.minute_s:
            self._minute.popleft()
        if sum(count for _, count in self._minute) + pictures > limit:
            return False
        self._minute.append((now, pictures))
        return True

    def _take_place(self, now: float) -> float:
        """When a task accepted now starts."""
        limit = self._behaviour.concurrency_limit
        if limit is None or len(self._places) < limit:
            return now
        return max(now, heapq.heappop(self._places))

    def poll(self, prediction: Prediction) -> dict[str, Any]:
        """Counts one poll and returns the prediction as it is shown now."""
        with prediction.lock:
            prediction.polls += 1
            return self._document(prediction, self._shown(prediction))

    def show(self, prediction: Prediction) -> dict[str, Any]:
        """The prediction as its last poll would show it now; counts none."""
        with prediction.lock:
            return self._document(prediction, self._shown(prediction))

    def finish(self, prediction: Prediction) -> dict[str, Any]:
        """The final prediction, for sync mode; the caller has waited."""
        with prediction.lock:
            prediction.final = True
            return self._document(prediction, self._shown(prediction))

    def expired(self, prediction: Prediction) -> dict[str, Any]:
        """What sync mode says when its wait is over: no more fields than these."""
        return {
            "id": prediction.id,
            "status": "processing",
            "code": 5004,
            "error": "Sync mode timed out after 90 seconds. "
            "The prediction is still processing asynchronously.",
            "urls": {"get": self._address(prediction)},
        }

    def _shown(self, prediction: Prediction) -> str:
        behaviour, now = self._behaviour, time.monotonic()
        if prediction.final or (
            prediction.polls >= max(1, behaviour.polls_until_completed)
            and now >= prediction.finishes_s
        ):
            prediction.final = True
            self._settle(prediction)
            return "completed" if prediction.failure is None else "failed"
        started = now >= prediction.starts_s and prediction.polls > 0
        if started and prediction.polls >= behaviour.polls_until_processing:
            return "processing"
        return "created"

    def _settle(self, prediction: Prediction) -> None:
        """Paints the pictures, once."""
        if prediction.failure is not None or prediction.outputs is not None:
            return
        found, data = self._control_image(prediction.asked.control_image)
        control = open_control_image(data) if found else None
        if control is None:
            prediction.failure = MEDIA_ACCESS_FAILED
            return
        asked = prediction.asked
        size = (asked.width, asked.height)
        if self._behaviour.floor_to_16:
            size = (asked.width // 16 * 16, asked.height // 16 * 16)
        seed = secrets.randbelow(10**10) if asked.seed is None else asked.seed
        prediction.outputs = [
            self._output(
                encode(
                    paint(control, asked.prompt, seed, index, asked.control_scale, size),
                    self._behaviour.output_format,
                ),
                asked.base64,
            )
            for index in range(asked.num_images)
        ]

    def _control_image(self, address: str) -> tuple[bool, bytes | None]:
        """Whether the image was got, and its bytes; None is the default image."""
        if address == DEFAULT_CONTROL_IMAGE:
            return True, None
        if address.startswith(("http://", "https://")):
            data = self._storage.read_address(address)
        else:
            data = _decode_inline(address) if self._behaviour.inline_images else None
        return data is not None, data

    def _output(self, data: bytes, naked_base64: bool) -> str:
        if naked_base64:
            return base64.b64encode(data).decode("ascii")
        path = self._storage.keep("media/outputs", data, self._behaviour.output_format)
        return (self._behaviour.outputs_elsewhere or self._storage.origin) + path

    def _address(self, prediction: Prediction) -> str:
        return f"{self._origin}/api/{prediction.version}/predictions/{prediction.id}/result"

    def _inference_ms(self, prediction: Prediction) -> int:
        if self._behaviour.inference_ms is not None:
            return self._behaviour.inference_ms
        return max(1, round(1000 * (prediction.finishes_s - prediction.starts_s)))

    def _document(self, prediction: Prediction, status: str) -> dict[str, Any]:
        failure = prediction.failure if status == "failed" else None
        outputs = (prediction.outputs or []) if status == "completed" else []
        flagged = prediction.number in self._behaviour.nsfw
        inference_ms = self._inference_ms(prediction) if prediction.final else 0
        no_error = None if self._behaviour.null_error else ""
        document: dict[str, Any] = {
            "id": prediction.id,
            "model": MODEL,
            "outputs": outputs,
            "urls": {"get": self._address(prediction)},
            "has_nsfw_contents": [flagged] * len(outputs),
            "status": status,
            "created_at": prediction.created_at,
            "error": no_error if failure is None else failure.text,
            "executionTime": inference_ms,
            "timings": {"inference": inference_ms},
        }
        if failure is not None:
            document["code"] = failure.code
        return {
            name: value for name, value in document.items() if name not in self._behaviour.missing
        }
