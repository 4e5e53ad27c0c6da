"""Rows of the matrix of nodes and families: what each node is asked to do with a small model of one family, and what must come out.

A row is a function of a :class:`Case` under `@row(NODE)`. It runs the node and raises :class:`Wrong` where an identity does not hold: for
most nodes a setting exists that must leave the picture of ComfyUI's own sampler as it is. A probe imports this module after `inside`.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import comfy.model_patcher
import comfy.samplers
import families
import torch
from comfy_extras import nodes_custom_sampler
from inside import FOLDER, relative

import nodes

SAME = 1e-4  # relative to the largest value: sums in another order through one or two blocks
STEPS, CFG, SEED = 3, 2.0, 5
ROWS: dict[str, Callable[[Case], None]] = {}


class Wrong(Exception):
    """An identity does not hold."""


def row(name: str) -> Callable[[Callable[[Case], None]], Callable[[Case], None]]:
    """Enter a function into `ROWS` under the node's id, without `RapidDraw`, and what of it is asked."""

    def enter(function: Callable[[Case], None]) -> Callable[[Case], None]:
        ROWS[name] = function
        return function

    return enter


def equal(what: str, a: torch.Tensor, b: torch.Tensor, limit: float = SAME) -> None:
    """Raise :class:`Wrong` where `a` differs from `b` by more than `limit` of b's largest value, or in shape."""
    if a.shape != b.shape:
        raise Wrong(f"{what}: {tuple(a.shape)} instead of {tuple(b.shape)}")
    difference = relative(a, b)
    if not difference <= limit:
        raise Wrong(f"{what}: relative difference {difference:.1e}")


def finite(what: str, *tensors: torch.Tensor) -> None:
    """Raise :class:`Wrong` for a value that is not finite."""
    for tensor in tensors:
        if not tensor.isfinite().all():
            raise Wrong(f"{what}: not finite")


class Clip:
    """A text encoder that gives each text its own random tokens, with the family's keys."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.cond_stage_model = families.Colours(3, False)  # any small network
        self.patcher = comfy.model_patcher.ModelPatcher(self.cond_stage_model, families.CPU, families.CPU)

    def clone(self) -> Clip:
        return self

    def tokenize(self, text: str, **_: Any) -> dict[str, Any]:
        return {"words": text}

    def encode_from_tokens_scheduled(self, tokens: dict[str, Any], **_: Any) -> list[Any]:
        return families.conditioning(self.name, zlib.crc32(tokens["words"].encode()) % 1000)

    def load_model(self, *_: Any) -> Any:
        return self.patcher


class Case:
    """A family's parts, each made when a row asks for it, and ComfyUI's own sampling of them."""

    def __init__(self, name: str, ours: Callable[[str], Any], models: Path) -> None:
        self.name, self.ours, self.models, self.family = name, ours, models, families.FAMILIES[name]

    @cached_property
    def model(self) -> Any:
        return families.model(self.name)

    @cached_property
    def positive(self) -> list[Any]:
        return families.conditioning(self.name, 0)

    @cached_property
    def negative(self) -> list[Any]:
        return families.conditioning(self.name, 1)

    @cached_property
    def vae(self) -> Any:
        return families.vae(self.name)

    @cached_property
    def clip(self) -> Any:
        return Clip(self.name)

    @property
    def latent(self) -> dict[str, torch.Tensor]:
        return families.latent(self.name)

    @property
    def prompts(self) -> dict[str, Any]:
        return {"positive": self.positive, "negative": self.negative}

    @cached_property
    def sigmas(self) -> torch.Tensor:
        return comfy.samplers.calculate_sigmas(self.model.get_model_object("model_sampling"), "simple", STEPS)

    @cached_property
    def host(self) -> Any:
        return self.ours("core.host").current()

    @cached_property
    def noise(self) -> Any:
        return nodes_custom_sampler.Noise_RandomNoise(SEED)

    def node(self, name: str, **given: Any) -> tuple[Any, ...]:
        """What a node of ours returns for `given`, with its defaults for the other inputs."""
        made = nodes.NODE_CLASS_MAPPINGS[f"RapidDraw{name}"]
        wanted: dict[str, Any] = {}
        for kind in ("required", "optional"):
            for key, spec in made.INPUT_TYPES().get(kind, {}).items():
                options = spec[1] if len(spec) > 1 else {}
                if "default" in options or isinstance(spec[0], list):
                    wanted[key] = options.get("default", spec[0][0] if isinstance(spec[0], list) else None)
        result = getattr(made(), made.FUNCTION)(**(wanted | given))
        return tuple(result["result"]) if isinstance(result, dict) else tuple(result)

    def guider(self, model: Any | None = None, positive: Any = None) -> Any:
        """ComfyUI's own CFG guider."""
        guider = comfy.samplers.CFGGuider(model or self.model)
        guider.set_conds(positive or self.positive, self.negative)
        guider.set_cfg(CFG)
        return guider

    def sampled(self, guider: Any | None = None, sampler: Any = "euler", sigmas: Any = None, latent: Any = None) -> torch.Tensor:
        """What SamplerCustomAdvanced gives."""
        guider, latent = guider or self.guider(), latent or self.latent
        sampler = comfy.samplers.sampler_object(sampler) if isinstance(sampler, str) else sampler
        noise = self.noise.generate_noise(latent)
        sigmas = self.sigmas if sigmas is None else sigmas
        return guider.sample(noise, latent["samples"], sampler, sigmas, denoise_mask=latent.get("noise_mask"), seed=SEED, disable_pbar=True)

    @cached_property
    def stock(self) -> torch.Tensor:
        """The picture of ComfyUI's own euler."""
        return self.sampled()


@row("FlashAttentionPatch")
def _(case: Case) -> None:
    patched, _ = case.node("FlashAttentionPatch", model=case.model, backend="sdpa_math")
    equal("attention by sdpa_math", case.sampled(case.guider(patched)), case.stock, 1e-3)


@row("AttentionReport")
def _(case: Case) -> None:
    patched, _ = case.node("FlashAttentionPatch", model=case.model, backend="sdpa_math")
    latent = {"samples": case.sampled(case.guider(patched))}
    report, same = case.node("AttentionReport", model=patched, latent=latent)
    if same is not latent or "sdpa_math" not in report:
        raise Wrong(f"the report names no kernel: {report[:80]}")


@row("AttentionEntropyScale")
def _(case: Case) -> None:
    factor = getattr(case.model.model.latent_format, "spacial_downscale_ratio", 8)
    height, width = (side * factor for side in case.family.size[-2:])
    plain = case.node("AttentionEntropyScale", model=case.model, trained_width=width, trained_height=height)[0]
    equal("at the size of training", case.sampled(case.guider(plain)), case.stock)
    sharp = families.model(case.name, std=0.2)  # attention with a scale to see
    wide = case.node("AttentionEntropyScale", model=sharp, trained_width=width // 2, trained_height=height // 2)[0]
    scaled, whole = case.sampled(case.guider(wide)), case.sampled(case.guider(sharp))
    finite("at another size", scaled)
    if relative(scaled, whole) < 1e-6:
        raise Wrong("attention is not scaled at another size")


@row("Compile")
def _(case: Case) -> None:
    compiled = case.node("Compile", model=case.model, compile="never", budget=0.0)[0]
    equal("uncompiled", case.sampled(case.guider(compiled)), case.stock, 1e-3)


@row("TimeDecoupledGuider")
def _(case: Case) -> None:
    guider = case.node(
        "TimeDecoupledGuider", structure=case.model, texture=case.model, **case.prompts, structure_cfg=CFG, texture_cfg=CFG, **_middle(case)
    )[0]
    equal("the same model twice", case.sampled(guider), case.stock)


@row("TimeDecoupledModel")
def _(case: Case) -> None:
    both = case.node("TimeDecoupledModel", structure=case.model, texture=case.model.clone(), **_middle(case))[0]
    equal("the same model twice", case.sampled(case.guider(both)), case.stock)


@row("TimeDecoupledSampler")
def _(case: Case) -> None:
    drawn = case.node(
        "TimeDecoupledSampler", structure=case.model, texture=case.model, **case.prompts, latent_image=case.latent, seed=SEED, steps=STEPS,
        structure_cfg=CFG, texture_cfg=CFG, sampler_name="euler", scheduler="simple", **_middle(case),
    )[0]  # fmt: skip
    equal("the same model twice", drawn["samples"], case.stock)


@row("SplitSigmasAtTimestep")
def _(case: Case) -> None:
    high, low = case.node("SplitSigmasAtTimestep", model=case.model, sigmas=case.sigmas, **_middle(case))
    equal("the two parts", torch.cat([high[:-1], low]), case.sigmas)


def _middle(case: Case, node: str = "TimeDecoupledGuider") -> dict[str, Any]:
    """A switch at the noise level of the second step."""
    wanted = nodes.NODE_CLASS_MAPPINGS[f"RapidDraw{node}"].INPUT_TYPES().get("optional", {})
    return {"switch_as": "sigma", "switch_at": float(case.sigmas[1])} if "switch_as" in wanted else {}


@row("StyleGuidance")
def _(case: Case) -> None:
    styled = case.node("StyleGuidance", model=case.model, style=case.positive, style_scale=3.0)[0]
    equal("style = prompt", case.sampled(case.guider(styled)), case.stock)
    other = case.node("StyleGuidance", model=case.model, style=families.conditioning(case.name, 2), style_scale=3.0)[0]
    moved = case.sampled(case.guider(other))
    finite("another style", moved)
    if relative(moved, case.stock) < 1e-6:
        raise Wrong("another style changes nothing")


@row("ResolutionBridge")
def _(case: Case) -> None:
    half = {"samples": case.sampled(sigmas=case.sigmas[:-1])}
    larger, image, *_ = case.node(
        "ResolutionBridge", model=case.model, **case.prompts, vae=case.vae, vae_high=case.vae, latent=half, sigmas=case.sigmas[-2:], cfg=CFG
    )
    _larger(case, larger, image)


@row("ResolutionBridgeSampler")
def _(case: Case) -> None:
    prompts = {f"{name}_{end}": value for name, value in case.prompts.items() for end in ("low", "high")}
    larger, image = case.node(
        "ResolutionBridgeSampler", model_low=case.model, model_high=case.model, **prompts, vae_low=case.vae, vae_high=case.vae,
        latent_image=case.latent, seed=SEED, steps=STEPS, cfg_low=CFG, cfg_high=CFG, sampler_name="euler", scheduler="simple",
        **_middle(case, "ResolutionBridgeSampler"),
    )  # fmt: skip
    _larger(case, larger, image)


def _larger(case: Case, latent: dict[str, torch.Tensor], image: torch.Tensor) -> None:
    """The latent has twice the sides, and its picture is a batch of pictures."""
    *rest, height, width = case.latent["samples"].shape
    if list(latent["samples"].shape) != [*rest, 2 * height, 2 * width]:
        raise Wrong(f"a latent of {tuple(latent['samples'].shape)} from one of {tuple(case.latent['samples'].shape)}")
    if image.ndim != 4 or image.shape[-1] != 3:
        raise Wrong(f"a picture of {tuple(image.shape)}")
    finite("the bridge", latent["samples"], image)


def _sides(case: Case) -> dict[str, Any]:
    parts = {"model": case.model, "vae": case.vae, **case.prompts, "cfg": CFG}
    return {f"{key}_{side}": value for key, value in parts.items() for side in "ab"}


@row("LatentSpaceBridgeGuider")
def _(case: Case) -> None:
    for strength in (0.0, 0.5):
        guider = case.node("LatentSpaceBridgeGuider", **_sides(case), strength=strength)[0]
        out = nodes_custom_sampler.SamplerCustomAdvanced().execute(
            case.noise, guider, comfy.samplers.sampler_object("euler"), case.sigmas, case.latent
        )[0]["samples"]
        a = out.unbind()[0] if getattr(out, "is_nested", False) else out
        if strength == 0:
            equal("strength 0", a, case.stock)
        finite("strength 0.5", a)


@row("LatentSpaceBridgeSampler")
def _(case: Case) -> None:
    for strength in (0.0, 0.5):
        a, b, image = case.node(
            "LatentSpaceBridgeSampler", noise=case.noise, sampler=comfy.samplers.sampler_object("euler"), sigmas=case.sigmas,
            latent_a=case.latent, **_sides(case), strength=strength,
        )  # fmt: skip
        if strength == 0:
            equal("strength 0", a["samples"], case.stock)
        finite("strength 0.5", a["samples"], b["samples"], image)


@row("FactorizeUNet")
def _(case: Case) -> None:
    small, *_ = case.node("FactorizeUNet", model=case.model, mode="energy", value=1.0, latent=case.latent, positive=case.positive)
    equal("the whole energy", case.sampled(case.guider(small)), case.stock, 5e-3)
    smaller, *_ = case.node("FactorizeUNet", model=case.model, mode="rank", value=4.0)
    finite("rank 4", case.sampled(case.guider(smaller)))


@row("SaveLowRankUNet")
def _(case: Case) -> None:
    small, *_ = case.node("FactorizeUNet", model=case.model, mode="rank", value=4.0)
    file = f"{zlib.crc32(case.name.encode())}-low"
    case.node("SaveLowRankUNet", model=small, filename=file)
    saved = next(FOLDER.rglob(f"{file}*.safetensors"))
    if case.name == "Anima":
        return  # families.py leaves its adapter for another text encoder away, which a file must have
    equal("saved and loaded", case.sampled(case.guider(case.host.model.load(saved))), case.sampled(case.guider(small)), 5e-2)


@row("DistillUNet")
def _(case: Case) -> None:
    size = 512 if case.name == "PixArt Sigma" else 128  # below, ComfyUI's own PixArt divides by zero
    student, *_ = case.node(
        "DistillUNet", model=case.model, clip=case.clip, vae=case.vae, folder="fruit", steps=2, batch_size=1, size=size, mode="rank",
        value=4.0,
        filename=f"{zlib.crc32(case.name.encode())}-student",
    )  # fmt: skip
    finite("the student", case.sampled(case.guider(student)))


def _few_steps(case: Case, name: str) -> tuple[Any, ...]:
    size = 512 if case.name == "PixArt Sigma" else 128
    return case.node(
        "DistillFewSteps", model=case.model, clip=case.clip, vae=case.vae, prompts="a red fruit\na tall one", steps=1, few_steps=1,
        teacher_steps=1, drawn=2, batch_size=1, size=size, rank=1, layers="attention", filename=f"{zlib.crc32(case.name.encode())}-{name}",
    )  # fmt: skip


@row("DistillFewSteps")
def _(case: Case) -> None:
    student, *_ = _few_steps(case, "few")
    finite("the student", case.sampled(case.guider(student)))


@row("LoadFewStepModel")
def _(case: Case) -> None:
    student, file, *_ = _few_steps(case, "loaded")
    model, sampler, sigmas, cfg = case.node("LoadFewStepModel", model=case.model, file=file)
    if len(sigmas) != 2 or cfg != 1.0:
        raise Wrong(f"{len(sigmas) - 1} steps at scale {cfg}")
    equal("the node's student", case.sampled(case.guider(model)), case.sampled(case.guider(student)))


@row("KroneckerAdapterLoader")
def _(case: Case) -> None:
    adapted = case.node("KroneckerAdapterLoader", model=case.model, adapter_name="tiny-adapter.safetensors")[0]
    if relative(case.sampled(case.guider(adapted)), case.stock) < 1e-6:
        raise Wrong("the adapter changes nothing")


@row("ControlAdapterApply")
def _(case: Case) -> None:
    control = case.node("ControlAdapterLoader", **{_first(case, "ControlAdapterLoader"): "tiny-control.safetensors"})[0]
    height, width = (side * families.FACTOR for side in case.family.size[-2:])
    edges = torch.rand(1, height, width, 3, generator=torch.Generator().manual_seed(4))
    positive, _ = case.node("ControlAdapterApply", **case.prompts, control_net=control, edges=edges)
    finite("with edges", case.sampled(case.guider(positive=positive)))


def _first(case: Case, name: str) -> str:
    return next(iter(nodes.NODE_CLASS_MAPPINGS[f"RapidDraw{name}"].INPUT_TYPES()["required"]))


@row("ImageVariationEncode")
def _(case: Case) -> None:
    picture = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(4))
    variation = case.node(
        "ImageVariationEncode", image=picture, tokens_name="tiny-image_tokens.safetensors", tower_name="tiny-image.safetensors",
        model=case.model,
    )[0]  # fmt: skip
    finite("a picture as the prompt", case.sampled(case.guider(positive=variation)))


@row("ConditioningConcatFeature")
def _(case: Case) -> None:
    """The two halves of a prompt's features make the prompt again."""
    (tokens, more), half = case.positive[0], case.family.width // 2
    first, second = [[tokens[..., :half], more]], [[tokens[..., half:], more]]
    both = case.node("ConditioningConcatFeature", first=first, second=second, model=case.model)[0]
    equal("the two halves of a prompt", case.sampled(case.guider(positive=both)), case.stock)


@row("ConditioningSetResolutionIndex")
def _(case: Case) -> None:
    marked = case.node("ConditioningSetResolutionIndex", conditioning=case.positive, index=1, model=case.model)[0]
    finite("a resolution index", case.sampled(case.guider(positive=marked)))


@row("NoiseCorrelation")
def _(case: Case) -> None:
    """White noise at a middle level has no correlation and the strength 1."""
    sampling, shape = case.model.get_model_object("model_sampling"), (16, *case.family.size)
    clean, noise = (torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in (7, 8))
    format_in, format_out = case.model.model.process_latent_in, case.model.model.process_latent_out
    noisy = format_out(sampling.noise_scaling(case.sigmas[1], noise, format_in(clean)))
    correlation, std, _ = case.node(
        "NoiseCorrelation", model=case.model, noisy={"samples": noisy}, clean={"samples": clean}, sigmas=case.sigmas[1:]
    )
    if abs(correlation) > 0.05 or abs(std - 1) > 0.05:
        raise Wrong(f"white noise gives the correlation {correlation:.3f} and the strength {std:.3f}")


@row("ProfilePipeline")
def _(case: Case) -> None:
    side = max(128, case.family.size[-1] * families.FACTOR)  # PixArt draws nothing smaller than its positions allow
    table, chart, _ = case.node(
        "ProfilePipeline", model=case.model, clip=case.clip, vae=case.vae, width=side, height=side, steps=2, runs=1, warmup=0
    )
    finite("the chart", chart)
    if "%" not in table:
        raise Wrong(f"no shares in the table: {table[:80]}")


@row("SamplerPicard ddim")
def _(case: Case) -> None:
    sampler = case.node("SamplerPicard", method="ddim", tolerance=0.0)[0]
    equal("tolerance 0", case.sampled(sampler=sampler), case.stock)


@row("SamplerPicard ddpm")
def _(case: Case) -> None:
    sampler = case.node("SamplerPicard", method="ddpm", tolerance=0.0)[0]
    equal("tolerance 0 is euler_ancestral", case.sampled(sampler=sampler), case.sampled(sampler="euler_ancestral"))


@row("SamplerDPMSolver")
def _(case: Case) -> None:
    """Order 1 is DDIM, which is euler in sigma."""
    sampler = case.node("SamplerDPMSolver", order=1, method="multistep")[0]
    equal("order 1", case.sampled(sampler=sampler), case.stock)
    finite("order 2", case.sampled(sampler=case.node("SamplerDPMSolver")[0]))


@row("SamplerPNDM")
def _(case: Case) -> None:
    for variant in ("PLMS", "F-PNDM", "S-PNDM"):
        finite(variant, case.sampled(sampler=case.node("SamplerPNDM", variant=variant)[0]))


@row("SamplerAdaptiveSDE")
def _(case: Case) -> None:
    for flow in (True, False):
        sampler = case.node("SamplerAdaptiveSDE", rtol=0.5, atol=1.0, max_nfe=60, probability_flow=flow)[0]
        finite("ODE" if flow else "SDE", case.sampled(sampler=sampler))
