"""Resolution bridge against its alternatives: noise, quality and seconds.

    python -m rapiddraw bench coop_resolution

Two settings. `pair`: a model made for 64 px (VAE of factor 4) hands over to one made for 128 px (VAE of factor 8), at several t_low.
`one`: the 128 px model goes on at 256 px, a size that it was not trained for; only here, where both ends have one latent space, is there a
naive way (the noisy latent enlarged, bilinear). In both: the small picture enlarged by bicubic and by ESRGAN, and all steps at the large
size. "At equal time" the small picture gets as many steps as fill the seconds of the bridge. All ways have the same prompts and the same
first noise. Measured are the attribute accuracy (AA) and the share of the pictures' power above half the Nyquist frequency (high band),
beside that of renders. FID-A is given from 1000 pictures.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from . import common
from .checks import CHOSEN, EARLIER, Basis, Check, Expectation, above, at_least, at_most, between

CFG, STEPS, SEED, BATCH = 4.0, 20, 0, 8
T_LOWS = {"pair": (200, 300, 400, 500, 700), "one": (200, 400)}
UPSCALER = "orchard-esrgan-x4.safetensors"
MAIN = {"pair": 500, "one": 200}
"""The t_low of the checks. At a size that a model was not trained for, it is left little to invent."""
RIVALS = ("bicubic", "ESRGAN")
LEAST_STEPS, MOST_STEPS = 4, 400
"""Steps that a rival at equal time gets at least and at most."""


@dataclass(frozen=True)
class Part:
    """A model, its VAE, and the side of its pictures in pixels."""

    model: Any
    vae: Any
    side: int

    def empty(self, count: int) -> dict[str, Any]:
        """Return an empty LATENT."""
        import torch

        cells = self.side // self.vae.spacial_compression_encode()
        return {"samples": torch.zeros(count, self.vae.latent_channels, cells, cells)}


@dataclass
class Found:
    """Measures of one way: attribute accuracy and high band of each picture (N,), the judge's features, seconds of each batch."""

    accuracy: Any
    band: Any
    features: Any
    seconds: list[float] = field(default_factory=list)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m rapiddraw bench coop_resolution`."""
    parser.add_argument("--count", type=int, default=48, help="pictures a row (48)")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"sampling steps ({STEPS})")
    parser.add_argument("--upscaler", default=UPSCALER, help=f"the ESRGAN, a name in a weights folder ({UPSCALER})")


def expectations(args: argparse.Namespace) -> dict[str, Expectation]:
    """Return the expectations by key; those of FID-A only from 1000 pictures."""
    from ..core.metrics.orchard import LEAST_FOR_FID

    basis, batches = Basis(args.count), Basis(-(-args.count // BATCH), "timed batches")
    noise = Basis(min(args.count, BATCH), "pictures")
    wanted = {
        "correlation": Expectation("lag-1 correlation of the noise after the bridge", between(-0.02, 0.02), CHOSEN, noise),
        "deviation": Expectation("its standard deviation", between(0.98, 1.02), CHOSEN, noise),
    }
    for setting in MAIN:
        whole, bicubic = f"{setting}: bridge less all at the large size", f"{setting}: bridge less plain bicubic"
        seconds = f"{setting}: seconds of the bridge over all at the large size"
        wanted[f"{setting} whole"] = Expectation(f"{whole}, attribute accuracy", at_least(-0.05), CHOSEN, basis)
        wanted[f"{setting} bicubic"] = Expectation(f"{bicubic}, attribute accuracy", at_least(-0.05), EARLIER, basis)
        wanted[f"{setting} band"] = Expectation(f"{bicubic}, high band", above(0), EARLIER, basis)
        wanted[f"{setting} seconds"] = Expectation(seconds, between(0.5, 0.8), CHOSEN, batches)
        for rival in RIVALS:
            equal = f"{setting}: bridge less {rival} at equal time"
            spent = f"{setting}: seconds of the bridge over {rival}'s at equal time"
            wanted[f"{setting} equal {rival}"] = Expectation(f"{equal}, attribute accuracy", at_least(-0.05), CHOSEN, basis)
            wanted[f"{setting} band {rival}"] = Expectation(f"{equal}, high band", above(0), CHOSEN, basis)
            wanted[f"{setting} spent {rival}"] = Expectation(spent, between(0.85, 1.15), CHOSEN, batches)
        if args.count >= LEAST_FOR_FID:
            worse, ratio = f"{setting}: FID-A of the bridge over all at the large size", f"{setting}: FID-A of ESRGAN over the bridge"
            wanted[f"{setting} FID whole"] = Expectation(worse, at_most(1.05), CHOSEN, basis)
            wanted[f"{setting} FID ESRGAN"] = Expectation(ratio, above(1), CHOSEN, basis)
    naive = "one: attribute accuracy of the bridge less the naive way's"
    return wanted | {"naive": Expectation(naive, above(0), EARLIER, basis)}


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure and return the result (see :func:`common.result`)."""
    from ..core.metrics.orchard import AA_ATTRIBUTES, accuracy_by_picture, evaluation_scenes, fid_a, prompts_for, render_batch
    from ..core.scoring.judge import judge_pictures
    from ..core.upscale.find import resolve_upscaler
    from .shipped import shipped_judge, shipped_parts

    count, steps, judge = args.count, args.steps, shipped_judge()
    large, small = shipped_parts("unet", "vae"), shipped_parts("unet-64", "vae-f4")
    host, clip = large.host, large.clip
    upscaler = host.upscale.load(resolve_upscaler(args.upscaler))
    pairs = evaluation_scenes("seen", count)
    prompts, scenes = prompts_for(pairs), [scene for _, scene in pairs]
    settings = {
        "pair": _Draw(host, clip, Part(small.model, small.vae, 64), Part(large.model, large.vae, 128), steps),
        "one": _Draw(host, clip, Part(large.model, large.vae, 128), Part(large.model, large.vae, 256), steps),
    }
    rows: list[dict[str, Any]] = []
    found: dict[tuple[str, str], Found] = {}
    for setting, draw in settings.items():
        low, high, main = draw.low.side, draw.high.side, MAIN[setting]
        renders = render_batch(scenes, high)
        real, band = judge_pictures(judge, renders)[1], round(float(high_band(renders).mean()), 5)
        found[setting, "renders"] = Found(None, None, real)
        rows.append({"setting": setting, "way": f"renders, {high} px", "pictures": count, "high band": band})
        ways: dict[str, Callable[..., Any]] = {f"bridge, t_low {t_low}": partial(draw.bridge, t_low) for t_low in T_LOWS[setting]}
        if setting == "one":
            ways[f"naive, t_low {main}"] = partial(draw.naive, main)
        rivals = {"bicubic": partial(draw.small, None), "ESRGAN": partial(draw.small, upscaler)}
        ways |= {**{rival: partial(way, steps) for rival, way in rivals.items()}, "all": draw.large}
        ways |= {f"{rival}, equal time": way for rival, way in rivals.items()}
        for way, function in ways.items():
            spent = steps
            if way.endswith("equal time"):
                spent = draw.steps_for(prompts, function, found[setting, f"bridge, t_low {main}"].seconds)
                function = partial(function, spent)
            pictures, seconds = draw.all(prompts, function)
            predicted, features = judge_pictures(judge, pictures)
            one = Found(accuracy_by_picture(predicted, scenes, AA_ATTRIBUTES), high_band(pictures), features, seconds)
            found[setting, way] = one
            title = f"all at {high} px" if way == "all" else f"{low} px, {way}" if way.startswith(RIVALS) else way
            cells = {"steps": spent, "high band": round(float(one.band.mean()), 5), "AA": round(float(one.accuracy.mean()), 3)}
            distance = {"FID-A": fid_a(features, real), "seconds": round(sum(seconds) / count, 3)}
            rows.append({"setting": setting, "way": title, "pictures": count, **cells, **distance})
    noise = settings["one"].noise(prompts)
    for way, each in noise.items():
        means = {key: round(sum(getattr(one, key) for one in each) / len(each), 4) for key in ("correlation", "std")}
        rows.append({"way": f"noise after {way}", **means})
    notes = (
        f"{steps} steps of dpmpp_2m (karras), CFG {CFG:g}, x2 bicubic. Both models of `pair` work on 16 x 16 latent cells, so that handing "
        "over saves no work there; in `one` the second stage works on four times as many. At equal time the steps of the small picture "
        f"follow from the seconds of a batch at two numbers of steps. ESRGAN is {args.upscaler}."
    )
    command = f"python -m rapiddraw bench coop_resolution --count {count}"
    return common.result("coop_resolution", command, rows, _checks(expectations(args), found, noise["bridge"]), notes=notes)


def _checks(wanted: dict[str, Expectation], found: dict[tuple[str, str], Found], noise: list[Any]) -> list[Check]:
    from ..core.metrics.bootstrap import bootstrap, difference, mean, median_ratio
    from ..core.scoring.judge import frechet_distance

    checks = [
        wanted["correlation"].judge(mean([one.correlation for one in noise])),
        wanted["deviation"].judge(mean([one.std for one in noise])),
    ]
    for setting, main in MAIN.items():
        bridge, whole, bicubic = (found[setting, way] for way in (f"bridge, t_low {main}", "all", "bicubic"))
        checks += [
            wanted[f"{setting} whole"].judge(difference(bridge.accuracy, whole.accuracy)),
            wanted[f"{setting} bicubic"].judge(difference(bridge.accuracy, bicubic.accuracy)),
            wanted[f"{setting} band"].judge(difference(bridge.band, bicubic.band)),
            wanted[f"{setting} seconds"].judge(median_ratio(bridge.seconds, whole.seconds)),
        ]
        for rival in RIVALS:
            equal = found[setting, f"{rival}, equal time"]
            checks += [
                wanted[f"{setting} equal {rival}"].judge(difference(bridge.accuracy, equal.accuracy)),
                wanted[f"{setting} band {rival}"].judge(difference(bridge.band, equal.band)),
                wanted[f"{setting} spent {rival}"].judge(median_ratio(bridge.seconds, equal.seconds)),
            ]
        if f"{setting} FID whole" in wanted:
            real, esrgan = found[setting, "renders"].features, found[setting, "ESRGAN"]

            def ratio(drawn: Any, one: Found, other: Found, real: Any = real) -> float:
                return frechet_distance(one.features[drawn], real[drawn]) / frechet_distance(other.features[drawn], real[drawn])

            for key, over in (("FID whole", (bridge, whole)), ("FID ESRGAN", (esrgan, bridge))):
                estimate = bootstrap(partial(ratio, one=over[0], other=over[1]), len(real), resamples=200)
                checks.append(wanted[f"{setting} {key}"].judge(estimate))
    naive = found["one", f"naive, t_low {MAIN['one']}"]
    bridge = found["one", f"bridge, t_low {MAIN['one']}"]
    return [*checks, wanted["naive"].judge(difference(bridge.accuracy, naive.accuracy))]


class _Draw:
    """Ways of drawing: each is a function `way(positive, negative, seed) -> IMAGE` at the larger size."""

    def __init__(self, host: Any, clip: Any, low: Part, high: Part, steps: int) -> None:
        self.host, self.clip, self.low, self.high, self.steps = host, clip, low, high, steps
        self.sampler, self.sigmas = host.sampling.named_sampler("dpmpp_2m"), host.sampling.calculate_sigmas(low.model, "karras", steps)

    def all(self, prompts: list[str], way: Callable[..., Any]) -> tuple[Any, list[float]]:
        """Return (pictures (N, 3, side, side) in [-1, 1] of `prompts`, seconds of each batch)."""
        import torch

        from ..core.metrics.orchard import to_pictures

        pictures, seconds = [], []
        for batch in self.batches(prompts):
            began = time.perf_counter()
            pictures.append(to_pictures(way(*batch)))
            seconds.append(time.perf_counter() - began)
        return torch.cat(pictures), seconds

    def batches(self, prompts: list[str]) -> Any:
        """Yield (positive, negative, seed) of each batch."""
        import torch

        for first in range(0, len(prompts), BATCH):
            part = prompts[first : first + BATCH]
            tokens = torch.cat([self.host.clip.encode(self.clip, prompt)[0][0] for prompt in part])
            against = self.host.clip.encode(self.clip, "")[0][0].expand(len(part), -1, -1)
            yield [[tokens, {}]], [[against, {}]], SEED + first

    def sample(self, part: Part, positive: Any, negative: Any, sigmas: Any, latent: Any, seed: int | None) -> Any:
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
        half = self.sample(self.low, positive, negative, high, self.low.empty(len(positive[0][0])), seed)["samples"]
        drawn = self.sample(self.high, positive, negative, low, {"samples": _enlarged(half)}, None)
        return self.host.vae.decode(self.high.vae, drawn["samples"])

    def steps_for(self, prompts: list[str], way: Callable[..., Any], seconds: list[float]) -> int:
        """Return with how many steps `way(steps, positive, negative, seed)` takes as long as a batch that took `seconds`, the median.

        One batch is timed at `self.steps` and one at twice as many: what is decoded and enlarged at the end costs no step.
        """
        from statistics import median

        batch = next(iter(self.batches(prompts)))
        times = []
        for steps in (self.steps, 2 * self.steps):
            began = time.perf_counter()
            way(steps, *batch)
            times.append(time.perf_counter() - began)
        return steps_that_fill(median(seconds), self.steps, times[0], times[1])

    def small(self, upscaler: Any, steps: int, positive: Any, negative: Any, seed: int) -> Any:
        from ..core.bridge.resample import enlarge

        sigmas = self.host.sampling.calculate_sigmas(self.low.model, "karras", steps)
        drawn = self.sample(self.low, positive, negative, sigmas, self.low.empty(len(positive[0][0])), seed)["samples"]
        return enlarge(self.host.vae.decode(self.low.vae, drawn), (self.high.side, self.high.side), "bicubic", upscaler)

    def large(self, positive: Any, negative: Any, seed: int) -> Any:
        drawn = self.sample(self.high, positive, negative, self.sigmas, self.high.empty(len(positive[0][0])), seed)["samples"]
        return self.host.vae.decode(self.high.vae, drawn)

    def noise(self, prompts: list[str]) -> dict[str, list[Any]]:
        """Return statistics of the noise that the second stage starts from, for each picture of one batch of setting `one`."""
        from ..core.bridge.resolution import bridge_resolution, predict_clean
        from ..core.bridge.side import Side
        from ..core.host.embedded.latent import prepare_noise
        from ..core.metrics.noise import noise_statistics

        positive, negative, seed = next(iter(self.batches(prompts)))
        high, _ = self.split(MAIN["one"])
        model, vae = self.low.model, self.low.vae
        sigma, base = float(high[-1]), model.model
        half = self.sample(self.low, positive, negative, high, self.low.empty(len(positive[0][0])), seed)
        side = Side(model, vae, positive, negative, CFG)
        clean = predict_clean(side, half, sigma)
        larger = base.process_latent_in(bridge_resolution(side, vae, half, sigma)[0]["samples"])
        start = base.model_sampling.noise_scaling(high[-1:], prepare_noise(larger, seed + 1), larger)
        old, new = (base.process_latent_in(_enlarged(one)) for one in (half["samples"], clean))

        def each(noisy: Any, plain: Any) -> list[Any]:
            return [noise_statistics(one, other, sigma) for one, other in zip(noisy.split(1), plain.split(1), strict=True)]

        return {"bridge": each(start, larger), "naive": each(old, new)}


def steps_that_fill(seconds: float, steps: int, once: float, twice: float) -> int:
    """Return how many steps take `seconds` where `steps` took `once` and twice as many took `twice`; of those that are allowed."""
    a_step = max(twice - once, 1e-9) / steps
    return min(max(round(steps + (seconds - once) / a_step), LEAST_STEPS), MOST_STEPS)


def _enlarged(latent: Any) -> Any:
    from torch.nn import functional

    return functional.interpolate(latent, scale_factor=2, mode="bilinear")


def high_band(pictures: Any) -> Any:
    """Return each picture's share (N,) of its power (its mean left out) above half the Nyquist frequency, in either direction."""
    import torch

    power = torch.fft.fft2(pictures - pictures.mean((2, 3), keepdim=True)).abs() ** 2
    rows, columns = (torch.fft.fftfreq(size).abs() for size in pictures.shape[2:])
    above = torch.maximum(rows[:, None].expand(-1, len(columns)), columns.expand(len(rows), -1)) > 0.25
    return (power[..., above].flatten(1).sum(1) / power.flatten(1).sum(1)).double().numpy()
