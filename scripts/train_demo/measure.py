"""Measures a demo folder on unseen scenes and writes a JSON report. It trains nothing.

Beside each number stands what the ray-cast picture itself scores, what a picture of another scene
scores and, for colours, what a guess among the palette's names scores.
"""

import json
import random
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import FluxControlPipeline
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional
from transformers import DepthAnythingForDepthEstimation
from transformers.models.dpt.image_processing_pil_dpt import DPTImageProcessorPil

from train_demo.depth import near_objects
from train_demo.flow import GUIDANCE
from train_demo.grammar import COLOURS, canonical_prompt
from train_demo.pictures import HELD_OUT_SEED
from train_demo.render import FIRST_OBJECT_REGION, Picture, control_image, render
from train_demo.scenes import Scene, sample_scene
from train_demo.scores import (
    colours_present,
    colours_right,
    correlation_within,
    depth_edge_correlation,
    edge_correlation,
    explained_by_regions,
    objects_filled,
    signal_to_noise,
    staircase,
    summary,
)

SCALES = (0.0, 0.5, 1.0, 1.5)
STEPS = 16
SIDE = 512
# The hosted endpoint's default size on the model's grid.
LARGE_WIDTH, LARGE_HEIGHT, LARGE_SCENES = 864, 1632, 18
# From black to white; about 127 the latents jump, so greys are hardest there (see `plain`).
GREYS = (0, 32, 64, 96, 126, 127, 128, 160, 192, 224, 255)

Scores = dict[str, list[float]]


@dataclass(frozen=True)
class Case:
    """One unseen scene with its exact picture."""

    scene: Scene
    picture: Picture
    seed: int

    @property
    def control(self) -> Image.Image:
        """The exact depth map as the control image."""
        return Image.fromarray(control_image(self.picture.disparity).numpy()).convert("RGB")


class Demo:
    """A demo folder as diffusers' own pipeline, with the control LoRA at any scale."""

    def __init__(self, folder: Path) -> None:
        started = time.perf_counter()
        self.pipeline = FluxControlPipeline.from_pretrained(folder, torch_dtype=torch.float32)
        self.pipeline.load_lora_weights(
            load_file(folder / "control_lora.safetensors"), adapter_name="depth"
        )
        self.pipeline.set_progress_bar_config(disable=True)
        self.processor = DPTImageProcessorPil.from_pretrained(folder / "depth_estimator")
        self.estimator = (
            DepthAnythingForDepthEstimation.from_pretrained(folder / "depth_estimator")
            .float()
            .eval()
        )
        self.load_s = time.perf_counter() - started

    def set_scale(self, scale: float) -> None:
        """Merges the LoRA at this control_scale."""
        self.pipeline.unfuse_lora()
        # Not fuse_lora(lora_scale=...): it multiplies the last scale, and nothing undoes a zero.
        self.pipeline.set_adapters("depth", scale)
        self.pipeline.fuse_lora()

    def draw(self, prompt: str, control: Image.Image, seed: int, steps: int = STEPS) -> Tensor:
        """One picture float32 [3, H, W], 0..1, as large as the control on the model's grid."""
        width, height = (pixels // 32 * 32 for pixels in control.size)
        made = self.pipeline(
            prompt=prompt,
            control_image=control,
            height=height,
            width=width,
            num_inference_steps=steps,
            guidance_scale=GUIDANCE,
            max_sequence_length=self.pipeline.tokenizer_2.model_max_length,
            generator=torch.Generator().manual_seed(seed),
            output_type="np",
        ).images[0]
        return torch.from_numpy(made).permute(2, 0, 1)

    @torch.no_grad()
    def depth(self, picture: Tensor) -> Tensor:
        """Estimated disparity [H, W] of a picture [3, H, W]."""
        inputs = self.processor(images=as_image(picture), return_tensors="pt")
        small = self.estimator(**inputs).predicted_depth
        return functional.interpolate(
            small[None], size=picture.shape[-2:], mode="bicubic", align_corners=False
        )[0, 0]


def as_image(picture: Tensor) -> Image.Image:
    """A picture [3, H, W] in 0..1 as PIL has it."""
    return Image.fromarray((picture.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy())


def unseen_cases(count: int) -> list[Case]:
    """Square scenes that no stage has seen, a third each with one, two and three objects."""
    cases = []
    for index in range(count):
        seed = HELD_OUT_SEED + 1000 + index
        scene = sample_scene(random.Random(seed), count=1 + index % 3)
        cases.append(Case(scene, render(scene, SIDE, SIDE), seed))
    return cases


def large_cases(count: int) -> list[Case]:
    """As many tall scenes that no stage has seen, a third each with one, two and three objects."""
    cases = []
    for index in range(count):
        seed = HELD_OUT_SEED + 2000 + index
        aspect = LARGE_WIDTH / LARGE_HEIGHT
        scene = sample_scene(random.Random(seed), aspect=aspect, count=1 + index % 3)
        cases.append(Case(scene, render(scene, LARGE_HEIGHT, LARGE_WIDTH), seed))
    return cases


def score_structure(picture: Tensor, case: Case, scores: Scores) -> None:
    """Adds structure and colours of one picture, judged by the case's exact regions."""
    region = case.picture.region
    scores["eta2"].append(explained_by_regions(picture, region))
    scores["edge_correlation"].append(edge_correlation(picture, region))
    right = colours_right(picture, region, case.scene)
    scores["colour_sky"] += map(float, right["sky"])
    scores["colour_floor"] += map(float, right["floor"])
    scores[f"colour_objects_of_{len(case.scene.solids)}"] += map(float, right["object"])
    scores["objects_filled"] += objects_filled(picture, region, case.scene)
    for name, value in colours_present(picture, case.scene).items():
        scores[f"present_{name}"].append(value)


def score_follows_depth(demo: Demo, picture: Tensor, case: Case, scores: Scores) -> None:
    """Adds the estimator's opinion: it proves little everywhere, a little more near objects."""
    estimated, truth = demo.depth(picture), case.picture.disparity
    everywhere = torch.ones_like(truth, dtype=torch.bool)
    scores["estimator_correlation"].append(correlation_within(estimated, truth, everywhere))
    objects = near_objects(case.picture.region >= FIRST_OBJECT_REGION)
    scores["estimator_correlation_near_objects"].append(
        correlation_within(estimated, truth, objects)
    )


def measure_scale(demo: Demo, cases: list[Case], scale: float) -> dict[str, object]:
    """Structure and colour of one picture a case at one control_scale."""
    demo.set_scale(scale)
    scores: Scores = defaultdict(list)
    for case in cases:
        picture = demo.draw(canonical_prompt(case.scene.words()), case.control, case.seed)
        score_structure(picture, case, scores)
        score_follows_depth(demo, picture, case, scores)
    print(scale, {name: round(float(np.mean(values)), 3) for name, values in scores.items()})
    return summaries(scores)


def measure_reference(demo: Demo, cases: list[Case], shift: int) -> dict[str, object]:
    """The same scores for the ray-cast picture `shift` cases further on; 0 is the case's own."""
    scores: Scores = defaultdict(list)
    for index, case in enumerate(cases):
        picture = cases[(index + shift) % len(cases)].picture.colour
        score_structure(picture, case, scores)
        score_follows_depth(demo, picture, case, scores)
    return summaries(scores)


def measure_pictures(demo: Demo, cases: list[Case]) -> dict[str, object]:
    """Structure and colour at each control_scale, with the three references."""
    report: dict[str, object] = {
        f"control_scale_{scale}": measure_scale(demo, cases, scale) for scale in SCALES
    }
    report["ray_cast"] = measure_reference(demo, cases, 0)
    # Three further on stands a scene with the same number of objects.
    report["other_scene"] = measure_reference(demo, cases, 3)
    report["chance_of_a_colour"] = 1 / len(COLOURS)
    return report


def measure_large(demo: Demo, cases: list[Case]) -> dict[str, object]:
    """Structure and colour on large canvases at control_scale 1, with two references."""
    demo.set_scale(1.0)
    made, ray_cast, other = (defaultdict(list) for _ in range(3))
    for index, case in enumerate(cases):
        prompt = canonical_prompt(case.scene.words())
        score_structure(demo.draw(prompt, case.control, case.seed, STEPS), case, made)
        score_structure(case.picture.colour, case, ray_cast)
        score_structure(cases[(index + 3) % len(cases)].picture.colour, case, other)
    return {
        "setting": {
            "scenes": len(cases),
            "size": f"{LARGE_WIDTH}x{LARGE_HEIGHT}",
            "steps": STEPS,
        },
        "control_scale_1.0": summaries(made),
        "ray_cast": summaries(ray_cast),
        "other_scene": summaries(other),
    }


def measure_depth(demo: Demo, cases: list[Case]) -> dict[str, object]:
    """The estimator on unseen renders, beside a floor gradient that has seen nothing."""
    scores: Scores = defaultdict(list)
    for case in cases:
        truth, objects = case.picture.disparity, case.picture.region >= FIRST_OBJECT_REGION
        ramp = torch.linspace(0, 1, truth.shape[0])[:, None].expand_as(truth)
        everywhere, near = torch.ones_like(objects), near_objects(objects)
        for name, guess in (
            ("estimator", demo.depth(case.picture.colour)),
            ("floor_gradient", ramp),
        ):
            scores[f"{name}_everywhere"].append(correlation_within(guess, truth, everywhere))
            scores[f"{name}_near_objects"].append(correlation_within(guess, truth, near))
            scores[f"{name}_edges"].append(depth_edge_correlation(guess, truth))
    return summaries(scores)


@torch.no_grad()
def measure_vae(demo: Demo, cases: list[Case]) -> dict[str, object]:
    """Reconstruction of pictures, depth maps and plain greys at 512 pixels."""
    vae, scores = demo.pipeline.vae, defaultdict(list)

    def through(picture: Tensor) -> Tensor:
        latents = vae.encode(picture[None] * 2 - 1).latent_dist.mean
        return ((vae.decode(latents, return_dict=False)[0][0] + 1) / 2).clamp(0, 1)

    for case in cases:
        colour = case.picture.colour
        depth = control_image(case.picture.disparity)[None].expand(3, -1, -1) / 255.0
        made = through(colour)
        scores["psnr_picture"].append(signal_to_noise(made, colour))
        scores["psnr_depth_map"].append(signal_to_noise(through(depth), depth))
        scores["staircase"].append(staircase(made))
        scores["staircase_ray_cast"].append(staircase(colour))
    report = summaries(scores)
    report["plain_grey"] = {
        str(level): _grey_scores(through(torch.full((3, SIDE, SIDE), level / 255)) * 255, level)
        for level in GREYS
    }
    return report


def _grey_scores(made: Tensor, level: int) -> dict[str, float]:
    """How far a plain grey [3, H, W] of 0..255 is off, and how far from grey it has become."""
    means = made.mean(dim=(1, 2))
    scores = {
        "mean_error": (made - level).abs().mean(),
        "worst_error": (made - level).abs().max(),
        "mean_cast": (made.amax(dim=0) - made.amin(dim=0)).mean(),
        "cast_of_the_mean": means.max() - means.min(),
    }
    return {name: round(value.item(), 2) for name, value in scores.items()}


def measure_speed(demo: Demo, case: Case, threads: int) -> dict[str, float]:
    """Seconds for one picture at two sizes with the given number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    demo.set_scale(1.0)
    prompt = canonical_prompt(case.scene.words())
    report = {"load_s": demo.load_s, "threads": float(threads)}
    for width, height in ((SIDE, SIDE), (LARGE_WIDTH, LARGE_HEIGHT)):
        control = case.control.resize((width, height))
        demo.draw(prompt, control, 0, steps=1)
        started = time.perf_counter()
        demo.draw(prompt, control, 0, steps=28)
        report[f"seconds_{width}x{height}_28_steps"] = round(time.perf_counter() - started, 2)
    torch.set_num_threads(before)
    return report


def summaries(scores: Scores) -> dict[str, object]:
    """Mean and interval of each list."""
    return {name: summary(values) for name, values in sorted(scores.items()) if values}


def measure(folder: Path, report: Path, *, count: int, threads: int) -> None:
    """Measures everything and writes the report."""
    demo, cases = Demo(folder), unseen_cases(count)
    content = {
        "setting": {
            "scenes": count,
            "size": f"{SIDE}x{SIDE}",
            "steps": STEPS,
            "guidance_scale": GUIDANCE,
        },
        "vae": measure_vae(demo, cases),
        "depth_estimator": measure_depth(demo, cases),
        "pictures": measure_pictures(demo, cases),
        "large_canvas": measure_large(demo, large_cases(LARGE_SCENES)),
        "speed": measure_speed(demo, cases[0], threads),
    }
    report.parent.mkdir(parents=True, exist_ok=True)
    report.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
