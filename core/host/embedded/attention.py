"""Attention of the embedded host's U-Net under ComfyUI's contract: an `optimized_attention_override` in `transformer_options` is called,
and so are functions on the input of self-attention (`attn1_patch` among its `patches`).

diffusers hands every attention processor the `cross_attention_kwargs` of the U-Net's call, so options that differ from clone to clone
reach a network that all clones share, and nothing of the network is changed by a patch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from diffusers.models.attention_processor import AttnProcessor2_0
from einops import rearrange
from torch import Tensor

from ...attention.chain import OVERRIDE, attached
from ...attention.entropy import KEY as SELF
from ...attention.entropy import check_size, entropy_patch
from ...attention.patch import AttentionPatch
from ...slim.attention import refuse_relu


def attention_sdpa(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None, **_: Any) -> Tensor:
    """Return torch's attention, as diffusers uses it; q, k, v and the result are (B, T, heads * D)."""
    q, k, v = (rearrange(t, "batch tokens (heads dim) -> batch heads tokens dim", heads=heads) for t in (q, k, v))
    attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return rearrange(attended, "batch heads tokens dim -> batch tokens (heads dim)")


class HostAttnProcessor(AttnProcessor2_0):  # type: ignore[misc]
    """diffusers' own processor, except in calls whose options hold an override or patches."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        transformer_options: dict[str, Any] | None = None,
    ) -> Tensor:
        override = (transformer_options or {}).get(OVERRIDE)
        patches = (transformer_options or {}).get("patches", {}).get(SELF, ()) if encoder_hidden_states is None else ()
        special = (attn.spatial_norm, attn.group_norm, attn.norm_q, attn.norm_k, attn.norm_cross)
        if (override is None and not patches) or any(one is not None and one is not False for one in special) or hidden_states.ndim != 3:
            return super().__call__(attn, hidden_states, encoder_hidden_states, attention_mask, temb)
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        if attention_mask is not None:
            attention_mask = attn.prepare_attention_mask(attention_mask, context.shape[1], context.shape[0])
            attention_mask = attention_mask.view(context.shape[0], attn.heads, -1, attention_mask.shape[-1])
        asking, keyed, valued = hidden_states, context, context
        for patch in patches:
            asking, keyed, valued = patch(asking, keyed, valued, transformer_options)
        q, k, v = attn.to_q(asking), attn.to_k(keyed), attn.to_v(valued)
        options: dict[str, Any] = {"mask": attention_mask, "transformer_options": transformer_options}
        attended = (
            attention_sdpa(q, k, v, attn.heads, **options) if override is None else override(attention_sdpa, q, k, v, attn.heads, **options)
        )
        out = attn.to_out[1](attn.to_out[0](attended))
        return (out + hidden_states if attn.residual_connection else out) / attn.rescale_output_factor


def open_attention(network: Any) -> Any:
    """Return `network` with processors that listen to overrides in the place of diffusers' standard ones. Others stay as they are."""
    listening = HostAttnProcessor()
    network.set_attn_processor({name: listening if type(one) is AttnProcessor2_0 else one for name, one in network.attn_processors.items()})
    return network


def scale_entropy(model: Any, width: int, height: int) -> Any:
    """See :meth:`AttentionTopic.scale_entropy`."""
    check_size(width, height)
    patched = model.clone()
    patches = patched.model_options.setdefault("transformer_options", {}).setdefault("patches", {})
    patches[SELF] = [*patches.get(SELF, []), entropy_patch(width, height, model.model.latent_format.factor)]
    return patched


def patch_model(model: Any, patch: AttentionPatch) -> Any:
    """See :meth:`AttentionTopic.patch_model`."""
    refuse_relu(model.model.diffusion_model)
    patched = attached(model, patch)
    previous = patched.model_options.get("model_function_wrapper")

    def watched(apply_model: Callable[..., Tensor], call: dict[str, Any]) -> Any:
        def run() -> Any:
            return apply_model(call["input"], call["timestep"], **call["c"]) if previous is None else previous(apply_model, call)

        return patch.evaluate(run)

    patched.set_model_unet_function_wrapper(watched)
    return patched


def patch_vae(vae: Any, patch: AttentionPatch) -> Any:
    """See :meth:`AttentionTopic.patch_vae`. A VAE uses torch's attention already, and diffusers gives it no options of its own."""
    return vae
