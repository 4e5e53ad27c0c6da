"""PNG files marked as AI-generated: text chunks for programs, and IPTC's digital source type in XMP for picture libraries.

`trainedAlgorithmicMedia` is IPTC's term for a picture made by a trained model. Picture agencies and search engines read it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import replacing

if TYPE_CHECKING:
    from torch import Tensor

SOFTWARE = "RapidDraw"
DIGITAL_SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
_XMP_KEY = "XML:com.adobe.xmp"


def ai_chunks() -> dict[str, str]:
    """Return the text chunks that mark a PNG file as AI-generated."""
    return {"Software": SOFTWARE, "ai_generated": "true", "digital_source_type": DIGITAL_SOURCE_TYPE}


def xmp_packet() -> str:
    """Return the same statement as an XMP packet, as IPTC Photo Metadata defines it."""
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description rdf:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/" '
        'xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" '
        f'Iptc4xmpExt:DigitalSourceType="{DIGITAL_SOURCE_TYPE}" xmp:CreatorTool="{SOFTWARE}"/>'
        '</rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
    )


def write_marked_png(path: Path, image: Tensor, prompt: Any = None, extra: Mapping[str, Any] | None = None) -> Path:
    """Write one picture (H, W, 1, 3 or 4) in [0, 1] as a marked PNG, completely or not at all, and return the path.

    `prompt` (the graph in API format) and each entry of `extra` (such as `workflow`) are stored as JSON, as ComfyUI stores them.
    """
    import numpy as np
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    if prompt is not None:
        info.add_text("prompt", json.dumps(prompt))
    for key, value in (extra or {}).items():
        info.add_text(key, json.dumps(value))
    for key, text in ai_chunks().items():
        info.add_text(key, text)
    info.add_itxt(_XMP_KEY, xmp_packet())
    pixels = np.clip(image.detach().cpu().float().numpy() * 255.0, 0, 255).astype(np.uint8)
    picture = Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels)
    with replacing(path) as temporary:
        picture.save(temporary, format="PNG", pnginfo=info, compress_level=4)
    return path


def is_marked(path: Path) -> bool:
    """Return whether a PNG file is marked as AI-generated."""
    from PIL import Image

    with Image.open(path) as image:
        image.load()
        return image.info.get("ai_generated") == "true"
