"""Text encoder: transformers' CLIP text model, with a place where knowledge enters (Rapid Diffusion, section 3.1.1).

`e = e_txt + kg_scale * W e_kg` is added to token embeddings *before* position embeddings and the transformer. Everything else is CLIP as
Stable Diffusion calls it: causal mask, no padding mask, final layer norm, pooled at the first end token. ComfyUI's own CLIP classes load
the same tensors.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..bundles.format import Bundle, BundleInfo, halved
from ..errors import BundleError, InputError
from .tokenizer import CONTEXT_LENGTH, END, PAD, SPECIALS, START, check_vocabulary, make_tokenizer

MAX_LOGIT_SCALE = 100.0
_LIMITS = {"hidden_size": 4096, "num_hidden_layers": 64, "num_attention_heads": 64, "intermediate_size": 16384,
           "max_position_embeddings": 1024, "kg_dim": 4096, "projection_dim": 4096}  # fmt: skip


def default_config(vocab_size: int, **changes: Any) -> dict[str, Any]:
    """Return the fields of a CLIPTextConfig, plus `kg_dim` and `projection_dim`: width 192, 4 layers, 4 heads, 32 tokens."""
    config: dict[str, Any] = {
        "vocab_size": vocab_size,
        "hidden_size": 192,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "intermediate_size": 512,
        "max_position_embeddings": CONTEXT_LENGTH,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-5,
        "pad_token_id": SPECIALS.index(PAD),
        "bos_token_id": SPECIALS.index(START),
        "eos_token_id": SPECIALS.index(END),
        "kg_dim": 64,
        "projection_dim": 128,
    }
    return config | changes


class TextEncoder(nn.Module):
    """Token ids to hidden states, a pooled state, and an embedding shared with images.

    Attributes: `config` (see :func:`default_config`), `vocabulary` (tokens in id order), `tokenizer` (BertTokenizer), `text_model`
    (transformers' CLIP text transformer), `text_projection` (width -> projection_dim), `kg_projection` (the W of the equation:
    kg_dim -> width, no bias, so that a zero vector changes nothing), `logit_scale` (log of the inverse temperature). The projections come
    from `operations`, as layers do in ComfyUI.
    """

    def __init__(self, config: dict[str, Any], vocabulary: Sequence[str], operations: Any = nn) -> None:
        super().__init__()
        from transformers import CLIPTextConfig, CLIPTextModel

        check_vocabulary(vocabulary)
        _check_config(config, len(vocabulary))
        self.config, self.vocabulary = dict(config), list(vocabulary)
        self.tokenizer = make_tokenizer(self.vocabulary)
        fields = {k: v for k, v in config.items() if k != "kg_dim"}
        model = CLIPTextModel(CLIPTextConfig(**fields))
        self.text_model = getattr(model, "text_model", model)  # transformers 4 nests the transformer one level deeper
        width = self.width
        self.text_projection = operations.Linear(width, config["projection_dim"], bias=False)
        self.kg_projection = operations.Linear(config["kg_dim"], width, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(1 / 0.07).log())
        nn.init.normal_(self.text_projection.weight, std=width**-0.5)
        nn.init.normal_(self.kg_projection.weight, std=0.02)

    @property
    def width(self) -> int:
        """The number of features of a hidden state."""
        return int(self.config["hidden_size"])

    @property
    def length(self) -> int:
        """The number of tokens of a row, start and end included."""
        return int(self.config["max_position_embeddings"])

    @property
    def end_id(self) -> int:
        """The id of the token at which a text is pooled."""
        return int(self.config["eos_token_id"])

    def embed(self, ids: Tensor) -> Tensor:
        """Return `e_txt`: token embeddings (B, length, width) without positions."""
        return self.text_model.embeddings.token_embedding(ids)

    def encode_embeddings(self, embeddings: Tensor, end: Tensor, layer: int = -1) -> tuple[Tensor, Tensor]:
        """Encode token embeddings (B, length, width) that may already hold knowledge.

        `end` (B,) is where each text is pooled. `layer` counts from the last (-1; -2 skips one, "clip skip"). Returns the hidden
        states (B, length, width) and the pooled state of the last layer (B, width), both after the final layer norm.
        """
        states = layer_states(self.text_model, embeddings)
        if not -len(states) <= layer <= -1:
            raise InputError(f"layer={layer}: this text encoder has {len(states)} layers, give -1 (the last) to {-len(states)}")
        last = self.text_model.final_layer_norm(states[-1])
        chosen = last if layer == -1 else self.text_model.final_layer_norm(states[layer])
        return chosen, last[torch.arange(len(last), device=last.device), end]

    def encode_ids(self, ids: Tensor, extra_embeddings: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Encode token ids (B, length) long. `extra_embeddings` (B, length, width), where given, is added to the token embeddings.

        Returns hidden states (B, length, width) and the pooled state (B, width) at the first end token (position 0 where there is none).
        """
        embeddings = self.embed(ids)
        if extra_embeddings is not None:
            embeddings = embeddings + extra_embeddings
        return self.encode_embeddings(embeddings, (ids == self.end_id).int().argmax(dim=1))

    def project(self, pooled: Tensor) -> Tensor:
        """Return pooled states (B, width) as unit vectors (B, projection_dim) in the space shared with images."""
        return functional.normalize(self.text_projection(pooled), dim=-1)

    def knowledge(self, vectors: Tensor) -> Tensor:
        """Return `W e_kg`: entity vectors (..., kg_dim) in the space of token embeddings (..., width). Zero stays zero."""
        return self.kg_projection(vectors)


def layer_states(text_model: Any, embeddings: Tensor) -> list[Tensor]:
    """Return the states (B, length, width) after each layer of transformers' CLIP text transformer, without the final layer norm.

    They start from token embeddings (B, length, width). The mask is causal, as CLIP's is.
    """
    layers, length = text_model.encoder.layers, embeddings.shape[1]
    # transformers 4 asks each layer for a second mask; 5 does not know it
    old = "causal_attention_mask" in inspect.signature(layers[0].forward).parameters
    arguments: dict[str, Any] = {"causal_attention_mask": None, "output_attentions": False} if old else {}
    hidden = text_model.embeddings(inputs_embeds=embeddings)
    mask = torch.full((length, length), float("-inf"), dtype=hidden.dtype, device=hidden.device).triu(1)
    states = []
    for block in layers:
        out = block(hidden, attention_mask=mask[None, None], **arguments)
        hidden = out[0] if isinstance(out, tuple) else out
        states.append(hidden)
    return states


def _check_config(config: dict[str, Any], vocab_size: int) -> None:
    for name, most in _LIMITS.items():
        value = config.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
            raise InputError(f"text encoder: {name}={value!r}, expected an integer from 1 to {most}")
    if config.get("vocab_size") != vocab_size:
        raise InputError(f"text encoder: vocab_size={config.get('vocab_size')!r} but the vocabulary has {vocab_size} tokens")
    if config["hidden_size"] % config["num_attention_heads"]:
        raise InputError(f"text encoder: hidden_size={config['hidden_size']} is not a multiple of {config['num_attention_heads']} heads")


def to_bundle(encoder: TextEncoder, provenance: dict[str, Any] | None = None) -> tuple[dict[str, Tensor], BundleInfo]:
    """Return what :func:`~rapiddraw.core.bundles.format.save_bundle` writes for this encoder (kind `text`), in fp16."""
    info = BundleInfo("text", config=dict(encoder.config), provenance=provenance or {}, extra={"vocabulary": list(encoder.vocabulary)})
    return halved(encoder.state_dict()), info


def check_text_bundle(bundle: Bundle) -> None:
    """Raise :class:`BundleError` unless the sizes in the config are those of the tensors. No memory is allocated, so a false header costs
    nothing.
    """
    config, vocabulary = dict(bundle.info.config), bundle.info.extra.get("vocabulary", [])
    shapes = {key: tuple(tensor.shape) for key, tensor in bundle.tensors.items()}
    try:
        check_vocabulary(vocabulary)
        _check_config(config, len(vocabulary))
        width, layers = config["hidden_size"], config["num_hidden_layers"]
        expected = {
            "text_model.embeddings.token_embedding.weight": (len(vocabulary), width),
            "text_model.embeddings.position_embedding.weight": (config["max_position_embeddings"], width),
            f"text_model.encoder.layers.{layers - 1}.mlp.fc1.weight": (config["intermediate_size"], width),
            "text_projection.weight": (config["projection_dim"], width),
            "kg_projection.weight": (width, config["kg_dim"]),
        }
        for key, shape in expected.items():
            if shapes.get(key) != shape:
                raise InputError(f"tensor {key!r} should have shape {shape}, found {shapes.get(key, 'none')}")
    except (InputError, TypeError) as error:
        raise _no_encoder(bundle, error) from error


def load_text_encoder(bundle: Bundle) -> TextEncoder:
    """Return the encoder in a bundle of kind `text`, in evaluation mode, fp32. Raises :class:`BundleError` where parts do not fit."""
    check_text_bundle(bundle)
    try:
        encoder = TextEncoder(dict(bundle.info.config), bundle.info.extra["vocabulary"])
        encoder.load_state_dict({key: tensor.float() for key, tensor in bundle.tensors.items()})
    except (InputError, TypeError, RuntimeError) as error:
        raise _no_encoder(bundle, error) from error
    return encoder.eval()


def _no_encoder(bundle: Bundle, error: Exception) -> BundleError:
    name = bundle.info.path.name if bundle.info.path else "text bundle"
    return BundleError(f"{name}: its config and its tensors do not make a text encoder ({error})")
