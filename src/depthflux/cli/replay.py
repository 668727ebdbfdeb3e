"""Making a recorded picture again: record → request and settings → picture, and what differs.

Knows nothing of how a record is built; depthflux.engine.provenance does.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from depthflux.cli.generate import run
from depthflux.cli.messages import logger, say
from depthflux.contract import GenerationRequest
from depthflux.errors import RequestError, show
from depthflux.images import MAX_RECORD_BYTES, ReadLimits, read_image, read_record

if TYPE_CHECKING:
    from depthflux.contract import Prediction

#: The largest record, and as much again for the largest picture, which needs far less.
PICTURE_LIMITS = ReadLimits(max_bytes=2 * MAX_RECORD_BYTES)


def replay(
    picture: Path,
    fields: Mapping[str, Any],
    profile: str | None,
    settings: Mapping[str, Any],
    out: Path,
) -> Prediction:
    """Make a picture again from its record, save it, and say what differs.

    Args:
        picture: one that depthflux wrote.
        fields: request fields from the command line; they win over the record's.
        profile: from the command line, or None for the record's; needed where that was no shipped
            one, whose file the record cannot name.
        settings: from the command line; they win over the record's. `model` is needed where the
            picture's came from a folder.
        out: where to write.

    Raises:
        UnreadableImageError: the picture has no record, or a damaged one.
        InvalidParameterError: the record cannot be replayed.
        DepthFluxError: whatever else stands in the way.
    """
    record = read_record(picture)
    # Late: this imports torch, and a picture without a record is refused at once.
    from depthflux.engine.provenance import differences, replay_settings, request_from_record

    request = request_from_record(
        record, control_image=fields.get("control_image"), loras=fields.get("loras")
    )
    request = _overridden(request, fields)
    target, recorded = replay_settings(record, profile=profile, model=settings.get("model"))
    prediction = run(request, target, {**recorded, **settings}, out)
    for line in differences(record, prediction.record):
        logger.warning("%s", line)
    if not fields:
        _compare_pixels(picture, prediction)
    return prediction


def _overridden(request: GenerationRequest, fields: Mapping[str, Any]) -> GenerationRequest:
    """The recorded request with fields of the command line in their places, which is said."""
    if not fields:
        return request
    recorded = {**request.fields(), "control_image": request.control_image}
    for name, value in fields.items():
        if recorded[name] != value:
            before = "another" if name == "control_image" else show(recorded[name])
            logger.warning(
                "%s: %s from the command line instead of the recorded %s.",
                name,
                show(value),
                before,
            )
    return GenerationRequest(**{**recorded, **fields})


def _compare_pixels(picture: Path, prediction: Prediction) -> None:
    """Say whether the new picture shows exactly what the recorded one does."""
    try:
        before = read_image(picture, limits=PICTURE_LIMITS, field="from_record")
        now = read_image(prediction.files[0].data, limits=PICTURE_LIMITS)
    except RequestError as error:
        # The new picture is saved and good; only what to compare it with is not.
        logger.warning("the pixels cannot be compared: %s", error)
        return
    if before.size == now.size and bool((before.rgb == now.rgb).all()):
        say(f"the same pixels as {picture}")
    else:
        logger.warning("the pixels differ from those of %s.", picture)
