"""What the measured systems and stages are called, in the figures and on the page.

Knows nothing of how they are measured or shown.
"""

from __future__ import annotations

ORACLE, FLOAT64, BFLOAT16 = (f"diffusers {n}" for n in ("float32", "float64", "bfloat16"))
REFERENCE = "reference"
#: Engines in diffusers' order: in float32, and in bfloat16 with diffusers' law or ours.
DEMO_UNHOISTED = "demo, order=diffusers"
COMPAT = "exact, eager, order=diffusers, compat=diffusers"
UNHOISTED = "exact, eager, order=diffusers"
#: Engines in the hoisted order, which these profiles have: in float32 and in bfloat16.
DEMO, EAGER, COMPILED = "demo", "exact, eager", "exact, compiled"
#: The approximations. fp8 takes a GPU; int8 is what stands for it on others.
SKIPPED, INT8, TURBO = "exact, eager, skip_steps=0.5", "fast in int8", "turbo in int8"
#: What each stage is called on the page.
STAGES = {
    "pooled": "CLIP, pooled",
    "tokens": "T5, tokens",
    "control": "control latents",
    "step": "one step",
    "step_of_run": "one step at the run's timesteps",
    "all_steps": "all steps",
    "decode": "decoding",
    "picture": "picture",
}
PIXELS = ("decode", "picture")
