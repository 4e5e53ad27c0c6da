"""Prompt enhancement keeps what must be kept, whatever writes."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rapiddraw.core import paths
from rapiddraw.core.bundles.find import resolve_bundle
from rapiddraw.core.bundles.format import save_bundle
from rapiddraw.core.bundles.load import load_bundle
from rapiddraw.core.errors import BundleError, InputError
from rapiddraw.core.operations.enhance import GRAMMAR, Proposals, enhance, list_writers, load_writer, writer_fingerprint
from rapiddraw.core.operations.rank import make_rank
from rapiddraw.core.text import causal
from rapiddraw.core.text.prompt_model import PromptModel, build_vocabulary, default_config, load_prompt_model, spans_of, to_bundle
from rapiddraw.core.text.protect import lost, protected_spans
from rapiddraw.core.text.writers import BundleWriter, GrammarWriter
from rapiddraw.core.train.inputs.prompt_data import orchard_pairs
from rapiddraw.tests import helpers

GRAPH = helpers.named_graph(["mirado", "quelba", "Saint Mary pear"])
SIGNS = st.sampled_from('ab {}%"(:1.2)<>,\u7684\u7c73\u62c9')
ZH = "\u7c73\u62c9"


class Says:
    """A writer that says the same whatever it is asked; each call takes the next list."""

    def __init__(self, *answers):
        self.answers, self.calls = list(answers), 0

    def write(self, text, spans, language, count, temperature, generator):
        self.calls += 1
        return self.answers[min(self.calls, len(self.answers)) - 1]


def kept(text, graph=GRAPH):
    return [text[span.start : span.end] for span in protected_spans(text, graph)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a Mirado on sand", ["Mirado"]),
        ("miradox and quelba", ["quelba"]),
        ("a saint mary pear", ["saint mary pear"]),
        ('a sign saying "Old Port" at night', ['"Old Port"']),
        ("(mirado:1.2) and <lora:fruit:0.8>, embedding:soft", ["(mirado:1.2)", "<lora:fruit:0.8>", "embedding:soft"]),
        ("\u201c\u6e2f\u53e3\u201d\u7684\u7167\u7247", ["\u201c\u6e2f\u53e3\u201d"]),
        ("", []),
    ],
)
def test_what_is_protected(text, expected):
    assert kept(text) == expected


def test_chinese_names_are_found_inside_a_sentence():
    assert kept(f"\u6c99\u5730\u4e0a\u7684{ZH}\u7167\u7247", helpers.tiny_graph()) == [ZH]


def test_hostile_texts_are_quick():
    for text in ("(" * 2000, '"' * 1999, "<" * 1000 + ":1" * 500, "embedding:" * 200, "mirado" * 300):
        assert isinstance(protected_spans(text, GRAPH), list)
    with pytest.raises(InputError, match="2000"):
        enhance("a" * 2001, GrammarWriter())


@settings(max_examples=40, deadline=None)
@given(
    st.text(alphabet=SIGNS, max_size=40),
    st.integers(0, 2**64 - 1),
    st.sampled_from(["en", "zh"]),
)
def test_the_grammar_keeps_every_text_whole(text, seed, language):
    prompt = f"{text} mirado"
    proposals = Proposals(3, 0.7, seed, language)
    found = enhance(prompt, GrammarWriter(), proposals, GRAPH)
    assert not lost(found.text, kept(prompt)) and found.text == enhance(prompt, GrammarWriter(), proposals, GRAPH).text


def test_the_grammar_adds_only_what_is_missing():
    assert enhance("a drawing of a pear on grass at night", GrammarWriter()).text == "a drawing of a pear on grass at night"
    said = enhance("a pear on grass", GrammarWriter(), Proposals(seed=1)).text
    assert said.count(" on ") == 1 and any(word in said for word in ("photo", "picture", "drawing"))


def test_a_lost_name_is_refused_and_at_last_the_prompt_stays():
    bad = [("a photo of a mirad on sand", -0.1), ("a fruit", -0.2)]
    writer = Says(bad)
    found = enhance("a mirado", writer, knowledge=GRAPH)
    assert found.text == "a mirado" and writer.calls == 3 and found.lost == ("mirado",)
    assert "unchanged" in found.report and "mirado" in found.report
    found = enhance("a mirado", Says(bad, [("a mirado by day", -1.0), ("the mirado at night", -0.5)]), knowledge=GRAPH)
    assert found.text == "the mirado at night" and found.refused == 2
    assert enhance("a mirado", Says([("a mirado by day", -1.0), ("the mirado", -0.5)]), first=True).text == "a mirado by day"


def test_a_rank_decides():
    answers = [("a pear by day", -1.0), ("a pear at night", -2.0)]
    assert enhance("a pear", Says(answers), rank=lambda texts: [float("night" in text) for text in texts]).text == "a pear at night"


def test_the_empty_prompt_stays_empty():
    found = enhance("  ", Says([("x", 0.0)]))
    assert found.text == "  " and "stays empty" in found.report


@pytest.mark.parametrize("changes", [{"count": 0}, {"count": 17}, {"temperature": -1.0}, {"temperature": float("nan")}, {"language": "fr"}])
def test_bad_numbers_are_refused(changes):
    with pytest.raises(InputError):
        enhance("a pear", GrammarWriter(), Proposals(**changes))


@pytest.fixture(scope="module")
def model():
    vocabulary = build_vocabulary(orchard_pairs(200, 0))
    return helpers.seeded(lambda: PromptModel(default_config(n_embd=16, n_layer=1, n_head=2), vocabulary)).eval()


def test_a_pair_survives_its_tokens(model):
    for pair in orchard_pairs(60, 3):
        row = model.pair(pair)
        assert row is not None
        slots: list[str] = []
        model.encode(pair.short, spans_of(pair.short, pair.keep), slots)
        assert model.decode(row[0][row[1] :], slots, pair.language) == pair.long


def test_unknown_words_share_a_slot_with_their_neighbours(model):
    slots: list[str] = []
    ids = model.encode("a shiny dragon castle on snow", (), slots)
    assert slots == ["shiny dragon castle"] and model.decode(ids, slots, "en") == "a shiny dragon castle on snow"
    assert model.encode(" on ".join("qzx" + c for c in "abcdefghij"), ()) is None


def test_a_bundle_never_returns_a_text_without_its_slots(model):
    found = BundleWriter(model).write("a mirado on sand", (), "en", 8, 1.0, torch.Generator().manual_seed(0))
    assert all("mirado" in text for text, _ in found)


def test_a_prompt_bundle_round_trips_and_lies_are_refused(model, tmp_path):
    path = save_bundle(tmp_path / "a.safetensors", *to_bundle(model))
    again = load_prompt_model(load_bundle(path, "prompt"))
    assert again.vocabulary == model.vocabulary
    ids = torch.arange(5)[None]
    assert torch.allclose(again.network(ids).logits, model.network(ids).logits, atol=2e-2)
    tensors, info = to_bundle(model)
    for config in ({**info.config, "n_embd": 2048}, {**info.config, "n_layer": 48}, {**info.config, "n_head": 3}, {"n_embd": 16}):
        info.config.clear()
        info.config.update(config)
        broken = load_bundle(save_bundle(tmp_path / "b.safetensors", tensors, info), "prompt")
        with pytest.raises(BundleError, match="b.safetensors"):
            load_prompt_model(broken)


@pytest.fixture
def llm(tmp_path, tiny_pack, monkeypatch):
    """A folder of language models with one tiny one, and something outside it."""
    from rapiddraw.core.text.tokenizer import build_vocabulary as words
    from rapiddraw.core.text.tokenizer import save_tokenizer
    from transformers import GPT2Config, GPT2LMHeadModel

    root = tmp_path / "LLM"
    folder = root / "tiny" / "gpt"
    vocabulary = words(helpers.CAPTIONS, ["mirado"], limit=400)
    save_tokenizer(vocabulary, folder)
    config = GPT2Config(vocab_size=len(vocabulary), n_embd=16, n_layer=1, n_head=2, n_positions=1024, bos_token_id=None, eos_token_id=None)
    helpers.seeded(lambda: GPT2LMHeadModel(config)).save_pretrained(folder)
    monkeypatch.setattr(paths, "_extra_models", [root])
    return root


def test_a_users_language_model_writes(llm):
    assert "tiny/gpt" in list_writers() and list_writers()[-1] == GRAMMAR
    writer = load_writer("tiny/gpt")
    drawn = [writer.write("a mirado", (), "en", 2, 1.0, torch.Generator().manual_seed(3)) for _ in range(2)]
    assert drawn[0] == drawn[1] and len(drawn[0]) == 2
    found = enhance("a mirado on a hill", writer, Proposals(1, 1.0, 3), knowledge=GRAPH)  # it knows nothing, so that nothing survives
    assert found.text == "a mirado on a hill" and "unchanged" in found.report
    before = writer_fingerprint("tiny/gpt")
    (llm / "tiny" / "gpt" / "more.txt").write_text("x")
    assert writer_fingerprint("tiny/gpt") != before


def test_a_language_model_never_leaves_its_folder(llm, tmp_path):
    outside = tmp_path / "outside"
    (llm / "tiny" / "gpt").rename(outside)
    for name in ("../outside", str(outside), "..", "tiny/../../outside", ""):
        with pytest.raises((InputError, BundleError)):
            causal.resolve_model(name)
    (llm / "link").symlink_to(outside)  # the owner of a models folder may link a model that lies elsewhere
    assert causal.resolve_model("link").samefile(outside) and "link" in causal.list_models()
    inside = llm / "mixed"
    inside.mkdir()
    (inside / "config.json").write_text("{}")
    with pytest.raises(BundleError, match="pickled"):
        causal.resolve_model("mixed")
    (inside / "model.safetensors").symlink_to(outside / "model.safetensors")
    with pytest.raises(InputError, match="outside"):
        causal.resolve_model("mixed")


def test_a_folder_with_code_of_its_own_is_not_run(llm):
    folder = llm / "tiny" / "gpt"
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoModelForCausalLM": "own.Model", "AutoConfig": "own.Config"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text("raise SystemExit('executed')")
    with pytest.raises(BundleError, match="cannot load"):
        load_writer("tiny/gpt")


def test_ranks_by_text_and_by_picture(tiny_pack):
    from rapiddraw.core.host import current
    from rapiddraw.core.operations.rank import list_scorers

    assert list_scorers() == ["tiny-text.safetensors"]
    texts = ["a round red fruit", "a tall blue fruit"]
    none = (None,) * 4
    scores = make_rank(texts[0], "tiny-text.safetensors", helpers.tiny_graph(), none, 0)(texts)
    assert scores[0] == pytest.approx(1.0, abs=1e-5) and scores[1] < scores[0]
    parts = current().load_bundles(*(resolve_bundle(f"tiny-{kind}.safetensors", kind) for kind in ("unet", "text", "vae")))
    latent = {"samples": torch.zeros(2, 4, 4, 4)}
    drawn = make_rank(texts[0], "tiny-text.safetensors", None, (*parts, latent), 0)
    assert len(drawn(texts)) == 2 and drawn(texts) == drawn(texts)
    with pytest.raises(InputError, match="all four"):
        make_rank(texts[0], "tiny-text.safetensors", None, (*parts, None), 0)
