"""Attention that chooses its kernel: the kernels, what measures them, and the patch that puts them into a model."""
