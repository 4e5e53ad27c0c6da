"""The resolution bridge against its alternatives: noise, quality and seconds.

    python -m rapiddraw bench coop_resolution

Two settings. `pair`: a model made for 64 px (VAE of factor 4) hands over to one made for 128 px (VAE of factor 8), at several t_low.
`one`: the 128 px model goes on at 256 px, which it was never trained for; only here, where both ends are one latent space, is there a naive
way (the noisy latent enlarged, bilinear). In both: the small picture enlarged by bicubic and by ESRGAN, and all steps at the large size.
Same prompts, same first noise. AA, FID-A and the share of the pictures' power above half the Nyquist frequency, beside that of renders.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from . import common

CFG, STEPS, SEED, BATCH = 4.0, 20, 0, 8
T_LOWS = {"pair": (200, 300, 400, 500, 700), "one": (200, 400)}
MAIN = {"pair": 500, "one": 200}
"""The t_low that the checks look at: a model at a size that it was never trained for is left little to invent."""


@dataclass(frozen=True)
class Part:
    """A model, its VAE, and the side of its pictures in pixels."""

    model: Any
    vae: Any
    side: int

    def empty(self, count: int) -> dict[str, Any]:
        import torch

        cells = self.side // self.vae.spacial_compression_encode()
        return {"samples": torch.zeros(count, self.vae.latent_channels, cells, cells)}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m rapiddraw bench coop_resolution`."""
    parser.add_argument("--count", type=int, default=16, help="pictures a row (16)")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"steps of a walk ({STEPS})")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure and return the result (see :func:`common.result`)."""
    from ..core.bundles.find import resolve_bundle
    from ..core.host import current
    from ..core.knowledge.graph import load_knowledge
    from ..core.metrics.orchard import AA_ATTRIBUTES, evaluation_scenes, prompts_for, render_batch
    from ..core.scoring.judge import attribute_accuracy, frechet_distance, judge_pictures, load_judge

    count, steps = getattr(args, "count", None) or 16, getattr(args, "steps", None) or STEPS
    host = current()

    def load(unet: str, vae: str) -> tuple[Any, Any, Any]:
        names = ((unet, "unet"), ("orchard-text", "text"), (vae, "vae"))
        return host.load_bundles(*(resolve_bundle(f"{name}.safetensors", kind) for name, kind in names))

    (model, clip, vae), (small, _, small_vae) = load("orchard-unet", "orchard-vae"), load("orchard-unet-64", "orchard-vae-f4")
    clip = host.knowledge.attach(clip, load_knowledge(resolve_bundle("orchard-kg.safetensors", "kg")), 1.0)
    judge = load_judge(resolve_bundle("orchard-judge.safetensors", "judge"))
    upscaler = host.upscale.load(resolve_bundle("orchard-esrgan-x4.safetensors", "esrgan"))
    pairs = evaluation_scenes("seen", count)
    prompts, scenes = prompts_for(pairs), [scene for _, scene in pairs]
    settings = {
        "pair": _Draw(host, clip, Part(small, small_vae, 64), Part(model, vae, 128), steps),
        "one": _Draw(host, clip, Part(model, vae, 128), Part(model, vae, 256), steps),
    }
    rows: list[dict[str, Any]] = []
    found: dict[tuple[str, str], dict[str, float]] = {}
    for setting, draw in settings.items():
        low, high, main = draw.low.side, draw.high.side, MAIN[setting]
        renders = render_batch(scenes, high)
        real = judge_pictures(judge, renders)[1]
        rows.append({"setting": setting, "way": f"renders, {high} px", "pictures": count, "high band": round(high_band(renders), 5)})
        ways: dict[str, Callable[..., Any]] = {f"bridge, t_low {t_low}": _partial(draw.bridge, t_low) for t_low in T_LOWS[setting]}
        if setting == "one":
            ways[f"naive, t_low {main}"] = _partial(draw.naive, main)
        ways |= {"bicubic": _partial(draw.small, None), "ESRGAN": _partial(draw.small, upscaler), "all": draw.large}
        for way, function in ways.items():
            began = time.perf_counter()
            pictures = draw.all(prompts, function)
            seconds = (time.perf_counter() - began) / count
            predicted, features = judge_pictures(judge, pictures)
            accuracy = attribute_accuracy(predicted, scenes, AA_ATTRIBUTES)["AA"]
            distance = frechet_distance(features, real)
            found[setting, way] = {"AA": accuracy, "FID-A": distance, "high band": high_band(pictures), "seconds": seconds}
            title = {"bicubic": f"{low} px, bicubic", "ESRGAN": f"{low} px, ESRGAN", "all": f"all at {high} px"}.get(way, way)
            rounded = {key: round(value, 5 if key == "high band" else 3) for key, value in found[setting, way].items()}
            rows.append({"setting": setting, "way": title, "pictures": count, **rounded})
    noise = settings["one"].noise(prompts)
    rows += [{"way": f"noise after {way}", "correlation": round(s.correlation, 4), "std": round(s.std, 4)} for way, s in noise.items()]
    notes = (
        f"{steps} steps of dpmpp_2m (karras), CFG {CFG:g}, x2 bicubic. Both models of `pair` work on 16 x 16 latent cells, so that handing "
        "over saves no work there; in `one` the second stage works on four times as many. FID-A is only comparable at equal numbers of "
        "pictures."
    )
    command = f"python -m rapiddraw bench coop_resolution --count {count}"
    return common.result("coop_resolution", command, rows, _checks(found, noise), notes=notes)


def _checks(found: dict[tuple[str, str], dict[str, float]], noise: dict[str, Any]) -> list[dict[str, Any]]:
    white, coloured = noise["bridge"], noise["naive"]
    white_enough, usual = abs(white.correlation) < 0.02, abs(coloured.correlation - 0.75) < 0.05
    checks = [
        common.check("lag-1 correlation of the noise after the bridge", round(white.correlation, 4), "< 0.02", white_enough),
        common.check("its standard deviation", round(white.std, 4), "within 2% of 1", abs(white.std - 1) < 0.02),
        common.check("correlation of the naive way's", round(coloured.correlation, 4), "about 0.75", usual),
    ]
    for setting, main in MAIN.items():
        bridge, whole, esrgan = (found[setting, way] for way in (f"bridge, t_low {main}", "all", "ESRGAN"))
        apart, share = bridge["AA"] - whole["AA"], bridge["seconds"] / whole["seconds"]
        checks += [
            common.check(f"{setting}: AA of the bridge less that of all at the large size", round(apart, 3), ">= -0.05", apart >= -0.05),
            common.check(f"{setting}: FID-A of the bridge over that of all at the large size",
                         round(worse := bridge["FID-A"] / whole["FID-A"], 3), "at most 1.05", worse <= 1.05),
            common.check(f"{setting}: its share of the seconds", round(share, 3), "0.5 to 0.8", 0.5 <= share <= 0.8),
            common.check(f"{setting}: FID-A of ESRGAN over the bridge's", round(ratio := esrgan["FID-A"] / bridge["FID-A"], 3), "> 1",
                         ratio > 1),
        ]  # fmt: skip
    ratio = found["one", f"naive, t_low {MAIN['one']}"]["FID-A"] / found["one", f"bridge, t_low {MAIN['one']}"]["FID-A"]
    return [*checks, common.check("one: FID-A of the naive way over the bridge's", round(ratio, 3), "> 1", ratio > 1)]


def _partial(function: Callable[..., Any], value: Any) -> Callable[..., Any]:
    return lambda *rest: function(value, *rest)


class _Draw:
    """Each way of drawing: `way(positive, negative, seed) -> IMAGE` at the larger size."""

    def __init__(self, host: Any, clip: Any, low: Part, high: Part, steps: int) -> None:
        self.host, self.clip, self.low, self.high, self.steps = host, clip, low, high, steps
        self.sampler, self.sigmas = host.sampling.named_sampler("dpmpp_2m"), host.sampling.calculate_sigmas(low.model, "karras", steps)

    def all(self, prompts: list[str], way: Callable[..., Any]) -> Any:
        """Pictures (N, 3, side, side) in [-1, 1] of `prompts`."""
        import torch

        return torch.cat([way(*batch).permute(0, 3, 1, 2) * 2 - 1 for batch in self.batches(prompts)])

    def batches(self, prompts: list[str]) -> Any:
        import torch

        for first in range(0, len(prompts), BATCH):
            part = prompts[first : first + BATCH]
            tokens = torch.cat([self.host.clip.encode(self.clip, prompt)[0][0] for prompt in part])
            against = self.host.clip.encode(self.clip, "")[0][0].expand(len(part), -1, -1)
            yield [[tokens, {}]], [[against, {}]], SEED + first

    def walk(self, part: Part, positive: Any, negative: Any, sigmas: Any, latent: Any, seed: int | None) -> Any:
        return self.host.sampling.sample_custom(
            self.host.sampling.make_guider(part.model, positive, negative, CFG), self.sampler, sigmas, latent, seed
        )

    def split(self, t_low: int) -> Any:
        import torch

        from ..core.bridge.resolution import split_at

        return split_at(self.sigmas, float(self.low.model.get_model_object("model_sampling").sigma(torch.tensor(float(t_low)))))

    def bridge(self, t_low: int, positive: Any, negative: Any, seed: int) -> Any:
        from ..core.bridge.resample import Resampling
        from ..core.bridge.resolution import sample_across
        from ..core.bridge.side import Side
        from ..core.host import SamplingRun

        low, high = (Side(part.model, part.vae, positive, negative, CFG) for part in (self.low, self.high))
        run, resampling = SamplingRun(seed, self.steps, "dpmpp_2m", "karras"), Resampling(self.high.side / self.low.side)
        drawn = sample_across(low, high, self.low.empty(len(positive[0][0])), run, t_low, resampling)[0]
        return self.host.vae.decode(self.high.vae, drawn["samples"])

    def naive(self, t_low: int, positive: Any, negative: Any, seed: int) -> Any:
        high, low = self.split(t_low)
        half = self.walk(self.low, positive, negative, high, self.low.empty(len(positive[0][0])), seed)["samples"]
        drawn = self.walk(self.high, positive, negative, low, {"samples": _enlarged(half)}, None)
        return self.host.vae.decode(self.high.vae, drawn["samples"])

    def small(self, upscaler: Any, positive: Any, negative: Any, seed: int) -> Any:
        from ..core.bridge.resample import enlarge

        drawn = self.walk(self.low, positive, negative, self.sigmas, self.low.empty(len(positive[0][0])), seed)["samples"]
        return enlarge(self.host.vae.decode(self.low.vae, drawn), (self.high.side, self.high.side), "bicubic", upscaler)

    def large(self, positive: Any, negative: Any, seed: int) -> Any:
        drawn = self.walk(self.high, positive, negative, self.sigmas, self.high.empty(len(positive[0][0])), seed)["samples"]
        return self.host.vae.decode(self.high.vae, drawn)

    def noise(self, prompts: list[str]) -> dict[str, Any]:
        """Statistics of the noise that the second stage starts from, over one batch, where one model draws at both sizes."""
        from ..core.bridge.resolution import bridge_resolution, predict_clean
        from ..core.bridge.side import Side
        from ..core.host.embedded.latent import prepare_noise
        from ..core.metrics.noise import noise_statistics

        positive, negative, seed = next(iter(self.batches(prompts)))
        high, _ = self.split(MAIN["one"])
        model, vae = self.low.model, self.low.vae
        sigma, base = float(high[-1]), model.model
        half = self.walk(self.low, positive, negative, high, self.low.empty(len(positive[0][0])), seed)
        side = Side(model, vae, positive, negative, CFG)
        clean = predict_clean(side, half, sigma)
        larger = base.process_latent_in(bridge_resolution(side, vae, half, sigma)[0]["samples"])
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
