"""Distillation of diffusion models into students of few steps: one loss a file. :mod:`.segment` has what they share."""
