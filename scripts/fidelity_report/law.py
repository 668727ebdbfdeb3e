"""The control LoRA's law: where ours and diffusers' differ, and by how much.

The weights are compared number by number; what a difference does to the picture is shown as the
change of one denoising step's velocity. Pipelines are diffusers', used as documented; engines are
ours. Knows nothing of whole runs.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import accelerate
import torch
from diffusers import FluxTransformer2DModel
from safetensors.torch import load_file, save_file

import depthflux
from depthflux.model.flux_layout import Shape, linear_origins, norm_origins
from depthflux.model.lora_file import Factors, read_control_lora
from fidelity_report.figures import cosine, relative_error, rounded, share_different
from fidelity_report.models import CONTROL_LORA, is_norm
from fidelity_report.systems import Inputs, load_pipeline

NORM_OUT = "norm_out.linear"
#: Rank of the published control LoRA.
FLUX_RANK = 128


def engine_of(folder: Path, **settings: Any) -> depthflux.Engine:
    """A plain engine on the CPU without compiling."""
    return depthflux.load("exact", model=str(folder), device="cpu", compile=False, **settings)


def unhoisted_engine(folder: Path, **settings: Any) -> depthflux.Engine:
    """One in float32 and diffusers' order: what differs then is the law's doing alone."""
    return engine_of(folder, dtype="float32", order="diffusers", **settings)


def weights(transformer: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A copy of a transformer's tensors; of peft's layers only what they wrap."""
    return {
        name.replace(".base_layer", ""): tensor.clone()
        for name, tensor in transformer.state_dict().items()
        if "lora_" not in name
    }


# The conversion of the last AdaLN -----------------------------------------------------------------


def measure_conversion() -> dict[str, Any]:
    """A LoRA file in the makers' layout at FLUX's full shape, converted by us and by diffusers.

    Factors are random. What the file means is B·A with the halves of its rows swapped, since
    diffusers' AdaLN puts them out in the other order.
    """
    with accelerate.init_empty_weights():
        flux = FluxTransformer2DModel(guidance_embeds=True)
    tensors = random_file(flux)
    name = "final_layer.adaLN_modulation.1"
    product = tensors[f"{name}.lora_B.weight"].double() @ tensors[f"{name}.lora_A.weight"].double()
    meant = torch.cat(product.chunk(2)[::-1])
    with TemporaryDirectory() as folder:
        path = Path(folder) / CONTROL_LORA
        save_file(tensors, path)
        read = {law: read_control_lora(path, flux, compat=law) for law in ("none", "diffusers")}
        linears = {law: lora.linears for law, lora in read.items()}
    ours, theirs = linears["none"], linears["diffusers"]
    alike = [name for name in ours if same_factors(ours[name], theirs[name])]
    deltas = {
        law: by_name[NORM_OUT].up.double() @ by_name[NORM_OUT].down.double()
        for law, by_name in linears.items()
    }
    return {
        "linears": len(ours),
        "converted_alike": len(alike),
        "cosine_ours": rounded(cosine(deltas["none"], meant)),
        "cosine_diffusers": rounded(cosine(deltas["diffusers"], meant)),
        "diffusers_is_a_swap_along_the_rank": torch.equal(
            theirs[NORM_OUT].down, swapped(ours[NORM_OUT].down)
        ),
    }


def same_factors(one: Factors, other: Factors) -> bool:
    """Whether two linears have the same A and B."""
    return torch.equal(one.down, other.down) and torch.equal(one.up, other.up)


def random_file(flux: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A control LoRA's tensors in the makers' layout; of rank 1, but for the last AdaLN's."""
    draw = torch.Generator().manual_seed(0)
    shape = Shape.of(flux.config)
    outputs: dict[str, int] = {}
    inputs: dict[str, int] = {}
    for name, origin in linear_origins(shape).items():
        linear = flux.get_submodule(name)
        end = origin.rows[1] if origin.rows else linear.out_features
        outputs[origin.module] = max(end, outputs.get(origin.module, 0))
        inputs[origin.module] = linear.in_features * (2 if name == "x_embedder" else 1)
    tensors = {}
    for module in outputs:
        rank = FLUX_RANK if module.startswith("final_layer.adaLN") else 1
        tensors[f"{module}.lora_A.weight"] = torch.randn(rank, inputs[module], generator=draw)
        tensors[f"{module}.lora_B.weight"] = torch.randn(outputs[module], rank, generator=draw)
    for origin in norm_origins(shape).values():
        tensors[f"{origin.module}.scale"] = torch.ones(flux.config.attention_head_dim)
    return tensors


def swapped(tensor: torch.Tensor) -> torch.Tensor:
    """The two halves of the rows in the other order."""
    return torch.cat(tensor.chunk(2)[::-1])


def measure_last_adaln(folder: Path, inputs: Inputs) -> dict[str, Any]:
    """One step with the last AdaLN's delta as published, as diffusers makes it, and without it."""
    published = load_file(folder / CONTROL_LORA)
    key = f"transformer.{NORM_OUT}.lora_A.weight"
    variants = {"published": published[key], "diffusers": swapped(published[key])}
    variants["without"] = torch.zeros_like(published[key])
    velocities = {}
    for name, down in variants.items():
        path = folder / f"{name}.safetensors"
        save_file(published | {key: down.contiguous()}, path)
        engine = unhoisted_engine(folder, control_lora=path)
        velocities[name] = velocity_at(engine, 1.0, inputs)
    wanted = velocities["published"]
    return {
        "velocity_change_diffusers": rounded(relative_error(velocities["diffusers"], wanted)),
        "velocity_change_without": rounded(relative_error(velocities["without"], wanted)),
    }


def velocity_at(engine: depthflux.Engine, scale: float, inputs: Inputs) -> torch.Tensor:
    """One step's velocity at a control scale."""
    engine.model.control_lora.set_scale(scale)
    with torch.no_grad():
        return engine.model.transformer(**inputs)[0]


# The norms ----------------------------------------------------------------------------------------


def measure_norms(folder: Path, inputs: Inputs) -> dict[str, Any]:
    """q/k norms at control scales other than 1: ours follow the scale, diffusers' do not."""
    ours, theirs = (unhoisted_engine(folder, compat=law) for law in ("none", "diffusers"))
    report = {}
    for scale in (0.0, 0.5, 1.0):
        velocities = [velocity_at(engine, scale, inputs) for engine in (ours, theirs)]
        norms = [norm_vector(engine.model.transformer) for engine in (ours, theirs)]
        report[str(scale)] = {
            "norms_change": rounded(relative_error(norms[1], norms[0])),
            "velocity_change": rounded(relative_error(velocities[1], velocities[0])),
        }
    return report


def norm_vector(transformer: torch.nn.Module) -> torch.Tensor:
    """All q/k norms' weights behind one another."""
    return torch.cat([t.flatten() for name, t in transformer.named_parameters() if is_norm(name)])


def measure_scale_zero(folder: Path, inputs: Inputs) -> dict[str, Any]:
    """At control scale 0 against the base model: weights and one step, to the bit."""
    plain = FluxTransformer2DModel.from_pretrained(folder / "transformer", dtype=torch.float32)
    latents = inputs["hidden_states"].chunk(2, dim=-1)[0]
    with torch.no_grad():
        wanted = plain(**inputs | {"hidden_states": latents})[0]
    engine = unhoisted_engine(folder)
    engine.model.control_lora.set_scale(1.0)
    pipeline = load_pipeline(folder, torch.float32)
    pipeline.fuse_lora(lora_scale=0.0)
    with torch.no_grad():
        theirs = pipeline.transformer(**inputs)[0]
    ours = velocity_at(engine, 0.0, inputs)
    base = weights(plain)
    return {
        side: {
            "weights_different": share_different(base, without_control(weights(transformer))),
            "step_equal": torch.equal(velocity, wanted),
            "step_change": rounded(relative_error(velocity, wanted)),
        }
        for side, transformer, velocity in (
            ("ours", engine.model.transformer, ours),
            ("diffusers", pipeline.transformer, theirs),
        )
    }


def without_control(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A grown transformer's weights with the control's columns cut off."""
    name = "x_embedder.weight"
    return tensors | {name: tensors[name].chunk(2, dim=1)[0]}


# Rounding -----------------------------------------------------------------------------------------


def measure_rounding(folder: Path, scale: float) -> dict[str, Any]:
    """bfloat16 weights W + s · (B·A) against the sum in float64: ours and diffusers'."""
    base = load_file(next((folder / "transformer").glob("*.safetensors")))
    pipeline = load_pipeline(folder, torch.bfloat16)
    pipeline.fuse_lora(lora_scale=scale)
    engine = engine_of(folder)
    engine.model.control_lora.set_scale(scale)
    deltas = {
        name: scale * factors.scaling * factors.up.double() @ factors.down.double()
        for name, factors in engine.model.control_lora.tensors.linears.items()
    }
    exact = {}
    for name, delta in deltas.items():
        weight = base[f"{name}.weight"].double()
        padding = delta.shape[1] - weight.shape[1]
        exact[f"{name}.weight"] = torch.nn.functional.pad(weight, (0, padding)) + delta
    size = sum(float(delta.square().sum()) for delta in deltas.values())
    of = sum(float(base[f"{name}.weight"].double().square().sum()) for name in deltas)
    return {
        "scale": scale,
        "delta_over_weight": rounded((size / of) ** 0.5),
        "ours": rounding(weights(engine.model.transformer), exact),
        "diffusers": rounding(weights(pipeline.transformer), exact),
    }


def rounding(got: dict[str, torch.Tensor], exact: dict[str, torch.Tensor]) -> dict[str, float]:
    """How far bfloat16 weights are from exact ones, in units of the last place."""
    nearest = {name: tensor.to(torch.bfloat16) for name, tensor in exact.items()}
    steps = torch.cat(
        [((got[name].double() - tensor) / last_place(tensor)).abs().flatten()
         for name, tensor in exact.items()]
    )  # fmt: skip
    return {
        "not_the_nearest": share_different(nearest, got),
        "mean_error_ulp": rounded(float(steps.mean())),
    }


def last_place(exact: torch.Tensor) -> torch.Tensor:
    """The distance between neighbouring bfloat16 numbers about exact ones; they have 8 bits."""
    _, exponent = torch.frexp(exact)
    return torch.ldexp(torch.ones_like(exact), exponent - 8)


# Sequences ----------------------------------------------------------------------------------------

SCALES = (1.0, 0.0, 1.7, 0.3, 0.3)


def measure_sequences(folder: Path, cycles: int) -> dict[str, Any]:
    """Shares of weights that are not what a fresh fuse gives, after changes of the scale."""
    engine, fresh = engine_of(folder), engine_of(folder)
    for scale in SCALES:
        engine.model.control_lora.set_scale(scale)
    fresh.model.control_lora.set_scale(SCALES[-1])
    ours = share_different(weights(fresh.model.transformer), weights(engine.model.transformer))
    return {
        "scales": list(SCALES),
        "ours": ours,
        "diffusers": diffusers_cycles(folder, cycles) | diffusers_compounding(folder),
    }


def diffusers_cycles(folder: Path, cycles: int) -> dict[str, Any]:
    """fuse_lora and unfuse_lora in bfloat16, over and over, against the weights before."""
    pipeline = load_pipeline(folder, torch.bfloat16)
    before = weights(pipeline.transformer)
    shares = []
    for _ in range(cycles):
        pipeline.fuse_lora()
        pipeline.unfuse_lora()
        shares.append(share_different(before, weights(pipeline.transformer)))
    fresh = load_pipeline(folder, torch.bfloat16)
    fresh.fuse_lora()
    pipeline.fuse_lora()
    return {
        "cycles": cycles,
        "base_after_one_cycle": shares[0],
        "base_after_all_cycles": shares[-1],
        "fused_again": share_different(weights(fresh.transformer), weights(pipeline.transformer)),
    }


def diffusers_compounding(folder: Path) -> dict[str, Any]:
    """fuse_lora(lora_scale=s) after another, with unfuse_lora between: what scale the weights have.

    In float32, so that rounding plays no part.
    """
    pipeline = load_pipeline(folder, torch.float32)
    base = weights(pipeline.transformer)
    pipeline.fuse_lora()
    whole = weights(pipeline.transformer)

    def scale_after(*scales: float) -> float:
        pipeline = load_pipeline(folder, torch.float32)
        pipeline.fuse_lora(lora_scale=scales[0])
        for scale in scales[1:]:
            pipeline.unfuse_lora()
            pipeline.fuse_lora(lora_scale=scale)
        return effective_scale(weights(pipeline.transformer), base, whole)

    return {
        "scale_after_0.3_and_0.3": rounded(scale_after(0.3, 0.3)),
        "scale_after_0_and_1": rounded(scale_after(0.0, 1.0)),
    }


def effective_scale(
    now: dict[str, torch.Tensor], base: dict[str, torch.Tensor], whole: dict[str, torch.Tensor]
) -> float:
    """The s for which W + s · delta is nearest to the present weights."""
    deltas = {name: (whole[name] - base[name]).double() for name in base if not is_norm(name)}
    along = sum(float(((now[n] - base[n]).double() * delta).sum()) for n, delta in deltas.items())
    return along / sum(float(delta.square().sum()) for delta in deltas.values())
