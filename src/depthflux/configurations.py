"""JSON files beside weights: they describe a model and never say what code is to be run.

transformers, diffusers and peft read more from them than a description: the name of a class in a
Python file of the folder, of a kernel to be fetched from the Hub and run, of another model to load
underneath. No published FLUX or Depth Anything file says any of that, so one that does is refused
before a library sees it.

Knows nothing of what else stands in such files; whether they fit is for those who read them.

Source: transformers 5 (`auto_map`, `attn_implementation`; CVE-2026-4372 is the latter), diffusers
0.42 (`custom_pipeline`), peft 0.21 (`adapter_config.json`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from depthflux.errors import WeightsCorruptError, show

#: Where libraries look for code of a folder's own.
CODE_KEYS = frozenset({"auto_map", "custom_pipeline", "trust_remote_code", "use_kernels"})
#: How the names end under which transformers looks for a kernel; anything with a slash is fetched.
KERNEL_KEYS = ("attn_implementation", "experts_implementation")
#: The kernels that torch itself has.
OWN_KERNELS = ("eager", "sdpa")
#: A library's kernel by its own name, which transformers looks for among what is installed.
_PLAIN_KERNEL = re.compile(r"[A-Za-z0-9_]+", re.ASCII)
#: It names another model, which transformers would load in place of the folder's.
ADAPTER_FILE = "adapter_config.json"
#: A configuration nests 4 deep.
_MAX_DEPTH = 16


def refuse_code(folder: Path, *, fix: str = "") -> None:
    """See that no configuration in a folder names code or another model.

    Files that cannot be read are passed over: whoever needs them will say so.

    Args:
        folder: of one component.
        fix: what to do about a folder that is refused, in words.

    Raises:
        WeightsCorruptError: one does; everything that does is named.
    """
    problems = []
    if (folder / ADAPTER_FILE).exists():
        problems.append(f"{folder / ADAPTER_FILE} would have another model loaded")
    for path in sorted(folder.glob("*config.json")):
        try:
            document = json.loads(path.read_bytes())
        except (OSError, ValueError, RecursionError):
            continue
        problems += [f"{path} {said}" for said in _names_of_code(document)]
    if problems:
        raise WeightsCorruptError(
            f"{'; '.join(problems)}; only weights and what describes them are read.", fix=fix
        )


def _names_of_code(document: Any, depth: int = 0) -> Iterator[str]:
    """What in a document says which code is to be run, in words."""
    if depth > _MAX_DEPTH:
        yield f"nests more than {_MAX_DEPTH} deep, where code to run could be named"
    elif isinstance(document, list):
        for child in document:
            yield from _names_of_code(child, depth + 1)
    elif isinstance(document, dict):
        for key, value in document.items():
            if (key in CODE_KEYS and value) or not _is_own_kernel(key, value):
                yield _told(key, value)
            else:
                yield from _names_of_code(value, depth + 1)


def _told(key: str, value: Any) -> str:
    """What a key asks for, and what to do where it is no more than another kernel's name."""
    if key not in CODE_KEYS and isinstance(value, str) and _PLAIN_KERNEL.fullmatch(value):
        return (
            f"names the kernel {show(value)[1:-1]} ({key}), which is chosen here: delete that line"
        )
    return f"names code to run ({key}={show(value)})"


def _is_own_kernel(key: str, value: Any) -> bool:
    """Whether a key names no kernel, or one of torch's."""
    plain = key.strip("_").removesuffix("_internal")
    if plain not in KERNEL_KEYS or value is None:
        return True
    values = value.values() if isinstance(value, dict) else [value]
    return all(one is None or (isinstance(one, str) and one in OWN_KERNELS) for one in values)
