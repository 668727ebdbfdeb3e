"""`depthflux generate`: a request, from options, a file or a picture's record → pictures.

Everything that can be refused is refused before torch is imported and a model is loaded.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from depthflux.cli.inputs import (
    early_settings,
    fill_from_standard_input,
    read_request_file,
    with_source,
)
from depthflux.cli.messages import logger, say, verbose_option
from depthflux.cli.options import (
    given_fields,
    given_settings,
    json_option,
    profile_option,
    request_options,
    setting_options,
)
from depthflux.cli.outputs import echo_json, output_folder
from depthflux.cli.progress import StepProgress
from depthflux.contract import GenerationRequest
from depthflux.errors import InvalidParameterError

if TYPE_CHECKING:
    from depthflux.contract import Prediction

#: Fields that say how a server answers; here there is nobody to tell.
HTTP_ONLY = ("enable_sync_mode", "webhook_url")

EPILOG = """\b
Examples:
  depthflux generate --prompt "a red sphere" --control-image room.jpg --size "1024*768" --seed 0
  cat room.jpg | depthflux generate --prompt "a cabin" --control-image - --json
  depthflux generate --request request.toml --seed 7 --out pictures
  depthflux generate --from-record out/picture.png --out again
"""


@click.command(epilog=EPILOG)
@request_options(shown={"prompt": "none; required here, in --request or in --from-record"})
@click.option(
    "--request",
    "request_file",
    type=click.Path(path_type=Path),
    help="A TOML or JSON file of the fields above; options win over it.",
)
@click.option(
    "--from-record",
    type=click.Path(path_type=Path),
    metavar="PICTURE",
    help="Make a picture of depthflux's again: the same pixels on the same versions and hardware; "
    "what differs is said. Options win over the record.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default="out",
    show_default=True,
    metavar="DIR",
    help="Where the pictures and the response, <id>.json, are written.",
)
@profile_option
@setting_options()
@json_option
@verbose_option
@click.pass_context
def generate(
    ctx: click.Context,
    request_file: Path | None,
    from_record: Path | None,
    out: Path,
    profile: str | None,
    as_json: bool,
) -> None:
    """Make pictures from a prompt and a control image.

    Prints the pictures' paths, or with --json the response as the hosted endpoint gives it.
    "-" as prompt or control image is standard input.
    """
    settings = given_settings(ctx)
    fields = fill_from_standard_input(given_fields(ctx), profile or "auto", settings)
    if from_record is not None:
        if request_file is not None:
            raise InvalidParameterError(
                "from_record: a record holds a whole request; leave --request out.",
                field="from_record",
            )
        from depthflux.cli.replay import replay

        prediction = replay(from_record, fields, profile, settings, out)
    else:
        if request_file is not None:
            fields = {**read_request_file(request_file), **fields}
        request = GenerationRequest(**fields)
        warn_about_fields_for_servers(fields)
        prediction = run(request, profile or "auto", settings, out)
    report(prediction, as_json=as_json)


def run(
    request: GenerationRequest, profile: str, settings: dict[str, Any], out: Path
) -> Prediction:
    """Make a request's pictures and save them.

    Raises:
        DepthFluxError: whatever stands in the way; what needs no model is found before one is
            loaded.
    """
    from depthflux.model.lora_names import find_loras

    values = early_settings(profile, settings)
    find_loras(request.loras, values)
    request = with_source(request, values)
    with output_folder(out) as folder:
        prediction = paint(request, profile, settings)
        prediction.save(folder)
    return prediction


def paint(request: GenerationRequest, profile: str, settings: dict[str, Any]) -> Prediction:
    """Load an engine and make a request's pictures, with a progress bar; nothing is written.

    Raises:
        DepthFluxError: the model cannot be loaded, or the run failed.
    """
    with StepProgress() as progress:
        from depthflux.engine.loading import load

        engine = load(profile, **settings)
        progress.phase("preparing")
        return engine.generate(request, on_step=progress.on_step)


def report(prediction: Prediction, *, as_json: bool) -> None:
    """Say what was made: results on standard output, the rest on standard error."""
    warn_about_withheld(prediction)
    say(summary(prediction))
    if as_json:
        echo_json(prediction.envelope())
        return
    for path in prediction.saved_paths:
        click.echo(str(path))


def summary(prediction: Prediction) -> str:
    """Model, count, size, seed and time of a prediction, on one line."""
    request, seconds = prediction.request, prediction.timings["inference"] / 1000
    if request.only_depth_map:
        return f"{prediction.model}: the depth map of {request.size} in {seconds:.1f} s"
    count = f"{request.num_images} picture{'s' if request.num_images > 1 else ''}"
    return (
        f"{prediction.model}: {count} of {request.size} in {seconds:.1f} s "
        f"({request.num_inference_steps} steps, seed {request.seed})"
    )


def warn_about_withheld(prediction: Prediction) -> None:
    """Say which pictures the safety checker has replaced."""
    for number, flagged in enumerate(prediction.has_nsfw_contents, start=1):
        if flagged:
            logger.warning(
                "picture %s was flagged by the safety checker and withheld; "
                "another seed or prompt may help.",
                number,
            )


def warn_about_fields_for_servers(fields: dict[str, Any]) -> None:
    """Say which of the given fields have no effect on the command line."""
    for name in HTTP_ONLY:
        if fields.get(name):
            logger.warning("%s has an effect over HTTP only; it is passed over here.", name)
