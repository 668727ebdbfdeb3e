"""The optimiser and the pace of all stages: Muon for matrices, AdamW for the rest, a clock.

It knows nothing of what is trained.
"""

import math
import time
from collections.abc import Iterable
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

# Coefficients of the quintic iteration that drives all singular values towards one.
# Source: Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks".
_QUINTIC = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5


def orthogonalised(matrix: Tensor) -> Tensor:
    """The nearest matrix [M, N] whose singular values are all about one."""
    a, b, c = _QUINTIC
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    wide = wide / (wide.norm() + 1e-7)
    for _ in range(_ITERATIONS):
        gram = wide @ wide.T
        wide = a * wide + (b * gram + c * gram @ gram) @ wide
    return wide if matrix.shape[0] <= matrix.shape[1] else wide.T


class Muon(torch.optim.Optimizer):
    """Momentum with an orthogonalised update; convolutions are matrices [out, in * kernel]."""

    def __init__(
        self, parameters: Iterable[nn.Parameter], lr: float, momentum: float = 0.95
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": 0.01})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Applies one update."""
        del closure
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)

    def _update(self, parameter: nn.Parameter, group: dict[str, Any]) -> None:
        gradient = parameter.grad
        assert gradient is not None
        state = self.state[parameter]
        moment = state.setdefault("moment", torch.zeros_like(parameter))
        moment.lerp_(gradient, 1 - group["momentum"])
        ahead = gradient.lerp(moment, group["momentum"]).flatten(1)
        rows, columns = ahead.shape
        # Keeps the update's size per weight the same for all shapes, so that one learning rate
        # serves all.
        scale = math.sqrt(max(rows, columns)) * 0.2
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.add_(orthogonalised(ahead).view_as(parameter), alpha=-group["lr"] * scale)


class Trainer:
    """Two optimisers, a rate that follows the share of time used, and averaged weights.

    Attributes:
        average: the model with averaged weights: what is exported.
    """

    def __init__(
        self,
        model: nn.Module,
        matrices: list[nn.Parameter],
        *,
        muon: float,
        adamw: float,
        decay: float,
        budget_s: float,
    ) -> None:
        chosen = {id(parameter) for parameter in matrices}
        rest = [p for p in model.parameters() if p.requires_grad and id(p) not in chosen]
        self.model, self.average, self.decay, self.budget_s = (
            model,
            deepcopy(model),
            decay,
            budget_s,
        )
        self.optimisers: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(rest, lr=adamw, betas=(0.9, 0.98), weight_decay=0.01)
        ]
        if matrices:
            self.optimisers.append(Muon(matrices, lr=muon))
        self.peaks = [adamw, muon][: len(self.optimisers)]
        self.steps, self.used_s, self.started = 0, 0.0, time.monotonic()

    @property
    def share(self) -> float:
        """How much of the time budget is used, 0..1."""
        return min((self.used_s + time.monotonic() - self.started) / self.budget_s, 1.0)

    def step(
        self, loss: Tensor, *, warm_steps: int = 100, flat: float = 0.35, floor: float = 0.03
    ) -> None:
        """One update; the rate warms up, stays flat, then falls to `floor` of its peak."""
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        rate = min((self.steps + 1) / warm_steps, 1.0) * (
            1 - (1 - floor) * _cosine((self.share - flat) / (1 - flat))
        )
        for optimiser, peak in zip(self.optimisers, self.peaks, strict=True):
            for group in optimiser.param_groups:
                group["lr"] = peak * rate
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        self.steps += 1
        decay = min(self.decay, self.steps / (self.steps + 10))
        with torch.no_grad():
            for kept, new in zip(self.average.parameters(), self.model.parameters(), strict=True):
                kept.lerp_(new, 1 - decay)

    def save(self, path: Path) -> None:
        """Writes everything needed to go on, in one move."""
        state = {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
            "steps": self.steps,
            "used_s": self.used_s + time.monotonic() - self.started,
        }
        temporary = path.with_suffix(".partial")
        torch.save(state, temporary)
        temporary.replace(path)

    def resume(self, path: Path) -> bool:
        """Goes on from a file that `save` wrote; False if there is none."""
        if not path.exists():
            return False
        state = torch.load(path, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        self.steps, self.used_s, self.started = state["steps"], state["used_s"], time.monotonic()
        return True


def _cosine(share: float) -> float:
    return 0.5 - 0.5 * math.cos(math.pi * min(max(share, 0.0), 1.0))
