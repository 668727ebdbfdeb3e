"""torch's failures, translated: the one place that knows how it says that memory ran out.

Knows nothing of what was computed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from depthflux.contract import GenerationRequest
from depthflux.errors import GenerationError, OutOfMemoryError, first_line


@contextmanager
def translated_failures(request: GenerationRequest) -> Iterator[None]:
    """Run a request's work and raise torch's failures as ours.

    Raises:
        OutOfMemoryError: the device's or the computer's memory ran out.
        GenerationError: torch.compile failed.
    """
    advice = f"size={request.size} is too large for it; lower size, or close other programs"
    with _memory_errors(advice):
        try:
            yield
        # The second is no RuntimeError, as its kin are.
        except (
            torch._dynamo.exc.TorchDynamoException,
            torch._dynamo.exc.FailOnRecompileLimitHit,
        ) as error:
            raise GenerationError(
                f"torch.compile failed: {first_line(error)}; run with compile=false to go "
                "without it."
            ) from error


@contextmanager
def translated_load_failures(device: torch.device) -> Iterator[None]:
    """Load a model and raise torch's failures as ours.

    Raises:
        OutOfMemoryError: the model does not fit the device's or the computer's memory.
    """
    advice = f"the model does not fit {device}; use another device, or close other programs"
    with _memory_errors(advice):
        yield


@contextmanager
def _memory_errors(advice: str) -> Iterator[None]:
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise OutOfMemoryError(f"memory ran out: {first_line(error)}; {advice}.") from error
    except RuntimeError as error:
        # torch's CPU allocator has no class of its own.
        if "can't allocate memory" not in str(error):
            raise
        raise OutOfMemoryError(f"memory ran out: {first_line(error)}; {advice}.") from error
