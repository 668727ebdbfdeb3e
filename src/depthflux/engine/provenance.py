"""The record: what went into a picture, and what would have to be the same to make it again.

A record is a JSON document that every picture carries (depthflux.images embeds and reads it). It
holds the request with the control image inside, the seed of this very picture, the hashes of all
weights, the versions of all libraries that compute, and the kind of hardware. From it the same
pixels come out on the same versions, hardware kind and thread count; what differs is told.

Knows nothing of how pictures are computed or encoded.
"""

from __future__ import annotations

import base64
import importlib.metadata
import os
import platform
from collections.abc import Mapping, Sequence
from typing import Any, get_args

import torch
from pydantic import ValidationError

import depthflux
from depthflux.canvas import Canvas
from depthflux.contract import MAX_SEED, GenerationRequest
from depthflux.depth.depth_anything import DepthAnything
from depthflux.engine.compilation import Compilation
from depthflux.errors import InvalidParameterError, UnreadableImageError, show, shown_name
from depthflux.images import MAX_EMBEDDED_IMAGE_BYTES, ReadLimits, SourceImage, read_image
from depthflux.model.further_loras import ShelfLora
from depthflux.model.loading import Model
from depthflux.model.lora_names import is_name
from depthflux.model.placement import device_name
from depthflux.settings import Attention, Dtype, EngineSettings, ResolvedSettings, profile_names

RECORD_VERSION = 1
#: Settings that a record keeps in its part `ran` under their own names, beside dtype and compile.
RUNNING = ("order", "quantize", "skip_steps", "max_batch", "vae_tiling")
#: Models that a setting names by a word; any other is a folder's path.
NAMED_MODELS = ("demo", "flux")
#: More threads than this for each core are no record's business to ask for.
MOST_THREADS_A_CORE = 4
#: The parts of a record that can change pixels.
COMPARED = (
    "versions",
    "hardware",
    "ran",
    "model",
    "control_lora",
    "loras",
    "estimator",
    "control_image",
    "safety",
)
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


def describe_engine(
    settings: ResolvedSettings,
    model: Model,
    estimator: DepthAnything | None,
    ran: Mapping[str, Any],
) -> dict[str, Any]:
    """What is the same for all pictures of an engine: hashes, versions, how it computes.

    A model of one's own is named by its hashes only: its path may tell who made the picture.
    """
    hashes = dict(model.files.sha256)
    card = estimator.card if estimator else None
    lora_sha256, estimator_sha256 = hashes.pop("control_lora"), hashes.pop("depth_estimator", "")
    chosen = settings.values.model
    return {
        "profile": settings.profile,
        "model": {
            "id": model.id,
            "from": chosen if chosen in NAMED_MODELS else "folder",
            "sha256": hashes,
        },
        "control_lora": {"sha256": lora_sha256},
        "estimator": {
            "name": card.name if card else "",
            "licence": card.licence if card else "",
            "gives": card.gives if card else "",
            "sha256": estimator_sha256,
        },
        "ran": dict(ran),
        "versions": describe_versions(),
    }


def describe_running(
    settings: EngineSettings, compilation: Compilation, quantized: str, attention: str
) -> dict[str, Any]:
    """How an engine computes: all that decides its pixels beside weights, versions and hardware.

    Args:
        settings: the engine's.
        compilation: whether its blocks are compiled.
        quantized: what the large linears are rounded to, such as `fp8`, or `none`.
        attention: the kernel's name.
    """
    return {
        "dtype": settings.dtype,
        "compiled": compilation.applied,
        "reason": compilation.reason,
        "order": settings.order,
        "attention": attention,
        "quantize": quantized,
        "skip_steps": settings.skip_steps,
        "max_batch": settings.max_batch,
        "vae_tiling": settings.vae_tiling,
    }


def describe_run(
    request: GenerationRequest,
    source: SourceImage,
    loras: Sequence[ShelfLora],
    canvas: Canvas,
    settings: EngineSettings,
) -> dict[str, Any]:
    """What is the same for all pictures of a request.

    LoRAs are named by their names; a path or an address may tell who made the picture.
    """
    fields = {k: v for k, v in request.fields().items() if k not in NOT_RECORDED}
    return {
        "request": {
            **fields,
            "loras": [{"path": taken.name, "scale": taken.lora.scale} for taken in loras],
        },
        "loras": [
            {
                "name": taken.name,
                "from": taken.origin,
                "sha256": taken.lora.sha256,
                "scale": taken.lora.scale,
            }
            for taken in loras
        ],
        "control_image": describe_source(source, embed=settings.embed_control_image),
        "canvas": {
            "painted_width": canvas.painted_width,
            "painted_height": canvas.painted_height,
            "left": canvas.left,
            "top": canvas.top,
        },
    }


def describe_source(source: SourceImage, *, embed: bool) -> dict[str, Any]:
    """The control image for the record: its sha256 and, unless switched off, its bytes.

    Bytes beyond what a record can hold are left out, too; a replay then has to be given the image.
    """
    described = {"sha256": source.sha256, "media_type": source.media_type}
    if embed and len(source.data) <= MAX_EMBEDDED_IMAGE_BYTES:
        described["base64"] = base64.b64encode(source.data).decode("ascii")
    return described


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


def record_of_picture(
    prediction: str, facts: Mapping[str, Any], *, index: int, seed: int, withheld: bool
) -> dict[str, Any]:
    """The record of one picture: what all of its prediction share, and its own seed."""
    return {
        "record_version": RECORD_VERSION,
        "prediction": prediction,
        **facts,
        "picture": {"index": index, "seed": seed, "withheld": withheld},
    }


# Replaying ---------------------------------------------------------------------------------------


def request_from_record(
    record: Mapping[str, Any], *, control_image: object = None, loras: object = None
) -> GenerationRequest:
    """The request that makes a record's picture again: one picture, with its own seed.

    Args:
        record: as `depthflux.images.read_record` gives it.
        control_image: used instead of the recorded one; needed where none is inside.
        loras: used instead of the recorded ones; needed where these came from elsewhere than
            loras_dir.

    Raises:
        InvalidParameterError: the record is of another version or misses parts, or what is not
            inside was not given: the control image, or LoRAs from elsewhere.
        UnreadableImageError: the control image inside is damaged.
    """
    version = record.get("record_version")
    if type(version) is not int or version != RECORD_VERSION:
        raise _bad_record(f"its version is {show(version)}, not {RECORD_VERSION}")
    request, picture = _part(record, "request"), _part(record, "picture")
    seed = picture.get("seed")
    if type(seed) is not int or not 0 <= seed <= MAX_SEED:
        raise _bad_record(f"its seed is {show(seed)}")
    if control_image is None:
        control_image = _recorded_image(_part(record, "control_image"))
    # The control image stands elsewhere in a record; one among the fields is not looked at.
    fields = {str(name): value for name, value in request.items() if name != "control_image"}
    fields |= {"seed": seed, "num_images": 1}
    if loras is None:
        _check_recorded_loras(record, request)
    else:
        fields["loras"] = loras
    return GenerationRequest(**fields, control_image=control_image)


def replay_settings(
    record: Mapping[str, Any], *, profile: str | None = None, model: str | None = None
) -> tuple[str, dict[str, Any]]:
    """The profile of a record and the settings that shaped its pixels.

    Args:
        record: as `depthflux.images.read_record` gives it.
        profile: given by the caller instead of the recorded one.
        model: given by the caller; a record does not say where a model of one's own lay.

    Raises:
        InvalidParameterError: the record misses them, or names a profile or a model that has to
            be given.
    """
    profile = profile or str(record.get("profile"))
    # A picture may come from anyone, so its record cannot open files by naming a profile's path.
    if profile == record.get("profile") and profile not in profile_names():
        raise _bad_record(f"it was made in a profile of one's own, {show(profile)}", "--profile")
    if model is None and _part(record, "model").get("from") not in NAMED_MODELS:
        raise _bad_record("its model came from a folder, whose path is not kept", "--model")
    ran, hardware = _part(record, "ran"), _part(record, "hardware")
    settings: dict[str, Any] = {
        "dtype": ran.get("dtype"),
        "compile": ran.get("compiled"),
        "threads": hardware.get("threads"),
    }
    if not (
        settings["dtype"] in get_args(Dtype)
        and isinstance(settings["compile"], bool)
        and type(settings["threads"]) is int
        and 1 <= settings["threads"] <= (os.cpu_count() or 1) * MOST_THREADS_A_CORE
    ):
        raise _bad_record(f"it says that it ran as {show(settings)}")
    settings |= _recorded_running(ran)
    settings["model"] = _part(record, "model")["from"] if model is None else model
    threshold = _part(record, "safety").get("threshold")
    if isinstance(threshold, float) and 0 <= threshold <= 1:
        settings["safety_threshold"] = threshold
    return profile, settings


def _recorded_running(ran: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of speed and memory that shaped a record's pixels."""
    settings = {name: ran[name] for name in RUNNING if name in ran}
    # `torch` is the name of torch's own choice, which is auto's on some machines.
    if ran.get("attention") in get_args(Attention):
        settings["attention"] = ran["attention"]
    # Records of before there was another order say nothing of it.
    settings.setdefault("order", "diffusers")
    try:
        EngineSettings(**settings)
    except ValidationError as error:
        raise _bad_record(f"it says that it ran as {show(settings)}") from error
    return settings


def differences(recorded: Mapping[str, Any], present: Mapping[str, Any]) -> list[str]:
    """What differs between two records in ways that can change pixels, one line each.

    Args:
        recorded: the record of the picture to be made again.
        present: the record of the new one.
    """
    lines = []
    for part in COMPARED:
        before, now = _by_key(recorded.get(part, {})), _by_key(present.get(part, {}))
        keys = sorted({*before, *now}, key=str)
        lines += [
            f"{part}.{shown_name(str(key))}: {before.get(key)!r} then, {now.get(key)!r} now"
            for key in keys
            if before.get(key) != now.get(key) and key not in ("base64", "reason")
        ]
    return lines


def _by_key(part: object) -> Mapping[str, Any]:
    """A part of a record for comparing; of LoRAs, the hashes by their place in the request."""
    if isinstance(part, list):
        entries = [entry if isinstance(entry, Mapping) else {} for entry in part]
        return {str(index): entry.get("sha256") for index, entry in enumerate(entries)}
    return part if isinstance(part, Mapping) else {}


def _check_recorded_loras(record: Mapping[str, Any], request: Mapping[str, Any]) -> None:
    """See that the recorded LoRAs can be found again, and only where LoRAs are looked for."""
    described, asked = record.get("loras", []), request.get("loras", [])
    for entries in (described, asked):
        if not isinstance(entries, list) or not all(isinstance(e, Mapping) for e in entries):
            raise _bad_record(f"its loras are {show(entries)}")
    for entry in described:
        if entry.get("from") != "loras_dir":
            raise InvalidParameterError(
                f"loras: the recorded LoRA {show(entry.get('name'))} came from outside loras_dir, "
                "and its place is not kept; give all LoRAs with --loras, this one with the sha256 "
                f"{shown_name(str(entry.get('sha256')))}.",
                field="loras",
                allowed="the LoRAs of the recorded picture",
            )
    # A picture may come from anyone, so its record cannot open files or addresses of its choice.
    odd = [entry.get("path") for entry in asked if not is_name(str(entry.get("path")))]
    if odd:
        raise _bad_record(f"its LoRA {show(odd[0])} is no name in loras_dir")


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
    except (TypeError, ValueError) as error:
        raise UnreadableImageError(
            "control_image: the one inside the record is damaged; give it with --control-image.",
            field="control_image",
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


def _part(record: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = record.get(name)
    if not isinstance(part, Mapping):
        raise _bad_record(f"it has no part {name!r}")
    return part


def _bad_record(reason: str, option: str = "") -> InvalidParameterError:
    advice = f"name it with {option}" if option else "use a picture that depthflux made"
    return InvalidParameterError(
        f"from_record: the picture's record cannot be replayed: {reason}; {advice}.",
        field="from_record",
        allowed="a picture made by depthflux",
    )
