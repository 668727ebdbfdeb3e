"""The stub as a whole: two listeners over one storage and one set of tasks.

Knows nothing of routes; api.py and cdn.py answer.
"""

import threading
from types import TracebackType
from typing import Self

from .api import Api
from .behaviour import Behaviour
from .cdn import Cdn
from .listening import Listener
from .predictions import Prediction, Tasks
from .seen import RequestLog, SeenRequest
from .storage import Storage


class HostedStub:
    """A stand-in for the hosted service on 127.0.0.1, while the ``with`` block lasts.

    Attributes:
        key: The key that it lets in.
        behaviour: Its switches.
        base_url: ``http://127.0.0.1:PORT`` of the API.
        cdn_url: The same of the CDN, at another port: outputs and uploads live there.
    """

    def __init__(self, key: str = "stub-key", behaviour: Behaviour | None = None) -> None:
        self.key = key
        self.behaviour = behaviour or Behaviour()
        self._log = RequestLog()
        self._closing = threading.Event()
        self._api_listener = Listener("api", self._log)
        self._cdn_listener = Listener("cdn", self._log)
        self.base_url = self._api_listener.origin
        self.cdn_url = self._cdn_listener.origin
        storage = Storage(self.cdn_url)
        self._tasks = Tasks(self.behaviour, storage, self.base_url)
        api = Api(key, self.behaviour, storage, self._tasks, self._closing)
        self._api_listener.answer = api.answer
        self._cdn_listener.answer = Cdn(self.behaviour, storage).answer

    def __enter__(self) -> Self:
        self._api_listener.start()
        self._cdn_listener.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closing.set()
        failures = self._api_listener.close() + self._cdn_listener.close()
        if failures and error is None:
            raise RuntimeError(f"the stub itself failed: {failures!r}") from failures[0]

    @property
    def requests(self) -> list[SeenRequest]:
        """Every request seen so far, at both listeners, in the order of arrival."""
        return self._log.snapshot()

    @property
    def predictions(self) -> list[Prediction]:
        """Accepted submissions, in order."""
        return self._tasks.snapshot()

    @property
    def charged(self) -> int:
        """How many submissions were accepted, and so paid for."""
        return len(self._tasks.snapshot())

    @property
    def charged_images(self) -> int:
        """How many pictures those ask for."""
        return sum(prediction.asked.num_images for prediction in self._tasks.snapshot())
