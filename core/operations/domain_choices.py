"""Choices of Train Domain Model and its kin. Needs no torch, so that a node can list them when it is shown."""

from __future__ import annotations

LAYERS = {
    "attention": ("attention",),
    "attention and feed-forward": ("attention", "feed_forward"),
    "all": ("attention", "feed_forward", "resnet", "projection"),
}
"""Choices of layers, and their roles."""
CHECKPOINTING = ("auto", "on", "off")
PAIR = STRUCTURE, TEXTURE = ("structure", "texture")
"""LoRAs of a time-decoupled pair: above and below the switch."""
