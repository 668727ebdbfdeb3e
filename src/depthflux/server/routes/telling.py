"""What answers look like: the envelope, and the document of every refusal.

Knows nothing of what is answered.
"""

from __future__ import annotations

from typing import Any

from fastapi.responses import JSONResponse
from pydantic import BaseModel

from depthflux.server.documents import ErrorDocument
from depthflux.server.sending import DocumentAnswer


def answer(data: BaseModel | list[dict[str, Any]]) -> JSONResponse:
    """The envelope around what a route has to say; fields without a value are left out."""
    plain = data.model_dump(exclude_none=True) if isinstance(data, BaseModel) else data
    return DocumentAnswer({"code": 200, "message": "success", "data": plain})


def refusal(status: int, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """What every refusal looks like; clients read `message` or `error`, so both say it."""
    document = ErrorDocument(code=status, message=message, error=message)
    return JSONResponse(document.model_dump(), status_code=status, headers=headers)
