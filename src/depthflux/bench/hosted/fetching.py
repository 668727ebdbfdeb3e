"""The pictures of a task that has ended: fetched, judged and written, and again where one is none.

Every picture that came is kept, and so is what came in the place of one: it is paid for. Knows
nothing of how a task comes to its end.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from depthflux.bench.hosted.client import HostedClient
from depthflux.bench.hosted.downloads import JudgedPicture, judge_picture
from depthflux.bench.hosted.errors import HostedError, UnusableOutputError
from depthflux.bench.hosted.folder import TaskFolder
from depthflux.bench.hosted.outcomes import Picture
from depthflux.bench.hosted.replies import HostedPrediction
from depthflux.bench.hosted.retrying import FREELY
from depthflux.bench.hosted.run_files import ENDINGS
from depthflux.images import IsolatedDecoder
from depthflux.images.text import is_url


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """What came for a task's outputs.

    Attributes:
        pictures: that are some, in order, written.
        problem: why the first that is none is none; None where all are.
        done: when the last one was here, by the clock.
        again: how often one was fetched anew since it could not be decoded.
    """

    pictures: list[Picture]
    problem: UnusableOutputError | None
    done: float
    again: int

    def miscount(self, wanted: int) -> str:
        """What is wrong with the number of pictures; empty where nothing is."""
        came = len(self.pictures)
        if came == wanted:
            return ""
        pictures = f"{came} picture{'' if came == 1 else 's'}"
        return f"{pictures} came where {wanted} {'was' if wanted == 1 else 'were'} asked for"


class Pictures:
    """Fetches the pictures of one side; several threads may call."""

    def __init__(
        self,
        client: HostedClient,
        decoder: IsolatedDecoder,
        *,
        clock: Callable[[], float],
        sleep: Callable[[float], None],
    ) -> None:
        """Fetch nothing yet.

        Args:
            client: of the side.
            decoder: of what came.
            clock: seconds that only go forward.
            sleep: waits so many seconds before one is fetched anew; may raise to give up.
        """
        self._client, self._decoder = client, decoder
        self._clock, self._sleep = clock, sleep

    def fetch(self, prediction: HostedPrediction, folder: TaskFolder) -> Fetched:
        """Fetch all outputs of a task, and write what came into its folder.

        Raises:
            HostedError: one cannot be had just now; what came before it is written.
        """
        came: list[bytes | UnusableOutputError] = []
        try:
            came.extend(map(self._downloaded, prediction.outputs))
        except HostedError:
            self._kept(came, prediction, folder)
            raise
        # Decoding is no part of a download: only what has to be fetched anew ends later.
        done, again = self._clock(), 0
        for index, data in enumerate(came):
            if isinstance(data, UnusableOutputError) or not is_url(prediction.outputs[index]):
                continue
            came[index], times = self._mended(data, prediction.outputs[index])
            if times:
                done, again = self._clock(), again + times
        pictures, problem = self._kept(came, prediction, folder)
        return Fetched(pictures=pictures, problem=problem, done=done, again=again)

    def _downloaded(self, output: str) -> bytes | UnusableOutputError:
        try:
            return self._client.download(output)
        except UnusableOutputError as error:
            return error

    def _mended(self, data: bytes, output: str) -> tuple[bytes | UnusableOutputError, int]:
        """A file that can be decoded, as it is or fetched anew, and how often it was."""
        came: bytes | UnusableOutputError = data
        for times in range(FREELY.retries + 1):
            if isinstance(came, UnusableOutputError) or _judged(came, self._decoder) is not None:
                return came, times
            if times < FREELY.retries:
                self._sleep((times + 1) * FREELY.pause_s)
                came = self._downloaded(output)
        return came, FREELY.retries

    def _kept(
        self,
        came: list[bytes | UnusableOutputError],
        prediction: HostedPrediction,
        folder: TaskFolder,
    ) -> tuple[list[Picture], UnusableOutputError | None]:
        """Write pictures, and what is none under another name.

        Flags are only believed where there is one for each output.
        """
        flags = prediction.flags or ()
        is_told = len(flags) == len(prediction.outputs)
        pictures: list[Picture] = []
        problem: UnusableOutputError | None = None
        for index, data in enumerate(came):
            try:
                if isinstance(data, UnusableOutputError):
                    raise data
                judged = judge_picture(data, self._decoder)
            except UnusableOutputError as error:
                problem = problem or error
                if error.data:
                    folder.write_picture(f"{index}.refused", error.data)
                continue
            flagged = flags[index] if is_told else None
            pictures.append(_written(folder, index, data, judged, flagged))
        return pictures, problem


def _judged(data: bytes, decoder: IsolatedDecoder) -> JudgedPicture | None:
    try:
        return judge_picture(data, decoder)
    except UnusableOutputError:
        return None


def _written(
    folder: TaskFolder, index: int, data: bytes, judged: JudgedPicture, flagged: bool | None
) -> Picture:
    return Picture(
        file=folder.write_picture(f"{index}.{ENDINGS[judged.media_type]}", data),
        sha256=hashlib.sha256(data).hexdigest(),
        media_type=judged.media_type,
        width=judged.width,
        height=judged.height,
        bytes=len(data),
        flagged=flagged,
    )
