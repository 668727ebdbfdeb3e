"""The server's own refusals, each with its HTTP status; they join the tree of depthflux.errors.

RequestError
├─ UnauthorizedError       no API key, or a wrong one           HTTP 401
├─ NotFoundError           no such prediction, upload or path   HTTP 404
├─ TooLargeError           the body is larger than accepted     HTTP 413
├─ UnsupportedBodyError    the body is of another kind          HTTP 415
└─ IdempotencyError        the key came with another request    HTTP 422
BusyError                                                       HTTP 429
└─ DrainingError           the server is about to end           HTTP 503
SetupError
└─ StoreError              the store cannot be read or written  HTTP 503
"""

from __future__ import annotations

from depthflux.errors import BusyError, RequestError, SetupError, show


class UnauthorizedError(RequestError):
    """The request has no API key, or a wrong one."""

    http_status = 401

    def __init__(self) -> None:
        super().__init__(
            "Authorization: the API key is missing or wrong; send the header "
            "Authorization: Bearer KEY with a key of this server.",
            field="Authorization",
            allowed="Bearer KEY",
        )


class NotFoundError(RequestError):
    """There is nothing under this id, name or path, or it is another key's."""

    http_status = 404


class TooLargeError(RequestError):
    """The body has more bytes than are accepted."""

    http_status = 413


class UnsupportedBodyError(RequestError):
    """The body is of another kind than the route takes, such as a form instead of JSON."""

    http_status = 415


class IdempotencyError(RequestError):
    """An Idempotency-Key has come with another request before."""

    http_status = 422

    def __init__(self, key: str) -> None:
        super().__init__(
            f"Idempotency-Key={show(key)} came with another request before; use a new key for a "
            "new request.",
            field="Idempotency-Key",
            value=key,
            allowed="a key for each request",
        )


class DrainingError(BusyError):
    """The server finishes what runs and takes nothing new."""

    http_status = 503
    hosted_code = 5003


class StoreError(SetupError):
    """The store cannot be read or written just now, such as on a full disk."""
