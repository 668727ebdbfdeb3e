"""Prompts → embeddings, encoded once and remembered by the prompt and the encoders' identity.

In host memory for the engine's life and, where the settings say so, on disk for the next one's.
What is remembered has the very bits that the encoders would give again.

Knows nothing of pictures, or of the transformer that reads the embeddings.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from dataclasses import replace
from typing import Any

import torch

from depthflux.engine import provenance
from depthflux.engine.conditioning import PromptEmbedding, encode_prompt
from depthflux.engine.kept import Kept
from depthflux.engine.prompt_store import PromptStore, StoredPrompt, prompt_folder
from depthflux.model.loading import Model
from depthflux.settings import EngineSettings

#: Prompts in host memory: 134 MB of FLUX's in bfloat16.
MOST_KEPT = 32
#: Raised when `encode_prompt` changes, so that what was stored before is passed over.
ENCODING_VERSION = 1
#: Components that decide a prompt's embeddings.
ENCODERS = ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")
#: Libraries that take part in encoding.
ENCODING_LIBRARIES = ("torch", "transformers", "tokenizers")


class PromptEncoder:
    """Encodes a model's prompts, and remembers those of the last requests."""

    def __init__(self, model: Model, settings: EngineSettings) -> None:
        """Remember nothing yet but what is on disk.

        Args:
            model: whose text encoders encode; they must stay as they were loaded.
            settings: how far to remember, and where the encoders run.
        """
        self._model = model
        self._remembers = settings.remember != "none"
        self._kept: Kept[PromptEmbedding] = Kept(MOST_KEPT if self._remembers else 0)
        folder = prompt_folder() if settings.remember == "disk" else None
        self._store = None if folder is None else PromptStore(folder)
        device = model.placement.device
        self._runs_on = torch.device("cpu") if settings.text_encoders == "cpu" else device
        self._identity = _identity(model) if self._remembers else {}

    def encode(self, prompt: str) -> PromptEmbedding:
        """A prompt's embeddings, on the model's device."""
        if not self._remembers:
            return encode_prompt(self._model, prompt)
        key = self._key(prompt)
        device = self._model.placement.device
        return _moved(self._kept.get(key, lambda: self._remember(key, prompt)), device)

    def forget(self) -> None:
        """Let go of what is in memory."""
        self._kept.clear()

    def _remember(self, key: str, prompt: str) -> PromptEmbedding:
        """The embeddings in host memory: from the disk, or encoded and written there."""
        stored = self._store.read(key) if self._store is not None else None
        if stored is not None:
            cut = prompt[stored.read_characters :]
            return PromptEmbedding(prompt, stored.tokens, stored.pooled, cut)
        made = _moved(encode_prompt(self._model, prompt), torch.device("cpu"))
        # A fault of a moment must not outlive it.
        if self._store is not None and _is_finite(made):
            read = len(prompt) - len(made.cut)
            self._store.write(key, StoredPrompt(made.tokens, made.pooled, read))
        return made

    def _key(self, prompt: str) -> str:
        """What decides the embeddings' bits, as 64 hexadecimal digits."""
        # The processor and its threads are asked now: a CPU's sums depend on their number.
        runs = provenance.describe_machine(self._runs_on)
        document = json.dumps([self._identity, runs, prompt], sort_keys=True)
        return hashlib.sha256(document.encode()).hexdigest()


def _identity(model: Model) -> dict[str, Any]:
    """The encoders and what runs them, but for the processor."""
    return {
        "encoding": ENCODING_VERSION,
        "sha256": {n: h for n, h in model.files.sha256.items() if n.split("/")[0] in ENCODERS},
        "dtypes": [str(model.text_encoder.dtype), str(model.text_encoder_2.dtype)],
        "tokens": model.max_prompt_tokens,
        "versions": {name: importlib.metadata.version(name) for name in ENCODING_LIBRARIES},
    }


def _moved(embedding: PromptEmbedding, device: torch.device) -> PromptEmbedding:
    return replace(
        embedding, tokens=embedding.tokens.to(device), pooled=embedding.pooled.to(device)
    )


def _is_finite(embedding: PromptEmbedding) -> bool:
    return bool(embedding.tokens.isfinite().all() and embedding.pooled.isfinite().all())
