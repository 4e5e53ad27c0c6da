"""Node classes, one file for each family. A family that cannot be imported is left out with one line in the log; the others load.

Each file spells out its ids in a mapping of its own, for tools that read a pack's source without running it.
"""

from __future__ import annotations

import importlib
import logging

FAMILIES = (
    "loaders",
    "knowledge",
    "facts",
    "train_graph",
    "projection",
    "prompts",
    "enhance",
    "dataset",
    "caption_folder",
    "conditioning",
    "resolution",
    "sampling",
    "time_decoupled",
    "style",
    "bridge_resolution",
    "bridge_latent",
    "upscale",
    "train_upscaler",
    "image",
    "attention",
    "lowrank",
    "slim",
    "slim_train",
    "control_adapter",
    "train_control",
    "distill",
    "few_step",
    "train_domain",
    "train_pair",
    "kronecker",
    "train_kronecker",
    "condition_maps",
    "image_variation",
    "train_image_tokens",
    "profile",
    "compile",
)
NODE_CLASS_MAPPINGS: dict[str, type] = {}
NODE_DISPLAY_NAME_MAPPINGS: dict[str, str] = {}
FAILED: dict[str, str] = {}

for _family in FAMILIES:
    try:
        _nodes = importlib.import_module(f".{_family}", __name__).NODE_CLASS_MAPPINGS
    except Exception as _error:  # an error in one family must not stop the others
        FAILED[_family] = f"{type(_error).__name__}: {_error}"
        logging.getLogger("rapiddraw").error("the nodes in nodes/%s.py are not available (%s)", _family, FAILED[_family])
        continue
    NODE_CLASS_MAPPINGS.update(_nodes)
    NODE_DISPLAY_NAME_MAPPINGS.update({node_id: node.DISPLAY_NAME for node_id, node in _nodes.items()})
