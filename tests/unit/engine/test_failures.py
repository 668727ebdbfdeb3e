"""torch's failures reach the caller as ours, with what helps."""

from __future__ import annotations

import pytest
import torch

from depthflux.contract import GenerationRequest
from depthflux.engine.failures import translated_failures
from depthflux.errors import OutOfMemoryError

REQUEST = GenerationRequest(prompt="x", size="512*512")


def test_the_cpu_allocators_refusal_is_an_out_of_memory_error() -> None:
    """The real allocator's own message: no machine has a petabyte."""
    with (
        pytest.raises(OutOfMemoryError, match=r"512\*512 is too large .* lower size") as caught,
        translated_failures(REQUEST),
    ):
        torch.empty(2**50, dtype=torch.uint8)

    assert "\n" not in str(caught.value)


def test_cudas_refusal_is_an_out_of_memory_error() -> None:
    with pytest.raises(OutOfMemoryError, match="tried to allocate"), translated_failures(REQUEST):
        raise torch.OutOfMemoryError("CUDA out of memory: tried to allocate 20 GiB")


def test_another_failure_of_torch_stays_what_it_is() -> None:
    with (
        pytest.raises(RuntimeError, match="shapes cannot be multiplied") as caught,
        translated_failures(REQUEST),
    ):
        torch.zeros(2, 3) @ torch.zeros(2, 3)

    assert type(caught.value) is RuntimeError
