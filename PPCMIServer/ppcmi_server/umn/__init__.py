"""The unified mapping network: image latents to mask latents, in the space of the inner key."""
