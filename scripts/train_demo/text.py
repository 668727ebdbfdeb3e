"""Trains the two text encoders to say which colour and shape belong to what, then they stay frozen.

It knows prompts only. Trained together with the base they forget which colour belongs to which
noun, so they are taught by fixed codes instead: every T5 token should carry the colour, the shape
and the place in the sentence of the thing it is about, and CLIP's pooled vector all of them at
once.
"""

import random
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer, T5EncoderModel, T5Tokenizer

from train_demo.architecture import SIZES, build_clip, build_t5
from train_demo.grammar import (
    COLOURS,
    MAX_OBJECTS,
    SHAPE_WORDS,
    SHAPES,
    Piece,
    Words,
    join,
    random_prompt,
)
from train_demo.optimisation import Trainer
from train_demo.scenes import sample_scene
from train_demo.tokenization import build_clip_tokenizer, build_t5_tokenizer

_ENTITIES = MAX_OBJECTS + 2
_NO_COLOUR, _NO_SHAPE, _NO_ENTITY = len(COLOURS), len(SHAPES), _ENTITIES
_SHAPE_OF = {word: shape for shape, words in SHAPE_WORDS.items() for word in words}


@dataclass
class Encoders:
    """Both encoders with their tokenizers, used as FLUX uses them: padded, without a mask."""

    clip: CLIPTextModel
    t5: T5EncoderModel
    clip_tokenizer: CLIPTokenizer
    t5_tokenizer: T5Tokenizer

    @classmethod
    def untrained(cls) -> "Encoders":
        """Both at the demo's size."""
        size = SIZES["demo"]
        return cls(build_clip(size), build_t5(size), build_clip_tokenizer(), build_t5_tokenizer())

    def encode(self, prompts: list[str]) -> tuple[Tensor, Tensor]:
        """Token states [B, 32, 128] of T5 and pooled vectors [B, 128] of CLIP."""
        states = self.t5(_ids(self.t5_tokenizer, prompts))[0]
        return states, self.clip(_ids(self.clip_tokenizer, prompts)).pooler_output


class _Both(nn.Module):
    """The two encoders as one module, for one optimiser."""

    def __init__(self, encoders: Encoders) -> None:
        super().__init__()
        self.clip, self.t5 = encoders.clip, encoders.t5


class Codes:
    """Fixed orthogonal directions, one a fact, and the vectors that a prompt should become."""

    def __init__(self, width: int) -> None:
        self.width = width
        facts = torch.linalg.qr(
            torch.randn(width, width, generator=torch.Generator().manual_seed(7))
        )[0]
        token_sizes = (len(COLOURS) + 1, _ENTITIES + 1, len(SHAPES) + 1)
        self.token = facts[: sum(token_sizes)].split(token_sizes)
        pooled_sizes = (len(COLOURS) + 1,) * _ENTITIES + (len(SHAPES) + 1,) * MAX_OBJECTS
        self.pooled = facts[: sum(pooled_sizes)].split(pooled_sizes)

    def of_token(self, colour: int, entity: int, shape: int) -> Tensor:
        """Target [width] of one T5 token, of unit variance."""
        parts = zip(self.token, (colour, entity, shape), strict=True)
        return sum(table[index] for table, index in parts) * (self.width / len(self.token)) ** 0.5

    def of_prompt(self, facts: list[int]) -> Tensor:
        """Target [width] of CLIP's pooled vector, of unit variance, without the mean over facts."""
        parts = zip(self.pooled, facts, strict=True)
        vector = sum(table[index] - table.mean(dim=0) for table, index in parts)
        return vector * (self.width / len(self.pooled)) ** 0.5


def facts_of(pieces: list[Piece]) -> tuple[list[int], list[int]]:
    """Colour of the five entities and shape of the objects, as indices; the last means none."""
    colours, shapes = [_NO_COLOUR] * _ENTITIES, [_NO_SHAPE] * MAX_OBJECTS
    for piece in pieces:
        word = piece.text.rstrip(",")
        if piece.entity >= 0 and word in COLOURS:
            colours[piece.entity] = COLOURS.index(word)
        if 0 <= piece.entity < MAX_OBJECTS and word in _SHAPE_OF:
            shapes[piece.entity] = SHAPES.index(_SHAPE_OF[word])
    return colours, shapes


class Lessons:
    """Batches of prompts with what each encoder should answer."""

    def __init__(self, codes: Codes, encoders: Encoders, seed: int) -> None:
        self.codes, self.encoders, self.random = codes, encoders, random.Random(seed)

    def batch(self, count: int) -> tuple[list[str], Tensor, Tensor]:
        """Prompts, token targets [count, 32, width] and pooled targets [count, width]."""
        all_pieces = [random_prompt(self._words(), self.random) for _ in range(count)]
        tokens = torch.stack([self._token_targets(pieces) for pieces in all_pieces])
        pooled = torch.stack([self._pooled_target(pieces) for pieces in all_pieces])
        return [self._spelling(join(pieces)) for pieces in all_pieces], tokens, pooled

    def _words(self) -> Words:
        return sample_scene(self.random).words()

    def _spelling(self, prompt: str) -> str:
        """Upper case and full stops as people use them."""
        style = self.random.random()
        if style < 0.15:
            return prompt[:1].upper() + prompt[1:]
        return prompt.title() if style < 0.18 else prompt

    def _token_targets(self, pieces: list[Piece]) -> Tensor:
        tokenizer = self.encoders.t5_tokenizer
        colours, shapes = facts_of(pieces)
        none = self.codes.of_token(_NO_COLOUR, _NO_ENTITY, _NO_SHAPE)
        targets: list[Tensor] = []
        for piece in pieces:
            count = len(tokenizer(piece.text, add_special_tokens=False).input_ids)
            target = none
            if piece.entity >= 0:
                shape = shapes[piece.entity] if piece.entity < MAX_OBJECTS else _NO_SHAPE
                target = self.codes.of_token(colours[piece.entity], piece.entity, shape)
            targets += [target] * count
        length = tokenizer.model_max_length
        targets = targets[: length - 1]
        return torch.stack(targets + [none] * (length - len(targets)))

    def _pooled_target(self, pieces: list[Piece]) -> Tensor:
        colours, shapes = facts_of(pieces)
        return self.codes.of_prompt([*colours, *shapes])


def train_text(encoders: Encoders, checkpoint: Path, budget_s: float, seed: int) -> None:
    """Teaches both encoders the codes until the time is used; `encoders` keeps the averages."""
    codes = Codes(encoders.t5.config.d_model)
    lessons = Lessons(codes, encoders, seed)
    trainer = Trainer(_Both(encoders), [], muon=0.0, adamw=2e-3, decay=0.99, budget_s=budget_s)
    trainer.resume(checkpoint)
    while trainer.share < 1:
        prompts, token_targets, pooled_targets = lessons.batch(64)
        tokens, pooled = encoders.encode(prompts)
        loss = (tokens - token_targets).square().mean() + (pooled - pooled_targets).square().mean()
        trainer.step(loss)
        if trainer.steps % 100 == 0:
            print(f"{trainer.steps} share {trainer.share:.3f} loss {loss.item():.4f}")
    trainer.save(checkpoint)
    encoders.clip, encoders.t5 = trainer.average.clip, trainer.average.t5


@torch.no_grad()
def probe(encoders: Encoders, count: int, seed: int) -> dict[str, float]:
    """Share of facts that the nearest code reads back from unseen prompts.

    Returns:
        "t5_colour": colour at every token about something; "clip": every fact in the pooled vector.
    """
    codes = Codes(encoders.t5.config.d_model)
    lessons = Lessons(codes, encoders, seed)
    prompts, token_targets, pooled_targets = lessons.batch(count)
    tokens, pooled = encoders.encode(prompts)
    told, asked = ((states @ codes.token[0].T).argmax(-1) for states in (tokens, token_targets))
    about = asked != _NO_COLOUR
    pooled_right = [
        ((pooled @ table.T).argmax(-1) == (pooled_targets @ table.T).argmax(-1)).float().mean()
        for table in codes.pooled
    ]
    return {
        "t5_colour": (told == asked)[about].float().mean().item(),
        "clip": torch.stack(pooled_right).mean().item(),
        "clip_worst": torch.stack(pooled_right).min().item(),
    }


def _ids(tokenizer: CLIPTokenizer | T5Tokenizer, prompts: list[str]) -> Tensor:
    return tokenizer(
        prompts,
        padding="max_length",
        max_length=tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    ).input_ids
