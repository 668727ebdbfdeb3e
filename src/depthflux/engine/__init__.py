"""One request's way from fields to pictures; the numbered recipe is in engine.py.

Loading:
    selection.py        which profile `load("auto")` means here
    switches.py         what of speed and memory is on, and why; refuses what cannot work
    preflight.py        whether it fits the device's memory, before weights are read
    loading.py          files → engine
    preparation.py      the fused transformer saved for the next start
    compilation.py      torch.compile of the blocks, or why not
    compile_cache.py    where compiled blocks are kept between starts
    warmup.py           everything compiled before the first request
    attention.py        the kernels of attention; attention_choice.py measures which is fastest

A request:
    engine.py           the recipe
    prompts.py          prompts encoded, and kept (prompt_store.py: on disk)
    controls.py         depth maps and control images encoded, and kept
    conditioning.py     what a picture is conditioned on
    constants.py        what the transformer makes of it before the loop; modulation.py, kept.py
    drawing.py          what a seed draws
    denoiser.py         the loop: noise → latents; blocks.py, stepcache.py: what runs and when
    reference.py        the loop in diffusers' order, the oracle
    latents.py          latents packed into tokens and back, and into pixels
    output.py           pictures judged and encoded beside the next one's denoising
    ladder.py           one retry a step lower when memory runs out
    timing.py           milliseconds by phase
    finite.py           NaN and infinity are errors
    failures.py         torch's failures as our errors
    provenance.py       the record that lets a person make the same picture again

Knows nothing of servers, command lines or files beyond the model's.
"""
