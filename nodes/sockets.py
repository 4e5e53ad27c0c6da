"""Types of the values that come and go by sockets. MODEL, CLIP, VAE and the like are the host's own objects: `Any`."""

from __future__ import annotations

from typing import Any, TypeAlias

Inputs: TypeAlias = dict[str, dict[str, Any]]
"""What INPUT_TYPES returns: "required", "optional" and "hidden", each from an input's name to its type and options."""

Latent: TypeAlias = dict[str, Any]
"""A LATENT: `samples`, a tensor (batch, channels, ...) in the VAE's own scale, and options such as `noise_mask`."""
