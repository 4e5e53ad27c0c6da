"""Diffusers folders of SD 1.5, SD 2 and SDXL: `model_index.json`, and a folder with config and tensors for each part."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..bundles.format import LatentSpace, Schedule, check_config, load_foreign
from ..errors import BundleError, RapidDrawError
from ..paths import safe_join
from .parts import Checkpoint, Part, text_part
from .vocabulary import read_tokenizer

if TYPE_CHECKING:
    from torch import Tensor

MAX_JSON_BYTES = 2**20
SD2_WIDTH = 1024  # of SD 2's text encoder, OpenCLIP's H
_PREDICTIONS = {"epsilon": "eps", "v_prediction": "v", "sample": "x0"}


def read_folder(path: Path) -> Checkpoint:
    """Read a checkpoint. Raises :class:`BundleError` for a part that is missing, damaged, a pickle, or of another kind of model."""
    try:
        return _read(path)
    except RapidDrawError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise BundleError(f"{path.name}: its configs hold a value of the wrong kind ({str(error)[:200]}); copy the folder again") from error


def _read(path: Path) -> Checkpoint:
    unet = _network(path, "unet", "UNet2DConditionModel", "diffusion_pytorch_model")
    vae = _network(path, "vae", "AutoencoderKL", "diffusion_pytorch_model")
    texts = {}
    there = [number for number in ("", "_2") if (path / f"text_encoder{number}").is_dir()]
    for number in there or [""]:  # SDXL's refiner has the second one alone
        config = _json(path, f"text_encoder{number}")
        tokenizer = read_tokenizer(safe_join(path, f"tokenizer{number}"))
        activation, heads = config.get("hidden_act", "quick_gelu"), config.get("num_attention_heads")
        key = "g" if number else "h" if config.get("hidden_size") == SD2_WIDTH else "l"
        texts[key] = text_part(_tensors(path, f"text_encoder{number}", "model"), tokenizer, path.name, activation, heads)
    return Checkpoint(path.name, unet, vae, texts, _latent(path.name, vae.config), _schedule(path.name, _json(path, "scheduler")))


def _network(path: Path, part: str, class_name: str, stem: str) -> Part:
    config = _json(path, part)
    if config.get("_class_name") != class_name:
        raise BundleError(f"{path.name}/{part} is a {config.get('_class_name')}; here a {class_name} is needed, as in SD 1.5 and SDXL")
    arguments, tensors = {key: value for key, value in config.items() if not key.startswith("_")}, _tensors(path, part, stem)
    try:
        check_config(arguments, len(tensors))
    except ValueError as error:
        raise BundleError(f"{path.name}/{part}/config.json cannot be used: {error}") from error
    return Part(arguments, tensors)


def _json(path: Path, part: str) -> dict[str, Any]:
    name = "scheduler_config.json" if part == "scheduler" else "config.json"
    file = safe_join(path, f"{part}/{name}")
    try:
        with file.open("rb") as opened:
            found = json.loads(opened.read(MAX_JSON_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(f"{path.name}/{part}/{name} cannot be read ({error}); a diffusers folder of SD 1.5 or SDXL has one") from error
    if not isinstance(found, dict):
        raise BundleError(f"{path.name}/{part}/{name} is no JSON object")
    return found


def _tensors(path: Path, part: str, stem: str) -> dict[str, Tensor]:
    """The tensors of one part: one file or several, in full precision where both are there."""
    folder = safe_join(path, part)
    for pattern in (f"{stem}.safetensors", f"{stem}-*-of-*.safetensors", f"{stem}.fp16.safetensors", f"{stem}.fp16-*-of-*.safetensors"):
        if found := sorted(folder.glob(pattern)):
            tensors: dict[str, Tensor] = {}
            for file in found:
                tensors |= load_foreign(safe_join(path, f"{part}/{file.name}"))
            return tensors
    pickled = next(iter(folder.glob("*.bin")), None)
    reason = f"only a pickle, {pickled.name}, which can run code when it is read; save it with safe_serialization" if pickled else "nothing"
    raise BundleError(f"{path.name}/{part} should hold {stem}.safetensors, but there is {reason}")


def _latent(name: str, vae: dict[str, Any]) -> LatentSpace:
    if vae.get("latents_mean") or vae.get("latents_std"):
        raise BundleError(f"{name}: its VAE scales each latent channel by its own mean and deviation, which is not supported")
    channels, levels = vae.get("latent_channels", 4), len(vae.get("block_out_channels", ()))
    return LatentSpace(channels, 2 ** (levels - 1), vae.get("scaling_factor") or 0.18215, vae.get("shift_factor") or 0.0)


def _schedule(name: str, config: dict[str, Any]) -> Schedule:
    foreign = [key for key in ("trained_betas", "rescale_betas_zero_snr", "sigma_data") if config.get(key)]
    prediction = _PREDICTIONS.get(config.get("prediction_type", "epsilon"))
    if foreign or prediction is None or "beta_start" not in config:
        what = ", ".join(foreign) or config.get("prediction_type", "no betas")
        raise BundleError(
            f"{name}: its scheduler ({config.get('_class_name')}: {what}) is none of the discrete ones with eps, v or x0 prediction; "
            "only those are supported"
        )
    return Schedule(
        prediction, config.get("beta_schedule", "linear"), config["beta_start"], config["beta_end"], config.get("num_train_timesteps", 1000)
    )
