"""depthflux: FLUX.1-dev with the FLUX.1 Depth Control LoRA on your own GPU.

    import depthflux

    engine = depthflux.load("auto")
    prediction = engine.generate(prompt="a red sphere on a green floor", control_image="room.jpg")
    prediction.save("out")

Importing this package imports neither torch nor anything else that takes long; each name below
is looked up when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from depthflux.contract import GenerationRequest, Prediction
    from depthflux.engine.engine import Engine
    from depthflux.engine.loading import load
    from depthflux.engine.provenance import request_from_record
    from depthflux.errors import (
        BusyError,
        CancelledError,
        DepthFluxError,
        DeviceError,
        GenerationError,
        ImageFetchError,
        InvalidParameterError,
        LicenceError,
        LoraMismatchError,
        MissingParameterError,
        NonFiniteError,
        OutOfMemoryError,
        OutputError,
        RequestError,
        SettingsError,
        SetupError,
        UnreadableImageError,
        WeightsCorruptError,
        WeightsMissingError,
    )
    from depthflux.images import read_record

__version__ = "0.1.0"

__all__ = [
    "BusyError",
    "CancelledError",
    "DepthFluxError",
    "DeviceError",
    "Engine",
    "GenerationError",
    "GenerationRequest",
    "ImageFetchError",
    "InvalidParameterError",
    "LicenceError",
    "LoraMismatchError",
    "MissingParameterError",
    "NonFiniteError",
    "OutOfMemoryError",
    "OutputError",
    "Prediction",
    "RequestError",
    "SettingsError",
    "SetupError",
    "UnreadableImageError",
    "WeightsCorruptError",
    "WeightsMissingError",
    "load",
    "read_record",
    "request_from_record",
]

#: Where each public name lives.
_HOMES = {
    **{name: "depthflux.errors" for name in __all__ if name.endswith("Error")},
    "Engine": "depthflux.engine.engine",
    "GenerationRequest": "depthflux.contract",
    "Prediction": "depthflux.contract",
    "load": "depthflux.engine.loading",
    "read_record": "depthflux.images",
    "request_from_record": "depthflux.engine.provenance",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'depthflux' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
