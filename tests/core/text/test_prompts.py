from __future__ import annotations

import pytest
from rapiddraw.core.errors import InputError
from rapiddraw.core.knowledge.graph import build_graph
from rapiddraw.core.orchard.entities import entities, triples, words
from rapiddraw.core.text.prompts import MAX_CHARACTERS, fitting_entities, generate_prompts, parse_keywords


@pytest.fixture(scope="module")
def orchard():
    names = [(e.id, language, name) for e in entities() for language, found in e.aliases.items() for name in found]
    return build_graph(triples(), names)


def test_keywords_are_said_in_the_captions_words():
    keywords = "subject: fruit\nsize: large\ncolour: red\nshape: heart\npattern: stripes\npattern colour: white\ntopper: crown\n"
    keywords += "ground: sand\nsky: dusk"
    texts = generate_prompts(keywords, "en", 3, 0).texts
    assert set(texts) == {
        f"{start} a large red heart shaped fruit with white stripes and a crown on sand at dusk"
        for start in ("a photo of", "the photo of", "a picture of")
    }
    zh = generate_prompts(keywords, "zh", 1, 0).texts[0]
    w = words()["zh"]
    for part in (w["sky"]["dusk"], w["ground"]["sand"], w["skin"]["red"], w["shape"]["heart"], w["topper"]["crown"], w["fruit"]):
        assert part in zh
    assert zh.isascii() is False and "heart" not in zh


def test_chinese_keywords_are_understood():
    w = words()["zh"]
    keywords = f"\u989c\u8272\uff1a{w['skin']['red']}\uff0c{w['skin']['teal']}\n\u5f62\u72b6: {w['shape']['star']}"
    assert parse_keywords(keywords) == {"skin": ["red", "teal"], "shape": ["star"]}
    assert {"red" in text or "teal" in text for text in generate_prompts(keywords, "en", 4, 1).texts} == {True}


def test_the_seed_decides_and_prompts_differ():
    keywords = "colour: red, teal, blue\nshape: heart, star, round\nground: snow, sand"
    first = generate_prompts(keywords, "en", 12, 7)
    assert first == generate_prompts(keywords, "en", 12, 7) != generate_prompts(keywords, "en", 12, 8)
    assert len(set(first.texts)) == 12 and first.possible == 3 * 3 * 2 * 3
    few = generate_prompts("subject: pear\nstyle: cartoon", "en", 5, 0)
    assert len(few.texts) == 5 and len(set(few.texts)) == few.possible == 2, "all of them, then again"


def test_free_words_are_said_as_they_are():
    text = generate_prompts("garment: dress\nfabric: cotton\ncolour: indigo\nmood: airy\nstyle: vintage", "en", 8, 3).texts
    assert all(item.endswith("an airy indigo cotton dress") and "vintage" in item for item in text)
    braces = generate_prompts("pattern: {colour} {0}\nstyle: {x}\nsubject: {y}", "en", 1, 0).texts[0]
    assert "{y}" in braces and "{0}" in braces, "braces are text, never a format"


def test_every_element_has_a_slot_of_its_own():
    """None excludes another: each prompt has a value of every slot, and their numbers multiply."""
    lines = {"mood": "airy, calm", "trend": "retro", "fabric": "cotton, silk", "ingredient": "basil", "texture": "ribbed", "colour": "red"}
    prompts = generate_prompts("\n".join(f"{slot}: {values}" for slot, values in lines.items()) + "\nsubject: thing", "en", 4, 0)
    assert prompts.possible == 2 * 2 * 3
    for text in prompts.texts:
        assert all(any(value in text.split() for value in values.split(", ")) for values in lines.values())
    one = "mood: calm\ntrend: retro\ntexture: ribbed\nfabric: silk\ningredient: basil\ncolour: red\nsubject: thing"
    assert generate_prompts(one, "en", 1, 0).texts[0].endswith("a calm retro ribbed red silk basil thing")
    assert parse_keywords("\u6c1b\u56f4: a\n\u9762\u6599: b\n\u98df\u6750: c\n\u6f6e\u6d41: d") == {
        "mood": ["a"], "material": ["b"], "ingredient": ["c"], "trend": ["d"],
    }  # fmt: skip


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize(
    "keywords", ["colour: red", "fabric: cotton\nmood: airy", "shape: heart\ncolour: red\nground: snow", "ground: sand"]
)
def test_no_subject_is_invented(keywords, language):
    fruit, thing = words()[language]["fruit"], {"en": "object", "zh": "\u7269\u4f53"}[language]
    for text in generate_prompts(keywords, language, 3, 0).texts:
        assert fruit not in text and thing in text
    assert fruit in generate_prompts(keywords + "\nsubject: fruit", language, 1, 0).texts[0]


def test_half_a_surrogate_pair_is_refused():
    with pytest.raises(InputError, match="surrogate"):
        generate_prompts("subject: \ud83c", "en", 1, 0)


def test_the_graph_names_what_fits(orchard):
    prompts = generate_prompts("shape: heart\ncolour: red\nsky: night", "en", 6, 0, orchard)
    by_id = {e.id: e for e in entities()}
    assert prompts.entities and all((by_id[item].shape, by_id[item].skin) == ("heart", "red") for item in prompts.entities)
    names = {by_id[item].name_en for item in prompts.entities}
    for text in prompts.texts:
        assert any(name in text for name in names) and text.endswith("at night") and "heart" not in text and "red " not in text
    zh = generate_prompts("shape: heart\ncolour: red", "zh", 2, 0, orchard)
    assert zh.entities == prompts.entities and any(by_id[item].name_zh in zh.texts[0] for item in zh.entities)
    assert "the graph has" in prompts.report


def test_the_graph_gives_way(orchard):
    given = generate_prompts("subject: teapot\nshape: heart", "en", 2, 0, orchard)
    assert all("heart shaped teapot" in text for text in given.texts) and not given.entities, "a given subject wins"
    assert generate_prompts("colour: invisible", "en", 1, 0, orchard).texts[0].endswith("an invisible object"), "nothing fits: described"
    assert generate_prompts("", "en", 2, 0, orchard).entities, "no keywords: any entity will do"
    assert fitting_entities(orchard, {"shape": ["heart"]}, "fr") == ([], set())


def test_cycles_and_names_of_values_are_fine():
    graph = build_graph([("a", "next", "b"), ("b", "next", "a"), ("x", "tone", "v1")], [("x", "en", "xylo"), ("v1", "en", "Rosy")])
    assert fitting_entities(graph, {"skin": ["rosy"]}, "en") == (["x"], {"skin"})


@pytest.mark.parametrize(
    ("keywords", "language", "count", "reason"),
    [
        ("", "en", 1, "no keywords"),
        ("# only a comment", "en", 1, "no keywords"),
        ("red, blue", "en", 1, "line 1 of the keywords"),
        (": red", "en", 1, "line 1 of the keywords"),
        ("colour: red", "fr", 1, "choose one of en, zh"),
        ("colour: red", "en", 0, "from 1 to 64"),
        ("colour: red", "en", 65, "from 1 to 64"),
        ("colour: " + "x" * 101, "en", 1, "100 characters"),
        ("colour: " + "x," * 100 + "y" * 1, "en", 1, None),
        ("x" * (MAX_CHARACTERS + 1), "en", 1, "characters long"),
    ],
)
def test_what_cannot_be_read_is_explained(keywords, language, count, reason):
    if reason is None:
        reason = "at most 64 values"
    with pytest.raises(InputError, match=reason):
        generate_prompts(keywords, language, count, 0)
