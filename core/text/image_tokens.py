"""Picture prompts: the embedding of a picture as tokens that a U-Net attends to beside those of a text.

PanGu-Draw fuses such an image-variation model with its own by Coop-Diffusion (section 5.2). Uni-ControlNet, which ELR-Diffusion is compared
with, has it as its global adapter. The embedding of an image tower is projected to k tokens of the text's width:

    y = [text tokens ; strength * tokens(embedding)]

The tower and the U-Net stay as they are; only the projection is trained (recipe `image_tokens`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..bundles.format import Bundle, BundleInfo, halved
from ..bundles.load import load_bundle
from ..errors import BundleError, InputError
from ..paths import file_sha256
from .bilingual import joined_mask
from .picture_reader import clip_vision_mark, embed_by_clip_vision, same_mark, tower_reader

MAX_STRENGTH = 10.0
_POOLED = {2048: 1280, 4096: 2048}  # SDXL; SD 3 and HiDream
"""Width of the pooled text state by that of the tokens, where they differ."""
_LIMITS = {"embedding": 8192, "hidden": 8192, "tokens": 256, "width": 16384}


class ImageTokens(nn.Module):
    """Projection of embeddings (B, embedding) to tokens (B, tokens, width)."""

    def __init__(self, embedding: int, hidden: int, tokens: int, width: int, operations: Any = nn) -> None:
        super().__init__()
        given = {"embedding": embedding, "hidden": hidden, "tokens": tokens, "width": width}
        wrong = [f"{key}={value}" for key, value in given.items() if not 1 <= value <= _LIMITS[key]]
        if wrong:
            raise InputError(f"image tokens: {', '.join(wrong)} out of range")
        self.config = given
        self.body = nn.Sequential(operations.Linear(embedding, hidden), nn.GELU(), operations.Linear(hidden, tokens * width))
        self.norm = operations.LayerNorm(width)

    def forward(self, embeddings: Tensor) -> Tensor:
        return self.norm(self.body(embeddings).unflatten(-1, (self.config["tokens"], self.config["width"])))


def to_bundle(tokens: ImageTokens, tower: dict[str, Any], provenance: dict[str, Any]) -> tuple[dict[str, Tensor], BundleInfo]:
    """Return what :func:`~rapiddraw.core.bundles.format.save_bundle` writes (kind `image_tokens`).

    `tower` says what makes the embeddings: its `kind` and the `sha256` of its file."""
    info = BundleInfo("image_tokens", {**tokens.config, "tower": tower}, provenance=provenance)
    return halved(tokens.state_dict()), info


def load_image_tokens(bundle: Bundle) -> ImageTokens:
    """Return the projection in a bundle, in float32. Raises :class:`BundleError` where its config and its tensors do not fit."""
    name, config = bundle.info.path.name if bundle.info.path else "the bundle", bundle.info.config
    try:
        with torch.device("meta"):
            made = ImageTokens(*(int(config[key]) for key in _LIMITS))
        made.load_state_dict({key: tensor.float() for key, tensor in bundle.tensors.items()}, assign=True)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise BundleError(f"{name}: its config and its tensors do not make a projection to image tokens ({error!s:.300})") from error
    if not isinstance(config.get("tower"), dict):
        raise BundleError(f"{name} does not say which image tower it was trained for; train it again with `rapiddraw train image_tokens`")
    return made.eval().requires_grad_(False)


@torch.no_grad()
def encode_variation(
    image: Tensor,
    tokens_path: Path,
    tower_path: Path,
    strength: float,
    conditioning: Any = None,
    clip_vision: Any = None,
    pooled_width: int | None = None,
    needed: Sequence[str] = (),
) -> Any:
    """Return the CONDITIONING of an IMAGE (B, H, W, 3): its tokens, times `strength`, after those of `conditioning`.

    Without `conditioning` the image's tokens stand alone. A batch of pictures gives a batch of prompts. `clip_vision` takes the tower's
    place where the projection was trained for one. At strength 0 `conditioning` comes back as it is. Without `conditioning` the pooled text
    state is zeros of `pooled_width` features (None: as many as real models with such tokens take; 0: none); of the details that a model
    has `needed`, an attention mask is made and others are refused. Raises :class:`InputError` for
    what does not fit, :class:`BundleError` for files.
    """
    if not 0 <= strength <= MAX_STRENGTH:
        raise InputError(f"strength={strength}: expected a number from 0 to {MAX_STRENGTH:g}")
    if image.dim() != 4 or image.shape[-1] < 3 or not image.numel():
        raise InputError(f"an IMAGE (B, H, W, 3) is expected, not {tuple(image.shape)}")
    bundle = load_bundle(tokens_path, "image_tokens")
    projection = load_image_tokens(bundle)
    if conditioning is None and (missing := lacking(needed)):
        raise InputError(f"this model reads {', '.join(missing)} beside a picture's tokens; link a text for it to `conditioning`")
    if strength == 0 and conditioning is not None:
        return conditioning
    tower = bundle.info.config["tower"]
    if clip_vision is None:
        embedded = _by_tower(image, tower_path, tower, tokens_path.name)
    else:
        embedded = _by_clip_vision(clip_vision, image, tower, projection.config["embedding"], tokens_path.name)
    return prompt_of(strength * projection(embedded), conditioning, pooled_width, needed)


def lacking(needed: Sequence[str]) -> list[str]:
    """Return those of the details that a model has `needed` beside its tokens which only a text gives."""
    return [name for name in needed if name != "attention_mask"]


def prompt_of(tokens: Tensor, conditioning: Any = None, pooled_width: int | None = None, needed: Sequence[str] = ()) -> Any:
    """Return the CONDITIONING of a picture's `tokens` (B, T, width), after those of `conditioning` where that is given.

    For `pooled_width` and `needed` see :func:`encode_variation`. Gradients flow to `tokens`.
    """
    if conditioning is not None:
        return [[_joined(text, tokens), _longer(text, tokens, details)] for text, details in conditioning]
    width = _POOLED.get(tokens.shape[-1], tokens.shape[-1]) if pooled_width is None else pooled_width
    details = {"pooled_output": torch.zeros(len(tokens), width)} if width else {}
    if "attention_mask" in needed:
        details["attention_mask"] = torch.ones(tokens.shape[:2], dtype=torch.long)
    return [[tokens, details]]


def _longer(text: Tensor, tokens: Tensor, details: Mapping[str, Any]) -> dict[str, Any]:
    """Return the details of a text to which a picture's tokens were added: an attention mask covers these too."""
    mask = joined_mask(text, tokens, (details.get("attention_mask"), None), "token")
    return {**details, **({} if mask is None else {"attention_mask": mask})}


def _joined(text: Tensor, tokens: Tensor) -> Tensor:
    if text.shape[-1] != tokens.shape[-1]:
        raise InputError(
            f"the prompt's tokens have {text.shape[-1]} features, those of the picture {tokens.shape[-1]}: the projection was trained for "
            "another text encoder; use the CLIP it was trained with, or leave the prompt away"
        )
    count = max(len(text), len(tokens))
    if not {len(text), len(tokens)} <= {1, count}:
        raise InputError(f"{len(text)} prompts and {len(tokens)} pictures cannot be paired; give one of either, or as many")
    tokens = tokens.to(text)
    return torch.cat([text.expand(count, -1, -1), tokens.expand(count, -1, -1)], dim=1)


def _by_tower(image: Tensor, path: Path, tower: dict[str, Any], name: str) -> Tensor:
    if tower.get("kind") != "image":
        raise InputError(f"{name} was trained for the embeddings of a {tower.get('kind')!r:.40}, not for an image tower; connect that one")
    if tower.get("sha256") != file_sha256(path):
        raise InputError(f"{name} was trained for another image tower than {path.name}; choose the one that its README names")
    return tower_reader(path).read(image)


def _by_clip_vision(clip_vision: Any, image: Tensor, tower: dict[str, Any], width: int, name: str) -> Tensor:
    """Return the embeddings of a host's CLIP_VISION, where the projection was trained for it."""
    embedded = embed_by_clip_vision(clip_vision, image)
    if tower.get("kind") != "clip_vision" or embedded.shape[-1] != width:
        raise InputError(
            f"no projection was trained for this CLIP_VISION ({embedded.shape[-1]} features): {name} takes {width} features of "
            f"{tower.get('kind')!r:.40}. Disconnect clip_vision to use the image tower"
        )
    if "mark" in tower and not same_mark(tower["mark"], clip_vision_mark(clip_vision)):
        raise InputError(f"{name} was trained for another CLIP_VISION of {width} features; load the one that it was trained with")
    return embedded
