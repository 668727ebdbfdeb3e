"""One request's way from fields to pictures; the numbered recipe is in engine.py.

    engine.py         load an engine, generate a prediction: the recipe
    selection.py      which profile `load("auto")` means here
    conditioning.py   everything that does not depend on the latents: text, control, positions
    denoiser.py       the loop: noise → latents, step by step
    latents.py        latents packed into tokens and back, and back into pixels
    compilation.py    torch.compile of the transformer's blocks, or why not
    timing.py         milliseconds by phase
    failures.py       torch's failures as our errors
    provenance.py     the record that lets a person make the same picture again

Knows nothing of servers, command lines or files beyond the model's.
"""
