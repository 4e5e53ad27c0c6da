"""ComfyUI's MODELs in training. ComfyUI loads a teacher by its own rules; it does not manage a student's network meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfy.ldm.modules.attention
import comfy.model_management
import comfy.model_sampling
import torch

from ...errors import InputError
from ..denoiser import Condition, Denoiser, first_of, make_trainable


def denoiser(model: Any, train: bool = False, room: int = 0) -> Denoiser:
    """See :meth:`TrainingTopic.denoiser`. Without `train` ComfyUI loads the model by its own rules, in part where memory is short."""
    inner, sampling = model.model, model.get_model_object("model_sampling")
    network, device, prediction = inner.diffusion_model, model.load_device, prediction_of(sampling)
    release = _nothing
    if train:
        release = _take_out(inner, device)
    else:
        comfy.model_management.load_models_gpu([model], memory_required=room)

    def denoise(x: torch.Tensor, sigma: torch.Tensor, given: Condition) -> torch.Tensor:
        dtype = inner.manual_cast_dtype or inner.get_dtype()
        more = {"y": given["y"].to(x.device, dtype)} if "y" in given else {}
        # Some of ComfyUI's attention functions write in place, which autograd refuses; torch's attention does not.
        options = {"optimized_attention_override": _attention} if train else {}
        output = network(
            sampling.calculate_input(sigma, x).to(dtype), sampling.timestep(sigma).float(), context=given["tokens"].to(x.device, dtype),
            transformer_options=options, **more,
        )  # fmt: skip
        return sampling.calculate_denoised(sigma, output.float(), x)

    def as_loaded(x: torch.Tensor, sigma: torch.Tensor, given: Condition) -> torch.Tensor:
        with torch.inference_mode():  # its weights were loaded in inference mode
            return denoise(x, sigma, given)

    def condition(conditioning: Any, side: tuple[int, int]) -> dict[str, torch.Tensor]:
        tokens, details = first_of(conditioning)
        noise = torch.zeros(1, inner.latent_format.latent_channels, *side, device=device)
        factor = getattr(inner.latent_format, "spacial_downscale_ratio", 8)
        size = {"height": side[0] * factor, "width": side[1] * factor}
        made = inner.extra_conds(**{**size, **details}, cross_attn=tokens, noise=noise, device=device, prompt_type="positive")
        if unknown := sorted(set(made) - {"c_crossattn", "y"}):
            raise InputError(
                f"this model takes more than a text ({', '.join(unknown)}), as inpainting models do; give one that takes a text alone"
            )
        return {{"c_crossattn": "tokens"}.get(name, name): made[name].cond.float().cpu() for name in made}

    bundle = getattr(type(inner.model_config), "bundle", None)
    schedule = None if bundle is None else bundle.schedule
    steps = (0, len(sampling.sigmas)) if schedule is None else (schedule.t_min, schedule.t_max)
    return Denoiser(
        network, prediction, sampling.sigmas.detach().float().cpu().clone(), steps, device, denoise if train else as_loaded, condition,
        inner.process_latent_in, release,
    )  # fmt: skip


def prediction_of(sampling: Any) -> str:
    """Return `eps`, `v` or `x0`. Raises :class:`InputError` for a model of another kind, such as one trained by flow matching."""
    kinds = comfy.model_sampling
    if isinstance(sampling, kinds.ModelSamplingDiscrete) and not isinstance(sampling, kinds.EDM):
        for kind, name in ((kinds.X0, "x0"), (kinds.V_PREDICTION, "v"), (kinds.EPS, "eps")):
            if isinstance(sampling, kind):
                return name
    raise InputError("only diffusion models that predict eps, v or x0 on a table of noise levels can be distilled, such as SD 1.5 and SDXL")


def _take_out(inner: Any, device: torch.device) -> Callable[[], None]:
    """Make the network of a BaseModel, which nobody else holds, trainable on `device`. The returned function puts it back as it was."""
    network = inner.diffusion_model
    casting = [module for module in network.modules() if getattr(module, "comfy_cast_weights", False)]
    cast, dtype = inner.manual_cast_dtype, network.dtype
    restore = make_trainable(network, device)
    for module in casting:
        module.comfy_cast_weights = False
    inner.manual_cast_dtype, network.dtype = None, torch.float32

    def put_back() -> None:
        restore()
        for module in casting:
            module.comfy_cast_weights = True
        inner.manual_cast_dtype, network.dtype = cast, dtype

    return put_back


def _attention(_: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return comfy.ldm.modules.attention.attention_pytorch(*args, **kwargs)


def _nothing() -> None:
    return None
