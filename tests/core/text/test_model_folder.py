"""A language model's folder: nothing outside it is read, nothing in it is run, and every refusal is our own."""

from __future__ import annotations

import json
import pickle
import shutil
import time
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rapiddraw.core.errors import BundleError, InputError, RapidDrawError
from rapiddraw.core.text import causal
from rapiddraw.core.text.causal import CHATS, load_causal
from rapiddraw.core.text.model_folder import read_config, read_weights, weight_files
from rapiddraw.core.text.tokenizer import build_vocabulary, save_tokenizer
from rapiddraw.tests import helpers
from safetensors.torch import load_file, save_file


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder with a tiny GPT-2."""
    from transformers import GPT2Config, GPT2LMHeadModel

    folder = tmp_path_factory.mktemp("models") / "gpt"
    vocabulary = build_vocabulary(helpers.CAPTIONS, ["mirado"], limit=400)
    save_tokenizer(vocabulary, folder)
    config = GPT2Config(vocab_size=len(vocabulary), n_embd=16, n_layer=1, n_head=2, n_positions=1024, bos_token_id=None, eos_token_id=None)
    helpers.seeded(lambda: GPT2LMHeadModel(config)).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(whole, tmp_path):
    return Path(shutil.copytree(whole, tmp_path / "models" / "gpt"))


def change(path, **values):
    content = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps(content | values))


def writes(folder):
    """Load the folder and write one prompt."""
    return load_causal(folder).write("a mirado", (), "en", 1, 1.0, torch.Generator().manual_seed(0))


def shard(folder, names):
    """Divide the weights into two files and an index that calls them by `names`."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    half = len(weights) // 2
    parts = dict(list(weights.items())[:half]), dict(list(weights.items())[half:])
    for name, part in zip(("one.safetensors", "two.safetensors"), parts, strict=True):
        save_file(part, folder / name)
    where = {key: name for name, part in zip(names, parts, strict=True) for key in part}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))


def test_shards_of_an_index_are_read(folder):
    before = read_weights(folder)
    shard(folder, ("one.safetensors", "two.safetensors"))
    after = read_weights(folder)
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)
    assert writes(folder)


ELSEWHERE = ["../two.safetensors", "/two.safetensors", "sub/../../two.safetensors", "two.bin", "missing.safetensors", "", ".."]
ELSEWHERE += ["two.safetensors\0", "sub\\two.safetensors", "\udcff.safetensors", "C:two.safetensors"]


@pytest.mark.parametrize("name", ELSEWHERE)
def test_an_index_that_leads_elsewhere_is_refused(folder, name):
    shard(folder, ("one.safetensors", name))
    for outside in (folder.parent / "two.safetensors", folder / "two.bin"):
        shutil.copyfile(folder / "two.safetensors", outside)
    with pytest.raises(BundleError, match="index|surrogates") as error:
        load_causal(folder)
    str(error.value).encode()


def test_a_link_in_the_folder_is_refused(folder):
    shutil.move(folder / "model.safetensors", folder.parent / "secret.safetensors")
    (folder / "model.safetensors").symlink_to(folder.parent / "secret.safetensors")
    with pytest.raises(InputError, match="outside"):
        load_causal(folder)
    (folder / "model.safetensors").unlink()
    shutil.move(folder.parent / "secret.safetensors", folder / "model.safetensors")
    shutil.move(folder / "tokenizer.json", folder.parent / "secret.json")
    (folder / "tokenizer.json").symlink_to(folder.parent / "secret.json")
    with pytest.raises(InputError, match="outside"):
        load_causal(folder)


class Bomb:
    """Says that it was unpickled."""

    def __reduce__(self):
        return (Path.write_text, (Path("exploded"), "x"))


@pytest.mark.parametrize("named", [False, True])
def test_a_pickle_is_never_read(folder, monkeypatch, named):
    monkeypatch.chdir(folder)
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb()))
    (folder / "adapter_model.bin").write_bytes(pickle.dumps(Bomb()))
    if named:
        change(folder / "config.json", transformers_weights="pytorch_model.bin")
        change(folder / "pytorch_model.bin.index.json", weight_map={"a": "pytorch_model.bin"})
    change(folder / "adapter_config.json", base_model_name_or_path="../other", peft_type="LORA")
    assert writes(folder) and not (folder / "exploded").exists()
    (folder / "model.safetensors").unlink()
    with pytest.raises(BundleError, match="safetensors"):
        load_causal(folder)
    assert not (folder / "exploded").exists()


@pytest.mark.parametrize("kernel", ["someone/kernel", "flash_attention_2", "flash|someone/kernel@main:name", 7, {"": "someone/kernel"}])
def test_our_own_attention_is_used(folder, kernel):
    for key in ("attn_implementation", "_attn_implementation", "_attn_implementation_internal", "experts_implementation"):
        change(folder / "config.json", **{key: kernel})
    change(folder / "config.json", kernel_config=kernel, use_kernels=True)
    config = load_causal(folder).network.config
    assert config._attn_implementation in ("sdpa", "eager")
    assert "kernel" not in json.dumps({key: value for key, value in config.to_dict().items() if isinstance(value, str | dict)})
    change(folder / "config.json", text_config={"attn_implementation": kernel, "parts": [{"use_kernels": True, "n_embd": 4}]})
    assert read_config(folder)["text_config"] == {"parts": [{"n_embd": 4}]}


def test_a_tokenizers_settings_lead_nowhere(folder):
    """`vocab_file` and the like would be opened wherever they lie, and code of the folder's own would be run."""
    (folder.parent / "secret.txt").write_text("secret\n")
    outside = str(folder.parent / "secret.txt")
    change(
        folder / "tokenizer_config.json", vocab_file=outside, tokenizer_file=outside, merges_file=outside, name_or_path=outside,
        fast_tokenizer_files=["../secret.txt"], sp_model_kwargs={"model_file": outside},
        auto_map={"AutoTokenizer": ["own.Tokenizer", None]},
    )  # fmt: skip
    (folder / "own.py").write_text("raise SystemExit('executed')")
    writer = load_causal(folder)
    assert "mirado" not in writer.tokenizer.get_vocab() and len(writer.tokenizer.get_vocab()) > 50
    assert "secret" not in repr(writer.tokenizer) and writer.write("a", (), "en", 1, 0.0, torch.Generator())


LOOP = "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}{% endfor %}{% endfor %}{% endfor %}"


TEMPLATES = [LOOP, "{{ 'x' * 10**10 }}", "{{ raise_exception('no') }}", "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}", "{{"]


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("place", ["settings", "file", "list"])
def test_a_chat_template_is_never_run(folder, template, place):
    if place == "file":
        (folder / "chat_template.jinja").write_text(template)
    else:
        given = template if place == "settings" else [{"name": "default", "template": template}]
        change(folder / "tokenizer_config.json", chat_template=given)
    start = time.perf_counter()
    assert writes(folder)
    assert time.perf_counter() - start < 20


def test_a_known_kind_of_chat_is_asked_as_one(folder):
    plain = load_causal(folder)
    assert plain.chat == "" and "user" not in plain.tokenizer.decode(plain._ask("a mirado", "en"))
    change(
        folder / "tokenizer_config.json", chat_template="<|im_start|>{{ messages }}", extra_special_tokens=["<|im_start|>", "<|im_end|>"]
    )
    writer = load_causal(folder)
    if "<|im_start|>" in writer.tokenizer.get_vocab():  # transformers before 5 calls the setting otherwise
        assert writer.chat == "<|im_start|>" and all("{text}" in form for form in CHATS.values())
        with pytest.raises(BundleError, match="does not know"):  # the network has no row for the new token
            writer.write("a mirado", (), "en", 1, 1.0, torch.Generator())


@pytest.mark.parametrize(
    "values",
    [
        {"n_layer": 10**9}, {"num_hidden_layers": 10**9}, {"n_positions": 10**12}, {"n_embd": 10**18}, {"vocab_size": 10**30},
        {"n_layer": 1000}, {"n_inner": 2**38}, {"n_head": 0}, {"n_layer": "many"}, {"n_layer": 1e9}, {"n_layer": None}, {"n_embd": 0},
        {"model_type": "no such"}, {"model_type": 3}, {"model_type": "bert"}, {"quantization_config": {"quant_method": "gptq"}},
        {"num_labels": 10**9},
    ],
)  # fmt: skip
def test_settings_that_no_network_has_cost_nothing(folder, values):
    change(folder / "config.json", **values)
    start = time.perf_counter()
    if values == {"num_labels": 10**9}:
        assert writes(folder)
    else:
        with pytest.raises(RapidDrawError):
            load_causal(folder)
    assert time.perf_counter() - start < 20


def test_files_that_hold_too_little_are_refused(folder):
    weights = load_file(folder / "model.safetensors")
    save_file({name: tensor for name, tensor in weights.items() if "mlp" not in name}, folder / "model.safetensors")
    with pytest.raises(BundleError, match="lacks"):
        load_causal(folder)
    (folder / "model.safetensors").write_bytes(b"\xff" * 100)
    with pytest.raises(BundleError, match=r"model\.safetensors"):
        load_causal(folder)
    (folder / "extra.safetensors").write_bytes(b"")
    (folder / "model.safetensors").unlink()
    assert weight_files(folder) == [folder / "extra.safetensors"]
    (folder / "more.safetensors").write_bytes(b"")
    with pytest.raises(BundleError, match="2 .safetensors files"):
        weight_files(folder)


def test_names_that_are_no_text_are_not_offered(folder, monkeypatch):
    monkeypatch.setattr(causal.paths, "_extra_models", [folder.parent])
    strange = folder.with_name("b\udcff")
    try:
        shutil.copytree(folder, strange)
    except OSError:
        pytest.skip("this disk takes names in UTF-8 only")
    assert "gpt" in causal.list_models() and all(name.isprintable() for name in causal.list_models())
    with pytest.raises(InputError, match="surrogate"):
        causal.resolve_model("b\udcff")


NUMBERS = st.one_of(st.integers(-5, 300), st.integers(), st.floats(), st.lists(st.integers(0, 9), max_size=3))
TEXTS = st.one_of(st.text(max_size=6), st.sampled_from(["../x", "a/b", "\ud800"]))
VALUES = st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS, st.dictionaries(st.text(max_size=3), st.integers(), max_size=2))
CONFIG_KEYS = (
    "n_layer", "n_head", "n_embd", "n_positions", "vocab_size", "model_type", "activation_function", "n_inner", "layer_norm_epsilon",
    "dtype", "attn_implementation", "tie_word_embeddings", "bos_token_id", "eos_token_id", "auto_map", "is_encoder_decoder", "id2label",
    "architectures", "pruned_heads", "scale_attn_weights", "add_cross_attention", "use_cache", "text_config", "gradient_checkpointing",
)  # fmt: skip
TOKENIZER_KEYS = (
    "tokenizer_class", "unk_token", "pad_token", "vocab_file", "model_max_length", "added_tokens_decoder", "chat_template", "auto_map",
    "extra_special_tokens", "additional_special_tokens", "eos_token", "strip_accents", "padding_side", "do_lower_case",
)  # fmt: skip
FUZZ = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


def outcome(folder):
    """Write, or refuse with an error of our own that can be printed anywhere."""
    try:
        writes(folder)
    except RapidDrawError as error:
        str(error).encode()


@FUZZ
@given(st.dictionaries(st.sampled_from(CONFIG_KEYS), VALUES, min_size=1, max_size=3))
def test_any_settings_are_taken_or_refused(whole, tmp_path, values):
    folder = Path(shutil.copytree(whole, tmp_path / "gpt", dirs_exist_ok=True))
    change(folder / "config.json", **values)
    outcome(folder)


@FUZZ
@given(st.dictionaries(st.sampled_from(TOKENIZER_KEYS), VALUES, min_size=1, max_size=3))
def test_any_settings_of_a_tokenizer_are_taken_or_refused(whole, tmp_path, values):
    folder = Path(shutil.copytree(whole, tmp_path / "gpt", dirs_exist_ok=True))
    change(folder / "tokenizer_config.json", **values)
    outcome(folder)


@FUZZ
@given(
    st.sampled_from(["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors", "vocab.txt", "chat_template.jinja"]),
    st.floats(0, 1), st.binary(max_size=12), st.booleans(),
)  # fmt: skip
def test_any_damaged_file_is_taken_or_refused(whole, tmp_path, name, place, data, cut):
    folder = Path(shutil.copytree(whole, tmp_path / "gpt", dirs_exist_ok=True))
    content = (folder / name).read_bytes() if (folder / name).is_file() else b""
    at = int(place * len(content))
    (folder / name).write_bytes(content[:at] + data + (b"" if cut else content[at + len(data) :]))
    outcome(folder)
    shutil.rmtree(folder)


def test_deep_json_is_refused(folder):
    (folder / "config.json").write_text('{"a":' * 5000 + "1" + "}" * 5000)
    with pytest.raises(BundleError):
        load_causal(folder)
    with pytest.raises(BundleError, match=r"config\.json"):
        read_config(folder)
