"""Python's wavespeed 1.0.3, used as its README shows; nothing but the base URL is changed.

    python python_1_0_3.py WAY BASE_URL REQUEST

Prints what a user of the client sees, as JSON on the last line. The key is in WAVESPEED_API_KEY.
"""

from __future__ import annotations

import json
import sys

import wavespeed
from wavespeed import Client

MODEL = "wavespeed-ai/flux-control-lora-depth"


def run(base_url: str, request: dict) -> dict:
    """Submit and wait, with a client of one's own."""
    return Client(base_url=base_url).run(MODEL, request)


def run_of_the_module(base_url: str, request: dict) -> dict:
    """Submit and wait without a client: the README's first example."""
    wavespeed.config.api.base_url = base_url
    return wavespeed.run(MODEL, request)


def run_with_retries(base_url: str, request: dict) -> dict:
    """Let the client run a task again where it thinks that helps: "Retry Configuration"."""
    return Client(base_url=base_url, max_retries=1).run(MODEL, request)


def sync(base_url: str, request: dict) -> dict:
    """One request and no waiting: "Sync Mode"."""
    return Client(base_url=base_url).run(MODEL, request, enable_sync_mode=True)


def upload_then_run(base_url: str, request: dict) -> dict:
    """Upload the control image's file and use the address that comes back: "Upload Files"."""
    client = Client(base_url=base_url)
    uploaded = client.upload(request["control_image"])
    return {"uploaded": uploaded, **client.run(MODEL, request | {"control_image": uploaded})}


WAYS = {
    "run": run,
    "run_of_the_module": run_of_the_module,
    "run_with_retries": run_with_retries,
    "sync": sync,
    "upload_then_run": upload_then_run,
}

way, base_url, request = sys.argv[1:]
try:
    answer = {"returned": WAYS[way](base_url, json.loads(request))}
except RuntimeError as error:
    answer = {"raised": {"class": type(error).__name__, "message": str(error)}}
sys.stdout.write(f"\n{json.dumps(answer)}\n")
