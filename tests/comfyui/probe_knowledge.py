"""What probe.py asks of knowledge on the user's own CLIP: the classes of SD 1.5, SDXL and its refiner, few layers, random weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.sd
import comfy.sd1_clip
import comfy.sdxl_clip
import comfy.supported_models_base
import torch

WORDS = (
    "cat", "dog", "wolf", "fox", "horse", "sheep", "goat", "lion", "tiger", "bear", "mouse", "rabbit", "eagle", "owl", "swan", "duck",
    "whale", "shark", "crab", "snake", "apple", "lemon", "cherry", "peach", "onion", "garlic", "bread", "cheese", "butter", "sugar",
)  # fmt: skip
# One token each; the graph's vectors say where their embeddings lie.
INVENTED, DIM, SILENT = "quelnampe", 8, "silento"
SIZES = {"num_hidden_layers": 3, "intermediate_size": 64}


class RefinerTokenizer(comfy.sdxl_clip.SDXLTokenizer):
    """What ComfyUI gives the refiner: SDXL's tokenizer, of which only `g` is read."""


KINDS: dict[str, tuple[type, type, Any]] = {
    "SD 1.5": (comfy.sd1_clip.SD1Tokenizer, comfy.sd1_clip.SD1ClipModel, torch.float32),
    "SD 1.5 in half": (comfy.sd1_clip.SD1Tokenizer, comfy.sd1_clip.SD1ClipModel, torch.float16),
    "SDXL": (comfy.sdxl_clip.SDXLTokenizer, comfy.sdxl_clip.SDXLClipModel, torch.float32),
    "SDXL refiner": (RefinerTokenizer, comfy.sdxl_clip.SDXLRefinerClipModel, torch.float32),
}


def build(kind: str) -> Any:
    """A CLIP of that kind, full widths and vocabulary, three layers."""
    tokenizer, model, dtype = KINDS[kind]
    options = {"dtype": dtype, "clip_l_model_config": SIZES, "clip_g_model_config": SIZES}
    clip = comfy.sd.CLIP(comfy.supported_models_base.ClipTarget(tokenizer, model), model_options=options)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in clip.cond_stage_model.named_parameters():
        if parameter.dim() > 1:
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.05)
        else:
            parameter.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.0)
    return clip


def encoders(clip: Any) -> dict[str, Any]:
    return {name.removeprefix("clip_"): child for name, child in clip.cond_stage_model.named_children()}


def teach(clip: Any, vectors: torch.Tensor) -> dict[str, torch.Tensor]:
    """Make each encoder's embedding of a word `W e_kg`, by a W of its own. Returns the W by encoder."""
    truth = {}
    for seed, (key, encoder) in enumerate(encoders(clip).items()):
        tokenizer = getattr(clip.tokenizer, f"clip_{key}").tokenizer
        table = encoder.transformer.get_input_embeddings().weight
        truth[key] = torch.randn(table.shape[1], DIM, generator=torch.Generator().manual_seed(seed + 7)) * 0.02
        for word, vector in zip(WORDS, vectors, strict=False):
            (token,) = tokenizer(word, add_special_tokens=False)["input_ids"]
            table[token] = (truth[key] @ vector).to(table.dtype)
    return truth


def make_graph(ours: Callable[[str], Any]) -> tuple[Any, torch.Tensor]:
    """Entities of the words' names, one of an invented name, and one with a name but nothing known of it."""
    names = [*WORDS, INVENTED]
    statements = [(f"thing:{name}", "is_a", "thing") for name in names]
    aliases = [(f"thing:{name}", "en", name) for name in names] + [
        ("silent", "en", SILENT),
        (f"thing:{INVENTED}", "zh", "\u5947\u5170\u679c"),
    ]
    graph = ours("core.knowledge.graph").build_graph(statements, aliases)
    vectors = torch.randn(len(names), DIM, generator=torch.Generator().manual_seed(1))
    rows = torch.zeros(len(graph.entities), DIM)
    rows[[graph.index[f"thing:{name}"] for name in names]] = vectors
    return graph.with_embeddings(rows), vectors


def same(one: Any, other: Any) -> bool:
    """Whether two conditionings are equal bit for bit."""
    ((cond, more),), ((cond2, more2),) = one, other
    return bool(torch.equal(cond, cond2) and torch.equal(more["pooled_output"], more2["pooled_output"]))


def check(host: Any, ours: Callable[[str], Any], node_classes: dict[str, type], folder: Path) -> dict[str, Any]:
    """By kind of CLIP, a dict of what was found; `errors` holds messages."""
    ours("core.paths").set_dirs(output=folder / "made")
    graph, vectors = make_graph(ours)
    found: dict[str, Any] = {"errors": {}}
    for kind in KINDS:
        clip = build(kind)
        found[kind] = check_kind(host, node_classes, graph, vectors, clip, kind, found["errors"])
        comfy.model_management.unload_all_models()
    return found


def message(call: Callable[[], Any]) -> str:
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


def check_kind(
    host: Any, node_classes: dict[str, type], graph: Any, vectors: torch.Tensor, clip: Any, kind: str, errors: dict[str, str]
) -> dict[str, Any]:
    fit = node_classes["RapidDrawFitKnowledgeProjection"]()
    apply = node_classes["RapidDrawApplyKnowledge"]().execute
    errors[f"{kind}, no fit"] = message(lambda: apply(clip, graph, 1.0))
    truth = teach(clip, vectors)
    name = f"{kind.replace(' ', '-')}.safetensors"
    own = ",".join(WORDS)
    carrying, report, saved = fit.execute(clip, graph, 0.0, 0.2, 0, "en", 4, 0, f"mine/{name}", own)
    projection = carrying.tokenizer.reader.projection
    informed = apply(clip, graph, 1.0, saved)[0]
    if kind != "SD 1.5":
        errors[f"{kind}, of SD 1.5"] = message(lambda: apply(clip, graph, 1.0, "mine/SD-1.5.safetensors"))
    errors[f"{kind}, another graph"] = message(lambda: apply(clip, graph.with_embeddings(graph.embeddings + 1.0), 1.0, saved))

    named, plain = f"a photo of a {INVENTED} on a hill", encoders(clip)
    rows = {key: informed.tokenize(named)[key] for key in plain}
    bare = {key: clip.tokenize(named)[key] for key in plain}
    vector = graph.vector(f"thing:{INVENTED}")
    exact, places = True, {}
    for key, encoder in plain.items():
        table = encoder.transformer.get_input_embeddings().weight
        places[key] = [i for i, token in enumerate(rows[key][0]) if torch.is_tensor(token[0])]
        for i in places[key]:
            exact &= torch.equal(rows[key][0][i][0], table[bare[key][0][i][0]].float() + projection.weights[key] @ vector)
        exact &= all(a == b for i, (a, b) in enumerate(zip(rows[key][0], bare[key][0], strict=True)) if i not in places[key])
    encode = host.clip.encode
    before, after = encode(clip, named), encode(informed, named)
    first = min(places[next(iter(places))])
    long = "a small hill, " * 25 + named
    long_before, long_after = encode(clip, long)[0][0], encode(informed, long)[0][0]
    weighted = [
        "".join(str(token[1]) for token in row if torch.is_tensor(token[0]))
        for row in informed.tokenize(f"a ({INVENTED}:1.3)")[next(iter(plain))]
    ]
    skipped, plain_skipped = informed.clone(), clip.clone()
    skipped.clip_layer(-3)
    plain_skipped.clip_layer(-3)
    tokens = informed.tokenize(named)
    extended = node_classes["RapidDrawExtendKnowledgeGraph"]().execute(graph, "blumo, is_a, thing")[0]
    grown = apply(clip, extended, 1.0, saved)[0]
    return {
        "extended": [not same(encode(grown, "a blumo"), encode(clip, "a blumo")), same(encode(grown, named), after)],
        "report": report,
        "saved": saved,
        "widths": {key: list(weight.shape) for key, weight in projection.weights.items()},
        "recovered": max(float((projection.weights[key] - truth[key]).norm() / truth[key].norm()) for key in truth),
        "carried_is_saved": same(encode(apply(carrying, graph, 1.0)[0], named), after),
        "scale 0": same(encode(apply(clip, graph, 0.0, saved)[0], named), before),
        "no entity": same(encode(informed, "a small hill"), encode(clip, "a small hill")),
        "empty": same(encode(informed, ""), encode(clip, "")),
        "without a vector": same(encode(informed, f"a {SILENT}"), encode(clip, f"a {SILENT}")),
        "equation": bool(exact),
        "places": places,
        "unchanged before the name": bool(torch.equal(before[0][0][:, :first], after[0][0][:, :first])),
        "changed at the name": float((before[0][0][:, first] - after[0][0][:, first]).abs().max()),
        "pooled changed": float((before[0][1]["pooled_output"] - after[0][1]["pooled_output"]).abs().max()),
        "rows": long_before.shape[1] // 77,
        "first row equal": bool(torch.equal(long_before[:, :77], long_after[:, :77])),
        "last row changed": float((long_before[:, 77:] - long_after[:, 77:]).abs().max()),
        "weight kept": weighted[0],
        "spelled right": [len(host.knowledge.encode_with_links(informed, text)[1]) for text in SPELLINGS] == LINKS,
        "skip": same(encode(skipped, named), plain_skipped.encode_from_tokens_scheduled(tokens))
        and not same(encode(skipped, named), after),
        "lora": check_lora(clip, informed, lambda one: apply(one, graph, 1.0, saved)[0], lambda one: encode(one, named)),
        "source unchanged": same(encode(clip, named), before) and type(clip.tokenizer).__name__ != "KnowledgeTokenizer",
        "managed": any(one.model is informed.patcher or one.model.model is clip.cond_stage_model for one in loaded()),
    }


SPELLINGS = (
    INVENTED, INVENTED.upper(), INVENTED.title(), f"a {INVENTED},", f"({INVENTED}:1.2)", f"{INVENTED}'s", f"the {INVENTED} and the Cat!",
    f"{INVENTED}s", f"x{INVENTED}", "quel nampe", "\u7ea2\u8272\u5947\u5170\u679c\u5728\u6c99\u5730", "!!! ! !!",
)  # fmt: skip
LINKS = [1, 1, 1, 1, 1, 1, 2, 0, 0, 0, 1, 0]
"""Texts, and how many entities each names."""


def check_lora(clip: Any, informed: Any, attach: Any, encode: Any) -> dict[str, bool]:
    """A LoRA before the graph, and after it."""
    patches = {}
    for key, weight in clip.cond_stage_model.state_dict().items():
        if key.endswith("layers.0.mlp.fc1.weight"):
            patches[key] = (torch.randn(weight.shape, generator=torch.Generator().manual_seed(3)) * 0.2,)

    def patched(one: Any) -> Any:
        one = one.clone()
        one.add_patches(patches, 1.0)
        return one

    early, late, without = encode(attach(patched(clip))), encode(patched(informed)), encode(informed)
    return {"any order": same(early, late), "matters": not same(early, without), "gone again": same(encode(informed), without)}


def loaded() -> list[Any]:
    return comfy.model_management.current_loaded_models
