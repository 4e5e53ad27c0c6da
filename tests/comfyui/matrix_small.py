"""Rows of the matrix for small networks: blocks that are skipped, rated and slimmed away, and decoders that are pruned."""

from __future__ import annotations

import zlib
from typing import Any

import torch
from inside import FOLDER
from matrix import Case, Wrong, equal, finite, row

KL = {
    "SD 1.5", "SD 1.5 inpainting", "SD 2", "SDXL", "Playground 2.5", "PixArt Sigma", "HunyuanDiT", "SD 3", "AuraFlow", "Flux",
    "Flux schnell", "Chroma", "Lumina 2", "Z-Image", "HiDream", "OmniGen 2", "Kandinsky 5 image",
}  # fmt: skip
"""Families whose VAE is an AutoencoderKL; those of the others are of other kinds."""


@row("SkipBlocks")
def _(case: Case) -> None:
    same, listed = case.node("SkipBlocks", model=case.model)
    equal("no block skipped", case.sampled(case.guider(same)), case.stock)
    name = next(line.split()[0] for line in listed.splitlines() if " transformer " in line)
    smaller, _ = case.node("SkipBlocks", model=case.model, blocks=name)
    less = case.sampled(case.guider(smaller))
    finite("without a transformer", less)
    if torch.equal(less, case.stock):
        raise Wrong(f"{name} is skipped and changes nothing")


@row("BlockImportance")
def _(case: Case) -> None:
    table, chart = case.node("BlockImportance", model=case.model, clip=case.clip, prompts="a red fruit", size=128, inner_blocks=False)
    if "mid_block.attentions.0" not in table or "first to remove" not in table:
        raise Wrong(f"the table has {len(table.splitlines())} lines and not those of a U-Net")
    finite("the chart", chart)


@row("SlimUNet")
def _(case: Case) -> None:
    slim, report, _ = case.node(
        "SlimUNet", model=case.model, clip=case.clip, vae=case.vae, folder="fruit", steps=1, robust_steps=1, batch_size=1, size=128,
        latency=0.9, measure="multiply-adds", filename=f"{zlib.crc32(case.name.encode())}-slim",
    )  # fmt: skip
    if "removed" not in report:
        raise Wrong(f"nothing was removed: {report.splitlines()[0]}")
    finite("the slimmed model", case.sampled(case.guider(slim)))


@row("PruneVAEDecoder")
def _(case: Case) -> None:
    vae, channels = (_kl_vae(case), case.family.size[0]) if case.name in KL else (case.vae, 0)
    file = zlib.crc32(case.name.encode())
    given: dict[str, Any] = {"vae": vae, "folder": "fruit", "size": 64, "steps": 1, "batch_size": 1}
    whole = case.node("PruneVAEDecoder", **given, share=1.0, lr=0.0, filename=f"{file}-whole")[0]
    latent = torch.randn(1, channels, 8, 8, generator=torch.Generator().manual_seed(4))
    equal("nothing pruned", whole.decode(latent), vae.decode(latent), 2e-2)
    half = case.node("PruneVAEDecoder", **given, share=0.5, filename=f"{file}-half")[0]
    finite("half of the channels", half.decode(latent))


def _kl_vae(case: Case) -> Any:
    """An AutoencoderKL of the family's channels with random weights, as ComfyUI loads one."""
    from diffusers import AutoencoderKL

    files, channels = case.ours("core.bundles.format"), case.family.size[0]
    config: dict[str, Any] = {
        "in_channels": 3, "out_channels": 3, "latent_channels": channels, "block_out_channels": [64] * 4, "layers_per_block": 1,
        "down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4, "norm_num_groups": 32,
    }  # fmt: skip
    torch.manual_seed(0)
    network: Any = AutoencoderKL(**config)
    info = files.BundleInfo("vae", config=config, latent=files.LatentSpace(channels, 8))
    vae = case.host.vae.load(files.save_bundle(FOLDER / f"kl-{channels}.safetensors", network.state_dict(), info))
    del vae.rapiddraw_info
    return vae
