"""Roles of a network's layers by their names: attention, feed-forward, convolution, projection, modulation.

Layers carry other names in every library and family of models: `attn1.to_q` in a U-Net, `img_attn.qkv` in Flux, `self_attn.q` in Wan. The
patterns below hold for diffusers' U-Nets and for the networks of ComfyUI. The first and last layers of a network, its norms, and the
embedding of the text's tokens have no role.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

TARGETS: dict[str, re.Pattern[str]] = {
    "attention": re.compile(
        r"\.([a-z_]+_)?att(n|ention)\d*\.([a-z_]+\.)?[A-Za-z0-9_]+(\.0)?$"
        r"|\.single_blocks\.\d+\.linear[12]$|\.blocks\.\d+\.([qkv]|attn_out)$"
    ),
    "feed_forward": re.compile(
        r"\.ff(_[it])?\.(net\.(0\.proj|2)|w[123]|(experts\.\d+|shared_experts)\.w[123])$"
        r"|\.(\w+_)?(ffn|mlp|feed_forward)[A-Z]?(\.\w+)+$"
        r"|\.block\.layer[12]$|\.ff_(proj|out)$|\.channelwise\.[04]$|\.single_blocks\.\d+\.linear[12]$"
    ),
    "resnet": re.compile(r"(\.resnets\.\d+\.conv[12]|\.in_layers\.2|\.out_layers\.3)$"),
    "projection": re.compile(r"[^.]\.proj_(in|out)$"),
    "modulation": re.compile(
        r"\.(\w*_)?(mod(ulation)?|ada_?ln)(_\w+|[CXF]+)?\.(\w+\.)*(\d|lin|linear(_\d)?|out_layer)$|\.(emb_layers|t_block|time_projection|tproj)\.1$"
        r"|\.norm\d\.linear$|\.adaln_modulation$|\.time_emb_proj$|\.mapper(_sca|_crp)?$|\.distilled_guidance_layer\.(layers\.\d+\.)?\w+$",
        re.IGNORECASE,
    ),
}
"""Roles by name, and the names of their layers after a leading dot. A layer that does two things at once, such as Flux's `linear1`
(query, key, value and the first half of the feed-forward), has two roles."""
DEFAULT_TARGETS = ("attention", "feed_forward", "resnet", "projection")
"""Roles that are factored where nothing else is said."""
_ENDS = re.compile(
    r"^(final_\w+|out_layer|norm_out|head|modF|last|proj_out|patch_embed\w*|[tyxp]_embedder|time_\w*embed\w*|\w+_embedder)\."
)
"""Beginnings of the names of the layers that make a network's input and output."""


def role_of(name: str, roles: Sequence[str] = tuple(TARGETS)) -> str | None:
    """Return the first of `roles` that the layer `name` has, or None."""
    if _ENDS.match(name):
        return None
    dotted = f".{name}"
    if TARGETS["modulation"].search(dotted):
        return "modulation" if "modulation" in roles else None
    return next((role for role in roles if role != "modulation" and TARGETS[role].search(dotted)), None)
