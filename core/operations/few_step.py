"""Few-step students of a MODEL of either host: their training in a graph, and their use."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..data.folder import ImageFolder
from ..errors import BundleError, InputError
from ..fewstep.about import About, scale_to_use
from ..fewstep.find import read_student
from ..fewstep.guidance_embedded import ScaleEmbedding
from ..host import current
from ..host.denoiser import Denoiser, prediction_named
from ..lowrank.distill import is_unet
from ..lowrank.kronecker import dense_shape
from ..lowrank.lora import paired_layers
from ..lowrank.lora_file import BESIDE, read_lora
from ..networks import weight_sum
from ..paths import input_dir, made_weights_dir, safe_join
from ..train.inputs.latent_cache import picture_key
from ..train.loop import TrainResult, train
from ..train.plot import loss_image
from ..train.recipes.few_step import FewStepRecipe
from ..train.recipes.few_step_files import SCALE, UNETS_ONLY, Source, prompt_lines, read_prompts, shape_of
from ..train.recipes.few_step_samples import sheet
from ..train.writing import check_writable
from .checkpointing import checkpoint_blocks, needs_checkpoints
from .distill import Run, gradients_explained
from .distill_data import encode_pictures, encode_texts, training_folder
from .domain_run import lora_path
from .factorize import unet_path

logger = logging.getLogger("rapiddraw")
KEPT = "teacher-"
"""Beginning of the names of files in which latents are kept that the teacher drew."""
EVALUATIONS = 5
"""How often in a run the student is tried on prompts that it is not trained on."""


@dataclass(frozen=True)
class FewStepParts:
    """The teacher MODEL, its CLIP, and its VAE or None."""

    model: Any
    clip: Any
    vae: Any = None


@dataclass(frozen=True)
class FewStepResult:
    """The student as a MODEL on the teacher, its file, a report, the loss as an IMAGE, and samples (teacher above student) or the loss
    again where there is no VAE."""

    model: Any
    file: str
    report: str
    loss: Tensor
    samples: Tensor


def distill_few_steps(parts: FewStepParts, prompts: str, folder: str, filename: str, recipe: FewStepRecipe, run: Run) -> FewStepResult:
    """Train a few-step student of `parts.model` and return it. The model is not changed; patches on it are taught as well.

    `prompts` are lines, or the name of a .txt file in the input folder; the captions of `folder` (in the input or output folder) are
    added. With a VAE the latents are those of the folder's pictures, with their captions alone; else the teacher draws them. A stopped run
    goes on from its last checkpoint where all settings are equal. Raises :class:`InputError`, before any work, for settings out of range,
    missing prompts and places that cannot be written, and whatever training raises.
    """
    run.check()
    host, model = current(), parts.model
    recipe.fingerprint = "given"
    recipe.check()
    out = unet_path(filename) if recipe.network == "whole" else lora_path(filename)
    run_dir = run.dir(made_weights_dir() / f"{out.stem}-run")
    check_writable(out, run_dir)
    run.check_goes_on(run_dir, recipe, known=False)
    if recipe.method in UNETS_ONLY and not is_unet(host.speed.network_of("model", model)):
        raise InputError(f"method={recipe.method} is for U-Nets, such as SD 1.5 and SDXL; choose another method for this model")
    images = training_folder(folder, recipe.size) if folder.strip() else None
    pictures = None if parts.vae is None else images
    texts, rows = _texts(prompts if pictures is None else "", images)
    host.training.check(model, host.clip.encode(parts.clip, ""), recipe.size)
    if run.begun(run_dir):
        first = shape_of(host, model, recipe.size) if pictures is None else encode_pictures(host, parts.vae, pictures, 1, most=1).shape[1:]
        recipe.fingerprint = _fingerprint(_copy(host, model)[1], texts, tuple(first), images)
        run.check_goes_on(run_dir, recipe)
    latents = None if pictures is None else encode_pictures(host, parts.vae, pictures, recipe.batch_size)
    encoded = list(encode_texts(host, parts.clip, texts).values())
    shape = tuple(latents.shape[1:]) if latents is not None else shape_of(host, model, recipe.size)
    student, network = _copy(host, model)
    recipe.fingerprint = _fingerprint(network, texts, shape, images)
    kept = run_dir / f"{KEPT}{recipe.drawing_key()}.safetensors"
    if not run.resume:
        for old in set(run_dir.glob(f"{KEPT}*.safetensors")) - {kept}:
            old.unlink(missing_ok=True)
    decode: Callable[[Tensor], Tensor] | None = None if parts.vae is None else lambda z: host.vae.decode(parts.vae, z)
    recipe.take(Source(host, model, student, encoded, shape, kept, latents, rows if latents is not None else None, decode, _spare))
    if model.load_device.type == "cuda":
        recipe.precision = "bf16"
    with gradients_explained():
        result = train(recipe, out, run.steps, run_dir=run_dir, resume=run.resume, every=run.intervals(EVALUATIONS),
                       device=model.load_device)  # fmt: skip
    loss = loss_image(result.losses, f"distillation into few steps: loss over {result.steps} steps")
    samples = loss if decode is None else sheet(*recipe.samples())
    if recipe.network == "lora":
        recipe.close()
    (file,) = result.files
    name = file.name if file.parent != out.parent else filename.strip().removesuffix(".safetensors") + ".safetensors"
    return FewStepResult(apply_student(model, file, 0, 0)[0], name, _report(recipe, result, file == out), loss, samples)


def apply_student(model: Any, path: Path, steps: int = 0, scale: float = 0.0) -> tuple[Any, Any, Tensor, float]:
    """Return (MODEL with the student of a file, SAMPLER, SIGMAS, the guidance scale to sample with).

    `steps` 0 are the student's own, and `scale` 0 is its own. A scale above 1 is not used where the student has learned guidance; one
    warning says so, and another one is given where it is sampled with guidance all the same. Raises :class:`BundleError` for a file that is
    no student, or one of another base; :class:`InputError` for numbers out of range.
    """
    host, (about, is_lora) = current(), read_student(path)
    use, told, warning = scale_to_use(about, scale)
    if not 0 <= steps <= 1000:
        raise InputError(f"steps={steps}: expected 0 (the student's own, {about.steps}) or 1 to 1000")
    _check_base(model, about, path)
    if steps not in (0, about.steps) and about.method != "consistency":
        logger.warning("%s was trained for %d steps; in %d it draws worse", path.name, about.steps, steps)
    if warning:
        logger.warning("%s: %s", path.name, warning)
    if is_lora:
        _check_layers(model, path)
        made = host.surgery.add_lora(model, None, path, 1.0, 0.0)[0]
    else:
        made = host.model.load(path)
    if about.method == "consistency":
        made = host.sampling.for_consistency(made)
    if about.guidance_free:
        made = _around(made, path.name, _embedding(path, told) if about.method == "guidance_embedded" else None)
    sigmas = host.sampling.calculate_sigmas(made, about.scheduler, steps or about.steps, about.sampler)
    return made, host.sampling.named_sampler(about.sampler), sigmas, use


def _copy(host: Any, model: Any) -> tuple[Any, torch.nn.Module]:
    """Return (a copy of MODEL with its patches on its weights, its network)."""
    made = host.surgery.rebuild(model, lambda _: None)
    return made, host.speed.network_of("model", made)


def prompts_digest(prompts: str) -> str:
    """Return a hash of the file that `prompts` names; "" where it names none."""
    path = _file_of(prompts)
    return "" if path is None or not path.is_file() else hashlib.sha256(path.read_bytes()).hexdigest()


def _spare(learner: Denoiser, once: Callable[[], None], batch: int) -> None:
    """Compute the network's blocks again in the backward pass where what a batch keeps does not fit into a GPU's free memory."""
    if learner.device.type == "cuda" and needs_checkpoints(learner.network, once, learner.device, batch):
        checkpoint_blocks(learner.network)


def _file_of(prompts: str) -> Path | None:
    """Return the file in the input folder that `prompts` names, if it is the name of a text file."""
    name = prompts.strip()
    return safe_join(input_dir(), name) if name.lower().endswith(".txt") and "\n" not in name else None


def _texts(prompts: str, images: ImageFolder | None) -> tuple[list[str], list[list[int]] | None]:
    """Return the texts, the empty one first, and which of them describe each picture."""
    path = _file_of(prompts)
    lines = read_prompts(str(path)) if path is not None else prompt_lines(prompts) if prompts.strip() or images is None else []
    number = {text: i for i, text in enumerate(dict.fromkeys(["", *lines]))}
    if images is None:
        return list(number), None
    rows = [[number.setdefault(caption.text, len(number)) for caption in item.captions] for item in images.items]
    return list(number), rows


def _fingerprint(network: torch.nn.Module, texts: list[str], shape: tuple[int, ...], images: ImageFolder | None) -> str:
    """Return a hash of the teacher's weights (to five digits: with other threads the last ones differ), of the texts, of the size and of
    the pictures."""
    shown = [] if images is None else [picture_key(item.path, "").hex() for item in images.items]
    return hashlib.sha256(f"{weight_sum(network.parameters()):.5g};{texts};{shape};{shown}".encode()).hexdigest()[:16]


def _report(recipe: FewStepRecipe, result: TrainResult, in_place: bool) -> str:
    about, latents = recipe.about(), recipe.material.latents
    lines = [
        f"{about.method}: {about.steps} steps, sampler {about.sampler}, scheduler {about.scheduler}, guidance scale "
        f"{1.0 if about.guidance_free else about.scale:g}",
        f"{result.steps} training steps on {len(latents)} latents and {len(recipe.material.texts) - 1} prompts",
    ]
    lines += result.tenths()
    if "eval_heldout" in result.metrics:
        lines.append(f"loss on {recipe.held_out} latents that were not trained on: {result.metrics['eval_heldout']:.4g}")
    (saved,) = result.files
    lines.append(
        f"saved as {saved.name}, for Load Few-Step Model" if in_place else f"the chosen place could not be written; it is in {saved}"
    )
    return "\n".join(lines)


def _check_base(model: Any, about: About, path: Path) -> None:
    """Raise :class:`BundleError` where the student was made of a model of another kind."""
    space = model.get_model_object("latent_format")
    channels = getattr(space, "channels", None) or getattr(space, "latent_channels", about.channels)
    found = prediction_named(model.get_model_object("model_sampling"))
    if (found or about.prediction, channels) != (about.prediction, about.channels):
        raise BundleError(
            f"{path.name} is the student of a model that predicts {about.prediction} on {about.channels} latent channels; this model "
            f"predicts {found} on {channels}. Load the model that it was distilled from, or a fine-tune of that"
        )


def _check_layers(model: Any, path: Path) -> None:
    """Raise :class:`BundleError` where a LoRA has a layer that the model lacks, or one of another size."""
    host, factors = current(), read_lora(path)
    layers = {host.surgery.lora_key(model, name): layer for name, layer in paired_layers(host.speed.network_of("model", model))}
    for key, (up, down, _) in factors.items():
        shape = dense_shape(layers[key]) if key in layers and hasattr(layers[key], "weight") else None
        if shape is None:
            raise BundleError(f"{path.name}: it changes {key}, which this model does not have; it is the student of another model")
        if (up.shape[0], down[0].numel()) != (shape[0], shape[1:].numel()):
            raise BundleError(
                f"{path.name}: {key} is for a weight of {up.shape[0]} x {down[0].numel()}, this model's is {shape[0]} x "
                f"{shape[1:].numel()}; it is the student of another model"
            )


def _embedding(path: Path, scale: float) -> Tensor:
    """Return what is added to every token (1, 1, width) for the guidance scale `scale`."""
    from ..bundles.format import load_foreign

    found = {name.removeprefix(SCALE): tensor for name, tensor in load_foreign(path).items() if name.startswith(BESIDE)}
    with torch.inference_mode(False), torch.no_grad():
        return ScaleEmbedding.of(found, path.name)(torch.tensor([float(scale)]))


def _around(model: Any, name: str, added: Tensor | None) -> Any:
    """Return a clone of MODEL that warns once where it is sampled with guidance, and adds `added` to the tokens of its prompts."""
    clone, before = model.clone(), model.model_options.get("model_function_wrapper")
    warned: list[bool] = []

    def wrapper(apply_model: Callable[..., Tensor], given: dict[str, Any]) -> Tensor:
        if 1 in given["cond_or_uncond"] and not warned:
            warned.append(True)
            logger.warning("%s is sampled with a guidance scale above 1, and has learned guidance already; set cfg to 1", name)
        c = given["c"]
        if added is not None:
            tokens = c["c_crossattn"]
            c = {**c, "c_crossattn": tokens + added.to(tokens)}
        if before is not None:
            return before(apply_model, {**given, "c": c})
        return apply_model(given["input"], given["timestep"], **c)

    clone.set_model_unet_function_wrapper(wrapper)
    return clone
