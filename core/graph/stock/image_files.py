"""Stock nodes that read and write pictures: LoadImage, SaveImage, PreviewImage."""

from __future__ import annotations

import json
import mimetypes
import os
import secrets
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from ...errors import InputError
from ...files import make_folder, write_numbered
from ...paths import file_sha256, input_dir, output_dir, safe_join, temp_dir

if TYPE_CHECKING:
    import torch
    from torch import Tensor

T = TypeVar("T")
MAX_FRAMES, MAX_PIXELS, MAX_DIGITS = 4096, 2**27, 12
_FOLDERS = {"input": input_dir, "output": output_dir, "temp": temp_dir}


def annotated_path(name: str) -> Path:
    """Return the file of a picture's name in the input folder, or, as `name [output]` or `name [temp]`, in those."""
    folder = input_dir()
    for kind, place in _FOLDERS.items():
        if name.endswith(f"[{kind}]"):
            name, folder = name.removesuffix(f"[{kind}]").rstrip(), place()
    path = safe_join(folder, name)
    return path if "\\" not in name or path.exists() else safe_join(folder, name.replace("\\", "/"))  # saved on Windows


def save_path(prefix: str, folder: Path, width: int, height: int) -> tuple[Path, str, int]:
    """Return (folder, file stem, first number that looks free) for a file prefix, which may name a sub-folder and hold %width%, %year% and
    the like. Another process may take the number meanwhile, so write with :func:`~rapiddraw.core.files.write_numbered`.

    Raises :class:`InputError` for a prefix that leads outside `folder`, :class:`WriteError` where the sub-folder cannot be made.
    """
    now = time.localtime()
    values = {"width": str(width), "height": str(height), "year": str(now.tm_year)}
    for name, number in (
        ("month", now.tm_mon),
        ("day", now.tm_mday),
        ("hour", now.tm_hour),
        ("minute", now.tm_min),
        ("second", now.tm_sec),
    ):
        values[name] = f"{number:02d}"
    for name, value in values.items():
        prefix = prefix.replace(f"%{name}%", value)
    target = safe_join(folder, prefix)
    make_folder(target.parent)
    taken = [0]
    for entry in os.listdir(target.parent):
        if os.path.normcase(entry).startswith(os.path.normcase(target.name + "_")):
            digits = entry[len(target.name) + 1 :].split("_")[0]
            taken.append(int(digits) if digits.isascii() and digits.isdigit() and len(digits) <= MAX_DIGITS else 0)
    return target.parent, target.name, max(taken) + 1


def write_png(path: Path, image: Any, metadata: dict[str, Any], compress_level: int = 4) -> None:
    """Write an (H, W, C) image in [0, 1] as PNG with `metadata` as JSON text chunks."""
    import numpy as np
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    pixels = np.clip(image.cpu().numpy() * 255.0, 0, 255).astype(np.uint8)
    text = PngInfo()
    for key, value in metadata.items():
        text.add_text(key, json.dumps(value))
    picture = Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels)
    picture.save(path, format="PNG", pnginfo=text, compress_level=compress_level)


class SaveImage:
    DISPLAY_NAME = "Save Image"
    CATEGORY = "image"
    DESCRIPTION = "Saves pictures as PNG into the output folder, with the graph that made them."
    RETURN_TYPES: ClassVar[tuple[str, ...]] = ()
    OUTPUT_NODE = True
    FUNCTION = "save_images"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        tooltip = "Start of the file name; may name a sub-folder and hold %year%, %width% and the like."
        return {
            "required": {
                "images": ("IMAGE", {"tooltip": "The pictures to save."}),
                "filename_prefix": ("STRING", {"default": "ComfyUI", "tooltip": tooltip}),
            },
            "hidden": {"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO"},
        }

    def save_images(
        self, images: Any, filename_prefix: str = "ComfyUI", prompt: Any = None, extra_pnginfo: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        return _save(images, filename_prefix, prompt, extra_pnginfo, "output", 4)


class PreviewImage:
    DISPLAY_NAME = "Preview Image"
    CATEGORY = "image"
    DESCRIPTION = "Writes pictures into the temporary folder, to be looked at."
    RETURN_TYPES: ClassVar[tuple[str, ...]] = ()
    OUTPUT_NODE = True
    FUNCTION = "save_images"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {"images": ("IMAGE", {"tooltip": "The pictures to look at."})},
            "hidden": {"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO"},
        }

    def save_images(self, images: Any, prompt: Any = None, extra_pnginfo: dict[str, Any] | None = None) -> dict[str, Any]:
        return _save(images, f"ComfyUI_temp_{secrets.token_hex(3)}", prompt, extra_pnginfo, "temp", 1)


def _save(images: Any, prefix: str, prompt: Any, extra: dict[str, Any] | None, kind: str, compress_level: int) -> dict[str, Any]:
    base = _FOLDERS[kind]().resolve()
    folder, stem, counter = save_path(prefix, base, images.shape[2], images.shape[1])
    metadata = ({} if prompt is None else {"prompt": prompt}) | (extra or {})
    subfolder = "" if folder == base else folder.relative_to(base).as_posix()
    saved = []
    for place, image in enumerate(images):
        write = partial(write_png, image=image, metadata=metadata, compress_level=compress_level)
        path, number = write_numbered(folder, partial(_file_name, stem.replace("%batch_num%", str(place))), counter, write)
        counter = number + 1
        saved.append({"filename": path.name, "subfolder": subfolder, "type": kind})
    return {"ui": {"images": saved}}


def _file_name(stem: str, number: int) -> str:
    return f"{stem}_{number:05}_.png"


class LoadImage:
    DISPLAY_NAME = "Load Image"
    CATEGORY = "image"
    DESCRIPTION = "Reads a picture from the input folder."
    RETURN_TYPES = ("IMAGE", "MASK")
    FUNCTION = "load_image"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        folder = input_dir()
        names = os.listdir(folder) if folder.is_dir() else []
        images = [name for name in names if (mimetypes.guess_type(name)[0] or "").startswith("image/") and _is_inside(folder, name)]
        return {"required": {"image": (sorted(images), {"image_upload": True, "tooltip": "A file in the input folder."})}}

    def load_image(self, image: str) -> tuple[Any, Any]:
        return read_image(annotated_path(image))

    @classmethod
    def IS_CHANGED(cls, image: str) -> str:
        return file_sha256(annotated_path(image))

    @classmethod
    def VALIDATE_INPUTS(cls, image: str) -> bool | str:
        try:
            found = annotated_path(image).is_file()
        except InputError as error:
            return str(error)
        return found or f"Invalid image file: {image}"


def _is_inside(folder: Path, name: str) -> bool:
    """Whether a file of the input folder can be loaded: a link that leads outside cannot."""
    try:
        return safe_join(folder, name).is_file()
    except InputError:
        return False


def read_image(path: Path) -> tuple[Any, Any]:
    """Return an IMAGE (frames, H, W, 3) and a MASK (frames, H, W), 1 where the file is transparent; without alpha it is (frames, 64, 64)
    zeros.

    EXIF rotation is applied; frames of another size than the first are left out. A picture that is cut short, or that carries more text
    than Pillow unpacks, gives what ComfyUI's own node gives: what is there of its pixels, and no text. Raises :class:`InputError` for an
    unreadable file, and, before its pixels are unpacked, for one of more than 4,096 frames or 2^27 pixels in all frames.
    """
    import torch
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit is the one that counts
            frames = _lenient(lambda: list(_frames(path)))
    except InputError:
        raise
    except Exception as error:  # Pillow raises many kinds for a damaged or hostile file
        raise InputError(f"{path.name} in {path.parent.name}/ is no picture that can be read ({error})") from error
    if len(frames) == 1:
        return frames[0][0][None], frames[0][1][None]
    return torch.stack([colour for colour, _ in frames]), torch.stack([mask for _, mask in frames])


def _lenient(read: Callable[[], T]) -> T:
    """What `read` gives; where Pillow refuses, what it gives when it is told to accept pictures that are cut short."""
    from PIL import ImageFile

    try:
        return read()
    except InputError:
        raise
    except (OSError, ValueError, SyntaxError, EOFError):
        before, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, True
        try:
            return read()
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES = before


def _frames(path: Path) -> Iterator[tuple[Tensor, Tensor]]:
    """Colour (H, W, 3) and mask of each frame of a picture."""
    import numpy as np
    import torch
    from PIL import Image, ImageOps, ImageSequence

    first: torch.Size | None = None
    pixels = count = 0
    with Image.open(path) as opened:
        for frame in ImageSequence.Iterator(opened):
            pixels, count = pixels + frame.width * frame.height, count + 1
            if pixels > MAX_PIXELS or count > MAX_FRAMES:
                raise InputError(
                    f"{path.name} holds more than {MAX_FRAMES} frames or {MAX_PIXELS} pixels in all frames (this one is {frame.width} x "
                    f"{frame.height}); make it smaller, or cut it into several files"
                )
            turned = ImageOps.exif_transpose(frame)
            if turned.mode == "I":  # 16-bit grey
                turned = turned.point(lambda value: value * (1 / 255))
            colour = torch.from_numpy(np.array(turned.convert("RGB"), dtype=np.float32)).div_(255)
            if first is not None and colour.shape != first:
                continue
            first = colour.shape
            has_alpha = "A" in turned.getbands() or (turned.mode == "P" and "transparency" in turned.info)
            alpha = np.array(turned.convert("RGBA").getchannel("A"), dtype=np.float32) / 255 if has_alpha else np.ones((64, 64), np.float32)
            yield colour, 1 - torch.from_numpy(alpha)
            if opened.format == "MPO":  # a phone's second frame is not the picture
                break


NODES = [SaveImage, PreviewImage, LoadImage]
