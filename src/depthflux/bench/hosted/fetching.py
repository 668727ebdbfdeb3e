"""The pictures of a task that has ended: fetched, judged and written, and again where one is none.

Every picture that came is kept, and so is what came in the place of one: it is paid for. Knows
nothing of how a task comes to its end.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from depthflux.bench.hosted.client import HostedClient
from depthflux.bench.hosted.downloads import JudgedPicture, judge_picture, media_type_of
from depthflux.bench.hosted.errors import UnusableOutputError
from depthflux.bench.hosted.folder import TaskFolder
from depthflux.bench.hosted.outcomes import Picture
from depthflux.bench.hosted.replies import HostedPrediction
from depthflux.bench.hosted.retrying import FREELY
from depthflux.bench.hosted.run_files import ENDINGS
from depthflux.bench.wording import count, which
from depthflux.errors import DepthFluxError
from depthflux.images import IsolatedDecoder
from depthflux.images.isolated import NoDecoderError
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
        return (
            f"{count(came, 'picture')} came where {wanted} {which(wanted, 'was', 'were')} asked for"
        )


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
            HostedError: one cannot be had just now.
            DepthFluxError: it is being stopped, or nothing can be decoded or written. Whatever is
                raised, what came before it is written as far as that can be.
        """
        came: list[bytes | UnusableOutputError] = []
        try:
            done, again = self._fetched(prediction.outputs, came)
            pictures, problem = self._kept(came, prediction, folder)
        except (DepthFluxError, KeyboardInterrupt):
            self._rescue(came, folder)
            raise
        return Fetched(pictures=pictures, problem=problem, done=done, again=again)

    def _fetched(
        self, outputs: Sequence[str], came: list[bytes | UnusableOutputError]
    ) -> tuple[float, int]:
        """Fetch outputs into a list, so that what came is there whatever ends it.

        Returns:
            When the last one was here, and how often one was fetched anew.
        """
        came.extend(map(self._downloaded, outputs))
        # Decoding is no part of a download: only what has to be fetched anew ends later.
        done, again = self._clock(), 0
        for index, data in enumerate(came):
            if isinstance(data, UnusableOutputError) or not is_url(outputs[index]):
                continue
            came[index], times = self._mended(data, outputs[index])
            if times:
                done, again = self._clock(), again + times
        return done, again

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

    def _rescue(self, came: list[bytes | UnusableOutputError], folder: TaskFolder) -> None:
        """Write each thing that came, as far as that can be: an error is on its way already.

        What is there stays: the outcome of an earlier run may tell of it.
        """
        for index, data in enumerate(came):
            with suppress(DepthFluxError):
                name, kept = self._named(index, data)
                if not folder.has(name):
                    folder.write_picture(name, kept)

    def _named(self, index: int, data: bytes | UnusableOutputError) -> tuple[str, bytes]:
        """The name that what came is kept by, also where nothing can be decoded, and its bytes.

        Raises:
            UnusableOutputError: nothing of it is to be kept.
        """
        try:
            if isinstance(data, UnusableOutputError):
                raise data
            try:
                media_type = judge_picture(data, self._decoder).media_type
            except NoDecoderError:
                media_type = media_type_of(data)
        except UnusableOutputError as error:
            if not error.data:
                raise
            return f"{index}.refused", error.data
        return f"{index}.{ENDINGS[media_type]}", data

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
