"""RapidDraw for ComfyUI: what ComfyUI imports. Heavy libraries are imported when a node first runs."""

from .core.host import adopt_folders
from .nodes import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS

WEB_DIRECTORY = "./web"

adopt_folders()

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS", "WEB_DIRECTORY"]
