"""Low-rank MODELs in ComfyUI: a ModelPatcher that carries patches over to factors.

A factored layer has no `X.weight`, only `X.a.weight` and `X.b.weight`. Patches are made for dense weights, so:

* the model's state dict names the dense weights too (without memory behind them), or LoRAs would not find them;
* a LoRA, W + s U D, is concatenated to the factors: [A | s U] [B ; D]. The compute stays low-rank;
* whatever else changes a weight by D (a diff, a merge, LoHa, LoKr) is exact as [A | I] [B ; D], at the cost of a dense layer. A patch whose
  D depends on the weight (DoRA, OFT, GLoRA, set) sees the weight with the patches before it, as a dense layer's does;
* who asks the patcher for weights (merges, extraction of a LoRA) gets the dense weights, patches applied.
"""

from __future__ import annotations

import copy
from typing import Any

import comfy.lora
import comfy.model_management
import comfy.model_patcher
import comfy.weight_adapter
import torch

from ...errors import InputError
from ...lowrank.layers import FACTORED, has_factors


def wrap(inner: Any, load_device: Any, offload_device: Any, disable_dynamic: bool = False) -> Any:
    """Return a patcher for the BaseModel `inner`: :class:`LowRankPatcher` where its network holds factored layers.

    `disable_dynamic` leaves out newer versions' dynamic memory. Those versions make a patcher with weights of its own by
    `cached_patcher_init`, a function and its arguments; here it copies `inner`."""
    made: Any
    if has_factors(inner.diffusion_model):
        size = sum(tensor.nbytes for tensor in inner.state_dict().values() if not tensor.is_meta)
        if not isinstance(inner, _DenseNames):
            inner.__class__ = type(f"LowRank{type(inner).__name__}", (_DenseNames, type(inner)), {})
        made = LowRankPatcher(inner, load_device=load_device, offload_device=offload_device, size=size)
    else:
        made = core_patcher(inner, load_device, offload_device, disable_dynamic)
    made.cached_patcher_init = (_wrap_copy, (inner, load_device, offload_device))
    return made


def core_patcher(network: Any, load_device: Any, offload_device: Any, disable_dynamic: bool = False) -> Any:
    """Return a patcher of the class that this version of ComfyUI chooses."""
    plain = comfy.model_patcher.ModelPatcher
    kind = plain if disable_dynamic else getattr(comfy.model_patcher, "CoreModelPatcher", plain)
    return kind(network, load_device=load_device, offload_device=offload_device)


def copy_model(inner: Any, share: bool = False) -> Any:
    """Return a copy of a BaseModel without patches. `share` gives it parameters of its own on the memory of the original's, which holds
    until ComfyUI moves or patches one of the two."""
    comfy.model_management.unload_all_models()  # so that the network holds its own weights, on the offload device
    same = (getattr(inner, "model_config", None), getattr(inner, "current_patcher", None))  # who it is, and who runs it: not copied
    known: dict[int, Any] = {id(one): one for one in same if one is not None}
    for one in inner.parameters():
        if share or type(one) is not torch.nn.Parameter:  # torch cannot copy ComfyUI's quantized weights without being told how
            known[id(one)] = torch.nn.Parameter(one.detach() if share else one.detach().clone(), requires_grad=False)
    return copy.deepcopy(inner, known)


def _wrap_copy(inner: Any, load_device: Any, offload_device: Any, disable_dynamic: bool = False) -> Any:
    return wrap(copy_model(inner), load_device, offload_device, disable_dynamic)


class _DenseNames:
    """A BaseModel whose state dict also names the dense weights and biases of factored layers, as meta tensors."""

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        tensors = super().state_dict(*args, **kwargs)  # type: ignore[misc]
        for name, layer in factored_layers(self):
            tensors[f"{name}.weight"] = layer.weight
            if layer.a.bias is not None:
                tensors[f"{name}.bias"] = torch.empty_like(layer.a.bias, device="meta")
        return tensors


class _Concatenate(comfy.weight_adapter.WeightAdapterBase):
    """A patch that appends `tensor` to a factor along `dim`, times the patch's strength where `scaled`."""

    name = "rapiddraw_concatenate"

    def __init__(self, tensor: torch.Tensor, dim: int, scaled: bool) -> None:
        self.tensor, self.dim, self.scaled = tensor, dim, scaled
        self.weights = [tensor]
        self.loaded_keys: set[str] = set()

    def calculate_weight(self, weight: Any, key: Any, strength: float, *_: Any, **__: Any) -> torch.Tensor:
        """Return `weight` (out, k, ...) or (k, in, ...), longer along `dim`."""
        added = self.tensor.to(weight) * (strength if self.scaled else 1.0)
        shape = [*weight.shape]
        shape[self.dim] = added.shape[self.dim]
        return torch.cat([weight, added.reshape(shape)], dim=self.dim)


class LowRankPatcher(comfy.model_patcher.ModelPatcher):
    """A ModelPatcher over a network with factored layers; clones keep the class."""

    def add_patches(self, patches: Any, strength_patch: float = 1.0, strength_model: float = 1.0) -> Any:
        """Add patches under dense names, in any of ComfyUI's formats, as its own method does. Returns the keys that were taken."""
        layers, taken, rest = dict(factored_layers(self.model)), [], {}
        for key, patch in patches.items():
            name, offset, function = (key, None, None) if isinstance(key, str) else (*key, None)[:3]
            path, _, last = name.rpartition(".")
            if path not in layers:
                rest[key] = patch
                continue
            taken.append(key)
            if last == "bias":
                moved = f"{path}.a.bias"
                rest[moved if isinstance(key, str) else (moved, *key[1:])] = patch
            else:
                self._patch_factors(path, layers[path], patch, (strength_patch, strength_model), (offset, function))
        done = super().add_patches(rest, strength_patch, strength_model) if rest else []
        return [*taken, *done]

    def _patch_factors(self, path: str, layer: Any, patch: Any, strengths: tuple[float, float], how: tuple[Any, Any]) -> None:
        strength, strength_model = strengths
        lora = _plain_lora(layer, patch, how)
        if lora is not None:
            (onto_a, onto_b), scaled = lora, True
        else:
            weight = self._dense(path, layer)
            changed = comfy.lora.calculate_weight([(strength, patch, strength_model, *how)], weight.clone(), f"{path}.weight")
            if changed.shape != weight.shape:
                raise InputError(
                    f"a patch makes {path}.weight {tuple(changed.shape)} of {tuple(weight.shape)}: a low-rank layer keeps its shape. "
                    "Merge the model back to dense first (Save Low-Rank UNet with dense on), then load the patch"
                )
            delta = (changed - strength_model * weight).flatten(1)
            eye = torch.eye(min(delta.shape), dtype=delta.dtype)
            onto_a, onto_b = (eye, delta) if delta.shape[0] <= delta.shape[1] else (delta, eye)
            scaled = False
        super().add_patches({f"{path}.a.weight": _Concatenate(onto_a, 1, scaled)}, strength, strength_model)
        super().add_patches({f"{path}.b.weight": _Concatenate(onto_b, 0, False)}, 1.0, 1.0)

    def model_state_dict(self, filter_prefix: str | None = None) -> Any:
        """Return the state dict as ComfyUI's own method does, with dense weights, patches applied, in the place of factors."""
        tensors = super().model_state_dict(filter_prefix)
        for path, layer in factored_layers(self.model):
            for factor in ("a.weight", "a.bias", "b.weight"):
                tensors.pop(f"{path}.{factor}", None)
            if f"{path}.weight" in tensors:
                tensors[f"{path}.weight"] = self._dense(path, layer)
            if f"{path}.bias" in tensors:
                tensors[f"{path}.bias"] = self._patched(f"{path}.a.bias", layer.a.bias)
        return tensors

    def get_key_patches(self, filter_prefix: str | None = None) -> Any:
        """Return the weights and patches for a merge as ComfyUI's own method does: a factored weight as a dense one, patched."""
        found = super().get_key_patches(filter_prefix)
        for path, layer in factored_layers(self.model):
            if f"{path}.weight" in found:
                found[f"{path}.weight"] = [(self._dense(path, layer), _unchanged)]
            if f"{path}.bias" in found:
                found[f"{path}.bias"] = [(self._patched(f"{path}.a.bias", layer.a.bias), _unchanged)]
        return found

    def add_hook_patches(self, hook: Any, patches: Any, *args: Any, **kwargs: Any) -> Any:
        """Raise :class:`InputError` where a hook LoRA would change a factored layer.

        Hooks change weights in place, and factors have another shape."""
        layers = dict(factored_layers(self.model))
        names = [key if isinstance(key, str) else key[0] for key in patches]
        if any(name.rpartition(".")[0] in layers for name in names):
            raise InputError(
                "a hook LoRA cannot be applied to a low-rank model: it changes weights in place and the factors have another shape. "
                "Load the LoRA with Load LoRA instead, or merge the model back to dense first"
            )
        return super().add_hook_patches(hook, patches, *args, **kwargs)

    def _dense(self, path: str, layer: Any) -> torch.Tensor:
        """Return the weight that a factored layer stands for, patches applied, in float32 on the offload device."""
        a, b = (self._patched(f"{path}.{which}.weight", getattr(layer, which).weight) for which in ("a", "b"))
        return (a.flatten(1) @ b.flatten(1)).reshape(a.shape[0], *b.shape[1:])

    def _patched(self, key: str, weight: torch.Tensor) -> torch.Tensor:
        """Return the tensor `key` with its patches, in float32 on the offload device: `weight`, unless the loaded model put it aside."""
        kept = self.backup.get(key)
        found = (weight if kept is None else kept.weight).to(self.offload_device, torch.float32, copy=True)
        return comfy.lora.calculate_weight(self.patches[key], found, key) if key in self.patches else found


def _plain_lora(layer: Any, patch: Any, how: tuple[Any, Any]) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Return U (out, r) and D (r, in, ...) of a LoRA W + U D; None for another patch. A LoRA for a part of the weight, such as the rows of
    q, k or v in a fused projection, is filled up with zeros."""
    offset, function = how
    if function is not None or not isinstance(patch, comfy.weight_adapter.LoRAAdapter):
        return None
    if any(extra is not None for extra in patch.weights[3:]):  # a middle factor, DoRA, or another shape
        return None
    up, down, alpha = patch.weights[:3]
    up = up.flatten(1).float() * (1.0 if alpha is None else float(alpha) / down.shape[0])
    if offset is None:
        return up, down
    dim, start, length = offset
    if dim == 0:
        whole = up.new_zeros(layer.weight.shape[0], up.shape[1])
        whole.narrow(0, start, length).copy_(up)
        return whole, down
    if dim == 1 and down.dim() == 2:
        whole = down.new_zeros(down.shape[0], layer.weight.shape[1])
        whole.narrow(1, start, length).copy_(down)
        return up, whole
    return None


def factored_layers(model: Any) -> list[tuple[str, Any]]:
    """Return (name from the BaseModel's root, layer) of every factored layer of `model.diffusion_model`."""
    return [(f"diffusion_model.{n}", module) for n, module in model.diffusion_model.named_modules() if isinstance(module, FACTORED)]


def _unchanged(weight: Any, **_: Any) -> Any:
    return weight
