"""The packaged miniature: a trained pipeline of FLUX's own classes, small enough to ship.

`weights/` is laid out like FLUX.1-dev's folder, so that the miniature goes through the very code
that FLUX does. It paints toy scenes only; docs/demo-model.md says which, and how it was made.
"""

from pathlib import Path


def demo_folder() -> Path:
    """The folder of the packaged miniature."""
    return Path(__file__).parent / "weights"
