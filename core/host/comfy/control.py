"""CONTROL_NET in ComfyUI: a control adapter as a ControlBase, so that stock nodes apply, chain, time, load and unload it.

The copied encoder is ComfyUI's own `UNetModel` without its decoder: its layers cast, offload and load in part as those of any model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import comfy.controlnet
import comfy.ldm.modules.diffusionmodules.openaimodel as openaimodel
import comfy.model_management
import comfy.ops
import comfy.utils
import torch
from torch import Tensor, nn

from ...attention.chain import OVERRIDE
from ...bundles.format import Bundle, BundleInfo
from ...control.adapter import norm_names
from ...control.bundle import check_control, load_control
from ...control.decay import depth_decay
from ...control.hints import CHANNELS, fit_hint, hint_batch, place_hint
from ...control.layers import Extractor, injected, through, zero_convolutions
from ...errors import BundleError, InputError
from ...lowrank.factorize import open_factors
from ..fit import check_control_fits, name_of
from .lowrank import core_patcher
from .unet import model_config, unet_arguments
from .weights import check_shapes, choose_dtype, with_factors

_SHAPES = ("in_channels", "model_channels", "channel_mult", "num_res_blocks", "transformer_depth", "transformer_depth_middle",
           "context_dim", "adm_in_channels")  # fmt: skip


class ControlNetwork(nn.Module):
    """The network of :class:`~rapiddraw.core.control.adapter.ControlAdapter` around ComfyUI's encoder. It is built without memory."""

    def __init__(self, arguments: Mapping[str, Any], config: Mapping[str, Any], names: Mapping[str, str], dtype: torch.dtype) -> None:
        super().__init__()
        place = {"device": torch.device("meta"), "dtype": dtype}
        operations = comfy.ops.manual_cast
        encoder: Any = openaimodel.UNetModel(**arguments, **place, operations=operations)
        encoder.output_blocks, encoder.out = nn.ModuleList(), None
        widths = [block_width(block) for block in (*encoder.input_blocks, encoder.middle_block)]
        norms = [[names[f"{norm}.weight"].removesuffix(".weight") for norm in level] for level in norm_names(len(config["features"]))]
        self.dtype, self.encoder = dtype, encoder
        self.source = injected(encoder, norms, config["features"], operations, **place)
        self.extractor = Extractor(CHANNELS * len(config["conditions"]), config["stem"], config["features"], operations, **place)
        self.zero = zero_convolutions(widths, operations, **place)

    def forward(self, x: Tensor, timesteps: Tensor, context: Tensor, hint: Tensor, options: dict[str, Any], y: Tensor | None = None) -> Any:
        """Return (residuals for the skips in the encoder's order, residual for the middle)."""
        states = through(self.source, self.extractor(hint), lambda: self._encode(x, timesteps, context, options, y))
        *skips, middle = (zero(state) for zero, state in zip(self.zero, states, strict=True))
        return skips, middle

    def _encode(self, x: Tensor, timesteps: Tensor, context: Tensor, options: dict[str, Any], y: Tensor | None) -> list[Tensor]:
        unet = self.encoder
        emb = unet.time_embed(openaimodel.timestep_embedding(timesteps, unet.model_channels, repeat_only=False).to(x.dtype))
        if y is not None and unet.num_classes is not None:
            emb = emb + unet.label_emb(y.to(emb.dtype))
        h, states = x, []
        for block in (*unet.input_blocks, unet.middle_block):
            h = openaimodel.forward_timestep_embed(block, h, emb, context, options)
            states.append(h)
        return states


class AdapterControl(comfy.controlnet.ControlBase):
    """A CONTROL_NET of several conditions; a hint of a single picture goes to `default`."""

    cond_hint: Any

    def __init__(self, network: ControlNetwork, patcher: Any, bundle: Bundle, arguments: Mapping[str, Any], default: str) -> None:
        super().__init__()
        self.network, self.patcher, self.arguments, self.default = network, patcher, arguments, default
        self.bundle_info = bundle.info
        self.conditions = tuple(bundle.info.config["conditions"])
        self.compression_ratio = 2 ** len(bundle.info.config["stem"])
        self.compute_dtype: torch.dtype = network.dtype
        self.model_sampling_current: Any = None

    def set_cond_hint(self, cond_hint: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Do as ControlBase's with pictures (B, 3, H, W) of the default condition, or (B, 3 n, H, W) of all."""
        return super().set_cond_hint(place_hint(cond_hint, self.conditions, self.default), *args, **kwargs)

    def pre_run(self, model: Any, percent_to_timestep_function: Any) -> None:
        """Do as ControlBase's. Raises :class:`InputError` for a model that the adapter was not made for."""
        if not isinstance(model.diffusion_model, openaimodel.UNetModel):
            raise InputError(
                f"{name_of(self.bundle_info)} is a control adapter for U-Nets such as SD 1.5; this model is a "
                f"{type(model.diffusion_model).__name__}. Use a ControlNet of its own family"
            )
        theirs = getattr(model.model_config, "unet_config", {})
        mine, theirs = ({**one, "adm_in_channels": one.get("adm_in_channels") or 0} for one in (self.arguments, theirs))
        check_control_fits(name_of(self.bundle_info), mine, theirs, _SHAPES)
        super().pre_run(model, percent_to_timestep_function)
        self.model_sampling_current = model.model_sampling

    def get_control(self, x_noisy: Tensor, t: Tensor, cond: Any, batched_number: int, transformer_options: Any = None, **_: Any) -> Any:
        """Return {"output": [...], "middle": [...]} as ControlBase's does, previous ControlNets included.

        Outside the range there are theirs alone."""
        previous = None
        if self.previous_controlnet is not None:
            previous = self.previous_controlnet.get_control(x_noisy, t, cond, batched_number, transformer_options)
        if self.timestep_range is not None and (t[0] > self.timestep_range[0] or t[0] < self.timestep_range[1]):
            return previous
        dtype, device = self.compute_dtype, x_noisy.device
        hint: Any = self.cond_hint
        size = tuple(side * self.compression_ratio for side in x_noisy.shape[-2:])
        if hint is None or tuple(hint.shape[2:]) != size:
            hint = self.cond_hint = fit_hint(self.cond_hint_original, *size).to(device, dtype)
        context = cond.get("crossattn_controlnet", cond["c_crossattn"]).to(device, dtype)
        options = {OVERRIDE: transformer_options[OVERRIDE]} if OVERRIDE in (transformer_options or {}) else {}
        skips, middle = self.network(
            self.model_sampling_current.calculate_input(t, x_noisy).to(dtype),
            self.model_sampling_current.timestep(t).float(),
            context,
            hint_batch(hint, x_noisy.shape[0], batched_number),
            options,
            y=None if cond.get("y") is None else cond["y"].to(device, dtype),
        )
        return self.control_merge({"input": [], "output": skips, "middle": [middle]}, previous, output_dtype=x_noisy.dtype)

    def copy(self) -> AdapterControl:
        """Return a copy with the same network. What is set on the copy stays on the copy."""
        made = type(self).__new__(type(self))
        made.__dict__.update(self.__dict__)
        comfy.controlnet.ControlBase.__init__(made)
        self.copy_to(made)
        return made

    def get_models(self) -> list[Any]:
        """Return the models that ComfyUI loads with the sampled model."""
        return [*super().get_models(), self.patcher]

    def cleanup(self) -> None:
        """Do as ControlBase's."""
        self.model_sampling_current = None
        super().cleanup()


def load(path: Path, default: str) -> AdapterControl:
    """See :meth:`ControlTopic.load`. Raises :class:`BundleError` where the bundle cannot be a CONTROL_NET."""
    bundle = load_control(path)
    info = bundle.info
    check_control(info)
    config = info.config
    if default not in config["conditions"]:
        raise InputError(f"condition {default!r}: the conditions of {name_of(info)} are {', '.join(config['conditions'])}")
    of_unet = replace(info, config=config["unet"])
    try:
        arguments = encoder_arguments(of_unet)
    except (InputError, TypeError, ValueError, IndexError, ZeroDivisionError) as error:
        raise BundleError(f"{name_of(info)}: its U-Net's config cannot be understood ({error})") from error
    names = comfy.utils.unet_to_diffusers(arguments)
    weights = renamed(bundle, names)
    family = model_config(of_unet, arguments)
    device, offload = choose_dtype(family, weights)
    dtype = family.unet_config.get("dtype") or torch.float32
    try:
        network = ControlNetwork(arguments, config, names, dtype)
        open_factors(network, weights, name_of(info))
    except (TypeError, ValueError, RuntimeError, LookupError, ArithmeticError) as error:
        raise BundleError(f"{name_of(info)}: its config does not make a control adapter ({error!s:.300})") from error
    check_shapes(info, weights, network)
    network.load_state_dict({key: tensor.to(offload, dtype) for key, tensor in weights.items()}, assign=True)
    network.eval().requires_grad_(False)
    control = AdapterControl(network, core_patcher(network, device, offload), bundle, arguments, default)
    control.compute_dtype = family.manual_cast_dtype or dtype
    return control


def encoder_arguments(info: BundleInfo) -> dict[str, Any]:
    """Return `UNetModel`'s arguments of an adapter's encoder, which may be of SDXL's kind. `info.config` is the U-Net's.

    Raises as :func:`~.unet.unet_arguments` does.
    """
    told = info.config.get("addition_embed_type") == "text_time"
    left_out = ("addition_embed_type", "addition_time_embed_dim", "projection_class_embeddings_input_dim") if told else ()
    arguments = unet_arguments(replace(info, config={key: value for key, value in info.config.items() if key not in left_out}))
    if told:
        arguments |= {"num_classes": "sequential", "adm_in_channels": int(info.config["projection_class_embeddings_input_dim"])}
    return arguments


def renamed(bundle: Bundle, names: Mapping[str, str]) -> dict[str, Tensor]:
    """Return the adapter's weights under the names of :class:`ControlNetwork`, from diffusers' (`names` maps those to ComfyUI's)."""
    inside = {key.removeprefix("encoder."): key for key in bundle.tensors if key.startswith("encoder.")}
    known = with_factors(names, inside)
    norms = [norm for level in norm_names(len(bundle.info.config["features"])) for norm in level]
    out = {key: tensor for key, tensor in bundle.tensors.items() if not key.startswith("encoder.")}
    for name, key in inside.items():
        norm = next((norm for norm in norms if name.startswith(f"{norm}.") and f"{norm}.weight" in names), None)
        moved = known.get(name) if norm is None else names[f"{norm}.weight"].removesuffix(".weight") + name[len(norm) :]
        if moved is None:
            raise BundleError(f"{name_of(bundle.info)}: its weight {key} has no place in ComfyUI's UNetModel")
        out[f"encoder.{moved}"] = bundle.tensors[key]
    return out


def block_width(block: Sequence[Any]) -> int:
    """Return the channels that a block of `UNetModel` puts out."""
    for module in reversed(list(block)):
        width = getattr(module, "out_channels", None)
        if isinstance(width, int):
            return width
    raise BundleError("this U-Net has a block whose width is not known")


def in_guess_mode(conditioning: Any) -> Any:
    """See :meth:`ControlTopic.in_guess_mode`."""
    return [
        [tokens, details if details.get("control") is None else {**details, "control": _decaying(details["control"])}]
        for tokens, details in conditioning
    ]


def _decaying(control: Any) -> Any:
    """Return a copy of a ControlNet, previous ones included, whose residuals for the skips decay towards the shallow layers."""
    made = control.copy()
    if control.previous_controlnet is not None:
        made.set_previous_controlnet(_decaying(control.previous_controlnet))
    merge = made.control_merge

    def control_merge(given: dict[str, Any], previous: Any, *args: Any, **kwargs: Any) -> Any:
        skips = given.get("output", [])
        scaled = [None if skip is None else skip * factor for skip, factor in zip(skips, depth_decay(len(skips)), strict=True)]
        return merge({**given, "output": scaled}, previous, *args, **kwargs)

    made.control_merge = control_merge
    return made
