"""Makes the packaged demo model from nothing.

Stages: scenes, text encoders, autoencoder, latents, base, control LoRA, depth estimator.

It knows nothing of the depthflux package; the two meet only in the folder of weights, which has
FLUX.1-dev's own layout.
"""
