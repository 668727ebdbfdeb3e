"""torch's failures, translated: the one place that knows how it says that memory ran out.

Knows nothing of what was computed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from depthflux.contract import GenerationRequest
from depthflux.errors import GenerationError, OutOfMemoryError


@contextmanager
def translated_failures(request: GenerationRequest) -> Iterator[None]:
    """Run a request's work and raise torch's failures as ours.

    Raises:
        OutOfMemoryError: the device's or the computer's memory ran out.
        GenerationError: torch.compile failed.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise _out_of_memory(request, error) from error
    except RuntimeError as error:
        if "can't allocate memory" in str(error):  # torch's CPU allocator has no class of its own
            raise _out_of_memory(request, error) from error
        if isinstance(error, torch._dynamo.exc.TorchDynamoException):
            reason = str(error).strip().splitlines()[0]
            raise GenerationError(
                f"torch.compile failed: {reason}; run with compile=false to go without it."
            ) from error
        raise


def _out_of_memory(request: GenerationRequest, error: BaseException) -> OutOfMemoryError:
    reason = (str(error).strip().splitlines() or ["no memory left"])[0]
    return OutOfMemoryError(
        f"memory ran out for size={request.size}: {reason} Lower size, or close other programs."
    )
