"""Several linears of one input as one linear, so that one matrix product does the work of all.

The linears stay what they are to whoever knows them by name: their weights become views of the
packed one's rows, and what is written into them in place is what the packed one computes with.

Knows nothing of blocks or LoRAs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from depthflux.model.quantization import joined_rows, rows_of


def pack(linears: Sequence[nn.Linear]) -> nn.Linear:
    """One linear whose outputs are the given ones' outputs, one after another.

    Args:
        linears: each with a bias, all of the same input, dtype and device, all quantized or
            none; their weights and biases become views of the packed one's rows.
    """
    packed = nn.Linear(
        linears[0].in_features, sum(linear.out_features for linear in linears), device="meta"
    )
    packed.weight = nn.Parameter(joined_rows([m.weight for m in linears]), requires_grad=False)
    packed.bias = nn.Parameter(torch.cat([m.bias.data for m in linears]), requires_grad=False)
    first = 0
    for linear in linears:
        rows = slice(first, first + linear.out_features)
        linear.weight = nn.Parameter(rows_of(packed.weight, rows), requires_grad=False)
        linear.bias.data = packed.bias.data[rows]
        first = rows.stop
    return packed
