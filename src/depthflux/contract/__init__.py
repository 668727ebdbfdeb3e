"""The request and the prediction: the only place for the hosted API's names, defaults and ranges.

    request.py      GenerationRequest: what is asked for
    lora.py         Lora: one of a request's further LoRAs
    fields.py       declared fields in words, and pydantic's findings as our errors
    prediction.py   Prediction, Envelope: what is answered

Knows nothing of models, pixels or servers.
"""

from depthflux.contract.fields import field_range
from depthflux.contract.lora import MAX_LORAS, Lora
from depthflux.contract.prediction import (
    DEMO_MODEL,
    HOSTED_MODEL,
    Envelope,
    OutputFile,
    Prediction,
    PredictionData,
    PredictionUrls,
    Status,
    format_time,
)
from depthflux.contract.request import (
    DEFAULT_CONTROL_IMAGE,
    DEFAULT_SIZE,
    MAX_SEED,
    MAX_SIDE,
    MIN_SIDE,
    RANDOM_SEED,
    SEED_COUNT,
    DepthNormalization,
    Fit,
    GenerationRequest,
    OutputFormat,
    Size,
    describe_allowed,
    parameter_table,
    parse_size,
)

__all__ = [
    "DEFAULT_CONTROL_IMAGE",
    "DEFAULT_SIZE",
    "DEMO_MODEL",
    "HOSTED_MODEL",
    "MAX_LORAS",
    "MAX_SEED",
    "MAX_SIDE",
    "MIN_SIDE",
    "RANDOM_SEED",
    "SEED_COUNT",
    "DepthNormalization",
    "Envelope",
    "Fit",
    "GenerationRequest",
    "Lora",
    "OutputFile",
    "OutputFormat",
    "Prediction",
    "PredictionData",
    "PredictionUrls",
    "Size",
    "Status",
    "describe_allowed",
    "field_range",
    "format_time",
    "parameter_table",
    "parse_size",
]
