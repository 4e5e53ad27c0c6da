"""The nodes, one file a family. A family that cannot be imported is left out with one clear line; the others still load."""

from __future__ import annotations

import importlib
import logging

FAMILIES = ("loaders", "knowledge", "prompts", "sampling", "upscale", "image", "profile")
NODE_CLASS_MAPPINGS: dict[str, type] = {}
NODE_DISPLAY_NAME_MAPPINGS: dict[str, str] = {}
FAILED: dict[str, str] = {}

for _family in FAMILIES:
    try:
        _nodes = importlib.import_module(f".{_family}", __name__).NODES
    except Exception as _error:  # whatever is wrong with one family must not take the pack down
        FAILED[_family] = f"{type(_error).__name__}: {_error}"
        logging.getLogger("rapiddraw").error("the nodes in nodes/%s.py are not available (%s)", _family, FAILED[_family])
        continue
    for _node in _nodes:
        NODE_CLASS_MAPPINGS[f"RapidDraw{_node.__name__}"] = _node
        NODE_DISPLAY_NAME_MAPPINGS[f"RapidDraw{_node.__name__}"] = _node.DISPLAY_NAME
