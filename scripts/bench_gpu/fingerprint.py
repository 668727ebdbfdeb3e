"""A number for all bits of a module's weights, computed where they lie.

Copying 24 GB to the host to hash them would take longer than what is to be checked. Knows nothing
of what the weights mean.
"""

import hashlib

import torch

#: So many numbers at once; as 64-bit integers they take 8 bytes each, several times over.
CHUNK = 2**24
#: An odd constant whose multiples spread over 64 bits: 2^64 over the golden ratio.
SPREAD = -0x61C8864680B583EB
INTEGERS = {2: torch.int16, 4: torch.int32}


def fingerprint(module: torch.nn.Module) -> str:
    """Sixteen hexadecimal digits; equal weights have equal ones on any device, in any order.

    Each number's bits times a factor of its place, summed modulo 2^64, for each tensor; then the
    sums are hashed with the tensors' names. One bit changed changes it; that two different states
    agree by chance is as likely as two 64-bit hashes to be equal.
    """
    digest = hashlib.sha256()
    for name, parameter in sorted(module.named_parameters()):
        bits = parameter.data.contiguous().view(-1).view(INTEGERS[parameter.element_size()])
        total = 0
        for first in range(0, bits.numel(), CHUNK):
            chunk = bits[first : first + CHUNK].long()
            places = torch.arange(first + 1, first + 1 + len(chunk), device=bits.device)
            factors = places * SPREAD
            # Mixed, since changes at even distances could cancel out under factors in a row.
            factors = factors.bitwise_xor(factors >> 29).bitwise_or(1)
            total += int((chunk * factors).sum())
        digest.update(f"{name}:{total % 2**64};".encode())
    return digest.hexdigest()[:16]
