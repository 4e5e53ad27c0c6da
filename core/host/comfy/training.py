"""ComfyUI's MODELs in training. ComfyUI loads a teacher by its own rules; it does not manage a student's network meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import CodeType
from typing import Any

import comfy.ldm.flux.math
import comfy.ldm.modules.attention
import comfy.model_management
import comfy.model_sampling
import torch

from ...errors import InputError
from ..denoiser import Condition, Denoiser, Inputs, check_floating, first_of, frozen_dtype, keeping_copies, make_trainable
from ..texts import TextsInTraining
from .surgery import is_unet
from .texts import in_training

_WITHOUT_GRADIENTS = ("apply_rope_split_half",)
_INFERENCE_ONLY = ("rms_rope", "rms_rope_split_half")
"""Kernels of comfy_kitchen that autograd knows nothing of (seen in ComfyUI 0.33.0)."""


def denoiser(model: Any, train: bool = False, room: int = 0, frozen: bool = False) -> Denoiser:
    """See :meth:`TrainingTopic.denoiser`. Without `train` ComfyUI loads the model by its own rules, in part where memory is short."""
    inner, sampling = model.model, model.get_model_object("model_sampling")
    management: Any = comfy.model_management
    device, prediction, unet = model.load_device, prediction_of(sampling), is_unet(model)
    release = _nothing
    if train:
        release = _take_out(inner, device, sampling, frozen)
    else:
        comfy.model_management.load_models_gpu([model], memory_required=room)
    # Some of ComfyUI's attention functions write in place, which autograd refuses; torch's attention does not.
    options = {"optimized_attention_override": _attention} if train else {}

    def denoise(x: torch.Tensor, sigma: torch.Tensor, given: Condition) -> torch.Tensor:
        inputs = {name: value.to(x.device, copy=True) if isinstance(value, torch.Tensor) else value for name, value in given.items()}
        tokens, before = inputs.pop("tokens", None), getattr(management, "in_training", False)
        management.in_training = train  # some networks of newer versions then compute in a way that has gradients
        try:
            return inner.apply_model(x, sigma, c_crossattn=tokens, transformer_options=dict(options), **inputs)
        finally:
            management.in_training = before

    def one_by_one(x: torch.Tensor, sigma: torch.Tensor, given: Sequence[Condition]) -> torch.Tensor:
        with keeping_copies():  # many transformers add to their tokens in place
            return torch.cat([denoise(x[i : i + 1], sigma[i : i + 1], one) for i, one in enumerate(given)])

    run: Callable[..., torch.Tensor] = denoise if unet else one_by_one

    def as_loaded(x: torch.Tensor, sigma: torch.Tensor, given: Any) -> torch.Tensor:
        with torch.inference_mode():  # its weights were loaded in inference mode
            return run(x, sigma, given)

    def taken(x: torch.Tensor, sigma: torch.Tensor, given: Condition) -> Inputs:
        told = {"y": given["y"].to(x.device)} if "y" in given else None
        return sampling.calculate_input(sigma, x), sampling.timestep(sigma).float(), given["tokens"].to(x.device), told

    def noised(latents: torch.Tensor, sigma: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        return sampling.noise_scaling(sigma.reshape(-1, *[1] * (latents.dim() - 1)), noise.clone(), latents)

    sigmas = sampling.sigmas.detach().float().cpu().clone()
    return Denoiser(
        inner.diffusion_model, prediction, sigmas, levels(model)[0], device, run if train else as_loaded, noised,
        lambda conditioning, shape: _condition(model, conditioning, shape), inner.process_latent_in, inner.process_latent_out, release,
        taken, batches=unet,
    )  # fmt: skip


def texts(clip: Any) -> TextsInTraining:
    """See :meth:`TrainingTopic.texts`."""
    return in_training(clip)


def levels(model: Any) -> tuple[tuple[int, int], int]:
    """See :meth:`TrainingTopic.levels`."""
    sampling = model.get_model_object("model_sampling")
    prediction_of(sampling)
    bundle = getattr(type(model.model.model_config), "bundle", None)
    schedule, count = None if bundle is None else bundle.schedule, len(sampling.sigmas)
    return (0, count) if schedule is None else (schedule.t_min, schedule.t_max), count


def check(model: Any, conditioning: Any, size: int) -> None:
    """See :meth:`TrainingTopic.check`."""
    network = model.model.diffusion_model
    check_floating(network)
    if kernel := _kernel_without_gradients(network) or _rope_without_gradients(network, model.load_device):
        raise InputError(
            f"this ComfyUI computes the model with {kernel}, a kernel that has no gradients, so that the model cannot be trained; take "
            "another version of ComfyUI, or another model"
        )
    prediction_of(model.get_model_object("model_sampling"))
    space = model.get_model_object("latent_format")
    side = max(1, size // (getattr(space, "spacial_downscale_ratio", None) or 8))
    _condition(model, conditioning, (space.latent_channels, *[1] * (getattr(space, "latent_dimensions", 2) - 2), side, side))


def _kernel_without_gradients(network: torch.nn.Module) -> str | None:
    """Return the name of a kernel of ComfyUI's package comfy_kitchen that a layer of `network` calls in training too, if any does.

    Layers that ask `in_training` take torch's own way meanwhile where they would call one of :data:`_INFERENCE_ONLY`.
    """
    for kind in {type(module) for module in network.modules()}:
        for function in vars(kind).values():
            names = _names(getattr(function, "__code__", None))
            for kernel in _WITHOUT_GRADIENTS if "in_training" in names else (*_WITHOUT_GRADIENTS, *_INFERENCE_ONLY):
                if kernel in names:
                    return kernel
    return None


def _rope_without_gradients(network: torch.nn.Module, device: torch.device) -> str | None:
    """Return `apply_rope` where `network` turns its queries and keys by that function of ComfyUI and gradients do not go through it.

    ComfyUI 0.8.0 always takes a kernel of comfy_kitchen there, later versions do not in training."""
    flux = vars(comfy.ldm.flux.math)
    known = [flux[name] for name in ("apply_rope", "apply_rope1", "attention") if name in flux]
    for kind in {type(module) for module in network.modules()}:
        for function in vars(kind).values():
            named = getattr(function, "__globals__", {})
            used = [named[name] for name in _names(getattr(function, "__code__", None)) if name in named]
            if any(one is rope for one in used for rope in known):
                return None if _gradients_through_rope(device) else "apply_rope"
    return None


def _gradients_through_rope(device: torch.device) -> bool:
    """Return whether gradients go through ComfyUI's rotary position embedding in training, by trying two tokens."""
    management: Any = comfy.model_management
    before = getattr(management, "in_training", False)
    management.in_training = True
    try:
        with torch.inference_mode(False), torch.enable_grad():
            tokens = torch.ones(1, 1, 2, 4, device=device, requires_grad=True)
            turned = comfy.ldm.flux.math.apply_rope(tokens, tokens, torch.ones(1, 1, 2, 2, 2, 2, device=device))
            turned[0].sum().backward()
        return tokens.grad is not None
    except RuntimeError:  # of a kernel that autograd knows nothing of
        return False
    finally:
        management.in_training = before


def _names(code: Any) -> set[str]:
    """Return the names that a function's code and the functions inside it refer to."""
    if not isinstance(code, CodeType):
        return set()
    return {*code.co_names, *(name for inner in code.co_consts for name in _names(inner))}


def _condition(model: Any, conditioning: Any, shape: tuple[int, ...]) -> dict[str, Any]:
    """Return what the network reads beside a latent of `shape` (C, ...). Raises :class:`InputError` for a model that takes a picture or a
    mask too."""
    inner, (tokens, details) = model.model, first_of(conditioning)
    noise = torch.zeros(1, *shape, device=model.load_device)
    factor = getattr(inner.latent_format, "spacial_downscale_ratio", 8)
    size = {"height": shape[-2] * factor, "width": shape[-1] * factor}
    given = {**size, **details, "cross_attn": tokens, "noise": noise, "device": model.load_device, "prompt_type": "positive"}
    why = "as inpainting and image-to-video models do; give one that takes a text alone"
    if getattr(inner, "concat_keys", ()):
        raise InputError(f"this model takes more than a text ({', '.join(inner.concat_keys)}), {why}")
    made = inner.extra_conds(**given)
    known = {"c_crossattn", "y"} if is_unet(model) else set(made) - {"c_concat"}
    if unknown := sorted(set(made) - known):
        raise InputError(f"this model takes more than a text ({', '.join(unknown)}), {why}")
    inputs = {name: cond.process_cond(batch_size=1, device=noise.device, area=None).cond for name, cond in made.items()}
    return {{"c_crossattn": "tokens"}.get(name, name): _to_cpu(value) for name, value in inputs.items()}


def prediction_of(sampling: Any) -> str:
    """Return `eps`, `v`, `x0` or `flow`. Raises :class:`InputError` for a model of another kind, such as EDM (Karras et al. 2022)."""
    kinds = comfy.model_sampling
    if isinstance(sampling, kinds.CONST) and getattr(sampling, "sigmas", None) is not None:
        return "flow"
    if isinstance(sampling, kinds.ModelSamplingDiscrete) and not isinstance(sampling, kinds.EDM):
        for kind, name in ((kinds.X0, "x0"), (kinds.V_PREDICTION, "v"), (kinds.EPS, "eps")):
            if isinstance(sampling, kind):
                return name
    raise InputError(
        "only diffusion models that predict eps, v or x0 on a table of noise levels, such as SD 1.5 and SDXL, and flow models, such as "
        "Flux and Qwen-Image, can be distilled or trained"
    )


def _to_cpu(value: Any) -> Any:
    return value.float().cpu() if isinstance(value, torch.Tensor) and value.is_floating_point() else value


def _take_out(inner: Any, device: torch.device, sampling: Any, frozen: bool) -> Callable[[], None]:
    """Make the network of a BaseModel, which nobody else holds, trainable on `device`, with the noise levels `sampling`; `frozen` lets
    gradients go through it only. The returned function puts it back as it was."""
    network, own = inner.diffusion_model, inner.model_sampling
    casting = [module for module in network.modules() if getattr(module, "comfy_cast_weights", False)]
    cast, dtype = inner.manual_cast_dtype, network.dtype
    kept = frozen_dtype(device) if frozen else torch.float32
    restore = make_trainable(network, device, kept, not frozen)
    for module in casting:
        module.comfy_cast_weights = False
    inner.manual_cast_dtype, network.dtype = None, kept
    inner.model_sampling = sampling
    with torch.inference_mode(False), torch.no_grad():  # autograd keeps no tensors of inference mode
        for module in network.modules():
            for name, buffer in module._buffers.items():
                module._buffers[name] = None if buffer is None else buffer.detach().to(device, copy=True)

    def put_back() -> None:
        restore()
        for module in casting:
            module.comfy_cast_weights = True
        inner.manual_cast_dtype, network.dtype = cast, dtype
        inner.model_sampling = own
        for module in network.modules():  # what a layer has kept of a step, such as positions, is copied with the model
            steps = {name: value for name, value in vars(module).items() if isinstance(value, torch.Tensor) and not value.is_leaf}
            for name, value in steps.items():
                setattr(module, name, value.detach())

    return put_back


def _attention(_: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return comfy.ldm.modules.attention.attention_pytorch(*args, **kwargs)


def _nothing() -> None:
    return None
