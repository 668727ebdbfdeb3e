"""The documents of the HTTP interface: what is answered, and what may be asked, for OpenAPI too.

Their shapes are the hosted endpoint's; what depthflux adds is optional, so that old clients pass it
over. Knows nothing of where the values come from.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from depthflux.contract import Envelope, PredictionData, Status
from depthflux.contract.fields import WholeNumber
from depthflux.images import MEDIA_TYPES

_TIME: dict[str, Any] = {"format": "date-time"}
#: How a ticket may say that a picture will come.
_KINDS: list[Any] = [
    {
        "required": ["filename"],
        "properties": {
            "filename": {"pattern": r"\.([pP][nN][gG]|[jJ][pP][eE]?[gG]|[wW][eE][bB][pP])$"}
        },
    },
    {
        "required": ["content_type"],
        "properties": {"content_type": {"enum": list(MEDIA_TYPES.values())}},
    },
]


class Progress(BaseModel):
    """How far a running prediction is."""

    step: int = Field(description="Steps done, over all pictures.")
    total: int = Field(description="Steps in all.")


class ServedPrediction(PredictionData):
    """A prediction as the server shows it."""

    code: int | None = Field(
        None, description="Why it failed, as the hosted endpoint numbers it; absent if it did not."
    )
    progress: Progress | None = Field(
        None, description="Steps done so far; only while it runs, and not on …/result."
    )
    input: dict[str, Any] | None = Field(
        None, description="What was asked for; in lists and webhooks."
    )


class ServedEnvelope(Envelope):
    """The document that submitting and asking give."""

    data: ServedPrediction


class ErrorDocument(BaseModel):
    """What every refusal says; `message` and `error` are the same, for clients that read either."""

    code: int = Field(description="The HTTP status.")
    message: str = Field(description="One line: what is wrong, the value got, what is allowed.")
    error: str


class ListQuery(BaseModel):
    """Which predictions to list."""

    model_config = ConfigDict(extra="ignore", strict=True)

    page: WholeNumber = Field(1, ge=1, le=1_000_000, description="Which part, from 1.")
    page_size: WholeNumber = Field(20, ge=1, le=100, description="How many a part has.")
    status: Status | None = Field(None, description="Only those that show it.")
    model: str | None = Field(None, max_length=200, description="Only those that it computed.")
    created_after: str | None = Field(
        None,
        max_length=40,
        description="Only those from this RFC 3339 time on.",
        json_schema_extra=_TIME,
    )
    created_before: str | None = Field(
        None,
        max_length=40,
        description="Only those before this RFC 3339 time.",
        json_schema_extra=_TIME,
    )


class ListData(BaseModel):
    """A part of the list, newest first."""

    page: int
    page_size: int
    total: int
    items: list[ServedPrediction]


class DeleteQuery(BaseModel):
    """Which predictions to delete."""

    model_config = ConfigDict(extra="ignore", strict=True)

    ids: list[str] = Field(
        max_length=100,
        description="Their ids; those that there are none of are passed over.",
        json_schema_extra={"allowed": "a list of at most 100 ids"},
    )


class DeleteData(BaseModel):
    """How many predictions were deleted."""

    deleted_count: int


class DeletedData(BaseModel):
    """The prediction that was deleted."""

    id: str
    status: Literal["deleted"] = "deleted"


class UploadData(BaseModel):
    """An uploaded picture; `url` is `download_url` under its older name."""

    type: Literal["image"] = "image"
    download_url: str = Field(description="Its address, good as control_image.")
    url: str
    name: str = Field(description="The end of its address.")
    filename: str = Field(description="As the form said it, or else `name`.")
    size: int = Field(description="Bytes.")


class TicketQuery(BaseModel):
    """The upload that a ticket is asked for; its name or its kind says that it is a picture."""

    model_config = ConfigDict(extra="ignore", strict=True, json_schema_extra={"anyOf": _KINDS})

    filename: str = Field("", max_length=1024, description="The file's name, for its ending.")
    size: WholeNumber = Field(ge=1, description="Bytes that will come.")
    content_type: str | None = Field(None, max_length=200, description="Such as image/png.")


class TicketUpload(BaseModel):
    """Where and how to send the bytes."""

    method: Literal["PUT"] = "PUT"
    url: str = Field(description="A secret address; no Authorization is needed there.")
    secret: str = Field(description="The end of that address.")
    headers: dict[str, str] = Field(description="To be sent with the bytes.")


class TicketData(BaseModel):
    """A ticket for one upload."""

    upload: TicketUpload
    download_url: str = Field(description="Its address once the bytes are there.")
    name: str = Field(description="The end of that address.")


class BalanceData(BaseModel):
    """A stand-in: nothing is billed here, and clients that ask want to see enough."""

    balance: float
    currency: Literal["USD"] = "USD"


class PriceData(BaseModel):
    """A stand-in: what a picture costs here is the operator's electricity."""

    model_id: str
    unit_price: float = 0.0
    price: float = 0.0
    discounted_price: float = 0.0
    currency: Literal["USD"] = "USD"


class PriceQuery(BaseModel):
    """The model whose price is asked for."""

    model_config = ConfigDict(extra="ignore", strict=True)

    model_id: str = Field(max_length=200)


class ApiSchema(BaseModel):
    """How a model is called."""

    type: Literal["model_run"] = "model_run"
    method: Literal["POST"] = "POST"
    server: str
    api_path: str
    request_schema: dict[str, Any]


class ApiSchemas(BaseModel):
    """The ways in which a model is called: one."""

    api_schemas: list[ApiSchema]


class ModelData(BaseModel):
    """A model that can be called."""

    model_id: str
    name: str
    description: str
    type: Literal["image-to-image"] = "image-to-image"
    base_price: float = 0.0
    formula: str = ""
    api_schema: ApiSchemas


class SecretData(BaseModel):
    """The key that signs this owner's webhooks, behind the prefix `whsec_`."""

    secret: str


class Answer(BaseModel):
    """What the envelopes of all further routes have in common."""

    code: int = 200
    message: str = "success"


class ListAnswer(Answer):
    """A part of the list."""

    data: ListData


class DeleteAnswer(Answer):
    """How many were deleted."""

    data: DeleteData


class DeletedAnswer(Answer):
    """The one that was deleted."""

    data: DeletedData


class UploadAnswer(Answer):
    """The upload."""

    data: UploadData


class TicketAnswer(Answer):
    """The ticket."""

    data: TicketData


class BalanceAnswer(Answer):
    """The balance."""

    data: BalanceData


class PriceAnswer(Answer):
    """The price."""

    data: PriceData


class ModelsAnswer(Answer):
    """The models."""

    data: list[ModelData]


class SecretAnswer(Answer):
    """The webhook secret."""

    data: SecretData


class Readiness(BaseModel):
    """Whether the server can take and compute predictions."""

    status: Literal["loading", "ready", "degraded", "draining"]
    model: str = Field(description="What is loaded; empty before.")
    workers: list[Literal["loading", "ready", "restarting", "stopped"]]
    queued: int = Field(description="Predictions that wait.")
