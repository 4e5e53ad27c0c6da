"""The resolution bridge against its alternatives: noise, quality and seconds of drawing 256 px with a model trained at 128 px.

    python -m rapiddraw bench coop_resolution

Rows: the bridge at several t_low, the naive way (the noisy latent enlarged, bilinear), 128 px enlarged by bicubic and by ESRGAN, and all
steps at 256 px. Same prompts, same first noise. AA, FID-A and the share of the pictures' power above half the Nyquist frequency, beside
that of renders. One model serves both resolutions: there is no model of its own for 64 px or 256 px among the shipped ones.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

from . import common

CFG, STEPS, SEED, BATCH = 4.0, 20, 0, 8
T_LOWS = (200, 300, 400, 500, 700)
MAIN = 200
"""The t_low that the checks look at: our model was never trained at the size it goes on at, so it is left little to invent."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m rapiddraw bench coop_resolution`."""
    parser.add_argument("--count", type=int, default=16, help="pictures a row (16)")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"steps of a walk ({STEPS})")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure and return the result (see :func:`common.result`)."""
    from ..core.host import current
    from ..core.knowledge.graph import load_knowledge
    from ..core.metrics.judge import attribute_accuracy, frechet_distance, judge_pictures, load_judge
    from ..core.metrics.orchard import AA_ATTRIBUTES, evaluation_scenes, prompts_for, render_batch
    from ..core.paths import resolve_bundle

    count, steps = getattr(args, "count", None) or 16, getattr(args, "steps", None) or STEPS
    host = current()
    model, clip, vae = host.load_bundles(*(resolve_bundle(f"orchard-{kind}.safetensors", kind) for kind in ("unet", "text", "vae")))
    clip = host.attach_knowledge(clip, load_knowledge(resolve_bundle("orchard-kg.safetensors", "kg")), 1.0)
    judge = load_judge(resolve_bundle("orchard-judge.safetensors", "judge"))
    upscaler = host.load_upscaler(resolve_bundle("orchard-esrgan-x4.safetensors", "esrgan"))
    pairs = evaluation_scenes("seen", count)
    prompts, scenes = prompts_for(pairs), [scene for _, scene in pairs]
    renders = render_batch(scenes, 256)
    real = judge_pictures(judge, renders)[1]
    draw = _Draw(host, model, clip, vae, upscaler, steps)
    ways: dict[str, Callable[..., Any]] = {f"bridge, t_low {t_low}": _partial(draw.bridge, t_low) for t_low in T_LOWS}
    ways |= {f"naive, t_low {MAIN}": _partial(draw.naive, MAIN), "128 px, bicubic": _partial(draw.small, None),
             "128 px, ESRGAN": _partial(draw.small, upscaler), "all at 256 px": draw.large}  # fmt: skip
    rows: list[dict[str, Any]] = [{"way": "renders", "pictures": count, "high band": round(high_band(renders), 5)}]
    found: dict[str, dict[str, float]] = {}
    for way, function in ways.items():
        began = time.perf_counter()
        pictures = draw.all(prompts, function)
        seconds = (time.perf_counter() - began) / count
        predicted, features = judge_pictures(judge, pictures)
        accuracy = attribute_accuracy(predicted, scenes, AA_ATTRIBUTES)["AA"]
        found[way] = {"AA": accuracy, "FID-A": frechet_distance(features, real), "high band": high_band(pictures), "seconds": seconds}
        rows.append(
            {"way": way, "pictures": count, **{key: round(value, 5 if key == "high band" else 3) for key, value in found[way].items()}}
        )
    noise = draw.noise(prompts)
    rows += [{"way": f"noise after {way}", "correlation": round(s.correlation, 4), "std": round(s.std, 4)} for way, s in noise.items()]
    main, naive, whole = found[f"bridge, t_low {MAIN}"], found[f"naive, t_low {MAIN}"], found["all at 256 px"]
    white, coloured = noise["bridge"], noise["naive"]
    share = main["seconds"] / whole["seconds"]
    checks = [
        common.check(
            "Lag-1 correlation of the noise after the bridge", round(white.correlation, 4), "< 0.02", abs(white.correlation) < 0.02
        ),
        common.check("Its standard deviation", round(white.std, 4), "within 2% of 1", abs(white.std - 1) < 0.02),
        common.check(
            "Correlation of the naive way's", round(coloured.correlation, 4), "about 0.75", abs(coloured.correlation - 0.75) < 0.05
        ),
        common.check(
            "AA of the bridge less all at 256 px", round(main["AA"] - whole["AA"], 3), ">= -0.05", main["AA"] - whole["AA"] >= -0.05
        ),
        common.check("Its share of the seconds", round(share, 3), "0.5 to 0.8", 0.5 <= share <= 0.8),
        common.check(
            "FID-A of the naive way over the bridge's", round(naive["FID-A"] / main["FID-A"], 3), "> 1", naive["FID-A"] > main["FID-A"]
        ),
    ]
    notes = f"{steps} steps of dpmpp_2m (karras), CFG {CFG:g}, x2 bicubic. FID-A is only comparable at equal numbers of pictures."
    return common.result("coop_resolution", "python -m rapiddraw bench coop_resolution", rows, checks, notes=notes)


def _partial(function: Callable[..., Any], value: Any) -> Callable[..., Any]:
    return lambda *rest: function(value, *rest)


class _Draw:
    """Each way of drawing: `way(positive, negative, latent, seed) -> IMAGE` at twice the latent's size."""

    def __init__(self, host: Any, model: Any, clip: Any, vae: Any, upscaler: Any, steps: int) -> None:
        self.host, self.model, self.clip, self.vae, self.upscaler = host, model, clip, vae, upscaler
        self.sampler, self.sigmas, self.steps = host.named_sampler("dpmpp_2m"), host.calculate_sigmas(model, "karras", steps), steps

    def all(self, prompts: list[str], way: Callable[..., Any]) -> Any:
        """Pictures (N, 3, 256, 256) in [-1, 1] of `prompts`."""
        import torch

        return torch.cat([way(*batch).permute(0, 3, 1, 2) * 2 - 1 for batch in self.batches(prompts)])

    def batches(self, prompts: list[str]) -> Any:
        import torch

        for first in range(0, len(prompts), BATCH):
            part = prompts[first : first + BATCH]
            tokens = torch.cat([self.host.encode_text(self.clip, prompt)[0][0] for prompt in part])
            against = self.host.encode_text(self.clip, "")[0][0].expand(len(part), -1, -1)
            yield [[tokens, {}]], [[against, {}]], {"samples": torch.zeros(len(part), 4, 16, 16)}, SEED + first

    def walk(self, positive: Any, negative: Any, sigmas: Any, latent: Any, seed: int | None) -> Any:
        return self.host.sample_custom(self.model, positive, negative, CFG, self.sampler, sigmas, latent, seed)

    def split(self, t_low: int) -> Any:
        import torch

        from ..core.bridge.resolution import split_at

        return split_at(self.sigmas, float(self.model.get_model_object("model_sampling").sigma(torch.tensor(float(t_low)))))

    def bridge(self, t_low: int, positive: Any, negative: Any, latent: Any, seed: int) -> Any:
        from ..core.bridge.resolution import sample_across

        pairs = [(one, one) for one in (self.model, positive, negative, CFG, self.vae)]
        names = {"sampler_name": "dpmpp_2m", "scheduler": "karras"}
        drawn = sample_across(*pairs, latent, seed=seed, steps=self.steps, t_low=t_low, **names)[0]
        return self.host.vae_decode(self.vae, drawn["samples"])

    def naive(self, t_low: int, positive: Any, negative: Any, latent: Any, seed: int) -> Any:
        high, low = self.split(t_low)
        half = self.walk(positive, negative, high, latent, seed)["samples"]
        return self.host.vae_decode(self.vae, self.walk(positive, negative, low, {"samples": _enlarged(half)}, None)["samples"])

    def small(self, upscaler: Any, positive: Any, negative: Any, latent: Any, seed: int) -> Any:
        from ..core.bridge.resolution import enlarge

        image = self.host.vae_decode(self.vae, self.walk(positive, negative, self.sigmas, latent, seed)["samples"])
        return enlarge(image, (image.shape[2] * 2, image.shape[1] * 2), "bicubic", upscaler)

    def large(self, positive: Any, negative: Any, latent: Any, seed: int) -> Any:
        larger = {"samples": _enlarged(latent["samples"])}
        return self.host.vae_decode(self.vae, self.walk(positive, negative, self.sigmas, larger, seed)["samples"])

    def noise(self, prompts: list[str]) -> dict[str, Any]:
        """Statistics of the noise that the second stage starts from, over one batch."""
        from ..core.bridge.resolution import bridge_resolution, predict_clean
        from ..core.host.embedded_latent import prepare_noise
        from ..core.metrics.noise import noise_statistics

        positive, negative, latent, seed = next(iter(self.batches(prompts)))
        high, _ = self.split(MAIN)
        sigma, base = float(high[-1]), self.model.model
        half = self.walk(positive, negative, high, latent, seed)
        clean = predict_clean(self.model, positive, negative, CFG, half, sigma)
        larger = base.process_latent_in(
            bridge_resolution(self.model, positive, negative, CFG, self.vae, half, sigma, self.vae)[0]["samples"]
        )
        start = base.model_sampling.noise_scaling(high[-1:], prepare_noise(larger, seed + 1), larger)
        old, new = (base.process_latent_in(_enlarged(one)) for one in (half["samples"], clean))
        return {"bridge": noise_statistics(start, larger, sigma), "naive": noise_statistics(old, new, sigma)}


def _enlarged(latent: Any) -> Any:
    from torch.nn import functional

    return functional.interpolate(latent, scale_factor=2, mode="bilinear")


def high_band(pictures: Any) -> float:
    """The share of the pictures' power (their means left out) above half the Nyquist frequency, in either direction."""
    import torch

    power = torch.fft.fft2(pictures - pictures.mean((2, 3), keepdim=True)).abs() ** 2
    rows, columns = (torch.fft.fftfreq(size).abs() for size in pictures.shape[2:])
    above = torch.maximum(rows[:, None].expand(-1, len(columns)), columns.expand(len(rows), -1)) > 0.25
    return float(power[..., above].sum() / power.sum())
