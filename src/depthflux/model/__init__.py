"""Files on disk become modules that are ready to run.

Which weights there are, and getting them:
    catalogue.py      the table of all weights: repositories, files, licences, known sums
    pins.py           what the weights were at the first pull: pins.json
    verification.py   whether the files are what they should be
    download.py       pulling: fetched, compared, recorded      hub.py   the Hub itself

Finding them:
    components.py     what each component is made of, as files
    discovery.py      where it is looked for: the table of rules      hub_cache.py   one such place
    weights.py        a whole model's files: found, or what is missing

Reading them:
    headers.py        what a safetensors file holds, read from its header
    hashes.py         sha256 sums of large files, remembered
    precision.py      which stored dtypes can be used
    flux_config.py    FLUX.1-dev's configuration, for files that come without one
    layouts.py        key layouts: flux_layout.py the transformer's, vae_layout.py the autoencoder's
    tensors.py        a module's tensors by its own names, from memory-mapped files
    assembly.py       a module built empty, compared with its files, filled
    placement.py      the device and dtype that a machine can give, and why
    quantization.py   the large linears in 8 bits; packing.py joins several into one
    footprint.py      how many bytes of the device's memory all of it takes
    offload.py        what need not be on the device all the time
    loading.py        all of it: files → modules

LoRAs:
    control_lora.py   the depth control LoRA: its law, at any scale
    fusing.py         deltas into linears, exactly, through peft
    lora_file.py      a file → factors (lora_keys.py its names, adapter_config.py its scaling)
    further_loras.py  a request's further LoRAs (lora_names.py, lora_downloads.py find them)
    prepared.py       the fused transformer, saved

demo/ holds the packaged miniature. Knows nothing of requests, pictures or schedules.
"""

from depthflux.quiet import quiet_imports

quiet_imports()
