"""Names in the tokens of tokenizers that keep case and spaces: SentencePiece and byte pairs, with small vocabularies made here."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from rapiddraw.core.errors import KnowledgeError
from rapiddraw.core.knowledge.attach import KnowledgeReader, TokenSpace
from rapiddraw.core.knowledge.graph import KnowledgeGraph, build_graph
from rapiddraw.core.knowledge.linking import EntityLink
from rapiddraw.core.knowledge.pieces import _LETTERS, BYTES, SENTENCE, PieceLinker, mark_of, without_frame
from rapiddraw.core.knowledge.projection import Projection

CHINESE = "\u5947\u5170\u679c"
WORDS = ["pear", "Pear", "hill", "the", "on", "PE", "AR", "s", "!", "(", ")", "<", "p", "e", "a", "r"]


class Tokenizer:
    """Longest match over a vocabulary; `letters` writes a text the way the vocabulary does."""

    def __init__(self, vocabulary: list[str], mark: str) -> None:
        self.vocabulary, self.mark = {token: i for i, token in enumerate(vocabulary)}, mark

    def get_vocab(self) -> dict[str, int]:
        return self.vocabulary

    def __call__(self, text: str) -> dict[str, list[int]]:
        if self.mark == SENTENCE:
            text = " " + text.strip() if text.strip() else ""
            letters = text.replace(" ", SENTENCE)
        else:
            back = {byte: letter for letter, byte in _LETTERS.items()}
            letters = "".join(back[byte] for byte in text.encode())
        ids = []
        while letters:
            token = next((letters[:n] for n in range(len(letters), 0, -1) if letters[:n] in self.vocabulary), None)
            ids.append(self.vocabulary["<unk>"] if token is None else self.vocabulary[token])
            letters = letters[len(token or "x") :]
        return {"input_ids": [*ids, self.vocabulary["</s>"]]}


def vocabulary(mark: str) -> list[str]:
    own = list(CHINESE) if mark == SENTENCE else list(_LETTERS)
    return list(dict.fromkeys(["<pad>", "</s>", "<unk>", *own, mark, *WORDS, *(mark + word for word in WORDS)]))


@pytest.fixture(params=[SENTENCE, BYTES], ids=["sentence pieces", "byte pairs"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    # Thirty more words, so that a share of the vocabulary begins a word, as it does in a real one.
    return Tokenizer([*vocabulary(request.param), *(f"{request.param}word{i}" for i in range(30))], request.param)


def graph() -> KnowledgeGraph:
    built = build_graph([("thing:pear", "is_a", "thing")], [("thing:pear", "en", "pear"), ("thing:pear", "zh", CHINESE)])
    return built.with_embeddings(torch.ones(len(built.entities), 3))


def rows(tokenizer: Tokenizer, text: str) -> list[list[tuple[Any, ...]]]:
    return [[(token, 1.0) for token in tokenizer(text)["input_ids"]]]


def test_the_kind_of_a_vocabulary_is_seen(tokenizer: Tokenizer) -> None:
    assert mark_of(tokenizer.get_vocab()) == tokenizer.mark
    assert mark_of({f"word{i}</w>": i for i in range(100)}) is None and mark_of({f"##{i}": i for i in range(100)}) is None


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("the pear on", 1),
        ("pear", 1),
        ("Pear!", 1),
        ("the PEAR", 1),
        ("(pear)", 1),
        ("the pears", 0),
        ("the hill", 0),
        ("", 0),
        ("pear pear", 2),
    ],
)
def test_names_are_found_in_any_case_and_as_whole_words(tokenizer: Tokenizer, text: str, count: int) -> None:
    found = PieceLinker(graph(), tokenizer, tokenizer.mark).link(rows(tokenizer, text))
    assert len(found) == count and all(link.entity == "thing:pear" for link in found)


def test_the_tokens_of_a_name_and_no_others_are_covered(tokenizer: Tokenizer) -> None:
    before, name = (len(tokenizer(text)["input_ids"]) - 1 for text in ("the", " PEAR"))
    (link,) = PieceLinker(graph(), tokenizer, tokenizer.mark).link(rows(tokenizer, "the PEAR on"))
    assert (link.start, link.end) == (before, before + name)


def test_a_chinese_name_is_found_inside_a_sentence_even_where_tokens_are_bytes(tokenizer: Tokenizer) -> None:
    (link,) = PieceLinker(graph(), tokenizer, tokenizer.mark).link(rows(tokenizer, f"{CHINESE}on"))
    assert link.alias == CHINESE and link.end - link.start == (3 if tokenizer.mark == SENTENCE else 9)


def test_what_is_no_text_ends_a_word(tokenizer: Tokenizer) -> None:
    whole = [(token, 1.0) for token in tokenizer("pear")["input_ids"][:-1]]
    tight = [*whole, (tokenizer.vocabulary["s"], 1.0)]
    parted = [*whole, (torch.zeros(4), 1.0), (tokenizer.vocabulary["s"], 1.0)]
    linker = PieceLinker(graph(), tokenizer, tokenizer.mark)
    assert linker.link([tight]) == [] and len(linker.link([parted])) == 1
    assert linker.link([[(torch.zeros(4), 1.0), (10**6, 1.0)]]) == []  # an id beyond the vocabulary


def test_a_name_is_spelled_without_special_tokens(tokenizer: Tokenizer) -> None:
    linker = PieceLinker(graph(), tokenizer, tokenizer.mark)
    assert linker.spell("pear") == [tokenizer.vocabulary[f"{tokenizer.mark}pear"]]
    assert linker.spell("pe") is None and linker.spell("\u0416\u0416\u0416" if tokenizer.mark == SENTENCE else "x" * 40) is None


def test_words_around_every_prompt_are_left_out() -> None:
    def row(*ids: Any) -> list[tuple[Any, ...]]:
        return [(number,) for number in ids]

    assert without_frame([row(7, 8, 1, 2, 9)], [row(7, 8, 9)]) == [row(None, None, 1, 2, None)]
    assert without_frame([row(7, 8, 9)], [row(7, 8, 9)]) == [row(None, None, None)]
    assert without_frame([row(7, 7, 9)], [row(7, 9)]) == [row(None, 7, None)]
    assert without_frame([row(1, 2)], []) == [row(1, 2)]
    image = torch.zeros(2)
    assert without_frame([row(image, 3, 9)], [row(torch.ones(2), 9)]) == [row(None, 3, None)]


def space(tokenizer: Tokenizer, key: str = "t5", language: bool = True) -> TokenSpace:
    return TokenSpace(key, 4, tokenizer, lambda ids: torch.zeros(len(ids), 4), None, language)


def test_knowledge_is_added_to_the_prompt_and_not_to_what_stands_around_it(tokenizer: Tokenizer) -> None:
    known, w = graph(), torch.full((4, 3), 2.0)
    reader = KnowledgeReader((space(tokenizer),)).attached(known, 0.5, Projection({"t5": w}, known.digest))
    assert reader.framed
    text, empty = rows(tokenizer, "pear the pear on"), rows(tokenizer, "pear on")
    informed, links = reader.inform({"t5": text}, {"t5": empty})
    assert [(link.start, link.end) for link in links] == [(2, 3)]
    assert torch.equal(informed["t5"][0][2][0], torch.full((4,), 3.0)) and informed["t5"][0][0] == text[0][0]


def test_a_projection_may_lack_the_language_model_beside_a_clip_but_not_alone(
    tokenizer: Tokenizer, caplog: pytest.LogCaptureFixture
) -> None:
    known = graph()
    old = Projection({"l": torch.ones(4, 3)}, known.digest, {}, "old")
    both = KnowledgeReader((space(tokenizer, "l", language=False), space(tokenizer))).attached(known, 1.0, old)
    text = rows(tokenizer, "pear")
    informed, links = both.inform({"l": text, "t5": text}, {"l": [], "t5": []})
    assert informed["t5"] is text and torch.is_tensor(informed["l"][0][0][0]) and links == [EntityLink("thing:pear", "pear", 0, 1)]
    assert "old was fitted without t5" in caplog.text
    with pytest.raises(KnowledgeError, match="fitted for a CLIP with l"):
        KnowledgeReader((space(tokenizer),)).attached(known, 1.0, old)
