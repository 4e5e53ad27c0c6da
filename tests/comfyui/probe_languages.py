"""Knowledge at the token embeddings of T5, umT5, Qwen, Gemma and Llama inside a ComfyUI process; started as inside.py says.

The tokenizers and encoders are ComfyUI's classes with few layers, narrow, with random weights. umT5's and Gemma's vocabulary comes with a
checkpoint, so a small one is trained here; the vocabulary of Llama is not in every ComfyUI, so Qwen's stands in.
"""

from __future__ import annotations

import io
from typing import Any

from inside import load_pack, write

# isort: split
import comfy.model_management
import comfy.sd
import comfy.sd1_clip
import comfy.supported_models_base
import comfy.text_encoders.flux
import comfy.text_encoders.hunyuan_video
import comfy.text_encoders.lumina2
import comfy.text_encoders.qwen_image
import comfy.text_encoders.wan
import comfy.text_encoders.z_image
import sentencepiece
import torch
from probe_knowledge import INVENTED, WORDS, message

import nodes

CHINESE, FRAMED = "\u5947\u5170\u679c", "texture"  # Qwen-Image's tokenizer says "texture" before every prompt
T5 = {"d_model": 48, "d_ff": 64, "num_layers": 2, "num_heads": 2, "d_kv": 24}
LLAMA = {"hidden_size": 64, "num_hidden_layers": 4, "intermediate_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1}
CLIP_L = {"num_hidden_layers": 2, "intermediate_size": 64}
found: dict[str, Any] = {}


class LlamaWords(comfy.sd1_clip.SDTokenizer):
    """Llama's tokenizer with another vocabulary."""

    def __init__(self, embedding_directory: Any = None, tokenizer_data: Any = None) -> None:
        words = comfy.text_encoders.z_image.Qwen3Tokenizer()
        self.__dict__ |= words.__dict__


class LlamaTokenizer(comfy.sd1_clip.SD1Tokenizer):
    def __init__(self, embedding_directory: Any = None, tokenizer_data: Any = None) -> None:
        super().__init__(tokenizer_data=tokenizer_data or {}, name="llama", tokenizer=LlamaWords)


class LlamaModel(comfy.sd1_clip.SD1ClipModel):
    def __init__(self, device: Any = "cpu", dtype: Any = None, model_options: Any = None) -> None:
        llama = comfy.text_encoders.hunyuan_video.LLAMAModel
        super().__init__(device=device, dtype=dtype, name="llama", clip_model=llama, model_options=model_options or {})


def pieces() -> torch.Tensor:
    """A SentencePiece vocabulary of a few texts."""
    model, texts = io.BytesIO(), [f"a photo of a {word} on a hill and {word}s, (the {word})" for word in (*WORDS, INVENTED)]
    texts += ["\u7ea2\u8272\u5947\u5170\u679c\u5728\u6c99\u5730", "The QUICK brown Fox Jumps over"]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_writer=model, vocab_size=500, hard_vocab_limit=False, byte_fallback=True, minloglevel=2
    )
    return torch.ByteTensor(list(model.getvalue()))


KINDS: dict[str, tuple[Any, Any, dict[str, Any], bool]] = {
    "Flux": (
        comfy.text_encoders.flux.FluxTokenizer,
        comfy.text_encoders.flux.FluxClipModel,
        {"t5xxl_model_config": T5, "clip_l_model_config": CLIP_L},
        False,
    ),
    "Wan": (comfy.text_encoders.wan.WanT5Tokenizer, comfy.text_encoders.wan.WanT5Model, {"umt5xxl_model_config": T5}, True),
    "Z-Image": (
        comfy.text_encoders.z_image.ZImageTokenizer,
        comfy.text_encoders.z_image.ZImageTEModel,
        {"qwen3_4b_model_config": LLAMA},
        False,
    ),
    "Qwen-Image": (
        comfy.text_encoders.qwen_image.QwenImageTokenizer,
        comfy.text_encoders.qwen_image.QwenImageTEModel,
        {"qwen25_7b_model_config": LLAMA},
        False,
    ),
    "Lumina 2": (
        comfy.text_encoders.lumina2.LuminaTokenizer,
        comfy.text_encoders.lumina2.LuminaModel,
        {"gemma2_2b_model_config": LLAMA},
        True,
    ),
    "Llama": (LlamaTokenizer, LlamaModel, {"llama_model_config": {**LLAMA, "vocab_size": 152000}}, False),
}


def build(kind: str) -> Any:
    """A CLIP of that kind with random weights."""
    tokenizer, model, sizes, own_pieces = KINDS[kind]
    data = {"spiece_model": pieces()} if own_pieces else {}
    if own_pieces:
        sizes = {key: {**value, "vocab_size": 600} for key, value in sizes.items()}
    target = comfy.supported_models_base.ClipTarget(tokenizer, model)
    clip = comfy.sd.CLIP(target, tokenizer_data=data, model_options={"dtype": torch.float32, **sizes})
    generator = torch.Generator().manual_seed(0)
    for name, parameter in clip.cond_stage_model.named_parameters():
        if "visual" in name:
            continue
        if parameter.dim() > 1:
            parameter.data.normal_(std=0.05, generator=generator)
        else:
            parameter.data.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.0)
    return clip


def graph_of(ours: Any) -> Any:
    """The words, an invented name with a Chinese one, and a word that stands in Qwen-Image's own text."""
    names = [*WORDS, INVENTED, FRAMED]
    aliases = [(f"thing:{name}", "en", name) for name in names] + [(f"thing:{INVENTED}", "zh", CHINESE)]
    graph = ours("core.knowledge.graph").build_graph([(f"thing:{name}", "is_a", "thing") for name in names], aliases)
    rows = torch.zeros(len(graph.entities), 8)
    rows[[graph.index[f"thing:{name}"] for name in names]] = torch.randn(len(names), 8, generator=torch.Generator().manual_seed(1))
    return graph.with_embeddings(rows)


TEXTS = {
    "plain": f"a photo of a {INVENTED} on a hill", "first": f"{INVENTED} on a hill", "capital": f"The {INVENTED.title()}.",
    "shouted": f"a {INVENTED.upper()}!", "bracket": f"a hill ({INVENTED})", "chinese": f"\u7ea2\u8272{CHINESE}\u5728\u6c99\u5730",
    "part of a word": f"a {INVENTED}s hill", "frame": "a hill", "two": f"a cat and a {INVENTED}",
}  # fmt: skip


def check(kind: str, ours: Any, host: Any, graph: Any) -> dict[str, Any]:
    """What knowledge does in one kind of CLIP."""
    clip = build(kind)
    apply = nodes.NODE_CLASS_MAPPINGS["RapidDrawApplyKnowledge"]().execute
    encode_with = nodes.NODE_CLASS_MAPPINGS["RapidDrawKGTextEncode"]().execute
    fit = nodes.NODE_CLASS_MAPPINGS["RapidDrawFitKnowledgeProjection"]().execute
    said: dict[str, Any] = {"unfitted": message(lambda: apply(clip, graph, 1.0))}
    carrying, _, saved = fit(clip, graph, 0.1, 0.2, 0, "en", 8, 0, f"{kind.replace(' ', '-')}", ",".join(WORDS))
    projection = carrying.tokenizer.reader.projection
    informed, silent = apply(clip, graph, 1.0, saved)[0], apply(clip, graph, 0.0, saved)[0]
    said["widths"] = {key: weight.shape[0] for key, weight in projection.weights.items()}
    said["tables"] = {space.key: space.width for space in host.knowledge.reader_of(clip).spaces}
    said["links"] = {name: len(host.knowledge.encode_with_links(informed, text)[1]) for name, text in TEXTS.items()}
    plain, told = (host.clip.encode(one, TEXTS["plain"])[0][0] for one in (clip, informed))
    said["tokens moved"], said["same shape"] = float((told - plain).abs().max()), plain.shape == told.shape
    said["scale 0"] = bool(torch.equal(host.clip.encode(silent, TEXTS["plain"])[0][0], plain))
    for name, text in (("no entity", "a small hill"), ("empty", "")):
        said[name] = bool(torch.equal(host.clip.encode(informed, text)[0][0], host.clip.encode(clip, text)[0][0]))
    said["node"] = bool(torch.equal(encode_with(clip, graph, TEXTS["plain"], "{object}", 1.0, saved)[0][0][0], told))
    said["equation"] = equation(clip, informed, graph, projection)
    said["old"] = without_language(clip, graph, projection, ours, host) if kind == "Flux" else None
    return said


def equation(clip: Any, informed: Any, graph: Any, projection: Any) -> bool:
    """Whether each token of the name is its embedding plus W e_kg, and every other token stays its id."""
    bare, rows, holds = clip.tokenize(TEXTS["plain"]), informed.tokenize(TEXTS["plain"]), True
    for space in informed.tokenizer.reader.spaces:
        changed = [i for i, token in enumerate(rows[space.key][0]) if torch.is_tensor(token[0])]
        extra = projection.weights[space.key] @ graph.vector(f"thing:{INVENTED}")
        for place in changed:
            wanted = space.embed([bare[space.key][0][place][0]])[0] + extra
            holds &= bool(torch.allclose(rows[space.key][0][place][0], wanted, atol=1e-6))
        holds &= bool(changed) and changed == list(range(changed[0], changed[-1] + 1))
        others = [pair for i, pair in enumerate(zip(rows[space.key][0], bare[space.key][0], strict=True)) if i not in changed]
        holds &= all(one == other for one, other in others)
    return holds


def without_language(clip: Any, graph: Any, projection: Any, ours: Any, host: Any) -> list[Any]:
    """A projection of before, for CLIP-L alone, still attaches, and informs CLIP-L alone."""
    only = ours("core.knowledge.projection").Projection({"l": projection.weights["l"]}, projection.graph, {}, "old")
    rows = host.knowledge.attach(clip, graph, 1.0, only).tokenize(TEXTS["plain"])
    return [any(torch.is_tensor(token[0]) for token in rows[key][0]) for key in ("l", "t5xxl")]


def run() -> None:
    ours = load_pack()
    host, graph = ours("core.host").current(), graph_of(ours)
    with torch.inference_mode():
        for kind in KINDS:
            found[kind] = check(kind, ours, host, graph)
            comfy.model_management.unload_all_models()
    write(found)


run()
