"""Random bfloat16 tensors into safetensors files, one tensor at a time.

Numbers are drawn like those that networks begin with: with zeros, matrix products would draw less
power and run faster than with real weights. Only one tensor is in memory at a time, whatever a
file's size. It knows nothing of models.
"""

import json
import math
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch

from bench_gpu.shapes import Shapes

DTYPE = torch.bfloat16
BYTES_PER_NUMBER = 2
#: Standard deviation of everything drawn; small enough for finite activations in 57 blocks.
DEVIATION = 0.02


def write_drawn(
    path: Path, shapes: Shapes, *, prefix: str, seed: int, device: torch.device
) -> None:
    """Write one safetensors file of random tensors, whole or not at all.

    Args:
        path: of the file; its folder is there.
        shapes: of the tensors by name, in the order they are written.
        prefix: what tells equal names of different components apart.
        seed: with the prefix and a tensor's name it decides that tensor's numbers.
        device: which draws; a CPU and a GPU draw different numbers.
    """
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        file.write(header(shapes))
        for name, shape in shapes.items():
            tensor = draw(f"{seed}/{prefix}/{name}", shape, device)
            # numpy has no bfloat16; the bytes are the same.
            file.write(tensor.view(torch.int16).cpu().numpy().data)
    partial.replace(path)


def draw(key: str, shape: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """A bfloat16 tensor of N(0, 0.02); a norm's weight, 1-D, lies around 1 instead of 0."""
    generator = torch.Generator(device).manual_seed(zlib.crc32(key.encode()))
    noise = torch.randn(shape, generator=generator, device=device, dtype=DTYPE).mul_(DEVIATION)
    is_norm = len(shape) == 1 and key.endswith((".weight", ".scale"))
    return noise.add_(1) if is_norm else noise


def header(shapes: Shapes) -> bytes:
    """A safetensors file's beginning: eight bytes of length, then JSON padded to eight bytes.

    Source: the format's description in the safetensors repository.
    """
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    first = 0
    for name, shape in shapes.items():
        last = first + nbytes(shape)
        entries[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [first, last]}
        first = last
    document = json.dumps(entries, separators=(",", ":")).encode()
    document += b" " * (-len(document) % 8)
    return len(document).to_bytes(8, "little") + document


def nbytes(shape: tuple[int, ...]) -> int:
    """Bytes of a tensor in bfloat16."""
    return math.prod(shape) * BYTES_PER_NUMBER


def total_bytes(shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Bytes of all tensors in bfloat16."""
    return sum(map(nbytes, shapes.values()))


def split(shapes: Shapes, parts: int) -> Iterator[Shapes]:
    """Cut into the given number of shards of about equal bytes, in order."""
    limit = total_bytes(shapes) / parts
    shard: Shapes = {}
    written = 0
    for name, shape in shapes.items():
        shard[name] = shape
        written += nbytes(shape)
        if written >= limit * (1 - 1e-9):
            yield shard
            shard, written = {}, 0
    if shard:
        yield shard
