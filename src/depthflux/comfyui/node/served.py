"""An engine behind `depthflux serve`: submits, watches, cancels, and decodes what comes.

Answers hold the pictures themselves, so no address in an answer is ever asked. Knows nothing of
ComfyUI but through a `Watch`.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import functools
import re
import secrets
import time
from typing import Any, NamedTuple

from .addresses import Address
from .declared import size_of
from .errors import NoAnswerError, NodeError, tell_sentence
from .exchange import Request, ask
from .painted import DEPTH_MAP_PROMPT, Painted, envelope_of
from .pictures import Pixels, is_grey, pixels_of
from .running import Watch

_SUBMIT = "/api/v3/wavespeed-ai/flux-control-lora-depth"
_PREDICTIONS = "/api/v3/predictions"
#: How often a prediction is looked at, in seconds.
POLL_S = 0.2
#: How long a server may give no answer: it may be busy or be restarted, and what it has accepted
#: survives that.
AWAY_S = 60.0
#: The longest pause that a server is granted between two questions, in seconds.
_LONGEST_REST_S = 10.0
#: Cancelling is a courtesy, which must not keep the user waiting.
_CANCEL_S = 3.0


class ServedEngine(NamedTuple):
    """A server, by its address."""

    address: Address

    def paint(self, fields: dict[str, Any], png: bytes, watch: Watch) -> Painted:
        """The pictures, and before them the depth map, by a prediction that paints nothing.

        Raises:
            NodeError: the server refuses or fails, or gives no answer.
        """
        # First: what is wrong with the control image shows at once, and not after the painting;
        # and what keeps depth maps has it for the pictures then.
        depth_map = self.depth_map(fields, png, watch)
        data = self._predict(fields, png, watch)
        pictures = self._pictures(data, fields, fields.get("num_images", 1))
        return Painted(pictures, depth_map, envelope_of(data, fields))

    def depth_map(self, fields: dict[str, Any], png: bytes, watch: Watch) -> Pixels:
        """The depth map alone: what pictures of these fields are guided by.

        Raises:
            NodeError: the server refuses or fails, or gives no answer.
        """
        asked = {**fields, "prompt": DEPTH_MAP_PROMPT, "only_depth_map": True, "loras": []}
        (picture,) = self._pictures(self._predict(asked, png, Quiet(watch)), fields, 1)
        if not is_grey(picture):
            raise NodeError(
                f"{self.address.text} paints where a depth map was asked for: it is an older "
                "depthflux, or none; bring it up to date."
            )
        return picture

    def _predict(self, fields: dict[str, Any], png: bytes, watch: Watch | Quiet) -> dict[str, Any]:
        """Submit and wait for the end; cancels where anything stops the waiting."""
        watch.look()
        body = {
            **fields,
            "control_image": base64.b64encode(png).decode("ascii"),
            "enable_base64_output": True,
        }
        # What comes twice under one such key is one prediction.
        submission, id = Request("POST", _SUBMIT, body, secrets.token_hex(16)), ""
        try:
            id = self._submit(submission, watch)
            return self._wait(id, watch)
        except BaseException as error:
            # Without an id, a refusal has left nothing to cancel; an interrupt may have.
            if id or not isinstance(error, NodeError):
                self._cancel(submission, id)
            raise

    def _submit(self, submission: Request, watch: Watch | Quiet) -> str:
        """Submit until there is an answer; the prediction's id."""
        began, may_have_arrived, pause_s = time.monotonic(), False, POLL_S
        while True:
            try:
                return self._id_of(ask(self.address, submission, look=watch.look))
            except NoAnswerError as error:
                may_have_arrived |= error.was_sent
                # Where nobody listens from the start, there is nobody to wait for.
                if not may_have_arrived or time.monotonic() - began > AWAY_S:
                    raise
                # A submission is large and counts at the server, unlike a poll.
                _rest(max(error.wait_s, pause_s), watch)
                pause_s *= 2

    def _wait(self, id: str, watch: Watch | Quiet) -> dict[str, Any]:
        heard, poll = time.monotonic(), Request("GET", f"{_PREDICTIONS}/{id}")
        while True:
            watch.look()
            try:
                data = ask(self.address, poll, look=watch.look)
            except NoAnswerError as error:
                if time.monotonic() - heard > AWAY_S:
                    raise
                _rest(error.wait_s, watch)
                continue
            heard = time.monotonic()
            if data.get("id", id) != id:
                raise NodeError(f"{self.address.text} answers about another prediction.")
            status = data.get("status")
            if status == "completed":
                return data
            if status == "failed":
                raise NodeError(f"{self.address.text} failed: {tell_sentence(data.get('error'))}")
            if (progress := _progress_of(data)) is not None:
                watch.step(*progress)
            time.sleep(POLL_S)

    def _cancel(self, submission: Request, id: str) -> None:
        """Cancel a prediction; where its id never came, it is asked for once more."""
        briefly = functools.partial(ask, self.address, silence_s=_CANCEL_S, exchange_s=_CANCEL_S)
        with contextlib.suppress(NodeError):
            id = id or self._id_of(briefly(submission))
            briefly(Request("POST", f"{_PREDICTIONS}/{id}/cancel"))

    def _id_of(self, data: dict[str, Any]) -> str:
        # It becomes part of a path, so it must be what it is said to be.
        id = data.get("id")
        if not isinstance(id, str) or re.fullmatch(r"[0-9a-f]{32}", id) is None:
            raise NodeError(f"{self.address.text} answers without an id; is it depthflux serve?")
        return id

    def _pictures(self, data: dict[str, Any], fields: dict[str, Any], count: int) -> list[Pixels]:
        outputs, size = data.get("outputs"), size_of(fields["size"])
        if not isinstance(outputs, list) or len(outputs) != count:
            wanted = "one picture" if count == 1 else f"{count} pictures"
            raise NodeError(
                f"{self.address.text} did not answer with {wanted}; see that it is a depthflux of "
                "this version."
            )
        return [pixels_of(_bytes_of(output), size) for output in outputs]


class Quiet(NamedTuple):
    """A watch that leaves the bar where it is."""

    watch: Watch

    def look(self) -> None:
        """As the watch."""
        self.watch.look()

    def step(self, _done: int, _total: int) -> None:
        """Only look for an interrupt."""
        self.watch.look()


def _rest(seconds: float, watch: Watch | Quiet) -> None:
    """Leave a server alone for so long, within bounds, but for a poll's time at least."""
    end = time.monotonic() + min(seconds, _LONGEST_REST_S)
    while True:
        watch.look()
        time.sleep(POLL_S)
        if time.monotonic() >= end:
            return


def _progress_of(data: dict[str, Any]) -> tuple[int, int] | None:
    progress = data.get("progress")
    if not isinstance(progress, dict):
        return None
    step, total = progress.get("step"), progress.get("total")
    if isinstance(step, int) and isinstance(total, int) and 0 <= step <= total:
        return step, total
    return None


def _bytes_of(output: object) -> bytes:
    try:
        return base64.b64decode(str(output).encode("ascii"), validate=True)
    except (ValueError, binascii.Error):
        return b""
