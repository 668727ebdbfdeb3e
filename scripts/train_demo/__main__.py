"""Runs the stages in their order, which --help names: from drawing scenes to the contact sheet.

    scripts/train-demo                     everything, about four and a half hours on one core
    scripts/train-demo base control        only these stages, from what lies in the work folder
    scripts/train-demo scenes polish-vae   goes on with the decoder that lies in the output folder
    scripts/train-demo --pace 0.01         a dry run

Every stage is seeded, trains for a fixed time, can be stopped and started again, and puts its
weights into the output folder when it is done, so that folder is a loadable pipeline at any time.
"""

import argparse
import json
import shutil
import time
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path

import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel
from safetensors.torch import load_file
from transformers import CLIPTextModel, T5EncoderModel

from train_demo.architecture import (
    SIZES,
    build_depth_estimator,
    build_transformer,
    build_vae,
    write_card,
    write_lora,
    write_module,
    write_untrained,
)
from train_demo.base import Captions, initialise, train_base
from train_demo.control import (
    POLISH_COURSE,
    load_lora,
    lora_state,
    midway,
    train_control,
    with_control,
)
from train_demo.depth import Snapshots, train_depth
from train_demo.latents import LatentShelf, encode_shelf, open_latents
from train_demo.measure import measure
from train_demo.pictures import SHELVES, Shelf, Stored, draw_shelf, open_shelf
from train_demo.plain import PlainPictures
from train_demo.polish import polish_decoder
from train_demo.sheet import contact_sheet, write_examples
from train_demo.text import Codes, Encoders, Lessons, probe, train_text
from train_demo.vae import (
    Crops,
    FineCrops,
    even_channels,
    picture_spread,
    tidy_first_level,
    train_inner,
    train_outer,
)
from train_demo.vae import initialise as initialise_vae

ROOT = Path(__file__).resolve().parents[2]
SIZE = SIZES["demo"]
SHELF = {shelf.name: shelf for shelf in SHELVES}
VAE_SHELVES = ("square-a", "square-b", "tall", "wide", "portrait")
TRAINING_SHELVES = (*VAE_SHELVES, "large", "poster")
_PROBE_SEED = 10_000_000
_PROBE_GATE = 0.99

# Minutes of one core for each stage that trains. Source: docs/demo-model.md.
MINUTES = {
    "text": 3,
    "vae": 21,
    "vae_outer": 40,
    "polish-vae": 27,
    "base": 44,
    "control": 46,
    "polish-control": 15,
    "depth": 20,
}


class Workshop:
    """The folders of one run and what every stage needs of them."""

    def __init__(self, work: Path, out: Path, seed: int, pace: float) -> None:
        self.work, self.out, self.seed, self.pace = work, out, seed, pace
        self.pictures, self.latents = work / "pictures", work / "latents"
        work.mkdir(parents=True, exist_ok=True)
        if not (out / "model_index.json").exists():
            write_untrained(out, seed=seed, vae_scale_factor=16, size="demo")

    def budget_s(self, stage: str) -> float:
        """Seconds for a stage."""
        return 60 * MINUTES[stage] * self.pace

    def shelves(self, names: tuple[str, ...]) -> list[tuple[Shelf, Stored]]:
        """Drawn shelves by name."""
        return [(SHELF[name], open_shelf(SHELF[name], self.pictures)) for name in names]

    def latent_shelf(self, name: str, *, control: bool) -> LatentShelf:
        """A latent shelf; "small-a" is "square-a" at half size."""
        return open_latents(
            SHELF[name.replace("small", "square")],
            self.latents / name,
            control=control,
            pictures=self.pictures,
        )

    def encoders(self) -> Encoders:
        """The trained text encoders as they were shipped."""
        encoders = Encoders.untrained()
        encoders.clip = CLIPTextModel.from_pretrained(
            self.out / "text_encoder", dtype=torch.float32
        ).eval()
        encoders.t5 = T5EncoderModel.from_pretrained(
            self.out / "text_encoder_2", dtype=torch.float32
        ).eval()
        return encoders


def scenes(shop: Workshop) -> None:
    """Draws all pictures."""
    for shelf in SHELVES:
        draw_shelf(shelf, shop.pictures)
    write_examples(ROOT / "examples")


def text(shop: Workshop) -> None:
    """Trains and freezes the text encoders; stops if they do not know their colours."""
    encoders = Encoders.untrained()
    train_text(encoders, shop.work / "text.pt", shop.budget_s("text"), shop.seed)
    read = probe(encoders, 1000, _PROBE_SEED)
    print("probe", read)
    if min(read["t5_colour"], read["clip"]) < _PROBE_GATE:
        problem = (
            f"text: the probe reads {read}, below {_PROBE_GATE}; train longer before going on."
        )
        if shop.pace >= 1:
            raise SystemExit(problem)
        # A dry run goes on to see that the other stages run; its weights are good for nothing.
        print(problem)
    write_module(encoders.clip, shop.out / "text_encoder")
    write_module(encoders.t5, shop.out / "text_encoder_2")


def vae(shop: Workshop) -> None:
    """Trains both parts of the autoencoder."""
    model = build_vae(SIZE, 16)
    initialise_vae(model)
    model.to(memory_format=torch.channels_last)
    crops = Crops(shop.shelves(VAE_SHELVES), shop.seed)
    model = train_inner(model, crops, shop.work / "vae_inner.pt", shop.budget_s("vae"))
    even_channels(model, picture_spread(model, *shop.shelves(("square-a",))[0]))
    tidy_first_level(model)
    fine = FineCrops(model, *shop.shelves(("fine",))[0], shop.seed)
    plain = PlainPictures(model, shop.seed)
    model = train_outer(model, fine, plain, shop.work / "vae_outer.pt", shop.budget_s("vae_outer"))
    write_module(model, shop.out / "vae")


def polish_vae(shop: Workshop) -> None:
    """Goes on with the shipped decoder, for greys and corners; its encoder stays."""
    model = build_vae(SIZE, 16).eval()
    model.load_state_dict(load_file(shop.out / "vae/diffusion_pytorch_model.safetensors"))
    model.to(memory_format=torch.channels_last)
    fine = FineCrops(model, *shop.shelves(("fine",))[0], shop.seed + 1)
    plain = PlainPictures(model, shop.seed + 1)
    path, budget_s = shop.work / "polish_vae.pt", shop.budget_s("polish-vae")
    write_module(polish_decoder(model, fine, plain, path, budget_s), shop.out / "vae")


def latents(shop: Workshop) -> None:
    """Encodes all pictures and depth maps with the final encoder."""
    model = AutoencoderKL.from_pretrained(shop.out / "vae", torch_dtype=torch.float32)
    for name, control in product(TRAINING_SHELVES, (False, True)):
        shelf = SHELF[name]
        encode_shelf(model, shelf, shop.pictures, shop.latents / name, control=control)
        if name.startswith("square"):
            home = shop.latents / name.replace("square", "small")
            encode_shelf(model, shelf, shop.pictures, home, shrink=2, control=control)


def base(shop: Workshop) -> None:
    """Trains the base model."""
    encoders, model = shop.encoders(), build_transformer(SIZE)
    prompts = Lessons(Codes(SIZE.text_width), encoders, shop.seed).batch(200)[0]
    initialise(model, encoders, prompts)
    captions = Captions(encoders, shop.seed)
    shelf_of = partial(shop.latent_shelf, control=False)
    trained = train_base(model, captions, shelf_of, shop.work / "base.pt", shop.budget_s("base"))
    write_module(trained, shop.out / "transformer")


def control(shop: Workshop) -> None:
    """Trains the control LoRA on the shipped base."""
    frozen = FluxTransformer2DModel.from_pretrained(
        shop.out / "transformer", torch_dtype=torch.float32
    )
    model, captions = with_control(frozen, SIZE.lora_rank), Captions(shop.encoders(), shop.seed + 1)
    shelf_of = partial(shop.latent_shelf, control=True)
    trained = train_control(
        model, captions, shelf_of, shop.work / "control.pt", shop.budget_s("control")
    )
    write_lora(lora_state(trained), shop.out)


def polish_control(shop: Workshop) -> None:
    """Goes on with the shipped control LoRA, mostly on large canvases."""
    frozen = FluxTransformer2DModel.from_pretrained(
        shop.out / "transformer", torch_dtype=torch.float32
    )
    model, captions = with_control(frozen, SIZE.lora_rank), Captions(shop.encoders(), shop.seed + 2)
    # Kept beside the checkpoint, so that a second call after the end starts from the same one.
    start = shop.work / "polish_control_start.safetensors"
    if not start.exists():
        shutil.copyfile(shop.out / "control_lora.safetensors", start)
    before = load_file(start)
    load_lora(model, before)
    trained = train_control(
        model,
        captions,
        partial(shop.latent_shelf, control=True),
        shop.work / "polish_control.pt",
        shop.budget_s("polish-control"),
        POLISH_COURSE,
    )
    write_lora(midway(before, lora_state(trained)), shop.out)


def depth(shop: Workshop) -> None:
    """Trains the depth estimator."""
    snapshots = Snapshots(shop.shelves(("square-a", "square-b", "tall", "wide")), shop.seed)
    trained = train_depth(
        build_depth_estimator(SIZE), snapshots, shop.work / "depth.pt", shop.budget_s("depth")
    )
    write_module(trained, shop.out / "depth_estimator")


def measured(shop: Workshop) -> None:
    """Writes the report on unseen scenes."""
    measure(
        shop.out,
        ROOT / "docs/benchmarks/demo-model.json",
        count=64,
        threads=torch.get_num_threads(),
    )


def sheet(shop: Workshop) -> None:
    """Draws the contact sheet."""
    contact_sheet(shop.out, ROOT / "docs/images/demo-contact-sheet.png")


STAGES: dict[str, Callable[[Workshop], None]] = {
    "scenes": scenes,
    "text": text,
    "vae": vae,
    "polish-vae": polish_vae,
    "latents": latents,
    "base": base,
    "control": control,
    "polish-control": polish_control,
    "depth": depth,
    "measure": measured,
    "sheet": sheet,
}


def note_training(out: Path, stage: str, seconds: float) -> None:
    """Adds a stage's time to demo.json; what the card says of other stages stays."""
    path = out / "demo.json"
    known = json.loads(path.read_text(encoding="utf-8")).get("training", {})
    times = {**known.get("seconds", {}), stage: seconds}
    write_card(out, {**known, "trained": True, "seconds": times})


def main() -> None:
    """Runs the stages asked for and notes how long each took."""
    parser = argparse.ArgumentParser(
        prog="train-demo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "stages", nargs="*", metavar="stage", help=f"default all: {' '.join(STAGES)}"
    )
    parser.add_argument(
        "--work", type=Path, default=ROOT / "build/demo", help="pictures, latents and checkpoints"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=ROOT / "src/depthflux/model/demo/weights",
        help="the folder to ship",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--pace", type=float, default=1.0, help="factor on every stage's minutes; .01 for a dry run"
    )
    parser.add_argument(
        "--threads", type=int, default=1, help="more than one pays only on an idle machine"
    )
    arguments = parser.parse_args()
    unknown = [stage for stage in arguments.stages if stage not in STAGES]
    if unknown:
        parser.error(f"no such stage: {', '.join(unknown)}; there are {', '.join(STAGES)}")
    torch.set_num_threads(arguments.threads)
    shop = Workshop(arguments.work, arguments.out, arguments.seed, arguments.pace)
    log = arguments.work / "stages.json"
    took = json.loads(log.read_text()) if log.exists() else {}
    for stage in arguments.stages or STAGES:
        torch.manual_seed(arguments.seed)
        started = time.monotonic()
        print(f"== {stage}")
        STAGES[stage](shop)
        took[stage] = round(time.monotonic() - started, 1)
        log.write_text(json.dumps(took, indent=2) + "\n")
        if stage in MINUTES:
            note_training(arguments.out, stage, took[stage])


if __name__ == "__main__":
    main()
