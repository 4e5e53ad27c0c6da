"""Command `data filter`: the work of the node Filter Dataset on a folder anywhere."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .common import say

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..core.data.filters import Limits

EXAMPLE = """examples:
  python -m rapiddraw data filter my-pictures --out good --min-side 256 --max-watermark 0.5
  python -m rapiddraw data filter my-pictures --out good --clip-vision clip_vision_l.safetensors --max-likeness 0.95
  python -m rapiddraw data filter my-pictures --out good --clip clip_l.safetensors --clip-vision clip_vision_l.safetensors --min-clip 0.2 \\
      --aesthetic-head sac+logos+ava1-l14-linearMSE.pth --min-score 5

--clip, --clip-vision and --aesthetic-head are your own networks. They must belong together, such as clip_l, ViT-L/14 and a head for it.
A file of --clip needs CLIP's vocabulary: set COMFYUI_PATH to a ComfyUI, which has it, or put it into a folder tokenizer beside the file."""


def add_parser(actions: Any) -> argparse.ArgumentParser:
    """Add the command, and return its parser."""
    parser: argparse.ArgumentParser = actions.add_parser(
        "filter", help="choose pictures worth training on", description="Link the pictures within the limits into a new folder.",
        epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, help="the folder to write; without it the pictures are only measured")
    parser.add_argument("--min-side", type=int, default=0, help="least length of the shorter side in pixels (default any)")
    parser.add_argument("--max-aspect", type=float, default=0.0, help="largest ratio of the longer side to the shorter one (default any)")
    parser.add_argument("--min-aesthetics", type=float, default=0.0, help="least aesthetic score, 0 to 1 (default any)")
    parser.add_argument(
        "--max-watermark",
        type=float,
        default=0.0,
        help="largest watermark score: how much a corner may look like the mark that many pictures share (default any)",
    )
    parser.add_argument("--min-clip", type=float, default=-1.0, help="least CLIP score of a picture's best caption (default any)")
    parser.add_argument("--clip", type=Path, metavar="FILE", help="your own CLIP for --min-clip, with --clip-vision in the scorer's place")
    parser.add_argument(
        "--clip-vision", type=Path, metavar="FILE",
        help="your own CLIP Vision model: a .safetensors of ComfyUI's folder clip_vision, or a transformers folder",
    )  # fmt: skip
    parser.add_argument(
        "--aesthetic-head", metavar="FILE",
        help="a head that scores looks by what --clip-vision sees: a .safetensors or .pth file, or its name in a weights folder",
    )  # fmt: skip
    parser.add_argument(
        "--min-score", type=float, default=0.0, help="least score of the aesthetic head; LAION's go from 1 to 10 (default any)"
    )  # fmt: skip
    parser.add_argument(
        "--max-likeness", type=float, default=0.0,
        help="largest likeness to a picture kept before, 0 to 1, by --clip-vision; 0.95 finds near copies (default any)",
    )  # fmt: skip
    return parser


def run(args: argparse.Namespace, tools: Callable[[], tuple[Any, Any]]) -> int:
    """Filter, and print the report. `tools()` loads the scorer and the judge, `None` where none was named."""
    from ..core.data.filters import Limits, check_target, filter_folder
    from ..core.data.folder import ImageFolder

    limits = Limits(
        args.min_side, args.max_aspect, args.min_aesthetics, args.min_clip, args.max_watermark, args.min_score, args.max_likeness
    )
    limits.check()
    _check_together(args, limits)
    if args.out:
        check_target(args.folder, args.out)
    if not args.folder.is_dir():
        ImageFolder(args.folder)  # says what is wrong, before networks are loaded
    vision, doubts = _vision(args, limits)
    found = filter_folder(args.folder, limits, args.out, *tools(), vision)
    say("\n".join([found.report, *doubts]))
    return 0


def _check_together(args: argparse.Namespace, limits: Limits) -> None:
    """Raise :class:`InputError`, before any network is loaded, for options that need others."""
    from ..core.errors import InputError

    if args.clip_vision is None:
        wanted = {"--clip": args.clip and limits.clip > -1, "--aesthetic-head": args.aesthetic_head, "--max-likeness": limits.likeness}
        if names := [name for name, given in wanted.items() if given]:
            raise InputError(
                f"{' and '.join(names)} need{'s' * (len(names) == 1)} --clip-vision, a CLIP Vision model that reads the pictures"
            )
    if limits.clip > -1 and args.scorer is None and args.clip is None:
        raise InputError("--min-clip needs --scorer, a text bundle with its image tower beside it, or --clip and --clip-vision")
    if limits.score and not args.aesthetic_head:
        raise InputError("--min-score needs --aesthetic-head, the head whose score it limits, and the --clip-vision it was trained for")


def _vision(args: argparse.Namespace, limits: Limits) -> tuple[Any, list[str]]:
    """Return (what reads pictures, None without --clip-vision; doubts about it for the report)."""
    if args.clip_vision is None:
        return None, []
    from ..core.host.embedded.clip_file import load_clip
    from ..core.host.embedded.process import device
    from ..core.operations.filter import NO_HEAD, vision_of
    from ..core.text.clip_vision import load_clip_vision

    reads_texts = args.clip is not None and limits.clip > -1
    clip = load_clip(args.clip) if reads_texts else None
    return vision_of(clip, load_clip_vision(args.clip_vision, device()), args.aesthetic_head or NO_HEAD, reads_texts, _head)


def _head(name: str) -> Path:
    """Return the file of a head: a path, else a name in a weights folder."""
    from ..core.scoring.find import resolve_network

    return Path(name) if Path(name).is_file() else resolve_network(name)
