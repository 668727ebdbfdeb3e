"""The cases of comparisons that were made up, and their pictures in the run's folder."""

from __future__ import annotations

import random
from pathlib import Path

from PIL import Image, ImageEnhance, ImageFilter

from depthflux.bench.document import CaseFigures, PictureFigures

EXAMPLES = Path(__file__).parents[4] / "examples"
SCENES = ("one-object", "two-objects", "three-objects")
PROMPTS = (
    "a red cube on a wooden table, soft window light",
    "two glass bottles in front of a white wall, studio photograph",
    "three stones in a garden of raked sand, early morning",
)
CASES = 12
SIDE = 384


def make_cases(
    folder: Path, sides: tuple[str, str], *, repeat: int, lost: set[str], is_equal: bool = False
) -> list[CaseFigures]:
    """Cases whose pictures, controls and depth maps are written into the folder."""
    drawn = random.Random(7)
    cases = []
    for number in range(CASES):
        name, scene = f"case-{number:02}", SCENES[number % len(SCENES)]
        _write(folder, f"control/{name}.png", _example(scene))
        _write(folder, f"control/{name}-depth.png", _example(f"{scene}-depth"))
        pairs = [
            _pair(folder, f"{name}-{turn}", scene, sides, drawn, lost, is_equal)
            for turn in range(repeat)
        ]
        cases.append(
            CaseFigures(
                name=name,
                fields={
                    "prompt": PROMPTS[number % len(PROMPTS)],
                    "size": "1024*1024",
                    "num_inference_steps": 28,
                    "guidance_scale": 3.5,
                    "seed": 100 + number,
                },
                control_file=f"control/{name}.png",
                depth_file=f"control/{name}-depth.png",
                pictures=[pair for pair in pairs if pair.files],
                total_seconds={
                    sides[0]: round(drawn.uniform(6.4, 9.0), 3),
                    sides[1]: round(drawn.uniform(4.0, 5.2), 3),
                },
            )
        )
    return cases


def _pair(
    folder: Path,
    task: str,
    scene: str,
    sides: tuple[str, str],
    drawn: random.Random,
    lost: set[str],
    is_equal: bool,
) -> PictureFigures:
    there = [side for side in sides if side != sides[0] or task not in lost]
    files, depth_files = {}, {}
    for side in there:
        # The first side in the morning, the second at night, so that a test can tell them apart.
        strength = 1.25 if side == sides[0] and not is_equal else 0.55
        extension = "jpg" if side == "hosted" else "png"
        files[side] = f"{side}/{task}/0.{extension}"
        depth_files[side] = f"{side}/{task}/0-depth.png"
        picture = ImageEnhance.Brightness(_example(scene)).enhance(strength)
        _write(folder, files[side], picture)
        blurred = _example(f"{scene}-depth").filter(ImageFilter.GaussianBlur(3))
        _write(folder, depth_files[side], blurred)
    whole = len(there) == len(sides)
    return PictureFigures(
        task=task,
        index=0,
        seed=drawn.randrange(2**31),
        files=files,
        depth_files=depth_files,
        structure={side: round(drawn.uniform(0.86, 0.97), 4) for side in there},
        prompt_agreement={side: round(drawn.uniform(28, 34), 2) for side in there},
        ssim=(1.0 if is_equal else 0.41) if whole else None,
        psnr_db=(None if is_equal else 13.2) if whole else None,
        lpips=None,
        is_equal=is_equal if whole else None,
        flagged=dict.fromkeys(there, False),
    )


def _example(name: str) -> Image.Image:
    with Image.open(EXAMPLES / f"{name}.png") as picture:
        return picture.resize((SIDE, SIDE))


def _write(folder: Path, file: str, picture: Image.Image) -> None:
    path = folder / file
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)
