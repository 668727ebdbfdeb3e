"""A stored prediction → the hosted document, with the addresses of the client that asks.

Nothing is ever null and nothing optional is there without a value: old clients refuse both. Knows
nothing of HTTP.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from depthflux.contract import HOSTED_MODEL, PredictionUrls, format_time
from depthflux.server.documents import Progress, ServedEnvelope, ServedPrediction
from depthflux.server.media import Media
from depthflux.server.rows import Stored

#: data.code where waiting in sync mode has ended before the prediction.
CODE_STILL_RUNNING = 5004


def served(
    one: Stored,
    *,
    base: str,
    media: Media,
    model: str,
    progress: tuple[int, int] | None = None,
    with_input: bool = False,
    as_addresses: bool = False,
) -> ServedPrediction:
    """A prediction as a client sees it.

    Args:
        one: the prediction.
        base: what the client's addresses begin with, such as `http://127.0.0.1:8000/api/v3`.
        media: where pictures are read that are answered as base64.
        model: what is said to compute it where it has not been computed yet.
        progress: steps done and their total, to be shown.
        with_input: whether the request is repeated.
        as_addresses: whether pictures that were wanted as base64 are answered by their addresses:
            a list of them would be too large, and one that is gone would spoil it.

    Raises:
        FileNotFoundError: a picture that is to be answered as base64 is gone.
    """
    return ServedPrediction(
        id=one.id,
        model=one.model or model or HOSTED_MODEL,
        outputs=_outputs(one, base, media, as_addresses=as_addresses),
        urls=PredictionUrls(get=f"{base}/predictions/{one.id}/result"),
        has_nsfw_contents=one.flags,
        status=one.status,
        created_at=rfc3339(one.created_at),
        error=one.error,
        executionTime=one.timings.get("inference", 0),
        timings=one.timings or {"inference": 0},
        code=one.code or None,
        progress=Progress(step=progress[0], total=progress[1]) if progress else None,
        input=given_input(one, base) if with_input else None,
    )


def envelope(data: ServedPrediction) -> dict[str, Any]:
    """The document around a prediction."""
    return ServedEnvelope(data=data).model_dump(exclude_none=True)


def still_running(data: ServedPrediction, waited_s: float) -> ServedPrediction:
    """What sync mode answers when it has waited long enough; clients look for these very words."""
    return data.model_copy(
        update={
            "status": "processing",
            "code": CODE_STILL_RUNNING,
            "error": f"Sync mode timed out after {waited_s:g} seconds. "
            "The prediction is still processing asynchronously.",
        }
    )


def given_input(one: Stored, base: str) -> dict[str, Any]:
    """The request as it was accepted, its seed drawn; a picture sent inside it has an address."""
    image = file_url(base, one.control_file) if one.control_file else one.control_url
    fields = {name: value for name, value in one.fields.items() if name != "webhook_url"}
    return {**fields, "control_image": image}


def file_url(base: str, name: str) -> str:
    """The address of an output or an upload."""
    return f"{origin_of(base)}/media/{name}"


def origin_of(base: str) -> str:
    """Scheme and host of an address such as `http://127.0.0.1:8000/api/v3`."""
    return "/".join(base.split("/", 3)[:3])


def rfc3339(milliseconds: int) -> str:
    """A stored time as answers say it."""
    return format_time(datetime.fromtimestamp(milliseconds / 1000, UTC))


def _outputs(one: Stored, base: str, media: Media, *, as_addresses: bool) -> list[str]:
    if as_addresses or not one.fields["enable_base64_output"]:
        return [file_url(base, name) for name in one.outputs]
    return _as_base64(media.read_outputs(one.outputs))


def _as_base64(files: Sequence[bytes]) -> list[str]:
    """Without the prefix of a data URI, as the hosted endpoint answers."""
    return [base64.b64encode(data).decode("ascii") for data in files]
