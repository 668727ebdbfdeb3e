"""Traps in diffusers' handling of a control LoRA, how depthflux answers, and the tests that say so.

A test of docs/fidelity.md sees to it that the tests named here exist.
"""

from __future__ import annotations

from typing import NamedTuple


class Trap(NamedTuple):
    """One trap.

    Attributes:
        what: what diffusers does.
        answer: what depthflux does instead.
        upstream: tests that show it in the installed diffusers.
        ours: tests that show the answer.
    """

    what: str
    answer: str
    upstream: tuple[str, ...]
    ours: tuple[str, ...]


TRAPS = (
    Trap(
        "`fuse_lora(); unload_lora_weights()` puts the base model's q/k norms back under weights "
        "that stay fused.",
        "peft's layers never enter the transformer, so there is nothing to unload; the norms are "
        "set with the weights.",
        ("test_upstream_unloading_after_fusing_leaves_fused_weights_with_the_base_models_norms",),
        ("test_taking_the_loras_layers_out_leaves_its_norms",),
    ),
    Trap(
        "`unload_lora_weights(reset_to_overwritten_params=True)` after fusing resets the input "
        "embedder alone; every other linear stays fused.",
        "Scale 0 reads every tensor from the unfused files again.",
        ("test_upstream_resetting_after_fusing_resets_the_input_embedder_alone",),
        (
            "test_going_back_to_scale_zero_resets_every_tensor",
            "test_scale_zero_is_the_base_models_weights_norms_and_biases",
        ),
    ),
    Trap(
        "`unfuse_lora()` puts the base model's norms back and leaves the adapter at work; fusing "
        "again does not bring the LoRA's norms.",
        "There is no adapter: each scale sets linears and norms together.",
        ("test_upstream_unfusing_leaves_the_lora_at_work_without_its_norms",),
        ("test_every_scale_sets_linears_and_norms_together",),
    ),
    Trap(
        "After a second control LoRA the first one's norms pass for the base model's, which are "
        "lost.",
        "An engine has one control LoRA and reads the base model's norms from its files; a control "
        "LoRA among further LoRAs is refused.",
        ("test_upstream_a_second_control_lora_loses_the_base_models_norms",),
        ("test_a_control_lora_is_no_further_lora",),
    ),
    Trap(
        "Unloading without a reset leaves 128 input channels, which `FluxPipeline` does not "
        "expect.",
        "The transformer is grown once, for good; at scale 0 the control's columns are zero, and "
        "its output is the base model's to the bit.",
        ("test_upstream_unloading_without_a_reset_leaves_128_input_channels",),
        (
            "test_at_scale_zero_the_grown_transformer_is_the_base_model",
            "test_at_scale_zero_the_output_is_plain_fluxs_bit_for_bit",
        ),
    ),
    Trap(
        "`lora_scale` scales the linears; the norms are the LoRA's at every scale, 0 included.",
        "Norms go from the base model's to the LoRA's in a straight line.",
        ("test_upstream_the_scale_leaves_the_norms_at_one",),
        ("test_the_norms_follow_the_scale", "test_the_pass_at_any_scale_is_the_definitions"),
    ),
    Trap(
        "Tensors that a grown linear had before are kept under its short name, so a linear inside "
        "a block is never reset.",
        "Only the input embedder may grow; a LoRA that is too wide anywhere else is refused.",
        ("test_upstream_a_grown_linear_inside_a_block_is_kept_under_its_short_name",),
        ("test_no_linear_but_the_input_embedder_grows",),
    ),
    Trap(
        "A fused adapter stays: peft's wrapper about every linear, its factors in memory, and "
        '`joint_attention_kwargs={"scale": s}` without effect and without a word.',
        "The fused transformer has the base model's modules and no others.",
        ("test_upstream_a_fused_adapter_stays_and_its_scale_is_silently_without_effect",),
        (
            "test_a_fused_transformer_has_the_base_models_modules_and_no_others",
            "test_no_lora_layer_is_left_in_the_forward_path",
        ),
    ),
    Trap(
        "Converting the published file swaps the halves of `norm_out`'s A along the rank, beside "
        "B's rows: B·A is then another matrix.",
        "A conversion of our own swaps rows of B and of its bias, and A never.",
        ("test_upstream_the_conversion_swaps_the_last_adalns_rank",),
        (
            "test_every_fused_tensor_is_the_definitions",
            "test_ours_and_diffusers_conversion_differ_in_the_last_adaln_only",
        ),
    ),
    Trap(
        "`fuse_lora(lora_scale=s)` multiplies the adapter's scale for good: 0.3 twice gives "
        "0.09, and after 0 the LoRA is gone. Unfusing rounds, so that bfloat16 weights change.",
        "Every change starts from the unfused files.",
        (
            "test_upstream_fusing_at_a_scale_twice_multiplies_the_scales",
            "test_upstream_after_scale_zero_the_lora_is_gone",
            "test_upstream_one_fuse_and_unfuse_in_bfloat16_changes_the_weights",
        ),
        (
            "test_scales_neither_multiply_nor_wear_off_nor_round",
            "test_any_sequence_of_scales_ends_where_a_fresh_fuse_ends",
        ),
    ),
)
