"""`depthflux depth`: a picture → its depth map as the model would be given it, near = white.

Loads the estimator alone, not the model beside it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from depthflux.cli.inputs import (
    STANDARD_INPUT,
    early_settings,
    read_source,
    read_standard_input,
)
from depthflux.cli.messages import say, verbose_option
from depthflux.cli.options import (
    given_fields,
    given_settings,
    json_option,
    profile_option,
    request_options,
    setting_options,
)
from depthflux.cli.outputs import check_new_file, echo_json
from depthflux.contract import GenerationRequest
from depthflux.errors import OutputError
from depthflux.files import make_folder, write_atomically

if TYPE_CHECKING:
    from PIL.Image import Image

    from depthflux.depth import EstimatorCard
    from depthflux.images import SourceImage

EPILOG = """\b
Examples:
  depthflux depth room.jpg --out room-depth.png
  depthflux depth room.jpg --out room-depth.png --size "1024*768" --fit cover --force
  depthflux depth https://example.com/room.jpg --out depth.png --profile demo --json
"""


@click.command(epilog=EPILOG)
@click.argument("image")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FILE.png",
    help="Where to write it.",
)
@click.option("--force", is_flag=True, help="Overwrite the file.")
@request_options(("size", "fit", "depth_normalization"), shown={"size": "the picture's own"})
@profile_option
@setting_options(("device", "model", "weights_dir"))
@json_option
@verbose_option
@click.pass_context
def depth(
    ctx: click.Context, image: str, out: Path, force: bool, profile: str | None, as_json: bool
) -> None:
    """Write the depth map of a picture.

    IMAGE is a path, a URL, a data URI or base64, or - for standard input. The map is a grey PNG,
    near = white: what `generate` would guide its pictures by.
    """
    fields, settings, profile = given_fields(ctx), given_settings(ctx), profile or "auto"
    out = out.expanduser()
    _check_png(out)
    check_new_file(out, force=force)
    # The prompt is required of a request, and nothing here reads it.
    request = GenerationRequest(prompt="depth", control_image=image, **fields)
    limits = early_settings(profile, settings)
    given: object = image
    if image == STANDARD_INPUT:
        given = read_standard_input("control_image", limits.max_image_bytes)
    source = read_source(given, limits)
    make_folder(out.parent)
    size = request.dimensions if "size" in fields else source.size
    picture, card = _estimate(source, request, size, profile, settings)
    write_atomically(out, _as_png(picture))
    say(f"estimated by {card.name} ({card.licence}), {picture.width}*{picture.height}")
    if as_json:
        echo_json(_document(out, picture, request, card))
    else:
        click.echo(str(out))


def _estimate(
    source: SourceImage,
    request: GenerationRequest,
    size: tuple[int, int],
    profile: str,
    settings: dict[str, Any],
) -> tuple[Image, EstimatorCard]:
    """The depth map in the asked size, and who estimated it."""
    from depthflux.canvas import Canvas, depth_picture, place
    from depthflux.depth import far_value, is_quantized, normalize
    from depthflux.engine.failures import translated_failures

    estimator = _load_estimator(profile, settings)
    mode = request.depth_normalization
    # The grid only decides what lies outside the asked size, so any will do.
    canvas = Canvas(*size, grid=1)
    with translated_failures(request):
        estimated = normalize(estimator.estimate(source.rgb), mode)
    placed = place(estimated, canvas, request.fit, far=far_value(mode))
    return depth_picture(placed, canvas, quantized=is_quantized(mode)), estimator.card


def _load_estimator(profile: str, settings: dict[str, Any]) -> Any:
    import os

    from depthflux.depth.depth_anything import DepthAnything
    from depthflux.engine.failures import translated_load_failures
    from depthflux.engine.selection import select_settings
    from depthflux.model.placement import place as place_model
    from depthflux.model.weights import find_estimator

    values = select_settings(profile, environment=os.environ, arguments=settings).values
    device = place_model(values).device
    folder = find_estimator(values)
    with translated_load_failures(device):
        return DepthAnything.load(folder.expanduser(), device=device)


def _as_png(picture: Image) -> bytes:
    from depthflux.images import encode_image

    return encode_image(picture, "png")


def _check_png(path: Path) -> None:
    if path.suffix.lower() != ".png":
        raise OutputError(
            f"cannot write {path}: a depth map is written as PNG, which keeps its values; "
            "name a file that ends in .png.",
            field="out",
            value=str(path),
            allowed="a file that ends in .png",
        )


def _document(
    path: Path, picture: Image, request: GenerationRequest, card: EstimatorCard
) -> dict[str, Any]:
    return {
        "path": str(path),
        "size": f"{picture.width}*{picture.height}",
        "depth_normalization": request.depth_normalization,
        "fit": request.fit,
        "estimator": {"name": card.name, "licence": card.licence, "source": card.source},
    }
