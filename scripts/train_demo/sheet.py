"""Draws what a person looks at: the contact sheet and the example pictures. It measures nothing."""

import random
from pathlib import Path

from PIL import Image, ImageDraw

from train_demo.grammar import canonical_prompt
from train_demo.measure import SCALES, SIDE, STEPS, Case, Demo, as_image, unseen_cases
from train_demo.pictures import HELD_OUT_SEED
from train_demo.render import render
from train_demo.scenes import sample_scene

_CELL, _LABEL = 256, 22
_EXAMPLE_SIDE = 1024
_EXAMPLES = (("one-object", 1, 21), ("two-objects", 2, 22), ("three-objects", 3, 23))
_TALL = (864, 1636)


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
    """Writes unseen source pictures, their depth maps, and prompts asking for other colours."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for name, count, offset in _EXAMPLES:
        scene = sample_scene(random.Random(HELD_OUT_SEED + offset), count=count)
        picture = render(scene, _EXAMPLE_SIDE, _EXAMPLE_SIDE, rays=3)
        case = Case(scene, picture, offset)
        as_image(picture.colour).save(folder / f"{name}.png", optimize=True)
        case.control.convert("L").save(folder / f"{name}-depth.png", optimize=True)
        lines.append(f"{name}.png: {canonical_prompt(scene.words())}")
        other = sample_scene(random.Random(offset), count=count).words()
        repainted = [
            (colour, shape)
            for (colour, _), (_, shape) in zip(other.objects, scene.words().objects, strict=True)
        ]
        lines.append(
            f"{name}.png: {canonical_prompt(type(other)(tuple(repainted), other.floor, other.sky))}"
        )
    (folder / "prompts.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
