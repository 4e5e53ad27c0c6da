"""The vocabulary spells names, knows captions' words, and is one that transformers reads back."""

from __future__ import annotations

import pytest
from rapiddraw.core.errors import InputError
from rapiddraw.core.text.tokenizer import (
    SPECIALS,
    build_vocabulary,
    check_vocabulary,
    encode_texts,
    make_tokenizer,
    name_pieces,
    save_tokenizer,
)

TEXTS = ["a photo of a red fruit with a crown", "\u9ec4\u660f\u6c99\u5730\u4e0a\u7684\u679c\u5b50\uff0c\u7167\u7247"]
NAMES = ["mirado", "radomi", "domira", "miravo", "vodora", "\u7c73\u62c9"]


@pytest.fixture(scope="module")
def vocabulary():
    return build_vocabulary(TEXTS + ["a mirado by day"], NAMES)


def test_ids_are_fixed_and_distinct(vocabulary):
    assert tuple(vocabulary[:5]) == SPECIALS
    assert len(set(vocabulary)) == len(vocabulary)
    assert vocabulary == build_vocabulary(TEXTS + ["a mirado by day"], NAMES)


def test_words_are_whole_names_are_spelled_chinese_is_single_characters(vocabulary):
    tokenizer = make_tokenizer(vocabulary)
    assert tokenizer.tokenize("A Crown") == ["a", "crown"]
    pieces = tokenizer.tokenize("mirado")
    assert len(pieces) > 1
    assert "mirado" not in vocabulary
    assert "".join(pieces).replace("##", "") == "mirado"
    assert tokenizer.tokenize("\u7c73\u62c9\u679c\u5b50") == list("\u7c73\u62c9\u679c\u5b50")


def test_no_english_is_unknown(vocabulary):
    tokenizer = make_tokenizer(vocabulary)
    assert "[UNK]" not in tokenizer.tokenize("Zebra 42, caf\u00e9: (never seen)! #1 a-b_c")


def test_name_pieces_are_syllables():
    parts = ("quel", "ra", "do", "ven", "tas", "lu", "mi", "zor", "pex", "gon", "fyk", "jin", "hub", "cet", "wyg", "bim")
    names = [a + b + c for a in parts for b in parts for c in parts if len({a, b, c}) == 3]
    pieces = name_pieces(names)
    assert {"quel", "ven", "tas"} <= set(pieces)
    assert "uel" not in pieces
    assert name_pieces(["mirado", "mirados"]) == []


def test_rows_begin_end_and_are_cut_before_the_end(vocabulary):
    tokenizer = make_tokenizer(vocabulary)
    short, long, empty = encode_texts(tokenizer, ["red fruit", "red fruit " * 40, ""]).tolist()
    assert short[0] == long[0] == empty[0] == 2
    assert (short[3], short[4:]) == (3, [0] * 28)
    assert (len(long), long[31], long.count(3)) == (32, 3, 1)
    assert empty[:3] == [2, 3, 0]


def test_a_saved_folder_is_read_as_comfyui_reads_it(vocabulary, tmp_path):
    from transformers import BertTokenizer

    save_tokenizer(vocabulary, tmp_path)
    loaded = BertTokenizer.from_pretrained(str(tmp_path))
    for text in (*TEXTS, *NAMES, "An Unseen word"):
        assert loaded(text)["input_ids"] == make_tokenizer(vocabulary)(text)["input_ids"]
    assert loaded("")["input_ids"] == [2, 3]


@pytest.mark.parametrize("bad", [[], ["a", "b"], "[PAD]", [*SPECIALS, "a", "a"], [*SPECIALS, 7], [*SPECIALS, ""], [*SPECIALS, "x" * 65]])
def test_a_bad_vocabulary_is_refused(bad):
    with pytest.raises(InputError):
        check_vocabulary(bad)


def test_the_limit_keeps_the_most_frequent_words():
    common = ["red fruit"] * 5 + [f"word{chr(97 + i // 26)}{chr(97 + i % 26)}" for i in range(300)]
    vocabulary = build_vocabulary(common, limit=128)
    assert len(vocabulary) == 128
    assert {"red", "fruit"} <= set(vocabulary)
    with pytest.raises(InputError, match="limit"):
        build_vocabulary(["".join(map(chr, range(0x4E00, 0x4E80)))], limit=128)
