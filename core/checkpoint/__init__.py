"""Stable Diffusion checkpoints, as single files and as diffusers folders, for the embedded host."""
