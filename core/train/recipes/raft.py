"""Recipe `raft`: fit the prompt model to the diffusion model it writes for (RAFT, Dong et al. 2023; PanGu-Draw, section 7, second stage).

    python -m rapiddraw train raft --out weights/my-prompt.safetensors --set base=runs/sft-prompt.safetensors \\
        --set unet=... --set text=... --set vae=... --set graph=... --set scorer=... --set judge=...

In every round the model expands `prompts` succinct prompts `expansions` times each, the diffusion model draws all of them in a few
steps, and the best expansion of each prompt is kept for the next `per_round` steps of ordinary training. The reward is an aesthetic proxy
of the picture (:func:`~..metrics.aesthetics.preference`) plus the similarity of picture and *succinct* prompt in the space of `scorer`.
Pictures of one prompt start from the same noise: what differs is the text alone. What was kept is part of a checkpoint.

A picture's luck outweighs what its text does on average: over 200 prompts with six expansions each, the words explained 2% of the
differences in reward between expansions of a prompt. With nothing but :func:`~..metrics.aesthetics.confidence` for the proxy there was
hardly anything to learn: five trainings left the reward of 128 or 160 other prompts at 1.51 to 1.52, where it had been. With
:func:`~..metrics.aesthetics.preference`, 36 steps took that of 128 other prompts from 1.29 to 1.47 (standard errors 0.03 and 0.02), mostly
by saying "cartoon" or "drawing" of 18% of the pictures instead of 55%.

A round's few dozen answers are soon learned by heart. Two rounds of 40 prompts, with 20 steps each at a learning rate of 4e-4, made most
answers alike and lowered the reward on other prompts from 1.53 to 1.45 (24 of them). Hence few steps a round, a small learning rate, and
`anchor`: the first stage's loss on its own pairs beside the new one, which is not in the paper.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ...bundles.format import save_bundle
from ...bundles.load import load_bundle
from ...errors import InputError
from ...host import SamplingRun, current
from ...knowledge.graph import load_knowledge
from ...metrics.orchard import sample_pictures
from ...scoring.aesthetics import preference
from ...scoring.clip_score import load_scorer
from ...scoring.judge import load_judge
from ...text.prompt_model import END, PAD, Pair, PromptModel, load_prompt_model, spans_of, to_bundle
from ...text.protect import lost
from ...text.sampling import MAX_CANDIDATES, continuations
from ..inputs.prompt_data import Request, orchard_pairs, orchard_request
from ..recipe import Losses, Recipe, derived_seed
from .prompt import IGNORE, next_token_loss, padded

ANCHORS = 4000


class Kept(nn.Module):
    """The best expansions of a round: `ids` (N, L), where each answer begins and ends, and what was measured."""

    def __init__(self, count: int, length: int) -> None:
        super().__init__()
        self.ids: Tensor
        self.span: Tensor
        self.count: Tensor
        self.round: Tensor
        self.rewards: Tensor
        self.register_buffer("ids", torch.zeros(count, length, dtype=torch.long))
        self.register_buffer("span", torch.zeros(count, 2, dtype=torch.long))
        self.register_buffer("count", torch.zeros((), dtype=torch.long))
        self.register_buffer("round", torch.full((), -1, dtype=torch.long))
        self.register_buffer("rewards", torch.zeros(2))  # mean over all expansions, mean over those that were kept

    def draw(self, size: int) -> dict[str, Tensor]:
        """A batch of `size` of them, drawn with torch's default generator, as `ids` and `labels`."""
        chosen = torch.randint(int(self.count), (size,)).to(self.ids.device)
        ids, span = self.ids[chosen], self.span[chosen]
        place = torch.arange(ids.shape[1], device=ids.device)[None]
        inside = (place >= span[:, :1]) & (place < span[:, 1:])
        most = int(span[:, 1].max())
        return {"ids": ids[:, :most], "labels": ids.masked_fill(~inside, IGNORE)[:, :most]}


@dataclass
class RaftRecipe(Recipe):
    """`base` is the prompt bundle of the recipe `prompt`; `unet`, `text`, `vae` and `graph` are what draws; `scorer` is a text bundle with
    its image bundle beside it, `judge` an attribute classifier other than the one that later judges."""

    name: ClassVar[str] = "raft"
    default_steps: ClassVar[int] = 48
    bundles: ClassVar[Mapping[str, str]] = {
        "base": "prompt", "unet": "unet", "text": "text", "vae": "vae", "graph": "kg", "scorer": "text", "judge": "judge",
    }  # fmt: skip

    batch_size: int = 32
    lr: float = 1e-4
    schedule: str = "constant"
    warmup: int = 5
    base: str = ""
    unet: str = ""
    text: str = ""
    vae: str = ""
    graph: str = ""
    scorer: str = ""
    judge: str = ""
    prompts: int = 96  # a round
    expansions: int = 4
    per_round: int = 8  # steps
    anchor: float = 0.5  # weight of the first stage's loss, 0 for none
    temperature: float = 1.0
    aesthetics: float = 1.0  # weight of the proxy against the similarity
    picture_steps: int = 8
    cfg: float = 3.0
    size: int = 128
    pictures: int = 32  # in one batch
    held_out: int = 64

    def setup(self, device: torch.device) -> None:
        self.model = load_prompt_model(load_bundle(self.base, "prompt")).requires_grad_(True).to(device)
        self.host = current()
        self.parts = self.host.load_bundles(Path(self.unet), Path(self.text), Path(self.vae))
        graph = load_knowledge(self.graph) if self.graph else None
        if graph is not None:
            model, clip, vae = self.parts
            self.parts = model, self.host.knowledge.attach(clip, graph, 1.0), vae
        self.clip_scorer = load_scorer(self.scorer, graph)
        self.attribute_judge = load_judge(self.judge).requires_grad_(False)
        self.pairs = orchard_pairs(ANCHORS, self.seed)
        self.kept = Kept(self.prompts, self.model.length).to(device)
        self.device = device

    def modules(self) -> dict[str, nn.Module]:
        return {"model": self.model, "kept": self.kept}

    def batch(self, index: int, generator: torch.Generator) -> Tensor:
        return torch.tensor(index)

    def loss(self, batch: Tensor) -> Losses:
        number = int(batch) // self.per_round
        if number != int(self.kept.round):
            self._collect(number)
        losses = next_token_loss(self.model, self.kept.draw(self.batch_size))
        if self.anchor:
            chosen = [self.pairs[i] for i in torch.randint(len(self.pairs), (self.batch_size,)).tolist()]
            known = padded([row for pair in chosen if (row := self.model.pair(pair)) is not None], self.model.ids[PAD])
            first = next_token_loss(self.model, {key: tensor.to(self.device) for key, tensor in known.items()})["loss"]
            losses = {**losses, "loss": losses["loss"] + self.anchor * first, "anchor_loss": first.detach()}
        return {**losses, "reward": self.kept.rewards[0].clone(), "kept_reward": self.kept.rewards[1].clone()}

    def finish(self, out: Path, provenance: dict[str, Any]) -> list[Path]:
        before = load_prompt_model(load_bundle(self.base, "prompt")).to(self.device)
        metrics = provenance.setdefault("metrics", {})
        for name, model in (("before", before), ("after", self.model)):
            metrics |= {f"{key}_{name}": round(value, 4) for key, value in self.measure(model).items()}
        provenance["first_stage"] = load_bundle(self.base, "prompt").info.provenance
        return [save_bundle(out, *to_bundle(self.model, provenance))]

    def check(self) -> None:
        super().check()
        for key in ("base", "unet", "text", "vae", "scorer", "judge"):
            if not getattr(self, key):
                raise InputError(f"{key} is empty: RAFT needs a prompt model (base), what draws (unet, text, vae), and scorer and judge")
        limits = {"prompts": (1, 100_000), "expansions": (2, MAX_CANDIDATES), "per_round": (1, 100_000), "picture_steps": (1, 1000)}
        for key, (low, high) in {**limits, "size": (32, 2048), "pictures": (1, 4096), "held_out": (1, 10_000)}.items():
            if not low <= getattr(self, key) <= high:
                raise InputError(f"{key}={getattr(self, key)!r}: expected {low} to {high}")

    @torch.no_grad()
    def measure(self, model: PromptModel) -> dict[str, float]:
        """Mean reward, its standard error, and its parts on `held_out` prompts about fruits that no training names, one expansion each at
        temperature 0.7."""
        rng = random.Random(f"raft/held out/{self.seed}")
        requests = [orchard_request(rng, ("unseen",), strangers=False) for _ in range(self.held_out)]
        generator = torch.Generator().manual_seed(derived_seed(self.seed, "held out"))
        texts = [expand(model, request.pair, 1, 0.7, generator)[0][0] for request in requests]
        total, proxy, similarity = self.reward([request.pair.short for request in requests], texts, 1)
        error = float(total.std(correction=0)) / len(total) ** 0.5
        means = {"reward": total.mean(), "aesthetics": proxy.mean(), "similarity": similarity.mean()}
        return {**{name: float(value) for name, value in means.items()}, "reward_error": error}

    @torch.no_grad()
    def reward(self, short: Sequence[str], long: Sequence[str], each: int) -> tuple[Tensor, Tensor, Tensor]:
        """(total, aesthetic proxy, similarity) (N,) of the pictures of `long` as answers to `short`, `each` answers to a prompt in turn."""
        pictures = self._draw(long, each)
        proxy = preference(self.attribute_judge, pictures)
        similarity = self.clip_scorer.score(pictures, short)
        return self.aesthetics * proxy + similarity, proxy, similarity

    def _collect(self, number: int) -> None:
        """Expand, draw, and keep the best: the data of round `number`."""
        rng = random.Random(f"raft/{self.seed}/{number}")
        requests: list[Request] = [orchard_request(rng, strangers=False) for _ in range(self.prompts)]
        generator = torch.Generator().manual_seed(derived_seed(self.seed, "round", number))
        found = [expand(self.model, request.pair, self.expansions, self.temperature, generator) for request in requests]
        short = [request.pair.short for request in requests for _ in range(self.expansions)]
        texts = [text for rows in found for text, _ in rows]
        total = self.reward(short, texts, self.expansions)[0].reshape(len(requests), self.expansions)
        # An expansion that lost a name is never kept, however pretty its picture.
        for row, request in enumerate(requests):
            for column, (text, _) in enumerate(found[row]):
                if lost(text, request.pair.keep):
                    total[row, column] = float("-inf")
        best = total.argmax(dim=1).tolist()
        rows = [found[row][column][1] for row, column in enumerate(best) if bool(total[row, column].isfinite())]
        for row, (whole, begin) in enumerate(rows):
            self.kept.ids[row].fill_(self.model.ids[PAD])
            self.kept.ids[row, : len(whole)] = torch.tensor(whole)
            self.kept.span[row] = torch.tensor([begin, len(whole)])
        if not rows:
            raise InputError("no expansion of a whole round kept its names: train the base longer, or lower the temperature")
        self.kept.count.fill_(len(rows))
        self.kept.round.fill_(number)
        finite = total[total.isfinite()]
        self.kept.rewards.copy_(torch.stack([finite.mean(), total.amax(dim=1)[total.amax(dim=1).isfinite()].mean()]))

    def _draw(self, prompts: Sequence[str], each: int) -> Tensor:
        """Pictures (N, 3, size, size) in [-1, 1]; `each` neighbours start from one noise."""

        def sample(model: Any, positive: Any, negative: Any, latent: dict[str, Any], seed: int) -> Tensor:
            # the same noise for every expansion of a prompt, by making the batch index stand still
            latent = {**latent, "batch_index": [index // each for index in range(len(latent["samples"]))]}
            drawn = self.host.sampling.sample(
                self.host.sampling.make_guider(model, positive, negative, self.cfg),
                latent,
                SamplingRun(seed, self.picture_steps, "dpmpp_2m", "karras"),
            )
            return drawn["samples"]

        batch = max(each, self.pictures // each * each)
        return sample_pictures(self.host, *self.parts, prompts, sample, self.size, batch, derived_seed(self.seed, "noise") % 2**32)


def expand(
    model: PromptModel, pair: Pair, count: int, temperature: float, generator: torch.Generator
) -> list[tuple[str, tuple[list[int], int]]]:
    """`count` expansions of a pair's succinct prompt: (text, (question and answer as ids, where the answer begins))."""
    slots: list[str] = []
    short = model.encode(pair.short, spans_of(pair.short, pair.keep), slots)
    if short is None:
        raise InputError(f"{pair.short!r} holds more unknown words than the prompt model has slots")
    question = model.question(short, pair.language)
    room = model.length - len(question) - 1
    found = continuations(model.network, question, count, temperature, generator, (model.ids[END],), room)
    return [(model.decode(ids, slots, pair.language), ([*question, *ids, model.ids[END]], len(question))) for ids, _ in found]
