"""The record: what went into a picture, and what would have to be the same to make it again.

A record is a JSON document that every picture carries (depthflux.images embeds and reads it). It
holds the request with the control image inside, the seed of this very picture, the hashes of all
weights, the versions of all libraries that compute, and the kind of hardware. From it the same
pixels come out on the same versions, hardware kind and thread count; what differs is told.

Knows nothing of how pictures are computed or encoded.
"""

from __future__ import annotations

import base64
import binascii
import importlib.metadata
import platform
from collections.abc import Mapping
from typing import Any

import torch

import depthflux
from depthflux.canvas import Canvas
from depthflux.contract import GenerationRequest, format_time
from depthflux.errors import InvalidParameterError, UnreadableImageError
from depthflux.images import MAX_EMBEDDED_IMAGE_BYTES, ReadLimits, SourceImage, read_image
from depthflux.model.placement import device_name

RECORD_VERSION = 1
#: Libraries that take part in computing a picture.
COMPUTING_LIBRARIES = (
    "torch",
    "diffusers",
    "transformers",
    "peft",
    "accelerate",
    "numpy",
    "pillow",
    "onnxruntime",
)
#: Request fields that say how to answer rather than what to paint; webhook_url may hold a secret.
NOT_RECORDED = ("enable_sync_mode", "enable_base64_output", "webhook_url")


def describe_source(source: SourceImage, *, embed: bool) -> dict[str, Any]:
    """The control image for the record: its sha256 and, unless switched off, its bytes.

    Bytes beyond what a record can hold are left out, too; a replay then has to be given the image.
    """
    described: dict[str, Any] = {
        "sha256": source.sha256,
        "media_type": source.media_type,
    }
    if embed and len(source.data) <= MAX_EMBEDDED_IMAGE_BYTES:
        described["base64"] = base64.b64encode(source.data).decode("ascii")
    return described


def describe_request(request: GenerationRequest) -> dict[str, Any]:
    """The request's fields as they shape the picture, without the control image."""
    return {k: v for k, v in request.fields().items() if k not in NOT_RECORDED}


def describe_machine(device: torch.device) -> dict[str, Any]:
    """The kind of hardware: equal descriptions are expected to compute equal pixels."""
    return {
        "device": device_name(device),
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
    }


def describe_versions() -> dict[str, str]:
    """depthflux's, Python's and the computing libraries' versions."""
    versions = {name: importlib.metadata.version(name) for name in COMPUTING_LIBRARIES}
    return {"depthflux": depthflux.__version__, "python": platform.python_version(), **versions}


def describe_canvas(canvas: Canvas) -> dict[str, int]:
    """What was painted and where it was cropped, in pixels."""
    return {
        "painted_width": canvas.painted_width,
        "painted_height": canvas.painted_height,
        "left": canvas.left,
        "top": canvas.top,
    }


def record_of_picture(
    shared: Mapping[str, Any], *, index: int, seed: int, withheld: bool
) -> dict[str, Any]:
    """The record of one picture of a prediction: what all share, and its own seed."""
    return {**shared, "picture": {"index": index, "seed": seed, "withheld": withheld}}


def record_header(prediction_id: str, created_at: Any) -> dict[str, Any]:
    """Where a record begins: what it is and of which prediction."""
    return {
        "record_version": RECORD_VERSION,
        "prediction": prediction_id,
        "created_at": format_time(created_at),
    }


# Replaying ---------------------------------------------------------------------------------------


def request_from_record(
    record: Mapping[str, Any], *, control_image: object = None
) -> GenerationRequest:
    """The request that makes a record's picture again: one picture, with its own seed.

    Args:
        record: as `depthflux.images.read_record` gives it.
        control_image: used instead of the recorded one; needed where none is inside.

    Raises:
        InvalidParameterError: the record is of another version or misses parts, or there is no
            control image inside and none was given.
        UnreadableImageError: the control image inside is damaged.
    """
    if record.get("record_version") != RECORD_VERSION:
        raise _bad_record(f"its version is {record.get('record_version')!r}, not {RECORD_VERSION}")
    try:
        fields = dict(record["request"])
        fields |= {"seed": record["picture"]["seed"], "num_images": 1}
        fields.pop("control_image", None)  # it stands elsewhere in a record
        source = record["control_image"]
        if control_image is None:
            control_image = _recorded_image(source)
    except (KeyError, TypeError, ValueError) as error:
        raise _bad_record(f"it misses {error}") from error
    return GenerationRequest(**fields, control_image=control_image)


def replay_settings(record: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The profile of a record and the settings that shaped its pixels.

    Raises:
        InvalidParameterError: the record misses them.
    """
    try:
        ran = record["ran"]
        settings = {"dtype": ran["dtype"], "compile": ran["compiled"]}
        return str(record["profile"]), {**settings, "threads": record["hardware"]["threads"]}
    except (KeyError, TypeError) as error:
        raise _bad_record(f"it misses {error}") from error


def differences(recorded: Mapping[str, Any], present: Mapping[str, Any]) -> list[str]:
    """What differs between two records in ways that can change pixels, one line each.

    Args:
        recorded: the record of the picture to be made again.
        present: the record of the new one.
    """
    lines = []
    for part in ("versions", "hardware", "ran", "model", "control_lora", "depth", "control_image"):
        before, now = recorded.get(part, {}), present.get(part, {})
        keys = sorted(set(before) | set(now)) if isinstance(before, Mapping) else []
        lines += [
            f"{part}.{key}: {before.get(key)!r} then, {now.get(key)!r} now"
            for key in keys
            if before.get(key) != now.get(key) and key not in ("base64", "reason")
        ]
    return lines


def _recorded_image(source: Mapping[str, Any]) -> SourceImage:
    if "base64" not in source:
        raise InvalidParameterError(
            "control_image: the record has no control image inside; give the one whose sha256 is "
            f"{source.get('sha256')} with --control-image.",
            field="control_image",
            allowed="the control image of the recorded picture",
        )
    try:
        data = base64.b64decode(source["base64"], validate=True)
    except binascii.Error as error:
        raise UnreadableImageError(
            f"control_image: the one inside the record is damaged: {error}.", field="control_image"
        ) from error
    # It was within the limits of the run that recorded it, as a file that may have been smaller.
    image = read_image(data, limits=ReadLimits(max_bytes=MAX_EMBEDDED_IMAGE_BYTES))
    if image.sha256 != source.get("sha256"):
        raise UnreadableImageError(
            "control_image: the one inside the record has another sha256 than the record says; "
            "give the control image with --control-image.",
            field="control_image",
        )
    return image


def _bad_record(reason: str) -> InvalidParameterError:
    return InvalidParameterError(
        f"from_record: the picture's record cannot be replayed: {reason}; "
        "use a picture that this version of depthflux made.",
        field="from_record",
        allowed="a picture made by depthflux",
    )
