"""Tiny bundles with random weights, laid out like the real ones, for tests of everything that needs a model but no skill.

    from rapiddraw.tests.helpers import write_bundles, use_weights

`write_bundles(folder)` writes one of each kind; the fixture `tiny_weights` (tests/conftest.py) does so once a session.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rapiddraw.core.bundles.format import BundleInfo, LatentSpace, Schedule, save_bundle
from rapiddraw.core.knowledge.graph import KnowledgeGraph, build_graph, save_knowledge
from rapiddraw.core.text.encoder import TextEncoder, default_config, to_bundle
from rapiddraw.core.text.tokenizer import build_vocabulary

WIDTH, KG_DIM = 32, 8
LATENT = LatentSpace(channels=4, factor=8, scale=0.5, shift=0.25)
CAPTIONS = ["a round red fruit on a green hill", "a tall blue fruit with dots under a night sky", "the photo of a fruit"]
STATEMENTS = [("mirado", "shape", "round"), ("mirado", "skin", "red"), ("quelba", "shape", "tall"), ("quelba", "skin", "blue")]
ALIASES = [
    ("mirado", "en", "mirado"), ("mirado", "en", "mirado fruit"), ("quelba", "en", "quelba"), ("silent", "en", "silento"),
    ("mirado", "zh", "\u7c73\u62c9"), ("quelba", "zh", "\u594e\u679c"),
]  # fmt: skip
# "silent" has a name and no triple: it must change nothing.

UNET_CONFIG: dict[str, Any] = {
    "sample_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": [32, 64],
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    "layers_per_block": 1,
    "cross_attention_dim": WIDTH,
    "attention_head_dim": 2,
    "norm_num_groups": 32,
    "use_linear_projection": True,
}
VAE_CONFIG: dict[str, Any] = {
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 4,
    "block_out_channels": [32, 32, 32, 32],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 1,
    "norm_num_groups": 32,
    "sample_size": 64,
    "mid_block_add_attention": False,
}


def seeded(make: Any, seed: int = 0) -> Any:
    """Call `make()` under a fixed seed, leaving the global random state as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def write_unet(path: Path, seed: int = 0, latent: LatentSpace = LATENT, schedule: Schedule | None = None, **config: Any) -> Path:
    """A U-Net of about 1 M random parameters (kind `unet`)."""
    from diffusers import UNet2DConditionModel

    whole = UNET_CONFIG | config
    network = seeded(lambda: UNet2DConditionModel(**whole), seed)
    info = BundleInfo("unet", config=whole, latent=latent, schedule=schedule or Schedule(), provenance={"recipe": "test", "seed": seed})
    return save_bundle(path, network.state_dict(), info)


def write_vae(path: Path, seed: int = 1, latent: LatentSpace = LATENT, **config: Any) -> Path:
    """A KL autoencoder of factor 8 with random weights (kind `vae`)."""
    from diffusers import AutoencoderKL

    whole = VAE_CONFIG | config
    network = seeded(lambda: AutoencoderKL(**whole), seed)
    return save_bundle(path, network.state_dict(), BundleInfo("vae", config=whole, latent=latent))


def write_text(path: Path, seed: int = 2, width: int = WIDTH, kg_dim: int = KG_DIM) -> Path:
    """A two-layer text encoder with a vocabulary of the captions and names above (kind `text`)."""
    names = [name for _, _, name in ALIASES]
    vocabulary = build_vocabulary(CAPTIONS, names, limit=400)
    config = default_config(
        len(vocabulary),
        hidden_size=width,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        kg_dim=kg_dim,
        projection_dim=16,
    )
    return save_bundle(path, *to_bundle(seeded(lambda: TextEncoder(config, vocabulary), seed)))


def tiny_graph(seed: int = 3, dim: int = KG_DIM) -> KnowledgeGraph:
    """A graph of two fruits with random vectors, and one entity (`silent`) that no triple mentions."""
    graph = build_graph(STATEMENTS, ALIASES)
    return graph.with_embeddings(seeded(lambda: torch.randn(len(graph.entities), dim), seed))


def write_kg(path: Path, seed: int = 3, dim: int = KG_DIM) -> Path:
    """:func:`tiny_graph` as a bundle (kind `kg`)."""
    return save_knowledge(path, tiny_graph(seed, dim))


def named_graph(names: Sequence[str], vectors: torch.Tensor | None = None, dim: int = KG_DIM) -> KnowledgeGraph:
    """A graph of entities `thing:NAME` of those English names, each with a vector (random unless given as (len(names), dim))."""
    graph = build_graph([(f"thing:{name}", "is_a", "thing") for name in names], [(f"thing:{name}", "en", name) for name in names])
    chosen = seeded(lambda: torch.randn(len(names), dim), 5) if vectors is None else vectors
    rows = torch.zeros(len(graph.entities), chosen.shape[1])
    rows[[graph.index[f"thing:{name}"] for name in names]] = chosen
    return graph.with_embeddings(rows)


def write_esrgan(path: Path, seed: int = 4) -> Path:
    """An ESRGAN network x4 of one narrow block, in the layout that ComfyUI's stock loader reads (kind `esrgan`)."""
    from rapiddraw.core.upscale.layouts import RRDBConfig, to_basicsr, to_sequential
    from rapiddraw.core.upscale.rrdb import build

    config = RRDBConfig(num_feat=8, num_block=1)
    network = seeded(lambda: build(config), seed)
    return save_bundle(path, to_sequential(to_basicsr(network.state_dict())), BundleInfo("esrgan", config={"scale": 4}))


def write_control(path: Path, unet: Path, seed: int = 6, conditions: Sequence[str] = ("edges", "segmentation", "sketch")) -> Path:
    """A control adapter of the U-Net bundle `unet` as if it had been trained: what starts as zero is random (kind `control`)."""
    from diffusers import UNet2DConditionModel
    from rapiddraw.core.bundles.load import load_bundle
    from rapiddraw.core.control.adapter import copy_of_unet
    from rapiddraw.core.control.bundle import save_control
    from rapiddraw.core.networks import network_of

    base = load_bundle(unet, "unet")
    assert base.info.latent is not None
    network = network_of(UNet2DConditionModel, base)
    adapter, config = seeded(lambda: copy_of_unet(network, base.info.latent.factor, conditions, (4, 8)), seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in adapter.named_parameters():
            if name.startswith("zero.") or ".gamma." in name or ".beta." in name:
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    return save_control(path, adapter, config, base.info, {"recipe": "test", "seed": seed})


def write_image(path: Path, seed: int = 6, projection_dim: int = 16) -> Path:
    """An image tower of the tiny text encoder's shared space (kind `image`)."""
    from rapiddraw.core.text.image_tower import ImageTower
    from rapiddraw.core.text.image_tower import to_bundle as image_to_bundle

    return save_bundle(path, *image_to_bundle(seeded(lambda: ImageTower(16, (8, 8), projection_dim).eval(), seed)))


def write_image_tokens(path: Path, tower: Path, seed: int = 7, width: int = WIDTH) -> Path:
    """A projection of the embeddings of the image tower at `tower` to three tokens (kind `image_tokens`)."""
    from rapiddraw.core.paths import file_sha256
    from rapiddraw.core.text.image_tokens import ImageTokens
    from rapiddraw.core.text.image_tokens import to_bundle as tokens_to_bundle

    made = seeded(lambda: ImageTokens(16, 8, 3, width), seed)
    return save_bundle(path, *tokens_to_bundle(made, {"kind": "image", "sha256": file_sha256(tower)}, {"recipe": "test"}))


def write_segmenter(path: Path, seed: int = 8) -> Path:
    """A segmenter of the Orchard's classes (kind `segmenter`)."""
    from rapiddraw.core.control.segmenter import Segmenter
    from rapiddraw.core.control.segmenter import to_bundle as segmenter_to_bundle

    return save_bundle(path, *segmenter_to_bundle(seeded(lambda: Segmenter(size=16, widths=(8, 16)), seed), {"recipe": "test"}))


def write_judge(path: Path, seed: int = 9) -> Path:
    """A narrow judge (kind `judge`)."""
    from rapiddraw.core.scoring.judge import Judge

    made = seeded(lambda: Judge(width=4, features=8), seed)
    return save_bundle(path, made.state_dict(), BundleInfo("judge", {"width": 4, "features": 8}))


def write_adapter(path: Path, seed: int = 10) -> Path:
    """A Kronecker adapter for the attention of the tiny U-Net (kind `adapter`)."""
    from rapiddraw.core.lowrank.adapter import save_adapter
    from rapiddraw.core.lowrank.kronecker import start_update

    names = [f"down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_{part}" for part in ("q", "k", "v")]
    updates = seeded(lambda: {name: start_update(32, 32, 2) for name in names}, seed)
    filled = {name: (a, seeded(lambda u=u: torch.randn_like(u), seed), v) for name, (a, u, v) in updates.items()}
    return save_adapter(path, filled, "unet", {"recipe": "test"}, rank=2)


def write_student(path: Path, steps: int = 4, seed: int = 11) -> Path:
    """A few-step student of the tiny U-Net: a LoRA on one layer, which says how it is sampled."""
    from rapiddraw.core.fewstep.about import KEY, About
    from rapiddraw.core.lowrank.lora_file import save_lora

    up, down = seeded(lambda: (torch.randn(64, 2) * 0.1, torch.randn(2, 64)), seed)
    about = About("trajectory", steps, "euler", "sgm_uniform", 4.0, 4.0, 4.0, 4.0, "v", 4)
    name = "diffusion_model.middle_block.1.transformer_blocks.0.attn1.to_q"
    return save_lora(path, {name: (up, down, 2.0)}, {KEY: about.as_json(), "provenance": {"recipe": "test"}})


def write_prompt(path: Path, seed: int = 8) -> Path:
    """A prompt model that writes nonsense with the Orchard's words (kind `prompt`)."""
    from rapiddraw.core.text import prompt_model

    pairs = [prompt_model.Pair(text, f"a photo of {text}", "en") for text in CAPTIONS]
    config = prompt_model.default_config(n_embd=16, n_layer=1, n_head=2, n_positions=64)
    network = seeded(lambda: prompt_model.PromptModel(config, prompt_model.build_vocabulary(pairs)), seed)
    return save_bundle(path, *prompt_model.to_bundle(network))


def write_bundles(folder: Path) -> Path:
    """One of each kind, as `tiny-KIND.safetensors`."""
    writers = {
        "prompt": write_prompt,
        "unet": write_unet, "vae": write_vae, "text": write_text, "kg": write_kg, "esrgan": write_esrgan, "image": write_image,
        "segmenter": write_segmenter, "judge": write_judge, "adapter": write_adapter,
    }  # fmt: skip
    for kind, write in writers.items():
        write(folder / f"tiny-{kind}.safetensors")
    write_control(folder / "tiny-control.safetensors", folder / "tiny-unet.safetensors")
    write_image_tokens(folder / "tiny-image_tokens.safetensors", folder / "tiny-image.safetensors")
    return folder
