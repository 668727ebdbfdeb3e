"""The API's routes: keys, submissions, polls, uploads, lists.

Knows nothing of sockets; it turns a request into an answer.
"""

import hmac
import itertools
import json
import re
import threading
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

from .behaviour import Behaviour
from .listening import Answer
from .painting import is_image
from .parameters import fault
from .predictions import MODEL, Prediction, Tasks
from .seen import SeenRequest
from .storage import Storage
from .uploads import extension_of, file_in

_BASE64_AND_WEBHOOK = (
    "webhook callback does not support base64 output, "
    "please use the normal API to use base64 output"
)
_ID = "(?P<id>[^/]+)"


def _json_answer(status: int, body: Any, headers: dict[str, str] | None = None) -> Answer:
    return Answer(status, json.dumps(body).encode(), headers=headers or {})


def _success(data: Any) -> Answer:
    return _json_answer(200, {"code": 200, "message": "success", "data": data})


class Api:
    """Answers of the first listener."""

    def __init__(
        self,
        key: str,
        behaviour: Behaviour,
        storage: Storage,
        tasks: Tasks,
        closing: threading.Event,
    ) -> None:
        self._key = key
        self._behaviour = behaviour
        self._storage = storage
        self._tasks = tasks
        self._closing = closing
        self._submissions = itertools.count()
        self._polls = itertools.count()
        self._dead = threading.Event()
        self._routes: list[tuple[str, str, Callable[..., Answer]]] = [
            ("POST", f"v[23]/{re.escape(MODEL)}", self._submit),
            ("GET", f"v[23]/predictions/{_ID}/result", self._poll),
            ("GET", f"v[23]/predictions/{_ID}", self._poll),
            ("DELETE", f"v[23]/predictions/{_ID}", self._delete_one),
            ("POST", "v[23]/predictions/delete", self._delete_many),
            ("POST", "v[23]/predictions", self._list),
            ("POST", "v[23]/media/upload/binary", self._upload),
            ("POST", "v3/media/uploads", self._open_ticket),
            ("GET", "v[23]/balance", self._balance),
            ("POST", "v[23]/model/pricing", self._price),
        ]

    def answer(self, request: SeenRequest) -> Answer:
        """The answer to one request."""
        if self._dead.is_set():
            return Answer(503, dropped=True)
        path = urlsplit(request.path).path
        expected = f"Bearer {self._key}".encode()
        if not hmac.compare_digest(request.headers.get("authorization", "").encode(), expected):
            return self._error(401, "Unauthorized: the API key is missing or invalid")
        for method, pattern, route in self._routes:
            match = re.fullmatch(f"/api/{pattern}", path)
            if method == request.method and match:
                return route(request, **match.groupdict())
        return self._error(404, "not found")

    def _error(self, status: int, message: str) -> Answer:
        wait = self._behaviour.retry_after
        headers = {"Retry-After": str(wait)} if wait is not None and status in (429, 503) else {}
        shape = self._behaviour.error_shape
        if shape == "empty":
            return Answer(status, headers=headers)
        if shape == "html":
            page = f"<html><body><h1>{status} {message}</h1></body></html>"
            return Answer(status, page.encode(), "text/html", headers)
        body: dict[str, Any] = {"code": status}
        for name in ("message", "error"):
            if shape in ("both", name):
                body[name] = message
        return _json_answer(status, body, headers)

    def _body(self, request: SeenRequest) -> Any:
        """The JSON, or None where it is none."""
        try:
            return json.loads(request.body)
        except ValueError:
            return None

    def _submit(self, request: SeenRequest) -> Answer:
        behaviour, number = self._behaviour, next(self._submissions)
        if behaviour.die_after is not None and number > behaviour.die_after:
            return Answer(503, dropped=True)
        if behaviour.redirect_submit_to is not None:
            return Answer(307, headers={"Location": behaviour.redirect_submit_to})
        body = self._body(request)
        if complaint := fault(body):
            return self._error(400, complaint)
        webhook = parse_qs(urlsplit(request.path).query).get("webhook") or body.get("webhook_url")
        if webhook and body.get("enable_base64_output"):
            return _json_answer(400, {"error": _BASE64_AND_WEBHOOK})
        if number in behaviour.refuse_429:
            return self._error(429, "Too many requests")
        prediction = self._tasks.accept(number, self._version(request), body)
        if prediction is None:
            return self._error(429, "Too many images per minute")
        return self._answer_accepted(prediction)

    def _answer_accepted(self, prediction: Prediction) -> Answer:
        if prediction.number in self._behaviour.drop_submission:
            return Answer(200, dropped=True)
        answer = _success(
            self._wait(prediction) if prediction.asked.sync else self._tasks.show(prediction)
        )
        if prediction.number == self._behaviour.die_after:
            self._dead.set()
            return Answer(answer.status, answer.body, last=True)
        return answer

    def _wait(self, prediction: Prediction) -> dict[str, Any]:
        """Sync mode: waits for the task, or for as long as the service would."""
        if self._behaviour.sync_expires:
            return self._tasks.expired(prediction)
        remaining_s = prediction.finishes_s - time.monotonic()
        self._closing.wait(max(0.0, min(remaining_s, self._behaviour.sync_wait_s)))
        if time.monotonic() < prediction.finishes_s:
            return self._tasks.expired(prediction)
        return self._tasks.finish(prediction)

    def _version(self, request: SeenRequest) -> str:
        return request.path.split("/")[2]

    def _poll(self, request: SeenRequest, id: str) -> Answer:
        status = self._behaviour.poll_errors.get(next(self._polls))
        if status is not None:
            return self._error(status, "the result cannot be queried at the moment")
        prediction = self._tasks.find(id)
        if prediction is None:
            return self._error(404, "prediction not found")
        return _success(self._tasks.poll(prediction))

    def _list(self, request: SeenRequest) -> Answer:
        body = self._body(request)
        if not isinstance(body, dict):
            return self._error(400, "the body must be a JSON object")
        page, size = body.get("page", 1), body.get("page_size", 100)
        if not all(isinstance(value, int) for value in (page, size)):
            return self._error(400, "page and page_size must be integers")
        if page < 1 or not 1 <= size <= 100:
            return self._error(400, "page must be at least 1 and page_size 1 ~ 100")
        shown = [self._tasks.show(prediction) for prediction in self._tasks.listed()]
        wanted = body.get("status")
        items = [item for item in shown if wanted in (None, item["status"])]
        page_items = items[(page - 1) * size : page * size]
        return _success({"page": page, "total": len(items), "items": page_items})

    def _delete_one(self, request: SeenRequest, id: str) -> Answer:
        if not self._tasks.delete(id):
            return self._error(404, "prediction not found")
        return _success({"id": id, "status": "deleted"})

    def _delete_many(self, request: SeenRequest) -> Answer:
        body = self._body(request)
        identifiers = body.get("ids") if isinstance(body, dict) else None
        if not isinstance(identifiers, list):
            return self._error(400, "ids must be an array")
        deleted = sum(self._tasks.delete(str(identifier)) for identifier in identifiers)
        return _success({"deleted_count": deleted})

    def _upload(self, request: SeenRequest) -> Answer:
        found = file_in(request.headers.get("content-type", ""), request.body)
        if found is None:
            return self._error(400, "the form has no field file")
        filename, data = found
        if len(data) > self._behaviour.upload_limit_bytes:
            return self._error(413, "the file is too large")
        if not is_image(data):
            return self._error(400, "the file is not an image of a supported kind")
        path = self._storage.keep("media/images", data, extension_of(filename))
        return _success(
            {
                "type": "image",
                "download_url": self._storage.origin + path,
                "filename": filename,
                "size": len(data),
            }
        )

    def _open_ticket(self, request: SeenRequest) -> Answer:
        body = self._body(request)
        filename = body.get("filename") if isinstance(body, dict) else None
        size = body.get("size") if isinstance(body, dict) else None
        if not isinstance(filename, str) or not isinstance(size, int) or size < 1:
            return self._error(400, "filename and size are required")
        if size > self._behaviour.upload_limit_bytes:
            return self._error(413, "the file is too large")
        headers = dict(self._behaviour.upload_headers)
        ticket = self._storage.open_ticket(extension_of(filename), size, headers)
        origin = self._storage.origin
        upload = {"method": "PUT", "url": origin + ticket.put_path, "headers": headers}
        return _success({"upload": upload, "download_url": origin + ticket.download_path})

    def _balance(self, request: SeenRequest) -> Answer:
        return _success({"balance": 100.0})

    def _price(self, request: SeenRequest) -> Answer:
        body = self._body(request)
        if not isinstance(body, dict) or body.get("model_id") != MODEL:
            return self._error(400, "model_id is unknown")
        price = {"model_id": MODEL, "unit_price": self._behaviour.unit_price, "currency": "USD"}
        return _success(price)
