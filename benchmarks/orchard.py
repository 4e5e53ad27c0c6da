"""Fruits that no caption named, drawn through the knowledge graph: attribute accuracy for seen, rare and unseen names, and over steps.

    python -m rapiddraw bench orchard

Each picture is prompted by a name, a ground and a sky. "graph" links the name to the knowledge graph, "none" does not, "shuffled"
gives every name another fruit's vector. All three start from the same noise. The model is the shipped one: one U-Net, trained with the
knowledge left out of a share of captions, so "none" is knowledge switched off, not a model that was trained without a graph; `bench
retrieval` trains its encoder without one. Attribute accuracy (AA) is the share of a scene's attributes that the judge reads back from a
picture. FID-A is given from 1000 pictures a cell.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

from . import common
from .checks import CHOSEN, Basis, Expectation, at_least, at_most

SPLITS = ("seen", "rare", "unseen")
CONDITIONS = ("graph", "none", "shuffled")
SAMPLERS = ("euler", "euler_ancestral", "heun", "ddim", "dpmpp_2m", "dpmpp_2m_sde", "plms", "s_pndm", "f_pndm")
STEPS = (5, 10, 20, 50)
CFG, MAIN_STEPS = 3.0, 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m rapiddraw bench orchard`."""
    parser.add_argument("--count", type=int, default=128, help="pictures a split and condition (128)")
    parser.add_argument("--sweep-count", type=int, default=8, help="pictures a sampler and number of steps (8)")


def expectations(args: argparse.Namespace) -> dict[str, Expectation]:
    """Return the expectations by key."""
    basis = Basis(args.count)
    return {
        "seen": Expectation("attribute accuracy of seen names with the graph", at_least(0.95), CHOSEN, basis),
        "rare": Expectation("attribute accuracy of rare names with the graph", at_least(0.9), CHOSEN, basis),
        "unseen": Expectation("attribute accuracy of unseen names with the graph", at_least(0.85), CHOSEN, basis),
        "fruit": Expectation("attribute accuracy of the fruit alone, unseen names with the graph", at_least(0.8), CHOSEN, basis),
        "sharp": Expectation("gradient energy of pictures of seen names over that of renders", at_least(0.85), CHOSEN, basis),
        "gain": Expectation("attribute accuracy that the graph adds on unseen names", at_least(0.25), CHOSEN, basis),
        "lead": Expectation("attribute accuracy that a shuffled graph adds on unseen names", at_most(0.05), CHOSEN, basis),
    }


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure and return the result (see :func:`common.result`)."""
    from dataclasses import replace

    from ..core.metrics.bootstrap import difference, mean, ratio_of_means
    from ..core.metrics.orchard import (
        AA_ATTRIBUTES,
        FRUIT,
        accuracy_by_picture,
        evaluation_scenes,
        fid_a,
        prompts_for,
        render_batch,
        sample_pictures,
    )
    from ..core.metrics.reconstruction import gradient_energy
    from ..core.scoring.judge import attribute_accuracy, judge_pictures
    from ..core.train.recipes.text import control_graph
    from .shipped import shipped_graph, shipped_judge, shipped_parts

    wanted, count, sweep_count = expectations(args), args.count, args.sweep_count
    plain, graph, judge = shipped_parts(knowledge=False), shipped_graph(), shipped_judge()
    host = plain.host
    parts = {
        "graph": replace(plain, clip=host.knowledge.attach(plain.clip, graph, 1.0)),
        "none": plain,
        "shuffled": replace(plain, clip=host.knowledge.attach(plain.clip, control_graph(graph, "shuffled", 0), 1.0)),
    }
    rows: list[dict[str, Any]] = []
    accuracy: dict[tuple[str, str], Any] = {}
    fruit: dict[str, Any] = {}
    energy: dict[str, tuple[Any, Any]] = {}
    for split in SPLITS:
        pairs = evaluation_scenes(split, count)
        prompts, scenes = prompts_for(pairs), [scene for _, scene in pairs]
        real, floor = (_real_features(judge, split, count, seed) for seed in (1, 2))
        of_renders = gradient_energy(render_batch(scenes, 128))
        base = {"table": "names", "split": split, "pictures": count}
        if (distance := fid_a(real, floor)) is not None:
            rows.append({**base, "condition": "renders (floor)", "FID-A": distance})
        for condition in CONDITIONS:
            pictures = sample_pictures(parts[condition], prompts, _sampler("dpmpp_2m", MAIN_STEPS))
            predicted, features = judge_pictures(judge, pictures)
            accuracy[split, condition] = accuracy_by_picture(predicted, scenes, AA_ATTRIBUTES)
            shown = attribute_accuracy(predicted, scenes, AA_ATTRIBUTES)
            shown["pattern_colour"] = attribute_accuracy(predicted, scenes, ("pattern_colour",))["AA"]
            its_fruit, its_energy = accuracy_by_picture(predicted, scenes, FRUIT), gradient_energy(pictures)
            if condition == "graph":
                fruit[split], energy[split] = its_fruit, (its_energy, of_renders)
            shown |= {"fruit AA": float(its_fruit.mean()), "gradient energy": float(its_energy.mean() / of_renders.mean())}
            cells = {name: round(value, 3) for name, value in shown.items()}
            rows.append({**base, "condition": condition, **cells, "FID-A": fid_a(features, real)})
    pairs = evaluation_scenes("seen", sweep_count, seed=5)
    prompts, scenes = prompts_for(pairs), [scene for _, scene in pairs]
    for name in SAMPLERS:
        for steps in STEPS:
            began = time.perf_counter()
            pictures = sample_pictures(parts["graph"], prompts, _sampler(name, steps))
            seconds = (time.perf_counter() - began) / sweep_count
            share = attribute_accuracy(judge_pictures(judge, pictures)[0], scenes, AA_ATTRIBUTES)["AA"]
            row = {"sampler": name, "steps": steps, "pictures": sweep_count, "AA": round(share, 3)}
            rows.append({"table": "samplers", **row, "seconds a picture": round(seconds, 3)})
    without = accuracy["unseen", "none"]
    checks = [
        *(wanted[split].judge(mean(accuracy[split, "graph"])) for split in SPLITS),
        wanted["fruit"].judge(mean(fruit["unseen"])),
        wanted["sharp"].judge(ratio_of_means(*energy["seen"])),
        wanted["gain"].judge(difference(accuracy["unseen", "graph"], without)),
        wanted["lead"].judge(difference(accuracy["unseen", "shuffled"], without)),
    ]
    notes = (
        f"AA is the mean over {', '.join(AA_ATTRIBUTES)}; ground and sky stand in every prompt, so a model that ignores the name "
        f"still gets those. Gradient energy is over that of the scenes' renders. 'none' is the same U-Net with its knowledge switched off. "
        f"{MAIN_STEPS} steps of dpmpp_2m (karras), CFG {CFG:g}."
    )
    return common.result("orchard", "python -m rapiddraw bench orchard", rows, checks, notes=notes)


def _sampler(name: str, steps: int) -> Any:
    """Return a function of (model, positive, negative, latent, seed) that samples: DDIM and PNDM on uniform timesteps, others on karras."""

    def sample(model: Any, positive: list[Any], negative: list[Any], latent: dict[str, Any], seed: int) -> Any:
        from ..core.diffusion.samplers import SAMPLERS as FUNCTIONS
        from ..core.host import current
        from ..core.host.embedded.sampling import RandomNoise, sample_latent, scheduled_sigmas

        uniform = name in ("plms", "s_pndm", "f_pndm", "ddim")
        sigmas = scheduled_sigmas(model, "normal" if uniform else "karras", steps)
        host = current()
        guider, sampler = host.sampling.make_guider(model, positive, negative, CFG), host.sampling.make_sampler(FUNCTIONS[name], {})
        return sample_latent(RandomNoise(seed), guider, sampler, sigmas, latent)[0]["samples"]

    return sample


def _real_features(judge: Any, split: str, count: int, seed: int) -> Any:
    """Return the judge's features of renders of the split's own scenes."""
    from ..core.metrics.orchard import evaluation_scenes, render_batch
    from ..core.scoring.judge import judge_pictures

    return judge_pictures(judge, render_batch([scene for _, scene in evaluation_scenes(split, count, seed)], 128))[1]
