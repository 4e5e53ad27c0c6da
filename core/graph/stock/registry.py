"""Stock nodes of the embedded host: those that saved graphs use, with the ids, inputs and behaviour of ComfyUI 0.18.

Node classes import nothing heavy; torch comes in when one runs. Inside ComfyUI none of this is used.
"""

from __future__ import annotations

from .conditioning import NODES as _CONDITIONING
from .custom_sampling import NODES as _CUSTOM_SAMPLING
from .image import NODES as _IMAGE
from .image_files import NODES as _IMAGE_FILES
from .loaders import NODES as _LOADERS
from .sampling import NODES as _SAMPLING

_ALL = (*_LOADERS, *_CONDITIONING, *_SAMPLING, *_CUSTOM_SAMPLING, *_IMAGE, *_IMAGE_FILES)
STOCK_NODES: dict[str, type] = {node.__name__: node for node in _ALL}
STOCK_DISPLAY_NAMES: dict[str, str] = {name: getattr(node, "DISPLAY_NAME", name) for name, node in STOCK_NODES.items()}
