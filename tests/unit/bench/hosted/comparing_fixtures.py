"""Two sides' recordings with judges that are a test's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from run_fixtures import completed, facts, make_suite, picture, tasks_of_suite

from depthflux.bench.hosted.comparing import Comparison, compare
from depthflux.bench.hosted.controls import write_controls
from depthflux.bench.hosted.folder import RunFolder
from depthflux.bench.hosted.judging import Judges
from depthflux.bench.hosted.measures import Recorded
from depthflux.bench.quality.structure import Structure
from depthflux.depth.estimator import EstimatorCard

CARD = EstimatorCard("brightness", "a test", "MIT", "disparity", 512)
SIZE = (64, 80)
NAMES = tuple(f"case-{number}" for number in range(6))


class Brightness:
    """An estimator to which bright is near."""

    card = CARD
    folder = Path()

    def estimate(self, rgb: np.ndarray) -> np.ndarray:
        return rgb[..., 0].astype(np.float32)


class Letters:
    """A judge of prompts who likes bright pictures; a prompt of more than ten letters is cut."""

    how = "Mean brightness."

    def score(self, rgb: np.ndarray, prompt: str) -> float:
        del prompt
        return float(rgb.mean())

    def is_cut(self, prompt: str) -> bool:
        return len(prompt) > 10


class Comparing:
    """Two sides of a suite in one folder."""

    def __init__(self, path: Path, names: tuple[str, ...] = NAMES, **fields: Any) -> None:
        self.folder = RunFolder(path / "run")
        self.folder.path.mkdir()
        self.suite = make_suite(path, names, **fields)
        write_controls(self.suite, self.folder)
        self.tasks = tasks_of_suite(self.suite)
        self.outcomes: dict[str, dict[str, Any]] = {"hosted": {}, "local": {}}

    def give(self, side: str, number: int, *, at: float = 10.0, **more: Any) -> None:
        task = self.tasks[number]
        # A tenth of what is asked for: nobody here minds, and judging is quick.
        more.setdefault("data", picture(size=SIZE))
        self.outcomes[side][task.key] = completed(self.folder, side, task, at=at, **more)

    def compare(
        self,
        *,
        prompts: Any = None,
        same_noise: bool = False,
        judge_is_local: bool = False,
        asked: dict[str, Any] | None = None,
        models: tuple[str, str] = ("depthflux/demo", "depthflux/demo"),
    ) -> Comparison:
        missing = {"prompt_agreement": "no CLIP here", "lpips": "no AlexNet here"}
        judges = Judges(
            self.folder,
            structure=Structure(Brightness()),
            prompts=prompts,
            distance=None,
            missing={name: why for name, why in missing.items() if name == "lpips" or not prompts},
            judge_is_local=judge_is_local,
        )
        known = (
            facts(
                "hosted",
                profile="demo" if same_noise else "",
                model=models[0],
                **(asked or {}),
            ),
            facts("local", profile="exact", model=models[1]),
        )
        sides = tuple(
            Recorded(one, tuple(self.tasks), self.outcomes[one.name], frozenset()) for one in known
        )
        with judges:
            return compare(
                self.suite,
                sides,  # type: ignore[arg-type]
                self.folder,
                judges,
                say=lambda _: None,
            )
