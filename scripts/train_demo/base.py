"""Trains the base model, a picture from a prompt. It knows latents and prompts, not pixels."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import FluxTransformer2DModel
from torch import Tensor, nn

from train_demo.flow import Batch, flow_loss
from train_demo.grammar import join, random_prompt
from train_demo.latents import LatentShelf
from train_demo.optimisation import Trainer
from train_demo.text import Encoders

# Spread of the three parts of the modulation signal. Untouched they are .098 (time), .08 (text)
# and, from the random guidance embedding, .09: the text drowns. Source: the measurements in
# docs/demo-model.md.
_TEXT_SPREAD, _TIME_SPREAD = 0.7, 0.5


@torch.no_grad()
def initialise(transformer: FluxTransformer2DModel, encoders: Encoders, prompts: list[str]) -> None:
    """Balances the modulation, starts blocks as the identity and silences guidance for good."""
    embed = transformer.time_text_embed
    pooled = encoders.encode(prompts)[1]
    embed.text_embedder.linear_2.weight.mul_(
        _TEXT_SPREAD / embed.text_embedder(pooled).std(dim=0).mean()
    )
    times = embed.time_proj(torch.linspace(0, 1000, 200))
    embed.timestep_embedder.linear_2.weight.mul_(
        _TIME_SPREAD / embed.timestep_embedder(times).std(dim=0).mean()
    )
    nn.init.zeros_(embed.guidance_embedder.linear_2.weight)
    nn.init.zeros_(embed.guidance_embedder.linear_2.bias)
    for name, module in transformer.named_modules():
        modulation = isinstance(module, nn.Linear) and ".norm" in f".{name}"
        if modulation or name == "proj_out":
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)


def freeze_guidance(transformer: FluxTransformer2DModel) -> None:
    """The guidance embedding stays zero: with it at random the text would drown in it."""
    transformer.time_text_embed.guidance_embedder.requires_grad_(False)


def block_matrices(transformer: FluxTransformer2DModel) -> list[nn.Parameter]:
    """Weights of attention and MLP in all blocks: what Muon is for."""
    return [
        parameter
        for name, parameter in transformer.named_parameters()
        if "blocks" in name and ".norm" not in name and parameter.ndim == 2
    ]


class Captions:
    """Batches of latents with freshly worded, encoded prompts."""

    def __init__(self, encoders: Encoders, seed: int) -> None:
        self.encoders, self.random = encoders, random.Random(seed)

    @torch.no_grad()
    def encode(self, shelf: LatentShelf, picks: list[tuple[int, bool]]) -> tuple[Tensor, Tensor]:
        """States and pooled vectors for (scene, mirrored) pairs."""
        scenes = [shelf.scene(index, mirror=mirror) for index, mirror in picks]
        return self.encoders.encode(
            [join(random_prompt(scene.words(), self.random)) for scene in scenes]
        )

    def batch(self, shelf: LatentShelf, count: int) -> Batch:
        """Random pictures of one shelf, half of them mirrored where mirrored latents exist."""
        picks = shelf.pick(count, self.random)
        states, pooled = self.encode(shelf, picks)
        return Batch(shelf.pictures(picks), states, pooled)


@dataclass(frozen=True)
class Phase:
    """What the base sees while the share of time used is below `until`.

    Attributes:
        until: share of the budget at which the next phase begins.
        shelves: names of latent shelves with their chance.
        count: pictures a step.
    """

    until: float
    shelves: dict[str, float]
    count: int


# A quarter of the tokens first: colours and layout are learned there four times as fast.
BASE_PHASES = (
    Phase(0.36, {"small-a": 0.5, "small-b": 0.5}, 48),
    Phase(1.01, {"square-a": 0.42, "square-b": 0.42, "tall": 0.1, "wide": 0.06}, 16),
)


def train_base(
    transformer: FluxTransformer2DModel,
    captions: Captions,
    shelf_of: Callable[[str], LatentShelf],
    checkpoint: Path,
    budget_s: float,
) -> FluxTransformer2DModel:
    """Trains until the time is used; returns the averaged model.

    Args:
        transformer: initialised by `initialise`.
        captions: the source of batches.
        shelf_of: gives a latent shelf by name.
        checkpoint: written every 200 steps, and read if it exists.
        budget_s: seconds, over all resumptions.
    """
    freeze_guidance(transformer)
    trainer = Trainer(
        transformer,
        block_matrices(transformer),
        muon=2.5e-3,
        adamw=1.5e-3,
        decay=0.995,
        budget_s=budget_s,
    )
    trainer.resume(checkpoint)
    seen: list[float] = []
    while (share := trainer.share) < 1:
        phase = next(phase for phase in BASE_PHASES if share < phase.until)
        name = captions.random.choices(list(phase.shelves), weights=list(phase.shelves.values()))[0]
        loss = flow_loss(transformer, captions.batch(shelf_of(name), phase.count)).mean()
        trainer.step(loss)
        seen.append(loss.item())
        if trainer.steps % 50 == 0:
            print(f"{trainer.steps} share {share:.3f} loss {sum(seen) / len(seen):.4f}")
            seen.clear()
        if trainer.steps % 200 == 0:
            trainer.save(checkpoint)
    trainer.save(checkpoint)
    return trainer.average
