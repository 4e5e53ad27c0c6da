"""Attention patches inside a ComfyUI process; started as inside.py says."""

from __future__ import annotations

from typing import Any

from inside import MODELS, load_pack, relative, write

# isort: split
import comfy.controlnet
import comfy.model_management as management
import torch

import nodes

SIZE = 16
found: dict[str, Any] = {}


class Control(comfy.controlnet.ControlBase):
    """A ControlNet reduced to what it does to a U-Net: tensors added to the middle and the skips."""

    def get_control(self, x_noisy: Any, *_: Any, **__: Any) -> Any:
        generator = torch.Generator().manual_seed(7)
        middle = torch.randn(1, 64, SIZE // 2, SIZE // 2, generator=generator).expand(x_noisy.shape[0], -1, -1, -1)
        return {"input": [], "middle": [middle], "output": [middle]}

    def copy(self) -> Control:
        return self

    def get_models(self) -> list[Any]:
        return []

    def pre_run(self, *_: Any) -> None:
        """Nothing to prepare."""

    def cleanup(self) -> None:
        """Nothing to forget."""


def counts(patch: Any) -> dict[str, int]:
    out: dict[str, int] = {}
    for row in patch.rows.values():
        out[f"{row.kind} {row.backend}"] = out.get(f"{row.kind} {row.backend}", 0) + row.calls
    return out


def run() -> None:
    ours = load_pack()
    host, backends, patches = ours("core.host").current(), ours("core.attention.backends"), ours("core.attention.patch")
    found["host"], found["missing"] = host.name, ours("core.host.comfy.requirements").missing()
    model, clip, vae = host.load_bundles(*(MODELS / f"{name}.safetensors" for name in ("tiny-unet", "tiny-text", "attention-vae")))
    positive, negative = host.clip.encode(clip, "a round red fruit"), host.clip.encode(clip, "")
    controlled = [[tokens, {**details, "control": Control(), "control_apply_to_uncond": True}] for tokens, details in positive]

    def draw(patcher: Any, positive: Any = positive) -> torch.Tensor:
        latent = {"samples": torch.zeros(1, 4, SIZE, SIZE)}
        return nodes.common_ksampler(patcher, 1, 2, 3.0, "euler", "normal", positive, negative, latent)[0]["samples"]

    def with_lora(patcher: Any) -> Any:
        changed = patcher.clone()
        generator = torch.Generator().manual_seed(1)
        state = changed.model_state_dict()
        names = [key for key in state if key.endswith(("attn1.to_q.weight", "attn2.to_k.weight"))]
        changed.add_patches({key: (torch.randn(state[key].shape, generator=generator) * 0.2,) for key in names}, 1.0)
        return changed

    plain = draw(model)
    for backend in ("auto", "tiled", "sdpa_flash"):
        patch = patches.AttentionPatch(backend)
        patched = host.attention.patch_model(model, patch)
        found[f"{backend} differs"], found[f"{backend} calls"] = relative(draw(patched), plain), counts(patch)
        found[f"{backend} source unchanged"] = bool(torch.equal(draw(model), plain))

    patch = patches.AttentionPatch("tiled")
    patched = host.attention.patch_model(model, patch)
    found["lora changes"] = relative(draw(with_lora(model)), plain)
    found["control changes"] = relative(draw(model, controlled), plain)
    found["patch, lora, control differs"] = relative(draw(with_lora(patched), controlled), draw(with_lora(model), controlled))
    found["lora, patch, control differs"] = relative(
        draw(host.attention.patch_model(with_lora(model), patch), controlled), draw(with_lora(model), controlled)
    )
    found["stack calls"] = counts(patch)

    two = [patches.AttentionPatch("tiled", "self"), patches.AttentionPatch("sdpa_math", "cross")]
    stacked = host.attention.patch_model(host.attention.patch_model(model, two[0]), two[1])
    found["stacked differs"], found["stacked calls"] = relative(draw(stacked), plain), [counts(one) for one in two]

    bad: list[bool] = []
    tiled = backends.BACKENDS["tiled"].run
    flaky = backends.Backend("flaky", lambda q, k, v, m: tiled(q, k, v, m) * (torch.nan if bad else 1), lambda call: True)
    patch = patches.AttentionPatch("flaky", backends={"flaky": flaky})
    patched = host.attention.patch_model(model, patch)
    draw(patched)
    bad.append(True)
    found["nan differs"] = relative(draw(patched, controlled), draw(model, controlled))
    found["nan off"] = list(patch.off)

    latent = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    pixels = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(3))
    decoded, encoded = host.vae.decode(vae, latent), host.vae.encode(vae, pixels)
    patch = patches.AttentionPatch("tiled")
    fast = host.attention.patch_vae(vae, patch)
    found["decoded differs"] = max(relative(host.vae.decode(fast, latent), decoded) for _ in range(2))
    found["encoded differs"] = relative(host.vae.encode(fast, pixels), encoded)
    found["vae calls"] = counts(patch)
    found["vae unchanged"] = bool(torch.equal(host.vae.decode(vae, latent), decoded)) and counts(patch) == found["vae calls"]
    plain_vae = host.load_bundles(*(MODELS / f"tiny-{kind}.safetensors" for kind in ("unet", "text", "vae")))[2]
    found["no attention to patch"] = host.attention.patch_vae(plain_vae, patch) is plain_vae
    management.unload_all_models()


with torch.inference_mode():
    run()
write(found)
