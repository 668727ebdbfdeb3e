"""Compile all that an engine's requests can need, before the first of them.

Warming up is painting: two requests of two steps for each number of pictures that has a graph of
its own, at two sizes. What that compiles stays in the cache folder for the next start.

Knows nothing of what a graph is made of.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image
from torch._dynamo.utils import counters

from depthflux.contract.request import DEFAULT_SIZE, parse_size
from depthflux.engine.engine import Engine

#: The first is the default, whose kernels Inductor times; the second proves that a graph serves
#: other sizes.
SIZES = (DEFAULT_SIZE, "512*512")
PROMPT = "a room"
STEPS = 2


@dataclass(frozen=True)
class Part:
    """One painted request.

    Attributes:
        name: what was painted, in words.
        seconds: how long it took.
        graphs: made in it, 0 where what was there served.
        from_cache: how many of them lay in the cache folder.
    """

    name: str
    seconds: float
    graphs: int
    from_cache: int


def warm_up(
    engine: Engine,
    *,
    sizes: Sequence[str] = SIZES,
    on_part: Callable[[Part], None] | None = None,
) -> list[Part]:
    """Compile what the engine's requests can need; other requests wait meanwhile, one at a time.

    Args:
        engine: whose blocks are compiled; where they are not, nothing is done.
        sizes: what to paint, width*height.
        on_part: called after each part.

    Returns:
        The parts, in order.

    Raises:
        InvalidParameterError: a size that a request may not have.
        GenerationError: torch.compile failed.
    """
    for size in sizes:
        parse_size(size)
    parts: list[Part] = []
    if not engine.compilation.applied:
        return parts
    batches = (1, 2) if engine.settings.values.max_batch > 1 else (1,)
    for pictures in batches:
        for size in sizes:
            part = _paint(engine, size, pictures)
            parts.append(part)
            if on_part is not None:
                on_part(part)
    return parts


def _paint(engine: Engine, size: str, pictures: int) -> Part:
    before, start = _made(), time.perf_counter()
    engine.generate(
        prompt=PROMPT,
        control_image=_ramp(),
        preprocess_depth=engine.estimator is not None,
        size=size,
        num_images=pictures,
        num_inference_steps=STEPS,
        seed=0,
    )
    graphs, built = (now - then for now, then in zip(_made(), before, strict=True))
    return Part(
        name=f"{size}, {pictures} picture{'s' if pictures > 1 else ''}",
        seconds=time.perf_counter() - start,
        graphs=graphs,
        from_cache=graphs - built,
    )


def _made() -> tuple[int, int]:
    """Graphs made in this process so far, and those of them that Inductor had to build."""
    return counters["stats"]["unique_graphs"], counters["inductor"]["fxgraph_cache_miss"]


def _ramp() -> Image.Image:
    """A picture that any engine takes, as a photograph or as a depth map."""
    return Image.fromarray(np.tile(np.arange(256, dtype=np.uint8)[:, None], (1, 256)))
