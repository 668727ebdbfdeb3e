"""Balance, models, prices, the webhook secret: what clients ask around their predictions.

Knows nothing of predictions.
"""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from depthflux.contract import HOSTED_MODEL
from depthflux.server.documents import (
    ApiSchema,
    ApiSchemas,
    BalanceAnswer,
    BalanceData,
    ModelData,
    ModelsAnswer,
    PriceAnswer,
    PriceData,
    PriceQuery,
    SecretAnswer,
    SecretData,
)
from depthflux.server.openapi import json_body
from depthflux.server.reading import read_document, read_object
from depthflux.server.request_schema import request_schema
from depthflux.server.routes.asking import Base, Origin, Owner, Served
from depthflux.server.routes.telling import answer

router = APIRouter(tags=["account"])

#: Nothing is billed; some clients refuse to begin with less than a picture's price.
_BALANCE = 1_000_000.0

_DESCRIPTION = "FLUX.1-dev with the FLUX.1 Depth Control LoRA, on this machine."


@router.get("/balance", response_model=BalanceAnswer, summary="The balance")
@router.get("/account/balance", response_model=BalanceAnswer, summary="The balance (older path)")
async def balance(owner: Owner) -> JSONResponse:
    """A stand-in: nothing is billed here."""
    del owner
    return answer(BalanceData(balance=_BALANCE))


@router.get("/models", response_model=ModelsAnswer, summary="The models")
async def models(owner: Owner, service: Served, base: Base, origin: Origin) -> JSONResponse:
    """The one model, with the schema of its requests."""
    del owner
    schema = ApiSchema(
        server=origin,
        api_path=f"{base.removeprefix(origin)}/{HOSTED_MODEL}",
        request_schema=request_schema(service.settings),
    )
    model = ModelData(
        model_id=HOSTED_MODEL,
        name="FLUX Control LoRA Depth",
        description=f"{_DESCRIPTION} Loaded: {service.model or 'nothing yet'}.",
        api_schema=ApiSchemas(api_schemas=[schema]),
    )
    return answer([model.model_dump()])


@router.post(
    "/model/pricing",
    response_model=PriceAnswer,
    summary="A model's price",
    openapi_extra=json_body(PriceQuery),
)
@router.post(
    "/model/price",
    response_model=PriceAnswer,
    summary="A model's price (other path)",
    openapi_extra=json_body(PriceQuery),
)
async def price(request: Request, owner: Owner) -> JSONResponse:
    """A stand-in: a picture costs what this machine's electricity costs."""
    del owner
    query = read_document(await read_object(request), PriceQuery)
    return answer(PriceData(model_id=query.model_id))


@router.get("/webhook/secret", response_model=SecretAnswer, summary="The webhook secret")
async def webhook_secret(service: Served, owner: Owner) -> JSONResponse:
    """The secret that signs this key's webhooks; without its prefix it is the HMAC's key."""
    secret = await service.write(service.outbox.secret, owner)
    return answer(SecretData(secret=secret))
