"""Causal language model of a few hundred thousand parameters that turns short prompts into detailed ones.

PanGu-Draw (section 7) fine-tunes a large language model for this. Ours is transformers' GPT-2 with a word vocabulary of its own. Words that
are not in the vocabulary, and terms that must stay as they are, become slots, which the model copies:

    [en] a <0> on sand [SEP] a photo of a large <0> on sand by day [END]

So no name is ever misspelled, whether the model has seen it or not.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ..bundles.format import Bundle, BundleInfo
from ..errors import BundleError, InputError
from ..language import is_cjk
from .protect import Span

SLOTS = 8
LANGUAGES = ("en", "zh")
PAD, SEP, END = "[PAD]", "[SEP]", "[END]"
SPECIALS = (PAD, SEP, END, *(f"[{language}]" for language in LANGUAGES), *(f"<{slot}>" for slot in range(SLOTS)))
MAX_VOCABULARY = 65536
MAX_TOKENS = 512
_LIMITS = {"n_embd": 2048, "n_layer": 48, "n_head": 64, "n_positions": MAX_TOKENS}
_TOKEN = re.compile("[a-zA-Z]+|[0-9]+|[^\\sa-zA-Z0-9]")
_TIGHT = ",.;:!?)\uff0c\u3002\uff1b\uff1a\uff01\uff1f\u3001"


@dataclass(frozen=True)
class Pair:
    """A short prompt and the detailed one that it becomes. `keep` are the terms of both that a model copies instead of spelling."""

    short: str
    long: str
    language: str
    keep: tuple[str, ...] = ()


class PromptModel(nn.Module):
    """The network and its words. `config` holds the arguments of a GPT2Config, `vocabulary` the tokens in id order."""

    def __init__(self, config: dict[str, Any], vocabulary: Sequence[str]) -> None:
        super().__init__()
        from transformers import GPT2Config, GPT2LMHeadModel

        check_vocabulary(vocabulary)
        _check_config(config, len(vocabulary))
        self.config, self.vocabulary = dict(config), list(vocabulary)
        self.ids = {token: index for index, token in enumerate(self.vocabulary)}
        self.network = GPT2LMHeadModel(GPT2Config(**config, vocab_size=len(vocabulary), bos_token_id=None, eos_token_id=self.ids[END]))

    @property
    def length(self) -> int:
        """The most tokens that a short and a long prompt may have together."""
        return int(self.config["n_positions"])

    def encode(self, text: str, spans: Sequence[Span] = (), slots: list[str] | None = None) -> list[int] | None:
        """Return the ids of `text`; `None` where it needs more slots than there are.

        The texts of `spans`, and every run of words that the vocabulary lacks, become slots. `slots` collects their texts, so a second text
        shares the slots of the first.
        """
        slots = [] if slots is None else slots
        ids: list[int] = []
        unknown: Span | None = None
        for span, token in pieces(text, spans):
            index = None if token is None else self.ids.get(token.lower())
            if index is None and token is not None and unknown is not None:
                unknown = Span(unknown.start, span.end)  # neighbours that are both unknown go into one slot
                continue
            if unknown is not None:
                ids.append(self._slot(text[unknown.start : unknown.end], slots))
                unknown = None
            if index is not None:
                ids.append(index)
            elif token is None:
                ids.append(self._slot(text[span.start : span.end], slots))
            else:
                unknown = span
        if unknown is not None:
            ids.append(self._slot(text[unknown.start : unknown.end], slots))
        return None if len(slots) > SLOTS else ids

    def _slot(self, term: str, slots: list[str]) -> int:
        if term not in slots:
            slots.append(term)
        return self.ids[f"<{min(slots.index(term), SLOTS - 1)}>"]

    def question(self, ids: Sequence[int], language: str) -> list[int]:
        """Return what stands before the answer: the language of the answer, the short prompt, and the sign that it has ended."""
        return [self.ids[f"[{language}]"], *ids, self.ids[SEP]]

    def pair(self, pair: Pair, rng: random.Random | None = None) -> tuple[list[int], int] | None:
        """Return the ids of a pair for training and where its answer begins; `None` where the pair does not fit into :attr:`length`.

        With `rng` the slots are numbered at random, so all of them are learned although few prompts have more than two.
        """
        slots: list[str] = []
        short = self.encode(pair.short, spans_of(pair.short, pair.keep), slots)
        long = self.encode(pair.long, spans_of(pair.long, pair.keep), slots)
        if short is None or long is None:
            return None
        question = self.question(short, pair.language)
        whole = [*question, *long, self.ids[END]]
        if rng is not None:
            numbers = [self.ids[f"<{slot}>"] for slot in range(SLOTS)]
            other = dict(zip(numbers, rng.sample(numbers, SLOTS), strict=True))
            whole = [other.get(index, index) for index in whole]
        return (whole, len(question)) if len(whole) <= self.length else None

    def decode(self, ids: Iterable[int], slots: Sequence[str], language: str) -> str:
        """Return the text of an answer's ids up to its end, without slots that the question did not have."""
        words: list[str] = []
        for index in ids:
            token = self.vocabulary[index]
            if token == END:
                break
            slot = re.fullmatch("<(\\d)>", token)
            if slot is not None:
                words += [slots[int(slot[1])]] if int(slot[1]) < len(slots) else []
            elif token not in SPECIALS:
                words.append(token)
        return join(words, language)


def pieces(text: str, spans: Sequence[Span]) -> list[tuple[Span, str | None]]:
    """Return `text` cut into words, numbers, and single characters of everything else. A span of `spans` is one piece whose token is
    `None`.
    """
    found: list[tuple[Span, str | None]] = []
    at = 0
    for span in [*spans, Span(len(text), len(text))]:
        found += [(Span(match.start(), match.end()), match[0]) for match in _TOKEN.finditer(text, at, span.start)]
        if span.end > span.start:
            found.append((span, None))
        at = span.end
    return found


def spans_of(text: str, terms: Sequence[str]) -> list[Span]:
    """Return where `terms` stand in `text`, longer ones first, without overlaps."""
    found: list[Span] = []
    for term in sorted(dict.fromkeys(terms), key=len, reverse=True):
        for match in re.finditer(re.escape(term), text):
            if all(match.end() <= other.start or match.start() >= other.end for other in found):
                found.append(Span(match.start(), match.end()))
    return sorted(found, key=lambda span: span.start)


def join(words: Sequence[str], language: str) -> str:
    """Return words as a text.

    There are spaces between words in Latin script, none between Chinese characters or before a comma. Where the two scripts meet there is a
    space in English and none in Chinese.
    """
    text = ""
    for word in words:
        chinese = int(bool(text) and is_cjk(text[-1])) + int(is_cjk(word[0]))
        apart = bool(text) and (not chinese or (chinese == 1 and language == "en"))
        text += f" {word}" if apart and word[0] not in _TIGHT and text[-1] not in "(\uff0c\u3002" else word
    return text


def build_vocabulary(pairs: Iterable[Pair]) -> list[str]:
    """Return the tokens that `pairs` need, in id order: :data:`SPECIALS`, then words by how often they occur. Kept terms are no words."""
    counts: dict[str, int] = {}
    for pair in pairs:
        for text in (pair.short, pair.long):
            for _, token in pieces(text, spans_of(text, pair.keep)):
                if token is not None:
                    counts[token.lower()] = counts.get(token.lower(), 0) + 1
    words = sorted(counts, key=lambda word: (-counts[word], word))
    return [*SPECIALS, *(word for word in words if word not in SPECIALS)][:MAX_VOCABULARY]


def default_config(**changes: Any) -> dict[str, Any]:
    """Return the arguments of a GPT2Config: width 96, 3 layers, 4 heads, 96 tokens; about 0.36 M parameters with 200 words."""
    return {"n_embd": 96, "n_layer": 3, "n_head": 4, "n_positions": 96, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0} | changes


def check_vocabulary(vocabulary: Sequence[str]) -> None:
    """Raise :class:`InputError` unless `vocabulary` is a list of distinct tokens that begins with :data:`SPECIALS`."""
    if not isinstance(vocabulary, list | tuple) or not all(isinstance(t, str) and 0 < len(t) <= 64 for t in vocabulary):
        raise InputError("a vocabulary is a list of strings of 1 to 64 characters, in id order")
    if tuple(vocabulary[: len(SPECIALS)]) != SPECIALS or len(set(vocabulary)) != len(vocabulary) or len(vocabulary) > MAX_VOCABULARY:
        raise InputError(f"a prompt vocabulary begins with {' '.join(SPECIALS)} and holds at most {MAX_VOCABULARY} distinct tokens")


def _check_config(config: dict[str, Any], size: int) -> None:
    for name, most in _LIMITS.items():
        value = config.get(name)
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
            raise InputError(f"prompt model: {name}={value!r} is not a whole number from 1 to {most}")
    unknown = set(config) - set(default_config())
    if unknown or config["n_embd"] % config["n_head"]:
        raise InputError(f"prompt model: unknown settings {sorted(unknown)}, or n_embd is not a multiple of n_head")


def to_bundle(model: PromptModel, provenance: dict[str, Any] | None = None) -> tuple[dict[str, Tensor], BundleInfo]:
    """Return what :func:`~rapiddraw.core.bundles.format.save_bundle` writes for this model (kind `prompt`), in fp16.

    The head shares the embedding."""
    info = BundleInfo("prompt", config=dict(model.config), provenance=provenance or {}, extra={"vocabulary": list(model.vocabulary)})
    tensors = {name: tensor.half() for name, tensor in model.network.state_dict().items() if name != "lm_head.weight"}
    return tensors, info


def load_prompt_model(bundle: Bundle) -> PromptModel:
    """Return the model in a bundle of kind `prompt`, in evaluation mode, fp32. Raises :class:`BundleError` where parts do not fit."""
    name = bundle.info.path.name if bundle.info.path else "prompt bundle"
    vocabulary, config = bundle.info.extra.get("vocabulary", []), dict(bundle.info.config)
    try:
        check_vocabulary(vocabulary)
        _check_config(config, len(vocabulary))
        # Sizes are compared before anything is allocated: a header that lies costs nothing.
        shapes = {key: tuple(tensor.shape) for key, tensor in bundle.tensors.items()}
        layers = sum(key.endswith("ln_1.weight") for key in shapes)
        expected = {
            "transformer.wte.weight": (len(vocabulary), config["n_embd"]),
            "transformer.wpe.weight": (config["n_positions"], config["n_embd"]),
        }
        if layers != config["n_layer"] or any(shapes.get(key) != shape for key, shape in expected.items()):
            raise InputError(f"{layers} layers, and embeddings {[shapes.get(key) for key in expected]} where {list(expected.values())} fit")
        model = PromptModel(config, vocabulary)
        tensors = {key: tensor.float() for key, tensor in bundle.tensors.items()}
        model.network.load_state_dict({**tensors, "lm_head.weight": tensors["transformer.wte.weight"]})
    except (InputError, TypeError, KeyError, RuntimeError) as error:
        raise BundleError(f"{name}: its config and its tensors do not make a prompt model ({error})") from error
    return model.eval().requires_grad_(False)
