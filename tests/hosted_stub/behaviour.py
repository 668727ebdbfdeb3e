"""How a stub behaves: every switch, set to the friendliest service by default.

Knows nothing of HTTP, pictures or time; the other files ask it.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

OPTIONAL_FIELDS = frozenset({"timings", "has_nsfw_contents", "executionTime", "created_at", "urls"})
ERROR_SHAPES = frozenset({"both", "message", "error", "html", "empty"})
OUTPUT_FORMATS = frozenset({"jpg", "jpeg", "png", "webp"})


@dataclass(frozen=True)
class Failure:
    """What a failed task says: ``data.error`` and ``data.code``.

    The documented codes: 1200 content moderation, 1400 missing and 1401 invalid parameter, 1402
    media access failed, 1403 task execution failed, 1405 task failed, 5000 internal, 5003
    unavailable, 5004 timeout.
    """

    text: str = "Task execution failed."
    code: int = 1403


def never(number: int) -> Failure | None:
    """No submission fails."""
    return None


@dataclass(frozen=True, kw_only=True)
class Behaviour:
    """Switches of a stub. Submissions, polls and outputs are numbered from 0, as they arrive.

    A submission's number counts every POST to the model's route that carried the right key,
    whatever became of it: one refused with 429 keeps its number, and the caller's next try has the
    next. A poll's number counts every GET of a prediction with the right key, over all of them.
    """

    polls_until_processing: int = 2
    """Of one prediction: the answered poll, counted from 1, that first says "processing"; those
    before say "created", as the answer to the submission does."""
    polls_until_completed: int = 3
    """Of one prediction: the answered poll, counted from 1, that may first say "completed" or
    "failed"; later if ``picture_seconds`` are not over yet. Neither applies to sync mode."""
    inference_ms: int | None = None
    """``timings.inference`` and ``executionTime`` of a finished task, in ms, both the same; None
    says what was really waited for, the queue not counted, and at least 1."""
    picture_seconds: float = 0.0
    """Real seconds that each picture of a task takes."""

    concurrency_limit: int | None = None
    """Tasks that are worked at together; the excess waits in the queue, its status "created". Felt
    only where ``picture_seconds`` makes tasks take time."""
    images_per_minute: int | None = None
    """Pictures accepted within any ``minute_s``; the excess is answered 429 and not charged."""
    minute_s: float = 60.0
    """How long that minute lasts in seconds, so that a test need not wait for a real one."""
    retry_after: int | str | None = None
    """``Retry-After`` of every 429 and 503, in seconds or as an HTTP date; None leaves it out."""

    missing: Collection[str] = frozenset()
    """Fields left out of every prediction: any of ``OPTIONAL_FIELDS``."""
    null_error: bool = False
    """``data.error`` is null instead of "" where there is no error."""

    failing: Callable[[int], Failure | None] = never
    """By submission number: how that task fails, or None; ``{2: Failure()}.get`` will do."""
    refuse_429: Collection[int] = frozenset()
    """Submissions answered 429 and not charged."""
    poll_errors: Mapping[int, int] = field(default_factory=dict)
    """By poll number: the HTTP status that is answered instead (500, 502, 503, 429 …)."""
    output_errors: Mapping[int, int] = field(default_factory=dict)
    """By number of an output's download at the CDN: the HTTP status answered instead."""
    drop_submission: Collection[int] = frozenset()
    """Submissions that are accepted and charged, but whose connection closes with no answer."""
    die_after: int | None = None
    """This submission is still accepted, charged and answered; then the API's listener is closed,
    and so is every connection to it, with an answer or without; later ones are not charged. The
    CDN's listener lives on."""
    error_shape: str = "both"
    """What a body of an HTTP error holds, real ones being unknown: "both" ``message`` and
    ``error``, "message" or "error" alone, a proxy's "html", or "empty"."""

    sync_expires: bool = False
    """The wait of sync mode is over at once (the 5004 shape); the task goes on, to be polled."""
    sync_wait_s: float = 90.0
    """How long sync mode really waits before it answers so, in seconds."""

    floor_to_16: bool = False
    """Pictures come in the asked size floored to multiples of 16 (864x1636 as 864x1632); exact if
    off. Which of the two the service does is unknown."""
    nsfw: Collection[int] = frozenset()
    """Submissions whose every output is flagged; the pictures come all the same."""
    output_format: str = "jpg"
    """Extension and encoding of every output, whatever was asked: one of ``OUTPUT_FORMATS``."""

    redirect_submit_to: str | None = None
    """Every submission is answered 307 with this ``Location``, and not charged."""
    outputs_elsewhere: str | None = None
    """Origin (``scheme://host:port``) that outputs' addresses name instead of the CDN's."""
    urls_elsewhere: str | None = None
    """Origin that ``urls.get`` names instead of the API's own."""

    inline_images: bool = True
    """A ``control_image`` may be a data URI or bare base64. No page of the service says so; off,
    such a task fails with 1402, as one whose address cannot be fetched does."""
    upload_headers: Mapping[str, str] = field(default_factory=dict)
    """Headers that an upload ticket names; a PUT without them is refused with 403."""
    upload_limit_bytes: int = 20 * 1024 * 1024
    """Larger uploads are answered 413."""
    unit_price: float = 0.03
    """What ``/model/pricing`` says, in USD. This model's real price is unknown."""

    def __post_init__(self) -> None:
        """Refuses a switch that would silently do nothing."""
        if unknown := set(self.missing) - OPTIONAL_FIELDS:
            raise ValueError(f"missing: {sorted(unknown)} are not among {sorted(OPTIONAL_FIELDS)}")
        if self.error_shape not in ERROR_SHAPES:
            raise ValueError(f"error_shape={self.error_shape!r}: must be of {sorted(ERROR_SHAPES)}")
        if self.output_format not in OUTPUT_FORMATS:
            raise ValueError(
                f"output_format={self.output_format!r}: must be of {sorted(OUTPUT_FORMATS)}"
            )
