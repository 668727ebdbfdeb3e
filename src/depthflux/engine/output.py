"""Finished pictures: judged, withheld where they are flagged, encoded with their records.

Worker threads do it, so that one picture is finished while the next is denoised, and a picture is
encoded while it is judged. Results come in the pictures' order and do not depend on timing.

So the phases `safety` and `encode` of a run's timings are what it waited for judging and encoding,
not what these took: what ran beside another phase is in that one already, and the phases' sum
stays within the whole.

Knows nothing of how pictures are painted, or of what a record says.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from PIL import Image

from depthflux.contract import OutputFile
from depthflux.images import EXTENSIONS, MEDIA_TYPES, PictureFormat, embed, encode_image
from depthflux.safety import SafetyChecker, placeholder

#: One judges while the other encodes.
WORKERS = 2


@dataclass(frozen=True)
class FinishedPicture:
    """A picture as the prediction takes it.

    Attributes:
        picture: RGB, or L for a depth map; a placeholder where it is withheld.
        withheld: whether the safety checker flagged it.
        record: what is inside the file.
        file: the picture encoded.
    """

    picture: Image.Image
    withheld: bool
    record: dict[str, Any]
    file: OutputFile


class Finisher:
    """Finishes the pictures of one request, as a context: on leaving, no work is left running."""

    def __init__(
        self,
        output_format: PictureFormat,
        safety: SafetyChecker | None,
        describe: Callable[[int, bool], dict[str, Any]],
    ) -> None:
        """Start no work yet.

        Args:
            output_format: of the files.
            safety: judges the pictures; None where none is to be judged.
            describe: the record of the picture with an index, from 0, told whether it is withheld;
                called in a worker.
        """
        self._format = output_format
        self._safety = safety
        self._describe = describe
        self._pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="depthflux-output")
        self._flags: list[Future[bool]] = []
        self._finished: list[Future[FinishedPicture]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def add(self, picture: Image.Image) -> None:
        """Begin to finish the next picture; returns at once.

        Args:
            picture: RGB, or L for a depth map; not to be changed from now on.
        """
        # In this order: a worker that waits for a flag never waits for one that has not begun.
        flag = self._pool.submit(self._judge, picture)
        finished = self._pool.submit(self._finish, len(self._flags), picture, flag)
        self._flags.append(flag)
        self._finished.append(finished)

    def wait_for_flags(self) -> None:
        """Wait until all pictures are judged, and raise what judging did."""
        for flag in self._flags:
            flag.result()

    def finished(self) -> list[FinishedPicture]:
        """The finished pictures, in order; waits for them, and raises what finishing did."""
        return [finished.result() for finished in self._finished]

    def _judge(self, picture: Image.Image) -> bool:
        return self._safety is not None and self._safety.flags([picture])[0]

    def _finish(self, index: int, picture: Image.Image, flag: Future[bool]) -> FinishedPicture:
        # Before the flag is known: hardly any picture is flagged.
        data = encode_image(picture, self._format)
        withheld = flag.result()
        if withheld:
            picture = placeholder(picture.size)
            data = encode_image(picture, self._format)
        record = self._describe(index, withheld)
        file = OutputFile(
            data=embed(data, record),
            media_type=MEDIA_TYPES[self._format],
            extension=EXTENSIONS[self._format],
        )
        return FinishedPicture(picture, withheld, record, file)
