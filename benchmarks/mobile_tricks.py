"""MobileDiffusion's eight changes on the shipped U-Net, each alone and trained equally long: a part of `bench mobile`."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Any

from .checks import CHOSEN, PAPER, Basis, Check, Expectation, above, below, equal, exact
from .mobile_lab import SIDE, Lab
from .stopwatch import gain_cells, ratio, turns

if TYPE_CHECKING:
    from torch import Tensor

    from ..core.metrics.orchard import Floats

log = logging.getLogger("rapiddraw")
DEEPER, FASTER = "more transformers in the middle", "fewer residual blocks"
BATCH, LR = 8, 5e-4
STRIDE = 389
"""Timesteps between two pictures of the held-out loss, so that the pictures together visit all levels evenly."""


def expectations(count: int, repeats: int) -> dict[str, Expectation]:
    """Return the expectations by key."""
    wanted = {
        "learns": Expectation(
            "held-out loss of seven changes after their training, over that before, the most", below(1), CHOSEN, Basis(count)
        ),
        "copies": Expectation(f"held-out loss of '{DEEPER}' before its training", equal(0), PAPER, exact(count, "pictures"), "SnapFusion"),
    }
    if repeats:
        claim, source = f"times as fast with '{FASTER}'", "MobileDiffusion, Conv Modules"
        wanted["faster"] = Expectation(claim, above(1), PAPER, turns(repeats), source)
    return wanted


def measure(lab: Lab, steps: int) -> tuple[list[dict[str, Any]], list[Check]]:
    """Return (rows, checks). Each change is trained for `steps` steps to predict what the whole network predicts."""
    from ..core.metrics.bootstrap import largest, mean, ratio_of_means
    from ..core.slim.changes import apply_changes
    from ..core.slim.switches import SWITCHES, switched

    wanted, whole = expectations(lab.count, lab.repeats), lab.parts.model
    predicted = predictions(lab, whole)
    rows = [{"model": "the shipped U-Net", **lab.sizes(whole)}]
    models, before, after = {"": whole}, {}, {}
    for name in SWITCHES:
        changes = switched(lab.network(whole), [name])
        before[name] = errors(predictions(lab, lab.parts.host.surgery.rebuild(whole, partial(apply_changes, changes=changes))), predicted)
        models[name] = trained(lab, name, changes, steps)
        after[name] = errors(predictions(lab, models[name]), predicted)
        loss = mean(after[name])
        rows.append({
            "model": name, **lab.sizes(models[name]), "held-out loss before": round(float(before[name].mean()), 4),
            "held-out loss": round(loss.value, 4), "held-out loss 95%": [loss.low, loss.high],
        })  # fmt: skip
        log.info("%s", rows[-1])
    checks = [
        wanted["learns"].judge(largest([ratio_of_means(after[name], before[name]) for name in SWITCHES if name != DEEPER])),
        wanted["copies"].judge(float(before[DEEPER].mean())),
    ]
    if times := lab.times(models):
        for row, name in zip(rows, models, strict=True):
            row |= {"ms": times[name].milliseconds(), **gain_cells(ratio(times[""], times[name]), "times as fast")}
        checks.append(wanted["faster"].judge(ratio(times[""], times[FASTER])))
    return rows, checks


def trained(lab: Lab, name: str, changes: Any, steps: int) -> Any:
    """Return the shipped U-Net with `changes`, trained as Slim UNet trains unless its file lies in the folder."""
    from ..core.operations.slim_model import SlimDistillation
    from ..core.slim.changes import apply_changes
    from ..core.train.loop import train

    host, out = lab.parts.host, lab.made(f"trick-{name.replace(' ', '-')}")
    if not out.is_file():
        recipe = SlimDistillation(lr=LR, batch_size=BATCH, size=SIDE, fingerprint=name)
        recipe.given(host.surgery.rebuild(lab.parts.model, partial(apply_changes, changes=changes)), *lab.encoded)
        train(recipe, out, steps, run_dir=out.with_name(f"{out.stem}-run"), device=host.process.device())
    return host.model.load(out)


def predictions(lab: Lab, model: Any) -> Tensor:
    """Return the raw outputs (N, C, h, w) of a MODEL's network for held-out latents with noise, at levels from everywhere."""
    import torch

    from ..core.diffusion.weighting import output_slope

    host, (latents, prompts) = lab.parts.host, lab.held_out
    denoiser = host.training.denoiser(model)
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
    sigma = denoiser.sigmas[torch.arange(len(latents)) * STRIDE % len(denoiser.sigmas)]
    x = denoiser.noised(denoiser.latent(latents), sigma, noise)
    found = []
    for first in range(0, len(latents), 32):
        part = slice(first, first + 32)
        tokens = torch.cat([host.clip.encode(lab.parts.clip, prompt)[0][0] for prompt in prompts[part]])
        with torch.no_grad():
            denoised = denoiser.denoise(x[part], sigma[part], {"tokens": tokens})
        found.append(denoised * output_slope(denoiser.prediction, sigma[part]).reshape(-1, 1, 1, 1))
    return torch.cat(found)


def errors(outputs: Tensor, others: Tensor) -> Floats:
    """Return the mean squared difference (N,) of each picture's outputs."""
    result: Floats = (outputs - others).square().flatten(1).mean(1).double().numpy()
    return result
