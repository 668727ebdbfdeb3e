"""One request before anything is measured, so that no task's time holds a device's start.

A GPU loads its libraries and picks its kernels at the first picture, which a hosted service has
long behind it. Knows nothing of who is asked.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any

from depthflux.bench.hosted.client import HostedClient
from depthflux.bench.hosted.errors import HostedError
from depthflux.bench.hosted.on_its_way import Asking
from depthflux.bench.hosted.replies import HostedPrediction
from depthflux.bench.hosted.running import pause
from depthflux.contract import SEED_COUNT


def warm_up(
    client: HostedClient, fields: Mapping[str, Any], asking: Asking, stop: threading.Event
) -> None:
    """Have a request painted whose pictures nobody keeps; only for a side that costs nothing.

    Args:
        client: of the side.
        fields: of the request; its seed is another one, so that no whole answer is remembered.
        asking: how the side is asked.
        stop: set where the run is being stopped.

    Raises:
        HostedError: it could not be asked, did not end as completed in time, or its pictures are
            none. A side is not warm then.
        CancelledError: the run is being stopped.
    """
    other = {**fields, "seed": (fields["seed"] - 1) % SEED_COUNT}
    prediction = client.submit(other, sync_mode=asking.sync_mode).prediction
    until = time.monotonic() + asking.longest_s
    while not prediction.has_ended and time.monotonic() < until:
        pause(asking.poll_interval_s, stop)
        prediction = client.poll(prediction.id)
    if prediction.status != "completed":
        raise HostedError(
            f"the side could not paint its warm-up: {_reason(prediction, asking)}",
            code=prediction.code,
            prediction_id=prediction.id,
        )
    for output in prediction.outputs:
        client.download(output)


def _reason(prediction: HostedPrediction, asking: Asking) -> str:
    if not prediction.has_ended:
        return f"its status is {prediction.status} after {asking.longest_s:g} s"
    return f"{prediction.status}: {prediction.error}" if prediction.error else prediction.status
