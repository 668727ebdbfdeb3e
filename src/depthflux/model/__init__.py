"""Files on disk become modules that are ready to run.

    weights.py        which files make up a model, where they are looked for, whether they are whole
    headers.py        what a safetensors file holds, read from its header
    hashes.py         sha256 sums of large files, remembered
    placement.py      the device and dtype that a machine can give, and why
    loading.py        files → modules, through diffusers, transformers and accelerate
    control_lora.py   the depth control LoRA: attached and fused through peft, rescaled exactly
    demo/             the packaged miniature

Knows nothing of requests, pictures or schedules.
"""
