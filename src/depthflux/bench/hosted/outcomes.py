"""What became of a task on one side: its answer, its times, its pictures.

A task is one request of a suite's case in one repetition; a side is who answers it. Outcomes are
written into the run's folder as they come, so they hold nothing but JSON values and file names.
Knows nothing of how a side is asked.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from depthflux.bench.document import Strict

#: completed: all pictures are there. failed: the side said so, or its answer was of no use.
#: lost: it was sent, and no answer said whether it was taken; it may have cost its price.
TaskStatus = Literal["completed", "failed", "lost"]


class Times(Strict):
    """Seconds of one task, by a clock of this machine that only goes forward.

    `inference_seconds` is what the side reports. What lies between being taken and being seen
    completed and is no inference is `queue_seconds`: waiting for others, and up to one interval
    between two polls.
    """

    submit_seconds: float | None = Field(
        description="From sending the request until it was answered as taken; None in sync mode, "
        "where that answer is the last one."
    )
    queue_seconds: float | None = Field(
        description="Between taken and seen completed, less the reported inference, at least 0; "
        "None where no inference was reported, or in sync mode."
    )
    inference_seconds: float | None = Field(description="As reported; None where it was not.")
    download_seconds: float = Field(description="Fetching all pictures.")
    total_seconds: float = Field(
        description="From sending the request, in the attempt that was taken, until the last "
        "picture was here."
    )


class Picture(Strict):
    """One picture that a side gave.

    Attributes:
        file: its path in the run's folder, with slashes.
        sha256: of the file's bytes, 64 hexadecimal digits.
        media_type: what the bytes are, such as `image/jpeg`, whatever was claimed.
        width: in pixels.
        height: in pixels.
        bytes: the file's size.
        flagged: whether the side calls it not safe for work; None where it does not say.
    """

    file: str
    sha256: str
    media_type: str
    width: int
    height: int
    bytes: int
    flagged: bool | None


class Outcome(Strict):
    """What became of one task on one side.

    Attributes:
        task: the task's key, such as `red-cube-0`.
        status: see `TaskStatus`.
        error: why there are no pictures, one line; empty where there are.
        code: the side's own number of the error (`data.code`), or the HTTP status; None without.
        prediction: the side's id; empty where there was none.
        began_at: when it was about to be sent for the first time, seconds since 1970: pauses after
            429 are between this and `ended_at`, and so in what a side did in a minute, other than
            in `times`.
        ended_at: when the last picture was here or the task had failed, seconds since 1970, by a
            clock that is not set between the two where one run saw both.
            Decoding and writing pictures come after it; only then the next task is sent, on all
            sides alike.
        times: None where it was not completed, or where a later run than the one that sent it
            saw its end.
        pictures: in order. Of one that failed those that came all the same, for they were paid for;
            no figure of pictures counts them.
        polls: how often its state was asked for.
        retries: how often a request was sent anew: after 429, or a poll after an error.
        is_charged: whether its price counts as spent: completed, failed once taken, or lost.
        may_come: of one that failed, whether the side may have its pictures all the same, since it
            did not say that it failed: a later run asks for them again.
    """

    task: str
    status: TaskStatus
    error: str
    code: int | None
    prediction: str
    began_at: float
    ended_at: float
    times: Times | None
    pictures: list[Picture]
    polls: int
    retries: int
    is_charged: bool
    may_come: bool = False
