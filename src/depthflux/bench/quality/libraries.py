"""Whether the measures' library works here, to be seen before a comparison costs anything.

torchmetrics imports torchvision wherever it is installed, and a torchvision that was built for
another torch fails at that. Knows nothing of what is measured.
"""

from __future__ import annotations

from depthflux.errors import SetupError, first_line


def require_torchmetrics() -> None:
    """Import what the measures use.

    Raises:
        SetupError: it cannot be imported.
    """
    import importlib

    try:
        importlib.import_module("torchmetrics.functional.image")
    # A torchvision built for another torch fails in whichever way its operators do.
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        raise SetupError(
            f"torchmetrics, which compares pictures, cannot be imported: {first_line(error)}.",
            fix="Install a torchvision that was built for this torch, or uninstall torchvision: "
            "nothing here needs it.",
        ) from error
