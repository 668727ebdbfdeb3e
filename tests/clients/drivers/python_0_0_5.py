"""Python's wavespeed 0.0.5, used as its README shows; nothing but the base URL is changed.

    python python_0_0_5.py WAY BASE_URL REQUEST

Prints what a user of the client sees, as JSON on the last line. The key is in WAVESPEED_API_KEY.
"""

from __future__ import annotations

import asyncio
import json
import sys

import httpx
from wavespeed import Prediction, WaveSpeed

MODEL = "wavespeed-ai/flux-control-lora-depth"


def run(client: WaveSpeed, request: dict) -> Prediction:
    """Submit and wait: "Synchronous Image Generation" in the README."""
    return client.run(modelId=MODEL, input=request)


def run_asynchronously(client: WaveSpeed, request: dict) -> Prediction:
    """The same in a coroutine: "Asynchronous Image Generation"."""

    async def run() -> Prediction:
        try:
            return await client.async_run(modelId=MODEL, input=request)
        finally:
            await client.close()

    return asyncio.run(run())


def create_then_wait(client: WaveSpeed, request: dict) -> Prediction:
    """Submit, wait later, ask once more by the id: "Non-blocking Image Generation"."""
    prediction = client.create(modelId=MODEL, input=request)
    prediction.wait()
    return client.get_prediction(prediction.id)


def sync(client: WaveSpeed, request: dict) -> Prediction:
    """One request and no waiting: this client has no option for it, but sends any field."""
    return client.create(modelId=MODEL, input=request | {"enable_sync_mode": True})


WAYS = {
    "run": run,
    "run_asynchronously": run_asynchronously,
    "create_then_wait": create_then_wait,
    "sync": sync,
}

way, base_url, request = sys.argv[1:]
try:
    prediction = WAYS[way](WaveSpeed(base_url=base_url), json.loads(request))
    answer = {"returned": prediction.model_dump(mode="json")}
except httpx.HTTPStatusError as error:
    raised = {"message": str(error), "response": error.response.text}
    answer = {"raised": {"class": type(error).__name__, **raised}}
sys.stdout.write(f"\n{json.dumps(answer)}\n")
