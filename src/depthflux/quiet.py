"""Keeps off stderr what libraries say of torchao, which no user can act on.

diffusers and transformers import torchao wherever it is installed, whether or not anything is
quantized. Exactly the lines below are dropped; whatever else these libraries log is still heard.

Knows nothing of the libraries but the beginnings of these lines.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping

#: By logger, what is dropped. Seen with torchao 0.18, torch 2.13 and diffusers 0.42: kernels built
#: for other GPUs and other versions of Python; a deprecated call; tensor classes that torchao has
#: given up, for checkpoints that nothing here reads.
NOISE: Mapping[str, str] = {
    "torchao": "Failed to load ",
    "torch.utils._pytree": "%s is an Enum subclass and is now natively supported",
    "diffusers.quantizers.torchao.torchao_quantizer": "Unable to import `torchao` Tensor objects",
}


#: A warning of torch's, at the first compiling of a quantized block: its key for the graph in the
#: cache would change with torchao's classes. The cache's folder has torchao's version in its name.
WARNING = r"\w+ does not implement _stable_hash_for_caching"


def quiet_imports() -> None:
    """Drop the noise; called before diffusers or transformers is first imported."""
    for name in NOISE:
        logging.getLogger(name).addFilter(_is_news)
    warnings.filterwarnings("ignore", message=WARNING)


def _is_news(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith(NOISE[record.name])
