"""`depthflux demo`: the packaged miniature on a packaged picture, source to result on one sheet.

It always runs the miniature, whatever weights are there, and says so.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from depthflux.cli.generate import paint, summary, warn_about_withheld
from depthflux.cli.inputs import early_settings, fill_from_standard_input, with_source
from depthflux.cli.messages import say, verbose_option
from depthflux.cli.options import given_fields, json_option, request_options
from depthflux.cli.outputs import echo_json, output_folder
from depthflux.contract import DEMO_MODEL, GenerationRequest
from depthflux.files import write_atomically

if TYPE_CHECKING:
    from PIL.Image import Image

    from depthflux.contract import Prediction

#: The prompt names what the packaged picture shows, in other colours: so it is seen at a glance
#: that the shapes come from the depth and the colours from the words. A fixed seed, so that the
#: first picture a person makes is the one the documentation shows.
DEFAULTS = {
    "prompt": "a red cube and a yellow sphere on a green floor, white sky",
    "seed": 0,
    "size": "512*512",
}
#: Said again beside the profile, since DEPTHFLUX_MODEL would win over the profile alone.
SETTINGS = {"model": "demo", "control_lora": None, "depth_estimator": None}
NEXT_COMMAND = (
    'depthflux generate --profile demo --prompt "a blue cube and a pink sphere on a yellow floor" '
    '--control-image PICTURE --size "512*512"'
)

EPILOG = """\b
Examples:
  depthflux demo
  depthflux demo --prompt "a blue cube and a pink sphere on a yellow floor" --seed 3
  depthflux demo --num-images 2 --steps 12 --out pictures
"""


def demo_source() -> Path:
    """The packaged control image, a rendered toy scene of 512 by 512 pixels."""
    return Path(__file__).parent / "demo_source.png"


@click.command(epilog=EPILOG)
@request_options(
    ("prompt", "control_image", "seed", "size", "num_inference_steps", "num_images"),
    defaults=DEFAULTS,
    shown={"control_image": "the packaged picture"},
    aliases={"num_inference_steps": "--steps"},
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default="out",
    show_default=True,
    metavar="DIR",
    help="Where the sheet is written.",
)
@json_option
@verbose_option
@click.pass_context
def demo(ctx: click.Context, out: Path, as_json: bool) -> None:
    """Run the packaged miniature on a packaged picture.

    Writes source image, depth map and pictures side by side as one PNG and prints its path. The
    miniature (depthflux/demo) goes FLUX's whole way in seconds on any CPU, but it is not FLUX: it
    paints coloured cubes, spheres, cylinders and cones on a floor, nothing else.
    """
    given = fill_from_standard_input(given_fields(ctx), "demo", SETTINGS)
    request = GenerationRequest(**{"control_image": demo_source(), **DEFAULTS, **given})
    request = with_source(request, early_settings("demo", SETTINGS))
    with output_folder(out) as folder:
        prediction = paint(request, "demo", SETTINGS)
        path = folder / f"demo-{prediction.id[:8]}.png"
        write_atomically(path, _sheet_file(prediction))
    warn_about_withheld(prediction)
    say(summary(prediction))
    say(f"{DEMO_MODEL} is the packaged miniature: toy scenes only, no substitute for FLUX.1-dev.")
    say(f"Next: {NEXT_COMMAND}")
    if as_json:
        echo_json(_document(path, prediction))
    else:
        click.echo(str(path))


def _sheet_file(prediction: Prediction) -> bytes:
    from depthflux.cli.sheet import compose_sheet
    from depthflux.images import encode_image

    return encode_image(compose_sheet(_panels(prediction)), "png")


def _panels(prediction: Prediction) -> list[tuple[Image, str]]:
    from PIL import Image

    source = Image.fromarray(prediction.request.control_image.rgb)
    seeds = prediction.request.picture_seeds()
    return [
        (source, "source image"),
        (prediction.depth_map, "depth map, near = white"),
        *(
            (picture, f"{prediction.model}, seed {seed}\n{_one_line(prediction.request.prompt)}")
            for picture, seed in zip(prediction.images, seeds, strict=True)
        ),
    ]


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _document(path: Path, prediction: Prediction) -> dict[str, Any]:
    return {
        "path": str(path),
        "model": prediction.model,
        "prompt": prediction.request.prompt,
        "size": prediction.request.size,
        "seeds": prediction.request.picture_seeds(),
        "has_nsfw_contents": prediction.has_nsfw_contents,
        "timings": prediction.timings,
        "next": NEXT_COMMAND,
    }
