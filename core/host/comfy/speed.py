"""Clones of ComfyUI's MODELs, CLIPs and VAEs whose networks run through a function, by ComfyUI's wrappers and object patches."""

from __future__ import annotations

import copy
import inspect
from typing import Any

from comfy.patcher_extension import WrappersMP

from ...speed.around import Runner

KEY = "rapiddraw.compile"
_TORCH_KEY = "torch.compile"  # of ComfyUI's own set_torch_compile_wrapper, which its TorchCompileModel and other packs' nodes call
_LEFT = "another node of the graph (such as TorchCompileModel) compiles this model; it is left to that node"
_METHODS = {"clip": ("encode_token_weights",), "vae": ("encode", "decode")}


def network_of(part: str, whole: Any) -> Any:
    """See :meth:`SpeedTopic.network_of`."""
    return {"model": lambda: whole.model.diffusion_model, "clip": lambda: whole.cond_stage_model, "vae": lambda: whole.first_stage_model}[
        part
    ]()


def run_around(part: str, whole: Any, run: Runner) -> Any:
    """See :meth:`SpeedTopic.run_around`."""
    if part == "model":
        return _model(whole, run)
    if part == "clip":
        clone = whole.clone()
    else:  # a VAE cannot clone itself
        clone = copy.copy(whole)
        clone.patcher = whole.patcher.clone()
    network = network_of(part, clone)
    for name in _METHODS[part]:
        inner = clone.patcher.object_patches.get(name) or getattr(type(network), name).__get__(network)
        clone.patcher.add_object_patch(name, _around(inner, run))
    return clone


def runner_of(model: Any) -> Runner | None:
    """See :meth:`SpeedTopic.runner_of`."""
    found = model.get_wrappers(WrappersMP.APPLY_MODEL, KEY)
    return found[0].run if found else None


def _model(model: Any, run: Runner) -> Any:
    # Newer versions stream weights in while a layer runs; what is compiled needs them in place, as ComfyUI's own compile node knows.
    streams = "disable_dynamic" in inspect.signature(model.clone).parameters
    clone = model.clone(disable_dynamic=True) if streams else model.clone()
    clone.remove_wrappers_with_key(WrappersMP.APPLY_MODEL, KEY)

    def wrapper(executor: Any, *args: Any, **kwargs: Any) -> Any:
        return run(lambda: executor(*args, **kwargs), _LEFT if _is_compiled_by_torch(args, kwargs) else None)

    wrapper.run = run  # type: ignore[attr-defined]
    clone.add_wrapper_with_key(WrappersMP.APPLY_MODEL, KEY, wrapper)
    return clone


def _is_compiled_by_torch(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Return whether this call of `BaseModel.apply_model` goes to a network that ComfyUI has compiled.

    ComfyUI's wrapper is then among the call's options."""
    options = next((value for value in (*args, *kwargs.values()) if isinstance(value, dict) and "wrappers" in value), {})
    return bool(options.get("wrappers", {}).get(WrappersMP.APPLY_MODEL, {}).get(_TORCH_KEY))


def _around(inner: Any, run: Runner) -> Any:
    def patched(*args: Any, **kwargs: Any) -> Any:
        return run(lambda: inner(*args, **kwargs))

    return patched
