"""Where weights may lie: a place for each rule of the search, and a home with such places."""

from __future__ import annotations

from pathlib import Path

import pytest

from depthflux.settings import EngineSettings

FLUX = "models--black-forest-labs--FLUX.1-dev/snapshots/c1"
#: One place for each rule, in the rules' order, and the files that make the component whole there.
PLACES: dict[str, dict[str, list[str]]] = {
    "transformer": {
        "folder": [
            "weights/FLUX.1-dev/transformer/config.json",
            "weights/FLUX.1-dev/transformer/diffusion_pytorch_model.safetensors",
        ],
        "cache": [
            f"hub/{FLUX}/transformer/config.json",
            f"hub/{FLUX}/transformer/diffusion_pytorch_model.safetensors",
        ],
        "files": ["weights/flux1-dev.safetensors"],
        "comfyui": ["ComfyUI/models/unet/flux1-dev-fp8.safetensors"],
    },
    "text_encoder_2": {
        "folder": [
            "weights/FLUX.1-dev/text_encoder_2/config.json",
            "weights/FLUX.1-dev/text_encoder_2/model.safetensors",
        ],
        "cache": [
            "hub/models--comfyanonymous--flux_text_encoders/snapshots/c1/t5xxl_fp16.safetensors"
        ],
        "files": ["weights/t5xxl_fp8_e4m3fn.safetensors"],
        "comfyui": ["ComfyUI/models/clip/t5/t5xxl_fp16.safetensors"],
    },
    "vae": {
        "cache": [f"hub/{FLUX}/ae.safetensors"],
        "files": ["weights/ae.sft"],
        "comfyui": ["ComfyUI/models/checkpoints/flux1-dev-fp8.safetensors"],
    },
    "tokenizer_2": {
        "folder": [
            "weights/tokenizers/t5-v1_1-xxl/tokenizer_config.json",
            "weights/tokenizers/t5-v1_1-xxl/spiece.model",
        ],
        "cache": [
            "hub/models--google--t5-v1_1-xxl/snapshots/c1/tokenizer_config.json",
            "hub/models--google--t5-v1_1-xxl/snapshots/c1/spiece.model",
        ],
        "comfyui": [
            "ComfyUI/comfy/text_encoders/t5_tokenizer/tokenizer_config.json",
            "ComfyUI/comfy/text_encoders/t5_tokenizer/tokenizer.json",
        ],
    },
    "scheduler": {
        "folder": ["weights/FLUX.1-dev/scheduler/scheduler_config.json"],
        "cache": [f"hub/{FLUX}/scheduler/scheduler_config.json"],
        "own table": [],
    },
    "control_lora": {
        "named": ["mine.safetensors"],
        "folder": ["weights/FLUX.1-Depth-dev-lora/flux1-depth-dev-lora.safetensors"],
        "cache": [
            "hub/models--black-forest-labs--FLUX.1-Depth-dev-lora/snapshots/c1/"
            "flux1-depth-dev-lora.safetensors"
        ],
        "files": ["weights/flux1-depth-dev-lora.safetensors"],
        "comfyui": ["ComfyUI/models/loras/flux/flux1-depth-dev-lora.safetensors"],
    },
    "depth_estimator": {
        "folder": [
            f"weights/Depth-Anything-V2-Small-hf/{name}"
            for name in ("config.json", "preprocessor_config.json", "model.safetensors")
        ],
        "cache": [
            f"hub/models--depth-anything--Depth-Anything-V2-Small-hf/snapshots/c1/{name}"
            for name in ("config.json", "preprocessor_config.json", "model.safetensors")
        ],
    },
}


def make_home(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with an empty weights folder, Hugging Face cache and ComfyUI folder."""
    for name in ("weights", "hub", "ComfyUI/models"):
        (folder / name).mkdir(parents=True)
    monkeypatch.setenv("HF_HUB_CACHE", str(folder / "hub"))
    return folder


def settings_of(home: Path, **others: object) -> EngineSettings:
    places = {"weights_dir": home / "weights", "comfyui_dir": home / "ComfyUI"}
    return EngineSettings(**{**places, **others})


def put(home: Path, *names: str) -> None:
    """Empty files: what is inside is no matter of the search."""
    for name in names:
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).touch()
