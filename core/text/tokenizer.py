"""Small bilingual WordPiece vocabulary of the project's own, read by transformers' BertTokenizer.

English words that captions use are whole tokens. Invented names fall apart into syllables (`mirado` -> `mi ##ra ##do`), so a name that no
caption ever held is still spelled with known pieces. Chinese has one token for each character. Every Latin letter and digit is a token, at
the start of a word and inside it, so no English text is ever unknown.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..language import is_cjk, is_text

if TYPE_CHECKING:
    import torch
    from transformers import BertTokenizer

PAD, UNK, START, END, MASK = SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
CONTEXT_LENGTH = 32
MAX_VOCABULARY = 65536
_WORD = re.compile(r"[a-z0-9]+")


def normalise(text: str) -> str:
    """Return `text` in lower case, NFC, without accents: what BertTokenizer's own normaliser does to a prompt."""
    plain = (c for c in unicodedata.normalize("NFD", text.lower()) if unicodedata.category(c) != "Mn")
    return unicodedata.normalize("NFC", "".join(plain))


def name_pieces(words: Iterable[str]) -> list[str]:
    """Return the syllables of which invented Latin names are made: strings of 2 to 5 letters that many names share.

    Longer ones are taken first, and a shorter one only where it is frequent *outside* those (`quel` is a piece, `uel` is not).
    """
    distinct = set(words)
    distinct -= {word + "s" for word in distinct}  # a plural says nothing new and would make pieces of its own
    counts: Counter[str] = Counter()
    for word in distinct:
        counts.update({word[i : i + n] for n in range(2, 6) for i in range(len(word) - n + 1)})
    least = max(3.0, 0.02 * len(distinct))
    chosen: dict[str, int] = {}
    for piece in sorted(counts, key=lambda piece: (-len(piece), piece)):
        if counts[piece] - sum(count for longer, count in chosen.items() if piece in longer) >= least:
            chosen[piece] = counts[piece]
    return sorted(chosen)


def build_vocabulary(texts: Iterable[str], names: Iterable[str] = (), limit: int = 800, latin: bool = True) -> list[str]:
    """Return the tokens, in id order, for captions `texts` in which `names` must be spelled, not memorised.

    Special tokens come first (`[PAD]` 0, `[UNK]` 1, `[CLS]` 2, `[SEP]` 3, `[MASK]` 4), then letters and digits, punctuation, Chinese
    characters, syllables of the names, and the most frequent words while there is room. Without `latin` there are no letters and digits, so
    an English word is one `[UNK]`, as an encoder of Chinese alone reads it. Raises :class:`InputError` where the tokens that cannot be left
    out exceed `limit`.
    """
    if not 128 <= limit <= MAX_VOCABULARY:
        raise InputError(f"limit={limit}: a vocabulary has between 128 and {MAX_VOCABULARY} tokens")
    words: Counter[str] = Counter()
    singles: set[str] = set()
    name_words = {word for name in names for word in _words_and_singles(name, singles)}
    for text in texts:
        words.update(_words_and_singles(text, singles))
    pieces = name_pieces(name_words)
    tokens: dict[str, None] = dict.fromkeys(SPECIALS)
    letters = string.ascii_lowercase + string.digits if latin else ""
    for group in (
        (c for c in letters),
        ("##" + c for c in letters),
        sorted(c for c in string.punctuation),
        sorted(singles),
        pieces if latin else (),
        ("##" + piece for piece in pieces if latin),
    ):
        tokens.update(dict.fromkeys(group))
    if len(tokens) > limit:
        raise InputError(f"{len(tokens)} characters and name pieces do not fit a vocabulary of {limit}: raise the limit")
    for word, _ in sorted(words.items(), key=lambda item: (-item[1], item[0])):
        if len(tokens) >= limit:
            break
        if latin and word not in name_words:
            tokens[word] = None
    return list(tokens)


def _words_and_singles(text: str, singles: set[str]) -> list[str]:
    text = normalise(text)
    singles.update(c for c in text if is_cjk(c) or (ord(c) > 127 and unicodedata.category(c).startswith("P")))
    return _WORD.findall(text)


def check_vocabulary(vocabulary: Sequence[str]) -> None:
    """Raise :class:`InputError` unless `vocabulary` is a list of distinct tokens that begins with :data:`SPECIALS`."""
    if not isinstance(vocabulary, list | tuple) or not all(isinstance(t, str) and 0 < len(t) <= 64 and is_text(t) for t in vocabulary):
        raise InputError("a vocabulary is a list of strings of 1 to 64 characters, in id order, without lone surrogates")
    if len(vocabulary) > MAX_VOCABULARY or tuple(vocabulary[: len(SPECIALS)]) != SPECIALS:
        raise InputError(f"a vocabulary begins with {' '.join(SPECIALS)} and has at most {MAX_VOCABULARY} tokens")
    if len(set(vocabulary)) != len(vocabulary):
        raise InputError("the vocabulary holds a token twice; ids would be ambiguous")


def make_tokenizer(vocabulary: Sequence[str]) -> BertTokenizer:
    """Return transformers' BertTokenizer over `vocabulary`: lower-casing, Chinese characters split, `[CLS] ... [SEP]` around a text."""
    from transformers import BertTokenizer

    check_vocabulary(vocabulary)
    ids: Any = {token: index for index, token in enumerate(vocabulary)}
    return BertTokenizer(vocab=ids, model_max_length=CONTEXT_LENGTH)


def save_tokenizer(vocabulary: Sequence[str], folder: str | Path) -> Path:
    """Write a folder that `BertTokenizer.from_pretrained(folder)` reads, which is how ComfyUI makes its tokenizers."""
    make_tokenizer(vocabulary).save_pretrained(str(folder))
    Path(folder, "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    return Path(folder)


def encode_texts(tokenizer: BertTokenizer, texts: Sequence[str], length: int = CONTEXT_LENGTH) -> torch.Tensor:
    """Return token ids (len(texts), length) long: start, text, end, then padding. A longer text is cut before its end token."""
    import torch

    rows = tokenizer(list(texts), padding="max_length", truncation=True, max_length=length)["input_ids"]
    return torch.tensor(rows, dtype=torch.long).reshape(len(texts), length)
