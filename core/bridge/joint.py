"""Two guiders under one sampler. Their states lie side by side in one tensor, so that every elementwise sampler works.

Each model is prepared by its own guider's `sample` as for a sampling run of its own (loading, hooks, conditionings, the latent's scale).
One call is made inside the other. Where the inner guider would run the sampler, the real sampler gets the joint state and a model that
answers for both.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from ..host import current
from ..progress import Progress
from .convention import HandOver, times
from .latent import Fusion, fuse, latent_for_b
from .side import Side

Shapes = tuple[torch.Size, torch.Size]


def pack(a: Tensor, b: Tensor) -> Tensor:
    """Return (B, ...) and (B, ...) as one tensor (B, 1, N)."""
    return torch.cat([a.reshape(a.shape[0], 1, -1), b.to(a).reshape(b.shape[0], 1, -1)], dim=-1)


def unpack(x: Tensor, shapes: Shapes) -> tuple[Tensor, Tensor]:
    """Return the two tensors of `shapes` that :func:`pack` joined."""
    first = math.prod(shapes[0][1:])
    return x[..., :first].reshape(x.shape[0], *shapes[0][1:]), x[..., first:].reshape(x.shape[0], *shapes[1][1:])


class _Prepared:
    """What a guider gives its sampler: itself, ready for evaluations, and its state."""

    def __init__(self, guider: Any, options: Any, noise: Tensor, latent: Tensor, mask: Tensor | None) -> None:
        self.guider, self.options, self.noise, self.latent, self.mask = guider, options, noise, latent, mask

    def ask(self, x: Tensor, sigma: Tensor, options: Any, seed: int | None) -> Tensor:
        current().sampling.keep_ready(self.guider.model_patcher)
        device = self.noise.device
        return self.guider(x.to(device), sigma.to(device), model_options=options, seed=seed)


class _Then:
    """A SAMPLER that passes its arguments to a function and returns the function's result."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        self.function = function

    def sample(
        self,
        guider: Any,
        sigmas: Tensor,
        extra_args: dict[str, Any],
        callback: Any,
        noise: Tensor,
        latent_image: Tensor | None = None,
        denoise_mask: Tensor | None = None,
        disable_pbar: bool = False,
        **_: Any,
    ) -> Tensor:
        latent = torch.zeros_like(noise) if latent_image is None else latent_image
        prepared = _Prepared(guider, extra_args.get("model_options"), noise, latent, denoise_mask)
        return self.function(prepared, sigmas, extra_args, callback, disable_pbar)


class _JointInner:
    """The BaseModel of the joint model: A's, except where the state's shape matters."""

    def __init__(self, a: _Prepared, b: _Prepared, shapes: Shapes, hand_over: HandOver) -> None:
        self._inner, self._pair, self._shapes, self._hand_over = a.guider.inner_model, (a, b), shapes, hand_over

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def scale_latent_inpaint(self, sigma: Tensor, noise: Tensor, latent_image: Tensor, x: Tensor | None = None, **more: Any) -> Tensor:
        """Return the kept part of a masked picture at noise level `sigma`, for both models."""
        (noise_a, noise_b), (latent_a, latent_b) = unpack(noise, self._shapes), unpack(latent_image, self._shapes)
        state_a, state_b = unpack(noise if x is None else x, self._shapes)
        level, factor = self._hand_over.at(sigma)
        scale = [one.guider.inner_model.scale_latent_inpaint for one in self._pair]
        kept_a = scale[0](sigma=sigma, noise=noise_a, latent_image=latent_a, x=state_a, **more)
        kept_b = scale[1](sigma=level, noise=noise_b, latent_image=latent_b, x=times(state_b, factor), **more)
        return pack(kept_a, kept_b if factor is None else times(kept_b, 1 / factor))


class JointModel:
    """The model that the sampler sees: `joint((B, 1, N), sigma) -> denoised` of both states, fused as `fusion` says.

    Both states are in A's noise convention. B is asked at the level of the same signal-to-noise ratio, in its own convention.
    """

    def __init__(self, sides: tuple[Side, Side], pair: tuple[_Prepared, _Prepared], fusion: Fusion, sigmas: Tensor) -> None:
        self.sides, self.pair, self.fusion, self.sigmas = sides, pair, fusion, sigmas
        self.shapes: Shapes = (pair[0].noise.shape, pair[1].noise.shape)
        schedules = [one.guider.inner_model.model_sampling for one in pair]
        self.hand_over = HandOver(*schedules)
        self.inner_model = _JointInner(*pair, self.shapes, self.hand_over)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.pair[0].guider, name)

    def __call__(self, x: Tensor, sigma: Tensor, model_options: Any = None, seed: int | None = None, **_: Any) -> Tensor:
        a, b = self.pair
        options = a.options if model_options is None else model_options
        if _hooks(options) > _hooks(a.options):
            raise InputError(
                "this sampler needs the unguided prediction (cfg++), which a fused model does not have; choose another sampler"
            )
        state_a, state_b = unpack(x, self.shapes)
        level = float(sigma.max())
        fusing = self.fusion.active(self.inner_model.model_sampling, level, self.sigmas)
        alone = not (fusing and self.fusion.strength == 1)
        denoised_a = a.ask(state_a, sigma, options, seed) if alone else None
        level_b, factor = self.hand_over.at(sigma)
        denoised_b = b.ask(times(state_b, factor), level_b, b.options, seed)
        if fusing:
            denoised_a, denoised_b = fuse(*self.sides, denoised_a, denoised_b, self.shapes[0], self.fusion.strength)
        assert denoised_a is not None  # noqa: S101 - None only where fusing has filled it in
        return pack(denoised_a.to(x), denoised_b)


def _hooks(options: Mapping[str, Any] | None) -> int:
    return len((options or {}).get("sampler_post_cfg_function", []))


class LatentBridgeGuider:
    """A GUIDER of model A, fused with model B through the latent-space bridge.

    B starts from the same noise where the two states have one shape, else from noise of `seed + 1`. Its latent is `latent_b`, or without
    one what :func:`~.latent.latent_for_b` makes of A's. :meth:`sample` returns A's latent only, :meth:`sample_both` B's too.
    """

    def __init__(self, a: Side, b: Side, fusion: Fusion, latent_b: Mapping[str, Any] | None = None) -> None:
        fusion.check()
        self.a, self.b, self.fusion, self.latent_b = a, b, fusion, latent_b
        self.model_patcher, self.model_options = a.model, a.model.model_options

    def sample(
        self,
        noise: Tensor,
        latent_image: Tensor,
        sampler: Any,
        sigmas: Tensor,
        denoise_mask: Tensor | None = None,
        callback: Any = None,
        disable_pbar: bool = False,
        seed: int | None = None,
        **_: Any,
    ) -> Tensor:
        """Return A's unscaled latents. Raises :class:`InputError` without noise, because B's half of an earlier run is not known here."""
        if len(sigmas) == 0:
            return latent_image
        if not noise.any():
            raise InputError(
                "this guider starts from noise; to continue an earlier run use Latent Space Bridge Sampler, which has both latents"
            )
        latent_b = self._latent_b({"samples": latent_image})["samples"]
        noise_b = noise
        if latent_b.shape != noise.shape:
            generator = torch.Generator("cpu").manual_seed(((seed or 0) + 1) % 2**64)
            noise_b = torch.randn(latent_b.shape, generator=generator)
        both = (noise, noise_b), (latent_image, latent_b), (denoise_mask, denoise_mask)
        return self.sample_both(*both, sampler, sigmas, callback, disable_pbar, seed)[0]

    def _latent_b(self, latent_a: Mapping[str, Any]) -> dict[str, Any]:
        if self.latent_b is None:
            return latent_for_b(self.a, self.b, latent_a)
        return current().sampling.fit_latent(self.b.model, self.latent_b)

    def sample_both(
        self,
        noises: tuple[Tensor, Tensor],
        latents: tuple[Tensor, Tensor],
        masks: tuple[Tensor | None, Tensor | None],
        sampler: Any,
        sigmas: Tensor,
        callback: Any = None,
        disable_pbar: bool = False,
        seed: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return the unscaled latents of A and of B. `callback(step, denoised, x, total)` gets A's part."""
        if latents[0].shape[0] != latents[1].shape[0]:
            raise InputError(f"A draws {latents[0].shape[0]} pictures and B {latents[1].shape[0]}; both batches must be of one size")
        a, b = (current().sampling.make_guider(side.model, side.positive, side.negative, side.cfg) for side in (self.a, self.b))
        found: dict[str, Tensor] = {}

        def with_b(ready_b: _Prepared, *_: Any) -> Tensor:
            def with_a(ready_a: _Prepared, levels: Tensor, extra: dict[str, Any], report: Any, quiet: bool) -> Tensor:
                pair = (ready_a, ready_b)
                joint = JointModel((self.a, self.b), pair, self.fusion, levels)
                mask = None
                if any(one.mask is not None for one in pair):
                    mask = pack(*(torch.ones_like(one.noise) if one.mask is None else one.mask.expand_as(one.noise) for one in pair))

                def first(step: int, denoised: Tensor, x: Tensor, total: int) -> None:
                    report(step, unpack(denoised, joint.shapes)[0], unpack(x, joint.shapes)[0], total)

                state = sampler.sample(
                    joint,
                    levels,
                    extra,
                    None if report is None else first,
                    pack(ready_a.noise, ready_b.noise),
                    pack(ready_a.latent, ready_b.latent),
                    mask,
                    quiet,
                )
                out, found["b"] = unpack(state, joint.shapes)
                return out

            found["a"] = a.sample(noises[0], latents[0], _Then(with_a), sigmas, masks[0], callback, disable_pbar, seed)
            return found["b"].to(ready_b.noise)

        found["b"] = b.sample(noises[1], latents[1], _Then(with_b), sigmas, masks[1], None, True, seed)
        return found["a"], found["b"]


def sample_bridged(
    guider: LatentBridgeGuider, noise: Any, sampler: Any, sigmas: Tensor, latent_a: Mapping[str, Any], latent_b: Mapping[str, Any] | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return (LATENT of A, LATENT of B), sampled along `sigmas` from NOISE under one progress bar. No argument is changed.

    B's noise is A's where the shapes are equal (z'_T = z_T). Else a copy of NOISE with the next seed draws it: with the same seed the first
    numbers would be the same. Without `latent_b` B starts from :func:`~.latent.latent_for_b`.
    """
    host = current()
    first = host.sampling.fit_latent(guider.a.model, latent_a)
    second = host.sampling.fit_latent(guider.b.model, latent_b) if latent_b is not None else guider._latent_b(first)
    if len(sigmas) == 0:
        return first, second
    noise_a = noise_b = noise.generate_noise(first)
    if second["samples"].shape != noise_a.shape:
        other = copy.copy(noise)
        other.seed = (int(noise.seed) + 1) % 2**64
        noise_b = other.generate_noise(second)
    masks = first.get("noise_mask"), second.get("noise_mask")
    with Progress(len(sigmas) - 1, "bridging latent spaces") as bar:
        callback = host.sampling.step_callback(guider.a.model, bar)
        pair = (first["samples"], second["samples"])
        a, b = guider.sample_both((noise_a, noise_b), pair, masks, sampler, sigmas, callback, True, noise.seed)
    return {**first, "samples": a.to(pair[0].device)}, {**second, "samples": b.to(pair[1].device)}
