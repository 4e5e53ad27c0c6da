"""Recipe `text`: a text encoder that knows the entities of a graph, with an image tower that embeds pictures in the same space.

    python -m rapiddraw train text --data DIR --out weights/my-text.safetensors --set graph=weights/my-kg.safetensors

`data` is an image folder; without it `count` Orchard pictures are drawn. A second bundle, the image tower, is written beside the first.

The loss is symmetric InfoNCE with a learned temperature (0.07 at first, logit scale at most 100). A fruit that a caption names gets its
vector from the graph; the vectors stay frozen while their projection `W` learns. For a share of captions (`knowledge_dropout`) the vectors
are left out, so that the encoder also works without a graph. Pictures of one entity are not each other's negatives.

Paper: Rapid Diffusion (section 3.1.1; sizes in Table 6), which follows CLIP (Radford et al. 2021).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from ...bundles.format import read_info, save_bundle
from ...bundles.load import load_bundle
from ...errors import InputError
from ...knowledge.graph import KnowledgeGraph, load_knowledge
from ...knowledge.injection import check_dimensions
from ...knowledge.linking import wordpiece_linker
from ...paths import image_bundle_path
from ...text import encoder as text_encoder
from ...text import image_tower
from ...text.embed import KnowledgeTable, tokenize_linked
from ...text.encoder import TextEncoder, default_config, load_text_encoder
from ...text.image_tower import ImageTower, load_image_tower
from ...text.tokenizer import build_vocabulary
from ..inputs.text_data import BOTH, Item, folder_items, orchard_items
from ..recipe import EpochOrder, Losses, Recipe, python_random

KNOWLEDGE = ("graph", "none", "shuffled", "random")


def control_graph(graph: KnowledgeGraph, kind: str, seed: int) -> KnowledgeGraph:
    """Return the graph itself or a control that should not help. Raises :class:`InputError` for an unknown `kind`.

    `shuffled` gives every named entity the vector of another one, `random` a random vector of the same mean and spread; `none` takes the
    vectors away.
    """
    if kind not in KNOWLEDGE:
        raise InputError(f"knowledge={kind!r}: expected one of {', '.join(KNOWLEDGE)}")
    if kind == "graph" or graph.embeddings is None:
        return graph
    if kind == "none":
        return graph.with_embeddings(None)
    generator = torch.Generator().manual_seed(seed)
    rows = torch.tensor([graph.index[entity] for entity in graph.aliases])
    vectors = graph.embeddings.clone()
    own = vectors[rows]
    if kind == "shuffled":
        # one cycle over a random order: no entity keeps its own vector
        order = torch.randperm(len(rows), generator=generator)
        vectors[rows[order]] = own[order.roll(1)]
    else:
        vectors[rows] = torch.randn(own.shape, generator=generator) * own.std() + own.mean()
    return graph.with_embeddings(vectors)


@dataclass
class TextRecipe(Recipe):
    """Settings of the recipe `text`.

    `graph` is a bundle of kind kg; `knowledge` is `graph` or one of the controls `none`, `shuffled`, `random`.

    `start` is a text bundle to continue from, with its image bundle beside it. `lock_images` keeps that image tower as it is and trains the
    text encoder alone. `image_tower` names an image bundle for a text encoder that starts anew. With `lock_images`, an encoder of one
    `language` ("en" or "zh") is so trained into a space that exists (locked-image tuning, Zhai et al. 2022).

    `names=false` gives captions that describe and never name (Orchard only): a start that favours no graph. `alike` is the share of batches
    in which all pictures have one scenery, where the scenery is known; otherwise ground and sky tell most pairs of a batch apart, and the
    fruit is learned last.
    """

    name: ClassVar[str] = "text"
    default_steps: ClassVar[int] = 800
    bundles: ClassVar[Mapping[str, str]] = {"graph": "kg", "start": "text", "image_tower": "image"}

    batch_size: int = 128
    lr: float = 6e-4
    tower_lr: float = 1e-3  # learning rate of the image tower
    temperature_lr: float = 1e-2  # learning rate of the temperature of the contrastive loss
    weight_decay: float = 0.05
    warmup: int = 50
    precision: str = "bf16"
    graph: str = ""  # the knowledge graph bundle
    knowledge: str = "graph"  # "graph", or a control: "none", "shuffled" or "random"
    knowledge_dropout: float = 0.3  # share of captions read without the graph
    alike: float = 0.6  # share of batches in which all pictures have one scenery
    names: bool = True  # false: captions that describe and never name (Orchard only)
    start: str = ""  # a text bundle to continue from, with its image bundle beside it
    lock_images: bool = False  # true: the image tower stays as it is
    image_tower: str = ""  # an image bundle for a text encoder that starts anew
    language: str = "both"  # "en" or "zh": captions, names and vocabulary of that language alone
    count: int = 6000  # pictures drawn where there is no folder
    image_size: int = 64  # side of a picture in pixels
    width: int = 192  # features of a token
    layers: int = 4  # transformer layers
    heads: int = 4  # attention heads
    projection_dim: int = 128  # features of the space that texts and pictures share
    vocabulary_size: int = 800  # word pieces of a new vocabulary

    def check(self) -> None:
        super().check()
        if self.lock_images and not (self.start or self.image_tower):
            raise InputError(
                "lock_images keeps a trained image tower as it is: name its text bundle in `start`, or itself in `image_tower`"
            )
        if self.start and self.image_tower:
            raise InputError("start brings the image tower beside it along: give start or image_tower, not both")
        if self.language not in ("both", *BOTH):
            raise InputError(f"language={self.language!r}: expected both, {' or '.join(BOTH)}")
        if not self.names and self.data:
            raise InputError("names=false makes captions from the Orchard's own scenes; it does not go with a data folder")
        if self.knowledge not in KNOWLEDGE:
            raise InputError(f"knowledge={self.knowledge!r}: expected one of {', '.join(KNOWLEDGE)}")
        self.check_shares("knowledge_dropout", "alike")

    def check_files(self) -> None:
        super().check_files()
        if self.start:  # its image tower lies beside it
            read_info(image_bundle_path(Path(self.start)), "image")

    def setup(self, device: torch.device) -> None:
        self.items: list[Item] = self._items()
        graph = load_knowledge(self.graph) if self.graph else None
        by_language = [item for by in graph.aliases.values() for item in by.items()] if graph else []
        names = [name for language, found in by_language for name in found if language in self._languages()]
        captions = [text for item in self.items for text in item.captions]
        if self.start:
            first = load_bundle(self.start, "text")
            self.first_stage = first.info.provenance
            self.encoder = load_text_encoder(first).to(device)
            self.tower = load_image_tower(load_bundle(image_bundle_path(Path(self.start)), "image")).to(device)
        else:
            self.tower = ImageTower(self.image_size, projection_dim=self.projection_dim)
            if self.image_tower:
                self.tower = load_image_tower(load_bundle(self.image_tower, "image"))
            vocabulary = build_vocabulary(captions, names, self.vocabulary_size, "en" in self._languages())
            config = default_config(
                len(vocabulary),
                hidden_size=self.width,
                num_hidden_layers=self.layers,
                num_attention_heads=self.heads,
                intermediate_size=self.width * 8 // 3,
                projection_dim=self.tower.projection_dim,
                kg_dim=graph.dim if graph else 1,
            )
            self.encoder = TextEncoder(config, vocabulary).to(device)
        self.tower.to(device).requires_grad_(not self.lock_images)
        self.embedded = self._embed_pictures(device) if self.lock_images else None
        if graph is not None:
            check_dimensions(graph, self.encoder.config["kg_dim"])
        self.table = None
        if graph is not None and self.knowledge != "none":
            self.table = KnowledgeTable(control_graph(graph, self.knowledge, self.seed), wordpiece_linker(graph, self.encoder.tokenizer))
            self.table.vectors = self.table.vectors.to(device)
        self.order = EpochOrder(len(self.items), self.batch_size, self.seed)
        by_scenery: dict[tuple[str, ...], list[int]] = {}
        for i, item in enumerate(self.items):
            by_scenery.setdefault(item.scenery, []).append(i)
        self.sceneries = [found for scenery, found in by_scenery.items() if scenery and len(found) >= self.batch_size]
        groups: dict[str, int] = {}
        self.groups = [groups.setdefault(item.entity or f"#{i}", i) for i, item in enumerate(self.items)]

    def _items(self) -> list[Item]:
        if self.data:
            return folder_items(self.data, self.image_size, self._languages())
        return orchard_items("train", self.count, self.image_size, languages=self._languages())

    def _languages(self) -> tuple[str, ...]:
        return BOTH if self.language == "both" else (self.language,)

    @torch.no_grad()
    def _embed_pictures(self, device: torch.device) -> Tensor:
        """Return the embeddings (N, projection_dim) of every picture. A locked tower does not change, so that they are computed once."""
        self.tower.eval()
        pictures = torch.stack([torch.from_numpy(item.image) for item in self.items]).permute(0, 3, 1, 2)
        return torch.cat([self.tower(part.to(device).float() / 127.5 - 1).float().cpu() for part in pictures.split(256)])

    def modules(self) -> dict[str, nn.Module]:
        return {"encoder": self.encoder} if self.lock_images else {"encoder": self.encoder, "tower": self.tower}

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Return AdamW with betas (0.9, 0.98), as CLIP has: with 0.999 a text transformer this small stays stuck on the scenery (measured).

        The temperature is one number in a logarithm and needs larger steps than a matrix; one-dimensional parameters have no weight decay.
        """
        text = [p for name, p in self.encoder.named_parameters() if name != "logit_scale"]
        groups: list[dict[str, Any]] = []
        pictures = [] if self.lock_images else list(self.tower.parameters())
        for parameters, lr in ((text, self.lr), (pictures, self.tower_lr)):
            groups.append({"params": [p for p in parameters if p.ndim > 1], "lr": lr})
            groups.append({"params": [p for p in parameters if p.ndim <= 1], "lr": lr, "weight_decay": 0.0})
        groups.append({"params": [self.encoder.logit_scale], "lr": self.temperature_lr, "weight_decay": 0.0})
        return {"main": torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=self.weight_decay)}

    def batch(self, index: int, generator: torch.Generator) -> dict[str, Tensor]:
        rng = python_random(generator)
        alike = bool(self.sceneries) and rng.random() < self.alike
        chosen = rng.sample(rng.choice(self.sceneries), self.batch_size) if alike else self.order.indices(index)
        ids, rows = tokenize_linked(self.encoder, self.table, [self.items[i].draw(rng, self.names) for i in chosen])
        batch = {"ids": ids, "rows": rows, "group": torch.tensor([self.groups[i] for i in chosen])}
        if self.embedded is not None:
            return {**batch, "embedded": self.embedded[chosen]}
        images = torch.stack([torch.from_numpy(self.items[i].image) for i in chosen]).permute(0, 3, 1, 2)
        return {**batch, "images": images.contiguous()}

    def loss(self, batch: dict[str, Tensor]) -> Losses:
        ids, rows, group = batch["ids"], batch["rows"], batch["group"]
        extra = None
        if self.table is not None:
            keep = torch.rand(len(ids), 1, device=ids.device) >= self.knowledge_dropout
            extra = self.encoder.knowledge(self.table.vectors[rows * keep])
        texts = self.encoder.project(self.encoder.encode_ids(ids, extra)[1]).float()
        images = batch["embedded"] if "embedded" in batch else self.tower(batch["images"].float() / 127.5 - 1).float()
        logits = self.encoder.logit_scale.exp().clamp_max(text_encoder.MAX_LOGIT_SCALE) * texts @ images.T
        same = (group[:, None] == group[None]) & ~torch.eye(len(group), dtype=torch.bool, device=group.device)
        logits = logits.masked_fill(same, float("-inf"))
        target = torch.arange(len(group), device=group.device)
        loss = (functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target)) / 2
        return {
            "loss": loss,
            "in_batch": (logits.detach().argmax(dim=1) == target).float().mean(),
            "temperature": 1 / self.encoder.logit_scale.detach().exp(),
        }

    def finish(self, out: Path, provenance: dict[str, Any]) -> list[Path]:
        if self.start:
            provenance["first_stage"] = self.first_stage
        image_out = image_bundle_path(out)
        tensors, info = text_encoder.to_bundle(self.encoder, provenance)
        image_tensors, image_info = image_tower.to_bundle(self.tower, provenance)
        return [save_bundle(out, tensors, info), save_bundle(image_out, image_tensors, image_info)]
