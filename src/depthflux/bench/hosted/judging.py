"""Who judges the pictures, and what they say of one picture or of two.

The same objects judge both sides. What cannot be judged here, as for want of a model, has its
reason instead. Knows nothing of sides, and nothing of what is made of the figures.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from depthflux.bench.hosted.controls import control_file
from depthflux.bench.hosted.folder import RunFolder
from depthflux.bench.hosted.plan import ContestPlan, Task
from depthflux.bench.hosted.run_files import DEPTH, inside
from depthflux.bench.hosted.suites import Case
from depthflux.bench.quality.figures import Measured
from depthflux.contract.request import parse_size
from depthflux.images import IsolatedDecoder, ReadLimits, SourceImage, read_image
from depthflux.settings import EngineSettings

if TYPE_CHECKING:
    from depthflux.bench.quality.closeness import Closeness, PerceptualDistance
    from depthflux.bench.quality.prompt_agreement import PromptAgreement
    from depthflux.bench.quality.structure import Structure

#: A picture of 1536*1536 as PNG has 7 MB.
_LIMITS = ReadLimits(max_bytes=64 * 2**20)
_FLAGGED = "the picture is flagged"


@dataclass(frozen=True)
class Judged:
    """What is said of one picture.

    Attributes:
        structure: agreement of its depth with the control image's.
        prompt_agreement: with its prompt.
        depth_file: the depth that was estimated, in the run's folder; empty without.
    """

    structure: Measured
    prompt_agreement: Measured
    depth_file: str


@dataclass(frozen=True)
class Apart:
    """How far two pictures lie apart.

    Attributes:
        closeness: pixel by pixel.
        lpips: as seen.
    """

    closeness: Closeness
    lpips: Measured


class Judges:
    """Everybody who judges, loaded once.

    Attributes:
        structure: None where there is no estimator.
        prompts: None where there is no CLIP model.
        distance: None where LPIPS cannot be measured.
        missing: why there is none, by these names.
        judge_is_local: whether who judges structure also makes the local side's control images.
    """

    def __init__(
        self,
        folder: RunFolder,
        *,
        structure: Structure | None,
        prompts: PromptAgreement | None,
        distance: PerceptualDistance | None,
        missing: dict[str, str],
        judge_is_local: bool,
    ) -> None:
        """Judge the pictures of a run's folder."""
        self._folder = folder
        self.structure, self.prompts, self.distance = structure, prompts, distance
        self.missing, self.judge_is_local = missing, judge_is_local
        self._decoder = IsolatedDecoder()
        self._control: tuple[str, SourceImage] | None = None
        self._control_depths: dict[tuple[str, tuple[int, int]], NDArray[np.float32]] = {}

    @classmethod
    def load(cls, folder: RunFolder, plan: ContestPlan, settings: EngineSettings) -> Judges:
        """Load what is there, on the CPU, so that the same figures come out anywhere.

        Args:
            folder: the run's.
            plan: which names an estimator and a CLIP model, or leaves them to be looked for.
            settings: of the local side, which say where they are looked for.

        Raises:
            WeightsMissingError: a folder that was named lacks files.
            WeightsCorruptError: files that are there are not what they should be.
        """
        from depthflux.bench.quality.closeness import PerceptualDistance, find_alexnet
        from depthflux.bench.quality.prompt_agreement import PromptAgreement, find_clip
        from depthflux.bench.quality.structure import Structure, find_judge, is_same_estimator

        missing: dict[str, str] = {}

        def loaded(name: str, found: Any, load: Callable[[Path], Any]) -> Any:
            if found.path is None:
                missing[name] = found.missing
                return None
            return load(found.path)

        judge, local = find_judge(plan.estimator, settings), find_judge(None, settings)
        return cls(
            folder,
            structure=loaded("structure", judge, Structure.load),
            prompts=loaded(
                "prompt_agreement", find_clip(plan.clip, settings.weights_dir), PromptAgreement.load
            ),
            distance=loaded("lpips", find_alexnet(), PerceptualDistance.load),
            missing=missing,
            judge_is_local=judge.path is not None
            and local.path is not None
            and is_same_estimator(judge.path, local.path),
        )

    def __enter__(self) -> Self:
        """Judge within a block."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the process that decodes."""
        self._decoder.close()

    def pixels(self, file: str) -> NDArray[np.uint8]:
        """A picture of the run's folder, uint8 [H, W, 3]; decoded in a process of its own.

        Raises:
            UnreadableImageError: it is no usable picture.
        """
        return self._read(file).rgb

    def judge(self, task: Task, file: str, rgb: NDArray[np.uint8], *, is_flagged: bool) -> Judged:
        """Judge one picture; a flagged one may be anything, such as a placeholder, and is not.

        Args:
            task: that it was painted for.
            file: its path in the run's folder, beside which its depth is written.
            rgb: its pixels, uint8 [H, W, 3].
            is_flagged: whether its side calls it not safe for work.
        """
        if is_flagged:
            return Judged(Measured(None, _FLAGGED), Measured(None, _FLAGGED), "")
        structure, depth_file = self._judge_structure(task, file, rgb)
        if self.prompts is None:
            agreement = Measured(None, self.missing["prompt_agreement"])
        else:
            agreement = Measured(self.prompts.score(rgb, str(task.fields["prompt"])))
        return Judged(structure, agreement, depth_file)

    def compare(self, first: NDArray[np.uint8], second: NDArray[np.uint8]) -> Apart:
        """How far two pictures lie apart, uint8 [H, W, 3] each."""
        from depthflux.bench.quality.closeness import closeness

        if self.distance is None:
            lpips = Measured(None, self.missing["lpips"])
        else:
            lpips = self.distance.distance(first, second)
        return Apart(closeness(first, second), lpips)

    def draw_control_depth(self, case: Case) -> str:
        """Write a case's depth in the asked size; its path in the folder, empty without."""
        if self.structure is None:
            return ""
        from depthflux.bench.quality.structure import depth_png

        name = f"{DEPTH}/{case.name}.png"
        size = parse_size(str(case.fields["size"]))
        self._folder.write(name, depth_png(self._control_depth(case, size)))
        return name

    def _judge_structure(
        self, task: Task, file: str, rgb: NDArray[np.uint8]
    ) -> tuple[Measured, str]:
        if self.structure is None:
            return Measured(None, self.missing["structure"]), ""
        from depthflux.bench.quality.structure import agreement, depth_png

        depth = self.structure.depth(rgb)
        height, width = rgb.shape[:2]
        measured = agreement(depth, self._control_depth(task.case, (width, height)))
        name = f"{file.rpartition('.')[0]}-depth.png"
        self._folder.write(name, depth_png(depth))
        return measured, name

    def _control_depth(self, case: Case, size: tuple[int, int]) -> NDArray[np.float32]:
        """A case's depth in a picture's size, estimated once for all pictures of that size."""
        key = case.name, size
        if key not in self._control_depths and self.structure is not None:
            # One case at a time is judged, and a map has 9 MB.
            if any(name != case.name for name, _ in self._control_depths):
                self._control_depths.clear()
            self._control_depths[key] = self.structure.control_depth(
                self._read(control_file(self._folder, case)),
                size,
                is_supplied=not case.fields.get("preprocess_depth", True),
                is_inverted=bool(case.fields.get("invert_depth", False)),
            )
        return self._control_depths[key]

    def _read(self, file: str) -> SourceImage:
        return read_image(
            inside(self._folder.path, file),
            limits=_LIMITS,
            field=file,
            decoder=self._decoder.decode,
        )
