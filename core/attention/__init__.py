"""Attention that chooses its kernel: the kernels, their measurement, and the patch that puts them into a model."""
