"""Further LoRAs as people have them: every layout gives its definition's weights, or is refused."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import accelerate
import pytest
import torch
from bfl_models import forward, inputs, load, relative
from bfl_reference import Flux, Size, fused, linear_shapes, random_base
from diffusers import FluxPipeline, FluxTransformer2DModel
from safetensors.torch import save_file

from depthflux.errors import LoraMismatchError, WeightsCorruptError
from depthflux.model.adapter_config import ADAPTER_METADATA, AdapterConfig
from depthflux.model.control_lora import grow_input_embedder
from depthflux.model.fusing import Delta, FusedLinears
from depthflux.model.lora_file import LoraTensors, read_lora
from depthflux.model.tensors import TensorFiles

Tensors = dict[str, torch.Tensor]

SMALL = Size(heads=2, head_width=16, double=2, single=2, text_width=32, pooled_width=16)
#: No power of two, so that folding it into a factor would round.
RANK, ALPHA, SCALE = 3, 2.0, 0.7
BLOCK, SINGLE = "transformer_blocks.0", "single_transformer_blocks.1"
#: Linears of every kind, by diffusers' names.
LINEARS = (
    f"{BLOCK}.attn.to_q",
    f"{BLOCK}.attn.add_v_proj",
    f"{BLOCK}.attn.to_out.0",
    f"{BLOCK}.ff.net.0.proj",
    f"{BLOCK}.norm1.linear",
    f"{SINGLE}.proj_mlp",
    f"{SINGLE}.proj_out",
)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small base model in its makers' layout."""
    path = tmp_path_factory.mktemp("small") / "base.safetensors"
    save_file(random_base(SMALL), path)
    return path


@dataclass
class Desk:
    """Writes LoRA files for one small model, reads them, and fuses them in two ways."""

    base: Path
    folder: Path

    @property
    def file(self) -> Path:
        return self.folder / "lora.safetensors"

    def write(self, tensors: Tensors, metadata: dict[str, Any] | None = None) -> None:
        stored = {name: tensor.contiguous() for name, tensor in tensors.items()}
        text = {} if metadata is None else {ADAPTER_METADATA: json.dumps(metadata)}
        save_file(stored, self.file, metadata={"format": "pt", **text})

    def model(self) -> tuple[Any, TensorFiles]:
        return load(self.base, SMALL)

    def read(self) -> LoraTensors:
        return read_lora(self.file, self.model()[0])

    def fused(self) -> Any:
        """The transformer with the file fused by the code under test."""
        transformer, master = self.model()
        lora = read_lora(self.file, transformer)
        linears = FusedLinears(transformer, master, dtype=torch.float32)
        deltas = {name: [Delta("lora", one, SCALE)] for name, one in lora.linears.items()}
        assert linears.fuse(deltas) == len(deltas) > 0
        return transformer

    def fused_by_diffusers(self) -> Tensors:
        """The weights after diffusers' own loading and fusing."""
        transformer, _ = self.model()
        nothing = dict.fromkeys(
            ("scheduler", "vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")
        )
        pipeline = FluxPipeline(**nothing, transformer=transformer)
        pipeline.load_lora_weights(self.folder, weight_name=self.file.name)
        pipeline.fuse_lora(lora_scale=SCALE)
        state = transformer.state_dict()
        return {n.replace(".base_layer", ""): t for n, t in state.items() if "lora_" not in n}

    def refusal(self) -> str:
        with pytest.raises(LoraMismatchError, match="does not fit the transformer") as caught:
            self.read()
        message = str(caught.value)
        assert "\n" not in message
        assert str(self.file) in message
        return message


@pytest.fixture
def desk(base: Path, tmp_path: Path) -> Desk:
    return Desk(base, tmp_path)


def factors(outputs: int, inputs: int, rank: int = RANK, seed: int = 0) -> tuple[Any, Any]:
    draw = torch.Generator().manual_seed(seed)
    down = torch.randn(rank, inputs, generator=draw) / inputs**0.5
    return down, 0.3 * torch.randn(outputs, rank, generator=draw)


def spelt(name: str, spelling: str) -> str:
    return spelling.format(name.replace(".", "_") if "_{}" in spelling else name)


def in_diffusers_names(
    desk: Desk,
    names: tuple[str, ...] = LINEARS,
    spelling: str = "transformer.{}",
    endings: tuple[str, str] = ("lora_A.weight", "lora_B.weight"),
    ranks: tuple[int, ...] = (RANK,),
) -> Tensors:
    """A LoRA of some linears, by diffusers' names in some spelling."""
    tensors = {}
    linears = dict(desk.model()[0].named_modules())
    for index, name in enumerate(names):
        linear, rank = linears[name], ranks[index % len(ranks)]
        down, up = factors(linear.out_features, linear.in_features, rank, seed=index)
        stem = spelt(name, spelling)
        tensors |= {f"{stem}.{endings[0]}": down, f"{stem}.{endings[1]}": up}
    return tensors


def with_alphas(tensors: Tensors, alpha: float = ALPHA) -> Tensors:
    stems = {key.partition(".lora_")[0] for key in tensors}
    return tensors | {f"{stem}.alpha": torch.tensor(alpha) for stem in stems}


def assert_same_as_diffusers(desk: Desk) -> None:
    ours, theirs = desk.fused().state_dict(), desk.fused_by_diffusers()
    plain = desk.model()[0].state_dict()

    assert ours.keys() == theirs.keys()
    for name in ours:
        assert torch.allclose(ours[name], theirs[name], rtol=1e-5, atol=2e-6), name
    assert [name for name in theirs if not torch.equal(theirs[name], plain[name])]


# Diffusers' own names -----------------------------------------------------------------------------


def test_diffusers_and_peft_files_fuse_as_diffusers_does(desk: Desk) -> None:
    desk.write(in_diffusers_names(desk))

    assert_same_as_diffusers(desk)


def test_alphas_beside_the_factors_are_heeded(desk: Desk) -> None:
    desk.write(with_alphas(in_diffusers_names(desk)))

    assert_same_as_diffusers(desk)


def test_every_linear_may_have_a_rank_of_its_own(desk: Desk) -> None:
    desk.write(in_diffusers_names(desk, ranks=(2, 3, 5)))

    assert_same_as_diffusers(desk)


@pytest.mark.parametrize("by_root", [False, True], ids=["alpha", "rslora"])
def test_the_configuration_in_the_metadata_is_heeded(desk: Desk, by_root: bool) -> None:
    """peft matches a pattern with the end of a linear's name, unless it begins with ^."""
    config = {
        "r": RANK,
        "lora_alpha": 5,
        "alpha_pattern": {"attn.to_q": 7.0, f"^{SINGLE}.proj_out": 4},
        "target_modules": list(LINEARS),
        "use_rslora": by_root,
    }
    desk.write(in_diffusers_names(desk), {f"transformer.{k}": v for k, v in config.items()})

    assert_same_as_diffusers(desk)


def test_a_pattern_after_a_caret_is_a_whole_name() -> None:
    config = AdapterConfig(alpha=6.0, alphas={"^proj_out": 3.0, "to_q": 9.0})

    names = ("proj_out", f"{SINGLE}.proj_out", f"{BLOCK}.attn.to_q", "to_q", f"{BLOCK}.into_q")
    assert [config.scaling(name, 3) for name in names] == [1.0, 2.0, 3.0, 3.0, 2.0]


def test_a_bias_is_part_of_the_delta(desk: Desk) -> None:
    tensors = in_diffusers_names(desk, LINEARS[:1])
    tensors[f"transformer.{LINEARS[0]}.lora_B.bias"] = torch.full((SMALL.width,), 0.5)
    desk.write(tensors)

    assert_same_as_diffusers(desk)


@pytest.mark.parametrize(
    ("spelling", "endings"),
    [
        ("{}", ("lora_A.weight", "lora_B.weight")),
        ("transformer.{}", ("lora.down.weight", "lora.up.weight")),
        ("transformer.{}", ("lora_down.weight", "lora_up.weight")),
        ("transformer.{}", ("lora_A.default.weight", "lora_B.default.weight")),
        ("lora_transformer_{}", ("lora_down.weight", "lora_up.weight")),
    ],
    ids=["the model's own", "old diffusers", "mixed", "adapter's name", "OneTrainer"],
)
def test_other_spellings_of_diffusers_names_fuse_to_the_same_bits(
    desk: Desk, spelling: str, endings: tuple[str, str]
) -> None:
    desk.write(in_diffusers_names(desk))
    plain = desk.fused().state_dict()

    desk.write(in_diffusers_names(desk, spelling=spelling, endings=endings))

    assert all(
        torch.equal(tensor, plain[name]) for name, tensor in desk.fused().state_dict().items()
    )


def test_a_configuration_without_prefix_is_that_of_the_transformer(desk: Desk) -> None:
    desk.write(with_alphas(in_diffusers_names(desk)))
    beside = desk.read().linears

    desk.write(in_diffusers_names(desk, spelling="{}"), {"r": RANK, "lora_alpha": ALPHA})

    within = desk.read().linears
    assert {name: within[name].scaling for name in within} == dict.fromkeys(beside, ALPHA / RANK)


# The makers' names --------------------------------------------------------------------------------


def in_makers_names(spelling: str, endings: tuple[str, str]) -> Tensors:
    """A LoRA of every linear that there is, with alphas."""
    tensors = {}
    for index, (name, (outputs, width)) in enumerate(linear_shapes(SMALL).items()):
        down, up = factors(outputs, width, seed=index)
        stem = spelt(name, spelling)
        tensors |= {f"{stem}.{endings[0]}": down, f"{stem}.{endings[1]}": up}
        tensors[f"{stem}.alpha"] = torch.tensor(ALPHA)
    return tensors


PEFT, KOHYA = ("lora_A.weight", "lora_B.weight"), ("lora_down.weight", "lora_up.weight")


@pytest.mark.parametrize(
    ("spelling", "endings"),
    [
        ("lora_unet_{}", KOHYA),
        ("diffusion_model.{}", KOHYA),
        ("diffusion_model.{}", PEFT),
        ("base_model.model.{}", PEFT),
        ("{}", PEFT),
    ],
    ids=["kohya", "ComfyUI", "ComfyUI from peft", "fal", "bare"],
)
def test_the_makers_names_in_every_spelling_give_the_definitions_pass(
    desk: Desk, spelling: str, endings: tuple[str, str]
) -> None:
    """Every linear, the last AdaLN with its swapped halves among them, by another witness."""
    desk.write(in_makers_names(spelling, endings))
    plain = in_makers_names("{}", PEFT)
    scaled = {k: t * ALPHA / RANK if "lora_B" in k else t for k, t in plain.items()}
    given = inputs(SMALL)

    reference = Flux(fused(random_base(SMALL), scaled, SCALE), SMALL)(**given)

    assert relative(forward(desk.fused(), given), reference) < 2e-6


def test_kohya_files_fuse_as_diffusers_does(desk: Desk) -> None:
    """Of what diffusers can convert at this size, and does not drop."""
    tensors = in_makers_names("lora_unet_{}", KOHYA)
    desk.write({k: t for k, t in tensors.items() if "_blocks_" in k and "_linear1" not in k})

    assert_same_as_diffusers(desk)


def test_kohyas_block_diagonal_factors_are_the_same_delta(desk: Desk) -> None:
    """Where q, k and v were trained apart, each has its own third of the rank."""
    width, rank = SMALL.width, 6
    down, up = factors(3 * width, width, rank)
    mask = torch.block_diag(*[torch.ones(width, rank // 3)] * 3)
    name = "lora_unet_double_blocks_1_txt_attn_qkv"
    desk.write({f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up * mask})

    assert_same_as_diffusers(desk)


def test_xlabs_files_fuse_as_diffusers_does(desk: Desk) -> None:
    width, tensors = SMALL.width, {}
    shapes = {
        "double_blocks.0.processor.qkv_lora1": (3 * width, width),
        "double_blocks.0.processor.qkv_lora2": (3 * width, width),
        "double_blocks.1.processor.proj_lora1": (width, width),
        "double_blocks.1.processor.proj_lora2": (width, width),
        "single_blocks.0.processor.qkv_lora": (3 * width, width),
        "single_blocks.1.processor.proj_lora": (width, 5 * width),
    }
    for index, (name, (outputs, columns)) in enumerate(shapes.items()):
        down, up = factors(outputs, columns, seed=index)
        tensors |= {f"{name}.down.weight": down, f"{name}.up.weight": up}
    desk.write(tensors)

    assert_same_as_diffusers(desk)


# FLUX's full size ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def flux() -> Any:
    with accelerate.init_empty_weights():
        return FluxTransformer2DModel(guidance_embeds=True)


@pytest.mark.parametrize("kind", ["kohya", "OneTrainer"])
def test_at_full_size_each_linears_delta_is_that_of_diffusers_conversion(
    kind: str, flux: Any, tmp_path: Path
) -> None:
    """For what diffusers converts at FLUX's own width only; products are compared, not matrices."""
    width = 3072
    names = {
        "kohya": {
            "lora_unet_single_blocks_37_linear1": (7 * width, width),
            "lora_unet_single_blocks_37_linear2": (width, 5 * width),
            "lora_unet_double_blocks_18_img_mlp_2": (width, 4 * width),
        },
        "OneTrainer": {
            "lora_transformer_transformer_blocks_18_attn_add_k_proj": (width, width),
            "lora_transformer_single_transformer_blocks_37_attn_to_v": (width, width),
            "lora_transformer_time_text_embed_text_embedder_linear_1": (width, 768),
        },
    }[kind]
    tensors = {}
    for index, (name, (outputs, columns)) in enumerate(names.items()):
        down, up = factors(outputs, columns, seed=index)
        tensors |= {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}
        tensors[f"{name}.alpha"] = torch.tensor(ALPHA)
    save_file(tensors, tmp_path / "lora.safetensors")

    ours = read_lora(tmp_path / "lora.safetensors", flux).linears
    theirs = FluxPipeline.lora_state_dict(dict(tensors))

    assert {f"transformer.{n}.lora_A.weight" for n in ours} == {k for k in theirs if "lora_A" in k}
    for name, one in ours.items():
        draw = torch.Generator().manual_seed(1)
        probe = torch.randn(one.down.shape[1], generator=draw, dtype=torch.float64)
        a, b = (theirs[f"transformer.{name}.lora_{part}.weight"].double() for part in "AB")
        mine = one.scaling * (one.up.double() @ (one.down.double() @ probe))
        assert relative(mine, b @ (a @ probe)) < 1e-6, name


def test_kohyas_parts_that_diffusers_drops_are_read(flux: Any, tmp_path: Path) -> None:
    names = {"lora_unet_img_in": (3072, 64), "lora_unet_final_layer_linear": (64, 3072)}
    tensors = {}
    for name, (outputs, columns) in names.items():
        down, up = factors(outputs, columns)
        tensors |= {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}
        tensors[f"{name}.alpha"] = torch.tensor(ALPHA)
    save_file(tensors, tmp_path / "lora.safetensors")

    ours = read_lora(tmp_path / "lora.safetensors", flux).linears

    assert {name: one.scaling for name, one in ours.items()} == {
        "x_embedder": ALPHA / RANK,
        "proj_out": ALPHA / RANK,
    }


# The grown input embedder -------------------------------------------------------------------------


def test_a_lora_of_the_plain_input_embedder_leaves_the_controls_columns_alone(desk: Desk) -> None:
    desk.write(in_diffusers_names(desk, ("x_embedder",)))
    plain = desk.fused().x_embedder.weight
    transformer, master = desk.model()
    grow_input_embedder(transformer)

    lora = read_lora(desk.file, transformer)
    deltas = {"x_embedder": [Delta("lora", lora.linears["x_embedder"], SCALE)]}
    FusedLinears(transformer, master, dtype=torch.float32).fuse(deltas)

    assert torch.equal(transformer.x_embedder.weight[:, :64], plain)
    assert not transformer.x_embedder.weight[:, 64:].any()


@pytest.mark.parametrize("is_grown", [False, True])
def test_a_lora_that_takes_a_control_image_is_refused(desk: Desk, is_grown: bool) -> None:
    down, up = factors(SMALL.width, 128)
    desk.write({"img_in.lora_A.weight": down, "img_in.lora_B.weight": up})
    transformer, _ = desk.model()
    if is_grown:
        grow_input_embedder(transformer)

    with pytest.raises(LoraMismatchError, match="this is a control LoRA"):
        read_lora(desk.file, transformer)


# Refusals -----------------------------------------------------------------------------------------


def changed(desk: Desk, change: Callable[[Tensors], None]) -> Desk:
    tensors = in_diffusers_names(desk)
    change(tensors)
    desk.write(tensors)
    return desk


@pytest.mark.parametrize(
    "key",
    [
        "lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_down.weight",
        "lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight",
        "text_encoder.text_model.encoder.layers.0.mlp.fc1.lora_A.weight",
        "text_encoders.clip_l.transformer.text_model.encoder.layers.0.mlp.fc1.lora_down.weight",
        "text_encoders.t5xxl.transformer.encoder.block.0.layer.0.SelfAttention.k.lora_up.weight",
    ],
)
def test_parts_for_text_encoders_are_refused(desk: Desk, key: str) -> None:
    def add(tensors: Tensors) -> None:
        tensors[key] = torch.ones(1, 1)

    assert "1 of its tensors are for text encoders" in changed(desk, add).refusal()


@pytest.mark.parametrize(
    ("part", "kind"),
    [
        ("dora_scale", "DoRA"),
        ("lora_magnitude_vector.weight", "DoRA"),
        ("hada_w1_a", "LoHa"),
        ("lokr_w2", "LoKr"),
        ("oft_blocks", "OFT"),
        ("diff", "whole differences"),
        ("diff_b", "whole differences"),
    ],
)
def test_kinds_that_are_no_plain_lora_are_refused_by_name(desk: Desk, part: str, kind: str) -> None:
    def add(tensors: Tensors) -> None:
        tensors[f"transformer.{LINEARS[0]}.{part}"] = torch.ones(1)

    assert f"no plain LoRA (it has {kind})" in changed(desk, add).refusal()


def test_a_lora_for_another_model_is_told_by_one_of_its_keys(desk: Desk) -> None:
    names = [f"lora_unet_down_blocks_{i}_attn1_to_q" for i in range(50)]
    desk.write({f"{name}.lora_down.weight": torch.ones(2, 8) for name in names})

    assert "none of its 50 tensors has a place there, such as lora_unet_down" in desk.refusal()


def test_a_key_without_a_place_is_not_passed_over(desk: Desk) -> None:
    def add(tensors: Tensors) -> None:
        tensors["transformer.transformer_blocks.99.attn.to_q.lora_A.weight"] = torch.ones(1, 1)

    assert (
        "transformer_blocks.99.attn.to_q.lora_A.weight has no place" in changed(desk, add).refusal()
    )


@pytest.mark.parametrize(
    ("shapes", "problem"),
    [
        ({"lora_A.weight": (3, 31)}, "(down [3, 31], up [32, 3]) does not fit a linear of 32 → 32"),
        ({"lora_B.weight": (33, 3)}, "up [33, 3]) does not fit"),
        ({"lora_A.weight": (4, 32)}, "down [4, 32], up [32, 3]) does not fit"),
        ({"lora_A.weight": (0, 32), "lora_B.weight": (32, 0)}, "does not fit"),
        ({"lora_A.weight": ()}, "does not fit"),
        ({"lora_B.bias": (31,)}, "bias [31], up"),
        ({"alpha": (2,)}, "(alpha [2], "),
    ],
    ids=["inputs", "outputs", "ranks", "no rank", "a number", "bias", "alphas"],
)
def test_tensors_of_another_shape_are_refused(
    desk: Desk, shapes: dict[str, tuple[int, ...]], problem: str
) -> None:
    def exchange(tensors: Tensors) -> None:
        for part, shape in shapes.items():
            tensors[f"transformer.{LINEARS[0]}.{part}"] = torch.ones(shape)

    assert problem in changed(desk, exchange).refusal()


def test_rows_that_no_linear_takes_are_refused(desk: Desk) -> None:
    """Cutting a longer B would pass a LoRA of a wider model."""
    down, up = factors(4 * SMALL.width, SMALL.width)
    name = "lora_unet_double_blocks_0_img_attn_qkv"
    desk.write({f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up})

    assert "up [128, 3]) does not fit a linear of 32 → 96" in desk.refusal()


@pytest.mark.parametrize("part", ["lora_A.weight", "lora_B.weight"])
def test_half_a_pair_is_refused(desk: Desk, part: str) -> None:
    def remove(tensors: Tensors) -> None:
        del tensors[f"transformer.{LINEARS[0]}.{part}"]

    assert f"transformer.{LINEARS[0]} has no A or no B" in changed(desk, remove).refusal()


def test_a_linear_under_two_names_is_refused(desk: Desk) -> None:
    second = in_diffusers_names(desk, LINEARS[:1], spelling="{}")
    desk.write(in_diffusers_names(desk) | second)

    assert f"{LINEARS[0]} is there twice, under two names" in desk.refusal()


def test_a_part_in_two_spellings_is_refused(desk: Desk) -> None:
    def add(tensors: Tensors) -> None:
        tensors[f"transformer.{LINEARS[0]}.lora_down.weight"] = torch.ones(RANK, SMALL.width)

    assert "is there twice, spelt otherwise, too" in changed(desk, add).refusal()


def test_two_statements_of_alpha_are_refused(desk: Desk) -> None:
    desk.write(with_alphas(in_diffusers_names(desk)), {"transformer.lora_alpha": 4})

    assert "has an alpha, and the file's configuration states another" in desk.refusal()


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ({"r": 3}, "its lora_alpha is None and no number"),
        ({"lora_alpha": "8"}, "its lora_alpha is '8' and no number"),
        ({"lora_alpha": float("nan")}, "its lora_alpha is nan and no number"),
        ({"lora_alpha": 1, "alpha_pattern": {"to_q": True}}, "alpha_pattern of to_q is True"),
        ({"lora_alpha": 1, "alpha_pattern": [1]}, "its alpha_pattern is [1]"),
        ({"lora_alpha": 1, "alpha_pattern": {"(a+)+": 1}}, "has '(a+)+', which is no linear's"),
        ({"lora_alpha": 1, "use_dora": True}, "no plain LoRA (DoRA, says its"),
        ({"lora_alpha": 1, "init_lora_weights": "pissa"}, "no plain LoRA (begun as 'pissa'"),
        ([1], "is no JSON object"),
    ],
    ids=lambda value: "" if isinstance(value, str) else str(value),
)
def test_a_configuration_that_says_more_or_less_than_alpha_is_refused(
    desk: Desk, config: Any, problem: str
) -> None:
    desk.write(in_diffusers_names(desk), config)

    assert problem in desk.refusal()


def test_a_configuration_that_is_no_json_is_refused(desk: Desk) -> None:
    save_file(in_diffusers_names(desk), desk.file, metadata={ADAPTER_METADATA: "{"})

    assert f"its {ADAPTER_METADATA} is no JSON" in desk.refusal()


def test_of_many_problems_a_few_are_listed(desk: Desk) -> None:
    strange = {f"strange.{i}": torch.ones(1) for i in range(500)}
    desk.write(in_diffusers_names(desk) | strange)

    assert "and 492 more" in desk.refusal()


def test_numbers_that_are_none_are_refused(desk: Desk) -> None:
    def spoil(tensors: Tensors) -> None:
        tensors[f"transformer.{LINEARS[0]}.lora_A.weight"][0, 0] = float("inf")

    with pytest.raises(WeightsCorruptError, match=r"non-finite numbers in transformer\."):
        changed(desk, spoil).read()


def test_a_pickle_under_a_good_name_is_refused_unread(desk: Desk) -> None:
    desk.file.write_bytes(pickle.dumps({"a": 1}))

    with pytest.raises(WeightsCorruptError, match="is no safetensors file"):
        desk.read()


def test_quantised_numbers_are_refused(desk: Desk) -> None:
    def round_off(tensors: Tensors) -> None:
        key = f"transformer.{LINEARS[0]}.lora_A.weight"
        tensors[key] = tensors[key].to(torch.float8_e4m3fn)

    with pytest.raises(WeightsCorruptError, match="holds tensors of F8_E4M3"):
        changed(desk, round_off).read()
