"""Draws what a person looks at: the contact sheet and the example pictures. It measures nothing."""

import random
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw

from train_demo.grammar import Words, canonical_prompt
from train_demo.measure import SCALES, SIDE, STEPS, Case, Demo, as_image, unseen_cases
from train_demo.pictures import HELD_OUT_SEED
from train_demo.render import render
from train_demo.scenes import Scene, sample_scene

_CELL, _LABEL = 256, 22
_TALL = (864, 1636)


@dataclass(frozen=True)
class Example:
    """One picture of examples/.

    Attributes:
        name: of its files, `<name>.png` and `<name>-depth.png`.
        count: how many objects it shows.
        offset: of its scene's seed, beyond those that were trained on.
        size: width and height in pixels.
        files: which of `picture` and `depth` are written.
    """

    name: str
    count: int
    offset: int
    size: tuple[int, int] = (1024, 1024)
    files: tuple[str, ...] = ("picture", "depth")


_PICTURE = ("picture",)
# The first three show the demo; the others give the suites of `bench hosted` a picture for every
# case, in the shape of its size. Each scene was chosen for objects that are whole and apart.
_EXAMPLES = (
    Example("one-object", 1, 21),
    Example("two-objects", 2, 22),
    Example("three-objects", 3, 23),
    Example("tall-pair", 2, 227, (648, 1227), _PICTURE),
    Example("portrait-sphere", 1, 124, (720, 960), _PICTURE),
    Example("portrait-cone", 1, 128, (624, 912), _PICTURE),
    Example("upright-pair", 2, 225, (896, 1120), _PICTURE),
    Example("square-trio", 3, 325, (896, 896), _PICTURE),
    Example("landscape-cone", 1, 126, (1152, 864), _PICTURE),
    Example("landscape-pair", 2, 224, (1216, 832), _PICTURE),
    Example("wide-trio", 3, 326, (1344, 768), _PICTURE),
    Example("supplied", 3, 329, (1024, 1024), ("depth",)),
)


def contact_sheet(folder: Path, path: Path, *, rows: int = 8) -> None:
    """One row a scene: ray-cast picture, depth map, a picture at each scale; below, a tall one.

    Args:
        folder: the demo folder.
        path: PNG to write.
        rows: how many square scenes.
    """
    demo, cases = Demo(folder), unseen_cases(rows)
    columns: list[list[Image.Image]] = [
        [as_image(case.picture.colour), case.control] for case in cases
    ]
    for scale in SCALES:
        demo.set_scale(scale)
        for row, case in zip(columns, cases, strict=True):
            row.append(
                as_image(demo.draw(canonical_prompt(case.scene.words()), case.control, case.seed))
            )
    demo.set_scale(1.0)
    tall = _tall_case()
    tall_row = [as_image(tall.picture.colour), tall.control]
    prompt = canonical_prompt(tall.scene.words())
    tall_row += [as_image(demo.draw(prompt, tall.control, seed, steps=28)) for seed in (0, 1)]
    path.parent.mkdir(parents=True, exist_ok=True)
    _assemble(columns, cases, tall_row, tall).save(path, optimize=True)


def _tall_case() -> Case:
    seed = HELD_OUT_SEED + 500
    width, height = _TALL
    scene = sample_scene(random.Random(seed), aspect=width / height, count=2)
    return Case(scene, render(scene, height // 32 * 32, width), seed)


def _assemble(
    columns: list[list[Image.Image]], cases: list[Case], tall_row: list[Image.Image], tall: Case
) -> Image.Image:
    heads = ["ray-cast", "depth map", *(f"control_scale {scale}" for scale in SCALES)]
    tall_height = round(_CELL * tall.control.height / tall.control.width)
    total = _LABEL + len(cases) * (_CELL + _LABEL) + _LABEL + tall_height
    sheet = Image.new("RGB", (_CELL * len(heads), total), "white")
    pen = ImageDraw.Draw(sheet)
    for index, head in enumerate(heads):
        pen.text((index * _CELL + 6, 5), head, fill="black")
    top = _LABEL
    for row, case in zip(columns, cases, strict=True):
        for index, picture in enumerate(row):
            sheet.paste(
                picture.resize((_CELL, _CELL), Image.Resampling.LANCZOS), (index * _CELL, top)
            )
        pen.text(
            (6, top + _CELL + 4),
            canonical_prompt(case.scene.words()) + f" ({SIDE}x{SIDE}, {STEPS} steps)",
            fill="black",
        )
        top += _CELL + _LABEL
    for index, picture in enumerate(tall_row):
        sheet.paste(
            picture.resize((_CELL, tall_height), Image.Resampling.LANCZOS), (index * _CELL, top)
        )
    words = canonical_prompt(tall.scene.words())
    pen.text(
        (6, top + tall_height + 4),
        f"{words} ({tall.control.width}x{tall.control.height}, 28 steps, scale 1)",
        fill="black",
    )
    return sheet


def write_examples(folder: Path) -> None:
    """Writes unseen source pictures, depth maps, and prompts asking for other colours."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for example in _EXAMPLES:
        width, height = example.size
        scene = sample_scene(
            random.Random(HELD_OUT_SEED + example.offset),
            aspect=width / height,
            count=example.count,
        )
        lines += _write_example(folder, example, scene)
    (folder / "prompts.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _write_example(folder: Path, example: Example, scene: Scene) -> list[str]:
    """Writes an example's files; the lines of two prompts for it."""
    width, height = example.size
    case = Case(scene, render(scene, height, width, rays=3), example.offset)
    name = f"{example.name}.png"
    if "depth" in example.files:
        case.control.convert("L").save(folder / f"{example.name}-depth.png", optimize=True)
    if "picture" in example.files:
        as_image(case.picture.colour).save(folder / name, optimize=True)
    else:
        name = f"{example.name}-depth.png"
    other = sample_scene(random.Random(example.offset), count=example.count).words()
    repainted = [
        (colour, shape)
        for (colour, _), (_, shape) in zip(other.objects, scene.words().objects, strict=True)
    ]
    asked = Words(tuple(repainted), other.floor, other.sky)
    return [f"{name}: {canonical_prompt(words)}" for words in (scene.words(), asked)]
