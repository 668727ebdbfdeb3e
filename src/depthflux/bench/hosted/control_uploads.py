"""The control images of a side's tasks: each uploaded once, its address or its refusal kept.

Knows nothing of tasks' ends, nor of what a control image shows.
"""

from __future__ import annotations

from collections.abc import Sequence

from depthflux.bench.hosted.afterwards import afterwards
from depthflux.bench.hosted.client import HostedClient
from depthflux.bench.hosted.controls import read_control
from depthflux.bench.hosted.errors import HostedError
from depthflux.bench.hosted.exchange_log import ExchangeLog
from depthflux.bench.hosted.folder import RunFolder
from depthflux.bench.hosted.plan import Task
from depthflux.bench.hosted.suites import Case

UPLOADS = "uploads.json"
#: Answers to an upload that are the picture's own fault; all others every picture would get.
_PICTURE_REFUSED = frozenset({400, 413, 415, 422})


class ControlUploads:
    """Uploads of one side; from `upload` on several threads may ask for addresses."""

    def __init__(
        self, client: HostedClient, log: ExchangeLog, folder: RunFolder, side: str
    ) -> None:
        """Upload nothing yet.

        Args:
            client: of the side.
            log: what the client tells of its exchanges.
            folder: the run's.
            side: name of the side's folder.
        """
        self._client, self._log, self._folder, self._side = client, log, folder, side
        self._addresses: dict[str, str] = {}
        self._refusals: dict[str, HostedError] = {}

    def upload(self, tasks: Sequence[Task]) -> dict[str, float]:
        """Upload the control image of every task's case once.

        Returns:
            By the case's name the seconds it took, of those that were not refused.

        Raises:
            HostedError: the server cannot be reached, is broken, or refuses whatever it is sent.
            KeyRefusedError: the key is refused.
            InvalidParameterError: a picture is not the suite's any more.
        """
        seconds: dict[str, float] = {}
        with self._log.kept() as exchanges:

            def keep() -> None:
                self._folder.add_exchanges(
                    f"{self._side}/{UPLOADS}", [exchange.as_json() for exchange in exchanges]
                )

            with afterwards(keep):
                for case in {task.case.name: task.case for task in tasks}.values():
                    taken = self._upload(case)
                    if taken is not None:
                        seconds[case.name] = taken
        return seconds

    def address(self, case: Case) -> str | None:
        """Where a case's control image is; None where it was refused."""
        return self._addresses.get(case.name)

    def refusal(self, case: Case) -> HostedError | None:
        """Why a case's control image was refused; None where it was not."""
        return self._refusals.get(case.name)

    def _upload(self, case: Case) -> float | None:
        data, ending = read_control(case)
        try:
            upload = self._client.upload(data, f"{case.name}.{ending}")
        except HostedError as error:
            if error.status not in _PICTURE_REFUSED:
                raise
            self._refusals[case.name] = error
            return None
        self._addresses[case.name] = upload.url
        return upload.seconds
