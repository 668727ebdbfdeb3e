"""Which methods an address takes, for the header Allow, by the interface's description.

The framework knows only those of the first route that fits, and an address may have several. Knows
nothing of what the methods do.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any


def allowed_methods(document: Mapping[str, Any], path: str, headers: Mapping[str, str]) -> str:
    """The value of Allow for an address that was asked by another method.

    Args:
        document: the interface's description.
        path: the address.
        headers: the framework's own, kept where the description has no such address, and for HEAD,
            which it does not mention.
    """
    own = headers.get("Allow", "")
    paths = document["paths"]
    # A path without parameters is meant before one that has them.
    template = path if path in paths else next((p for p in paths if _fits(p, path)), None)
    if template is None:
        return own
    implied = {"HEAD"} & set(own.split(", "))
    return ", ".join(sorted({method.upper() for method in paths[template]} | implied))


def _fits(template: str, path: str) -> bool:
    pieces = (re.escape(piece) for piece in re.split(r"{\w+}", template))
    return re.fullmatch("[^/]+".join(pieces), path) is not None
