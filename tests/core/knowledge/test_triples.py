"""Knowledge files as people write them: no name is lost, and every refusal has its file and line."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from rapiddraw.core.errors import KnowledgeError
from rapiddraw.core.knowledge import graph as module
from rapiddraw.core.knowledge.triples import MAX_LINE, load_triples


def read(tmp_path, name, text):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8"))
    return load_triples(path)


RELATIONS = [" alias@en", "alias@en ", "Alias@en", "ALIAS@EN", "alias @ en", "aliases@en"]
RELATIONS += ["alias@en", "\ufeffalias@en", "alias\uff20en", "\uff41lias@en"]


@pytest.mark.parametrize("relation", RELATIONS)
def test_names_are_read_however_the_relation_is_written(tmp_path, relation):
    graph = read(tmp_path, "g.tsv", f"x\t{relation}\tred pear\nx\tr\ty\n")
    assert graph.aliases == {"x": {"en": ("red pear",)}} and graph.relations == ("r",)
    row = {"head": "x", "relation": relation, "tail": "red pear"}
    assert read(tmp_path, "g.jsonl", json.dumps(row)).aliases == graph.aliases


def test_codes_of_languages_have_one_form(tmp_path):
    graph = read(tmp_path, "g.tsv", "x\talias@ZH_CN\tn\nx\talias@zh-CN\tm\nx\talias@EN\tpear\n")
    assert graph.aliases == {"x": {"zh-CN": ("n", "m"), "en": ("pear",)}}


def test_a_row_may_hold_a_triple_and_names(tmp_path):
    graph = read(tmp_path, "g.jsonl", '{"head":"a","relation":"r","tail":"b","id":"a","aliases":{"en":["apple"]}}\n')
    assert len(graph.triples) == 1 and graph.aliases == {"a": {"en": ("apple",)}}


def test_marks_that_nobody_sees_make_no_second_entity(tmp_path):
    graph = read(tmp_path, "g.tsv", "\ufeff# a comment\na\tr\tb\n\ufeffa\tr\tc\n\ufeff# another comment\n\u200ba\tr\u200b\td\u00ad\n")
    assert graph.entities == ("a", "b", "c", "d") and graph.relations == ("r",)
    lines = '\ufeff{"head":"a","relation":"r","tail":"b"}\n\ufeff{"head":"a\\u200b","relation":"r","tail":"c"}\n'
    assert read(tmp_path, "g.jsonl", lines).entities == ("a", "b", "c")


def test_writings_of_one_id_are_one_entity(tmp_path):
    text = "o'hara\tr\tred-fig\no\u2019hara\tr\tred\u2011\ufb01g\n\uff4f\uff07hara\tr\tred\u2013fig\n"
    graph = read(tmp_path, "g.tsv", text)
    assert graph.entities == ("o'hara", "red-fig") and len(graph.triples) == 1


@pytest.mark.parametrize(
    ("name", "text", "line", "says"),
    [
        ("nul.tsv", "a\0\tr\tb\n", 1, "control"),
        ("vt.tsv", "a\x0bb\tr\tc\n", 1, "control"),
        ("long.tsv", "x\tr\ty\n" + "a" * 257 + "\tr\tb\n", 2, "257 characters"),
        ("numbers.jsonl", '{"head":1,"relation":"r","tail":2}\n', 1, "strings"),
        ("id.jsonl", '{"id":7,"aliases":{"en":["seven"]}}\n', 1, "strings"),
        ("noid.jsonl", '{"head":"a","relation":"r","tail":"b","aliases":{"en":["apple"]}}\n', 1, '"id"'),
        ("part.jsonl", '{"id":"a","aliases":{"en":["apple"]},"head":"a"}\n', 1, "expected"),
        ("twice.jsonl", '{"id":"a","aliases":{"en":["apple"],"en":["pear"]}}\n', 1, "twice"),
        ("surrogate.jsonl", '{"head":"a","relation":"r","tail":"\\ud800"}\n', 1, "surrogates"),
        ("surrogate.jsonl", '{"id":"a","aliases":{"en":["\\udcff"]}}\n', 1, "surrogates"),
        ("nolang.tsv", "a\talias\tapple\n", 1, "alias@en"),
        ("empty.tsv", "a\talias@\tapple\n", 1, "language"),
        ("bytes.tsv", b"a\tr\tb\na\tr\t\xff\n", 2, "UTF-8"),
        ("blank.tsv", "a\tr\tb\n\n\u200b\tr\tb\n", 3, "column|empty"),
        ("wide.tsv", "a\tr\tb\n" + "x" * (MAX_LINE + 1), 2, "longer"),
    ],
)
def test_every_refusal_has_its_file_and_line(tmp_path, name, text, line, says):
    with pytest.raises(KnowledgeError, match=says) as error:
        read(tmp_path, name, text)
    assert str(error.value).startswith(f"{name}, line {line}") and str(error.value).isprintable()


def test_caps_name_the_line_that_passes_them(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MAX_TRIPLES", 2)
    with pytest.raises(KnowledgeError, match=r"^g.tsv, line 3: more than 2 triples"):
        read(tmp_path, "g.tsv", "a\tr\tb\na\tr\tc\na\tr\td\n")
    monkeypatch.setattr(module, "MAX_ALIASES", 1)
    with pytest.raises(KnowledgeError, match=r"^g.tsv, line 2: entity 'a' has more than 1 names"):
        read(tmp_path, "g.tsv", "a\talias@en\tb\na\talias@en\tc\n")


def test_a_file_that_nobody_may_read_is_named(tmp_path, monkeypatch):
    (tmp_path / "g.tsv").write_text("a\tr\tb\n")

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.open", refuse)
    with pytest.raises(KnowledgeError, match="g.tsv cannot be read"):
        load_triples(tmp_path / "g.tsv")


CELL = st.one_of(st.sampled_from(["alias@en", "Alias @zh", "a", "r", "\ufeff", "", "#", "\u2019", "x" * 300]), st.text(max_size=8))
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(st.characters(), max_size=6)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.one_of(st.sampled_from(["head", "relation", "tail", "id", "aliases", "en"]), st.text(max_size=3)), inner, max_size=6
        ),
    ),
    max_leaves=12,
)
FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def outcome(tmp_path, name, data):
    """Read or refuse, and nothing else; a refusal of a line begins with the file's name and can be printed anywhere."""
    try:
        graph = read(tmp_path, name, data)
    except KnowledgeError as error:
        assert re.match(rf"{name}(, line \d+| holds no statement)", str(error))
        str(error).encode()
        return None
    assert all(part == module.plain_name(part) for part in (*graph.entities, *graph.relations))
    return graph


@FUZZ
@given(st.lists(st.lists(CELL, min_size=1, max_size=4), max_size=5))
def test_any_table_is_read_or_refused(tmp_path, rows):
    outcome(tmp_path, "g.tsv", "\n".join("\t".join(row) for row in rows).encode("utf-8", "surrogatepass"))


@FUZZ
@given(st.lists(JSON, max_size=4))
@example([{"id": "a", "aliases": {"en": ["\ud800"]}}])
@example([{"id": "\ud800", "aliases": {"\ud800": ["a"]}}])
def test_any_json_is_read_or_refused(tmp_path, rows):
    graph = outcome(tmp_path, "g.jsonl", "\n".join(map(json.dumps, rows)).encode())
    if graph is not None:
        given = {name for row in rows for names in row.get("aliases", {}).values() for name in names}
        kept = {name for by in graph.aliases.values() for names in by.values() for name in names}
        assert {module.plain_name(name) for name in given} <= kept, "no name is lost in silence"


@FUZZ
@given(st.binary(max_size=80))
def test_any_bytes_are_read_or_refused(tmp_path, data):
    outcome(tmp_path, "g.tsv", data)
    outcome(tmp_path, "g.jsonl", data)
