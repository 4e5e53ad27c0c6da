"""CLIP in ComfyUI: a text bundle as ComfyUI's own `comfy.sd.CLIP`. Its tokenizer, which every clone of a CLIP shares, also carries the
projection W that it was trained with; see :mod:`.knowledge`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import comfy.clip_model
import comfy.ops
import comfy.sd
import comfy.sd1_clip
import comfy.supported_models_base
import folder_paths
import torch

from ...bundles.load import load_bundle
from ...errors import InputError
from ...text.encoder import check_text_bundle
from ...text.tokenizer import make_tokenizer
from .weights import check_shapes

ENCODER = "rapiddraw"  # the key of this encoder's rows in what `tokenize` returns
_UNLIMITED = 10**9


class VocabularyTokenizer:
    """A tokenizer class with the interface of transformers' that reads a vocabulary instead of a folder."""

    @staticmethod
    def from_pretrained(vocabulary: list[str], **_: Any) -> Any:
        """Return transformers' BertTokenizer over `vocabulary`. Its rows have any length, since ComfyUI cuts rows itself."""
        tokenizer = make_tokenizer(vocabulary)
        tokenizer.model_max_length = _UNLIMITED
        return tokenizer


class TextModel(comfy.clip_model.CLIPTextModel):
    """CLIPTextModel with as many token embeddings as the vocabulary has tokens (it has CLIP's 49408 whatever the config says)."""

    def __init__(self, config: dict[str, Any], dtype: Any, device: Any, operations: Any) -> None:
        super().__init__(config, dtype, device, operations)
        self.set_input_embeddings(operations.Embedding(config["vocab_size"], config["hidden_size"], dtype=dtype, device=device))
        self.text_projection = torch.nn.Identity()  # nothing in a picture's making uses the projected pooled state


def clip_target(config: dict[str, Any], vocabulary: list[str], projection: torch.Tensor) -> Any:
    """Return the tokenizer and encoder classes that `comfy.sd.CLIP` makes its parts from. `projection` (width, kg_dim) is W."""
    length, pad = config["max_position_embeddings"], config["pad_token_id"]
    special = {"start": config["bos_token_id"], "end": config["eos_token_id"], "pad": pad}

    class Encoder(comfy.sd1_clip.SDClipModel):
        def __init__(self, device: Any = "cpu", dtype: Any = None, model_options: Any = None) -> None:
            super().__init__(
                device=device, max_length=length, layer="last", textmodel_json_config=dict(config), dtype=dtype, model_class=TextModel,
                special_tokens=special, return_projected_pooled=False, model_options=model_options or {},
            )  # fmt: skip

    class RapidDrawText(comfy.sd1_clip.SD1ClipModel):
        def __init__(self, device: Any = "cpu", dtype: Any = None, model_options: Any = None, **more: Any) -> None:
            super().__init__(device=device, dtype=dtype, model_options=model_options or {}, name=ENCODER, clip_model=Encoder, **more)

    class RowTokenizer(comfy.sd1_clip.SDTokenizer):
        def __init__(self, embedding_directory: Any = None, tokenizer_data: Any = None) -> None:
            super().__init__(
                vocabulary, max_length=length, pad_with_end=False, embedding_directory=embedding_directory, pad_token=pad,
                embedding_size=config["hidden_size"], embedding_key=ENCODER, tokenizer_class=VocabularyTokenizer,
                tokenizer_data=tokenizer_data or {},
            )  # fmt: skip

    class Tokenizer(comfy.sd1_clip.SD1Tokenizer):
        kg_projection = projection

        def __init__(self, embedding_directory: Any = None, tokenizer_data: Any = None) -> None:
            super().__init__(
                embedding_directory=embedding_directory, tokenizer_data=tokenizer_data or {}, name=ENCODER, tokenizer=RowTokenizer
            )

    return comfy.supported_models_base.ClipTarget(Tokenizer, RapidDrawText)


def encode(clip: Any, text: str) -> Any:
    """See :meth:`ClipTopic.encode`."""
    return clip.encode_from_tokens_scheduled(clip.tokenize(text))


@torch.no_grad()
def beside_pictures(clip: Any, texts: Sequence[str], width: int) -> torch.Tensor:
    """See :meth:`ClipTopic.beside_pictures`. Only CLIP's own text encoders have such a space; `l`, `g` and `h` are ComfyUI's keys."""
    inner = clip.cond_stage_model
    found: dict[str, Any] = {key: getattr(inner, f"clip_{key}", None) for key in ("l", "g", "h")}
    projections = {key: getattr(getattr(one, "transformer", None), "text_projection", None) for key, one in found.items()}
    weights: dict[str, Any] = {key: getattr(one, "weight", None) for key, one in projections.items()}
    widths = {key: len(weight) for key, weight in weights.items() if weight is not None}
    key = next((key for key, own in widths.items() if own == width), None)
    if key is None:
        given = f"vectors of {' and '.join(map(str, widths.values()))} features" if widths else "no vectors beside pictures"
        raise InputError(
            f"the CLIP gives {given} and the CLIP_VISION vectors of {width}: link two that belong together, such as clip_l.safetensors "
            "and ViT-L/14, or SDXL's CLIP and ViT-bigG"
        )
    clip.load_model()
    inner.reset_clip_options()
    inner.set_clip_options({"execution_device": clip.patcher.load_device, "projected_pooled": True})
    try:
        rows = [found[key].encode_token_weights(clip.tokenize(text)[key])[1] for text in texts]
    finally:
        inner.reset_clip_options()
    return torch.cat(rows).float().cpu()


def load(path: Path) -> Any:
    """See :meth:`ClipTopic.load`. Weights are in fp32: they are few, and ComfyUI's fp16 would show on a CPU."""
    clip = _load(path)
    clip.patcher.cached_patcher_init = (_load_patcher, (path,))  # how newer versions make one with weights of its own
    return clip


def _load_patcher(path: Path, disable_dynamic: bool = False) -> Any:
    return _load(path, **({"disable_dynamic": True} if disable_dynamic else {})).patcher


def _load(path: Path, **options: Any) -> Any:
    bundle = load_bundle(path, "text")
    check_text_bundle(bundle)
    tensors = {name: tensor.float() for name, tensor in bundle.tensors.items()}
    weights = {name: tensor for name, tensor in tensors.items() if name.startswith("text_model.") and not name.endswith("position_ids")}
    with torch.device("meta"):
        check_shapes(bundle.info, weights, TextModel(bundle.info.config, torch.float32, torch.device("meta"), comfy.ops.manual_cast))
    return comfy.sd.CLIP(
        clip_target(bundle.info.config, bundle.info.extra["vocabulary"], tensors["kg_projection.weight"]),
        embedding_directory=folder_paths.get_folder_paths("embeddings"),
        parameters=sum(tensor.numel() for tensor in weights.values()),
        state_dict=[weights],
        model_options={"dtype": torch.float32},
        **options,
    )
