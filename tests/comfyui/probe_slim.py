"""Slimmed MODELs inside a ComfyUI process; started as inside.py says."""

from __future__ import annotations

from typing import Any

from inside import MODELS, RESULT, load_pack, relative, write

# isort: split
import comfy.lora
import comfy.sd
import torch
from models import CPU, LATENT, NARROW, output, sd15_unet

found: dict[str, Any] = {}
XL: dict[str, Any] = {
    "model_channels": 32, "num_res_blocks": [2, 2], "channel_mult": [1, 2], "transformer_depth": [0, 0, 2, 2],
    "transformer_depth_output": [0, 0, 0, 2, 2, 2], "transformer_depth_middle": 2, "context_dim": 32, "num_head_channels": 32,
    "num_heads": -1, "use_linear_in_transformer": True,
}  # fmt: skip
DEEPER = {**NARROW, "num_res_blocks": [2, 2], "transformer_depth": [1, 1, 0, 0], "transformer_depth_output": [1, 1, 1, 0, 0, 0]}
SKIPPED = "down_blocks.0.attentions.0, down_blocks.0.resnets.1, up_blocks.*.resnets.1, mid_block.attentions.0.transformer_blocks.0.attn2"
SKIPPED_XL = "down_blocks.1.attentions.0, mid_block.resnets.1, up_blocks.0.attentions.1.transformer_blocks.1.*, up_blocks.1.resnets.2"


def sdxl_unet() -> Any:
    """A MODEL of SDXL's shape with random weights: no attention at full size, two blocks a transformer, linear projections."""
    return sd15_unet(XL)


def lora_for(model: Any) -> dict[str, Any]:
    """A LoRA for every linear and convolution weight of a dense model, under the names trainers use."""
    generator, made, state = torch.Generator().manual_seed(9), {}, model.model.state_dict()
    for name, key in comfy.lora.model_lora_keys_unet(model.model, {}).items():
        weight = state.get(key)
        if not name.startswith("lora_unet_") or weight is None or weight.dim() < 2 or not key.endswith(".weight"):
            continue
        made[f"{name}.lora_down.weight"] = torch.randn(2, *weight.shape[1:], generator=generator) * 0.3
        made[f"{name}.lora_up.weight"] = torch.randn(weight.shape[0], 2, *[1] * (weight.dim() - 2), generator=generator) * 0.3
    return made


def pruned(ours: Any) -> dict[str, Any]:
    """A VAE of ComfyUI's own, as its loader makes it, with half of its decoder."""
    host, operation = ours("core.host").current(), ours("core.operations.prune_vae")
    vae = host.vae.load(MODELS / "attention-vae.safetensors")
    del vae.rapiddraw_info  # as ComfyUI loads it
    latent = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    picture = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(1))
    before, encoded = vae.decode(latent).clone(), vae.encode(picture).clone()
    exported = host.vae.export(vae)
    stored = ours("core.bundles.load").load_bundle(MODELS / "attention-vae.safetensors", "vae").tensors
    same = all(torch.equal(tensor.float(), exported.tensors[name].float()) for name, tensor in stored.items())
    run = ours("core.operations.distill").Run(2)
    made, report, _ = operation.prune_vae(
        vae, operation.Prune(0.5, "drawn", size=64), "pruned", operation.DecoderDistillation(batch_size=2), run
    )
    again = host.vae.load(ours("core.paths").made_weights_dir() / "pruned.safetensors")
    return {
        "exported": same and set(stored) <= set(exported.tensors),
        "source": [relative(vae.decode(latent), before), relative(vae.encode(picture), encoded)],
        "encoder": relative(made.encode(picture), encoded),
        "shape": list(made.decode(latent).shape) == list(before.shape),
        "changes": relative(made.decode(latent), before),
        "again": relative(again.decode(latent), made.decode(latent)),
        "smaller": made.patcher.model_size() / vae.patcher.model_size(),
        "report": report,
    }


def slimmed(ours: Any, model: Any, family: str) -> dict[str, Any]:
    """A model of a checkpoint's shape, slimmed to four fifths, trained for three steps, saved and loaded."""
    host, operation, changes = ours("core.host").current(), ours("core.operations.slim_model"), ours("core.slim.changes")
    clip, vae = host.clip.load(MODELS / "tiny-text.safetensors"), host.vae.load(MODELS / "tiny-vae.safetensors")
    before = output(model)
    slim = operation.Slim(latency=0.8, measure="multiply-adds", robust_steps=2)
    recipe, run = operation.SlimDistillation(batch_size=2, size=64), ours("core.operations.distill").Run(3)
    student, report, _ = operation.slim_model(model, clip, vae, "", family, slim, recipe, run)
    again = host.model.load(ours("core.paths").made_weights_dir() / f"{family}.safetensors")
    made = changes.changes_of(host.speed.network_of("model", student))
    lora = lora_for(model)
    patched = comfy.sd.load_lora_for_models(again, None, lora, 0.7, 0)[0]
    return {
        "source": bool(torch.equal(output(model), before)),
        "removed": len(made.removed),
        "share": float(report.splitlines()[1].split()[0]),
        "again": relative(output(again), output(student)),
        "same": changes.changes_of(host.speed.network_of("model", again)) == made,
        "lora": relative(output(patched), output(again)),
    }


def run() -> None:
    ours = load_pack()
    host = ours("core.host").current()
    blocks, changes, switches = ours("core.slim.blocks"), ours("core.slim.changes"), ours("core.slim.switches")
    tricks, slim = ours("core.slim.tricks"), ours("core.operations.slim")
    factorize = ours("core.operations.factorize")

    def network(model: Any) -> Any:
        return host.speed.network_of("model", model)

    own = host.model.load(MODELS / "tiny-unet.safetensors")
    families = {
        "bundle": (own, "down_blocks.0.attentions.0, up_blocks.*.resnets.1"),
        "sd15": (sd15_unet(DEEPER), SKIPPED),
        "sdxl": (sdxl_unet(), SKIPPED_XL),
    }
    for family, (model, names) in families.items():
        result: dict[str, Any] = {}
        found[family] = result
        before = output(model)
        result["blocks"] = [block.name for block in blocks.blocks_of(network(model))]

        def copy(net: Any) -> None:
            for block in blocks.blocks_of(net):
                if block.kind == "transformer":
                    tricks.copy_transformer(block, 2)

        copied = host.surgery.rebuild(model, copy)
        result["copies change nothing"] = bool(torch.equal(output(copied), before))

        small, _ = slim.skip_blocks(model, names)
        wanted = output(small)
        result["skipping changes"], result["source unchanged"] = relative(wanted, before), bool(torch.equal(output(model), before))
        result["removed"] = list(changes.changes_of(network(small)).removed)

        lora = lora_for(model)
        patched = comfy.sd.load_lora_for_models(small, None, lora, 0.7, 0)[0]
        merged = comfy.sd.load_lora_for_models(model, None, lora, 0.7, 0)[0]
        skipped_after, _ = slim.skip_blocks(merged, names)
        result["lora on kept blocks"] = relative(output(patched), output(skipped_after))
        result["lora changes"] = relative(output(patched), wanted)

        def switch(net: Any) -> None:
            changes.apply_changes(net, switches.switched(net, list(switches.SWITCHES)))

        every = host.surgery.rebuild(small, switch)
        for kind, made in (("skipped", small), ("copied", copied), ("every change", every)):
            path = host.model.save(made, RESULT.parent / f"{family}-{kind.replace(' ', '-')}.safetensors", {"recipe": "test"})
            again = host.model.load(path)
            same = changes.changes_of(network(again)) == changes.changes_of(network(made))
            result[f"{kind} again"] = [relative(output(again), output(made)), same, bool(torch.isfinite(output(again)).all())]
        low, _ = factorize.factorize_model(small, "param_ratio", 0.8)
        path = host.model.save(low, RESULT.parent / f"{family}-low.safetensors", {})
        result["factored again"] = relative(output(host.model.load(path)), output(low))
        result["lowvram"] = relative(output(every, lowvram=True), output(every))

        try:
            ours("core.host").current().attention.patch_model(every, ours("core.attention.patch").AttentionPatch())
        except Exception as error:
            result["relu refused"] = f"{type(error).__name__}: {error}"
    latent = {"samples": torch.zeros_like(LATENT)}
    seconds = slim.block_latencies(host, own, blocks.blocks_of(network(own)), latent)
    found["latencies"] = len(seconds) == len(blocks.blocks_of(network(own))) + 1 and min(seconds.values()) > 0
    found["device"] = str(CPU)
    found["vae"] = pruned(ours)
    found["slim"] = {family: slimmed(ours, model, family) for family, model in (("sd15", sd15_unet(DEEPER)), ("sdxl", sdxl_unet()))}
    write(found)


with torch.inference_mode():
    run()
