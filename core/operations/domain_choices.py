"""Choices of Train Domain Model and its kin. Needs no torch, so that a node can list them when it is shown."""

from __future__ import annotations

LAYERS = {
    "attention": ("attention",),
    "attention and feed-forward": ("attention", "feed_forward"),
    "all": ("attention", "feed_forward", "resnet", "projection"),
}
"""Choices of layers, and their roles."""
CHECKPOINTING = ("auto", "on", "off")
CONDITIONS = ("edges, sketch", "edges", "sketch", "segmentation", "edges, segmentation, sketch")
CONTROL_MAPS = DRAWN, _ = ("drawn from the pictures", "maps of the folder")
CONTROL_FORMATS = ("lowrank", "kronecker", "dense")
"""Choices of Train Control Adapter: conditions, where their maps come from, and the format of the adapter's weights."""
PAIR = STRUCTURE, TEXTURE = ("structure", "texture")
"""LoRAs of a time-decoupled pair: above and below the switch."""
