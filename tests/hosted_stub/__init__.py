"""A stand-in for https://api.wavespeed.ai, written from its documentation alone.

    with HostedStub(key="k", behaviour=Behaviour(polls_until_completed=5)) as stub:
        ...  # ask stub.base_url; look at stub.requests and stub.charged

Threads, the standard library and Pillow; two listeners on 127.0.0.1, the API's and a CDN's. It
knows nothing of depthflux, and no code of depthflux was read for it: where both agree, two readings
of the documentation agree. It never fetches a strange address and never calls a webhook.
"""

from .behaviour import Behaviour, Failure
from .predictions import Prediction
from .seen import SeenRequest
from .stub import HostedStub

__all__ = ["Behaviour", "Failure", "HostedStub", "Prediction", "SeenRequest"]
