"""The configuration that peft leaves in a LoRA file's metadata: what the LoRA is to be scaled by.

It is JSON under one key, each of its names after `transformer.` or, where the file is of the
transformer alone, after nothing. Only what decides B·A's scale is read, and what would make the
file more than a LoRA is refused.

Source: peft 0.21's LoraConfig, and what diffusers 0.42 writes. Knows nothing of tensors.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from depthflux.errors import show

#: Where diffusers and peft leave an adapter's configuration in a file's metadata.
ADAPTER_METADATA = "lora_adapter_metadata"
TRANSFORMER = "transformer."
#: Ways to begin training that leave the base model as it is; the others train B·A for another one.
HARMLESS_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")


@dataclass(frozen=True)
class AdapterConfig:
    """What a LoRA is scaled by.

    Attributes:
        alpha: over the rank, the scale of each linear's B·A; None where none is stated, and the
            scale is 1.
        alphas: other alphas, by the end of a linear's name, or by all of it after a "^".
        by_root: whether alpha stands over the rank's square root.
    """

    alpha: float | None = None
    alphas: Mapping[str, float] = field(default_factory=dict)
    by_root: bool = False

    def scaling(self, linear: str, rank: int) -> float:
        """What B·A of a linear is multiplied by."""
        alpha = next((a for name, a in self.alphas.items() if _names(name, linear)), self.alpha)
        if alpha is None:
            return 1.0
        return alpha / (math.sqrt(rank) if self.by_root else rank)


def read_adapter_config(metadata: Mapping[str, str]) -> AdapterConfig:
    """The configuration in a file's metadata; without one, no alpha is stated.

    Raises:
        ValueError: it is unreadable, or what it says is more than a LoRA; the message says what.
    """
    if ADAPTER_METADATA not in metadata:
        return AdapterConfig()
    try:
        config = json.loads(metadata[ADAPTER_METADATA])
    except (ValueError, RecursionError) as error:
        raise ValueError(f"its {ADAPTER_METADATA} is no JSON") from error
    if not isinstance(config, dict):
        raise ValueError(f"its {ADAPTER_METADATA} is no JSON object")
    return _read({name.removeprefix(TRANSFORMER): value for name, value in config.items()})


def _read(config: Mapping[str, Any]) -> AdapterConfig:
    start = config.get("init_lora_weights")
    if config.get("use_dora") or start not in HARMLESS_STARTS:
        kind = "DoRA" if config.get("use_dora") else f"begun as {show(start)}"
        raise ValueError(f"it is no plain LoRA ({kind}, says its {ADAPTER_METADATA})")
    patterns = config.get("alpha_pattern") or {}
    if not isinstance(patterns, dict):
        raise ValueError(f"its alpha_pattern is {show(patterns)}")
    for name in patterns:
        # peft takes regular expressions; one of a stranger could run for ever.
        if not re.fullmatch(r"\^?[\w.]+", name):
            raise ValueError(f"its alpha_pattern has {show(name)}, which is no linear's name")
    return AdapterConfig(
        alpha=_number("lora_alpha", config.get("lora_alpha")),
        alphas={name: _number(f"alpha_pattern of {name}", a) for name, a in patterns.items()},
        by_root=config.get("use_rslora") is True,
    )


def _number(name: str, value: Any) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    # False for NaN and infinity, too.
    if is_number and abs(value) <= sys.float_info.max:
        return float(value)
    raise ValueError(f"its {name} is {show(value)} and no number")


def _names(pattern: str, linear: str) -> bool:
    whole = pattern.removeprefix("^")
    return linear == whole or (pattern == whole and linear.endswith(f".{whole}"))
