"""The prediction: what a request gave, and the hosted document that says so.

`Prediction` holds the pictures and their encoded files; `Envelope` is the document the hosted
endpoint answers with, field by field. Saving writes all of a prediction's files or none.

Knows nothing of how pictures are made or encoded.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, Field

from depthflux.files import make_folder, write_atomically

if TYPE_CHECKING:
    from PIL.Image import Image

    from depthflux.contract.request import GenerationRequest

#: The id of the hosted model, which `data.model` carries when FLUX.1-dev ran.
HOSTED_MODEL = "wavespeed-ai/flux-control-lora-depth"
#: The id of the packaged miniature, which never poses as FLUX.
DEMO_MODEL = "depthflux/demo"

Status = Literal["created", "processing", "completed", "failed"]


class PredictionUrls(BaseModel):
    """Where the prediction can be read again."""

    get: str = Field(description="Address of the prediction; empty until it is saved or served.")


class PredictionData(BaseModel):
    """The `data` of the hosted envelope; no field is ever null."""

    id: str = Field(description="32 hexadecimal digits.")
    model: str = Field(description="The model that ran; the packaged miniature says so here.")
    outputs: list[str] = Field(description="One address, data URI or base64 text a picture.")
    urls: PredictionUrls
    has_nsfw_contents: list[bool] = Field(description="One flag a picture, in order.")
    status: Status
    created_at: str = Field(description="When it was asked for, RFC 3339 in UTC, ending in Z.")
    error: str = Field(description="Why it failed; empty if it did not.")
    executionTime: int = Field(description="Milliseconds the inference took.")  # noqa: N815 - hosted name
    timings: dict[str, int] = Field(description="Milliseconds by phase; `inference` is the whole.")


class Envelope(BaseModel):
    """The document the hosted endpoint answers with."""

    code: int = 200
    message: str = "success"
    data: PredictionData


@dataclasses.dataclass(frozen=True, kw_only=True)
class OutputFile:
    """One encoded picture.

    Attributes:
        data: the file's bytes, record included.
        media_type: such as `image/png`.
        extension: without a dot, such as `png`.
    """

    data: bytes = dataclasses.field(repr=False)
    media_type: str
    extension: str

    def as_base64(self) -> str:
        """The bytes as base64 without a prefix, as the hosted `enable_base64_output` gives."""
        return base64.b64encode(self.data).decode("ascii")

    def as_data_uri(self) -> str:
        """The bytes as a `data:` URI."""
        return f"data:{self.media_type};base64,{self.as_base64()}"


@dataclasses.dataclass(kw_only=True)
class Prediction:
    """What a request gave.

    Nothing is on disk until `save` is called.

    Attributes:
        request: the request, its seed drawn.
        model: the model's id, as `data.model` says it.
        images: the pictures, RGB, exactly of the requested size; a flagged one is a placeholder.
            With only_depth_map, the depth map and no other.
        depth_map: what the model was given, mode "L", near = white, of the requested size.
        files: the pictures encoded, each with its record.
        has_nsfw_contents: one flag a picture; all False where the checker was off.
        timings: milliseconds by phase; `inference` is the whole.
        record: what is needed to make the first picture again; see `depthflux.images.read_record`.
        id: 32 hexadecimal digits.
        created_at: when the request was taken, UTC.
        saved_paths: where `save` wrote the pictures last; empty before.
    """

    request: GenerationRequest
    model: str
    images: list[Image]
    depth_map: Image
    files: list[OutputFile]
    has_nsfw_contents: list[bool]
    timings: dict[str, int]
    record: dict[str, Any] = dataclasses.field(repr=False)
    id: str = dataclasses.field(default_factory=lambda: uuid.uuid4().hex)
    created_at: datetime = dataclasses.field(default_factory=lambda: datetime.now(UTC))
    saved_paths: list[Path] = dataclasses.field(default_factory=list)
    _envelope_path: Path | None = dataclasses.field(default=None, repr=False)

    def envelope(self) -> dict[str, Any]:
        """The hosted response; outputs are data URIs until `save`, file URLs after it."""
        if self.request.enable_base64_output:
            outputs = [file.as_base64() for file in self.files]
        else:
            outputs = [path.as_uri() for path in self.saved_paths]
            outputs = outputs or [file.as_data_uri() for file in self.files]
        data = PredictionData(
            id=self.id,
            model=self.model,
            outputs=outputs,
            urls=PredictionUrls(get=self._envelope_path.as_uri() if self._envelope_path else ""),
            has_nsfw_contents=self.has_nsfw_contents,
            status="completed",
            created_at=format_time(self.created_at),
            error="",
            executionTime=self.timings["inference"],
            timings=self.timings,
        )
        return Envelope(data=data).model_dump()

    def save(self, folder: str | Path) -> dict[str, Any]:
        """Write the pictures and `<id>.json`, all of them or none.

        Args:
            folder: where to; made if it is not there.

        Returns:
            The envelope with file URLs.

        Raises:
            OutputError: the folder may not be written, or the disk is full.
        """
        folder = Path(folder).expanduser().resolve()
        make_folder(folder)
        before = (self.saved_paths, self._envelope_path)
        paths = [folder / f"{self.id}-{i}.{f.extension}" for i, f in enumerate(self.files)]
        document = folder / f"{self.id}.json"
        new = [path for path in [*paths, document] if not path.exists()]
        try:
            for path, file in zip(paths, self.files, strict=True):
                write_atomically(path, file.data)
            self.saved_paths, self._envelope_path = paths, document
            envelope = self.envelope()
            write_atomically(document, (json.dumps(envelope, indent=2) + "\n").encode())
        except BaseException:
            self.saved_paths, self._envelope_path = before
            # What an earlier save of this prediction left here is good and stays.
            for path in new:
                path.unlink(missing_ok=True)
            raise
        return envelope


def format_time(moment: datetime) -> str:
    """A UTC time as the hosted endpoint writes it, such as `2023-04-01T12:34:56.789Z`."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
