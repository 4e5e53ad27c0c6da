"""Files of a user's language model, read without trusting the folder in which they lie.

transformers' own loading follows names that stand in the folder: shards in an index, vocabularies in a tokenizer's settings, adapters of
other models, kernels and code on the Hub. Here only plain names inside the folder are read, and only settings that describe the network.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import BundleError
from ..language import is_text
from ..paths import safe_join

if TYPE_CHECKING:
    from torch import Tensor

MAX_JSON = 16 * 2**20
MAX_VOCABULARY_FILE = 256 * 2**20
MAX_SHARDS = 1000
MAX_LAYERS, MAX_COUNT, MAX_LENGTH, MAX_INTEGER = 1024, 4096, 2**24, 2**40
_SHARD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_. -]{0,200}\.safetensors")
_DROPPED = re.compile(
    r"_?auto_map|_?name_or_path|.*_?implementation(_.*)?|use_.*kernels?.*|kernels?|kernel_config|.*backbone.*|.*adapter.*|.*_(path|file|dir|plan|url|repo)"
    r"|transformers_weights|transformers_version|fusion_config|distributed_config|compression_config|custom_pipelines|custom_object_save"
    r"|num_labels|id2label|label2id|task_specific_params|architectures"
)
_DTYPES = ("float32", "float16", "bfloat16")
_VOCABULARIES = ("tokenizer.json", "vocab.json", "merges.txt", "vocab.txt", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model",
                 "special_tokens_map.json", "added_tokens.json")  # fmt: skip
_TOKENIZER_SETTINGS = re.compile(
    r"tokenizer_class|.*_token|add_(bos|eos|prefix)_(token|space)|model_max_length|do_lower_case|strip_accents|tokenize_chinese_chars|legacy"
    r"|clean_up_tokenization_spaces|added_tokens_decoder|(additional|extra)_special_tokens|errors|(padding|truncation)_side"
    r"|split_special_tokens|spaces_between_special_tokens|keep_accents|remove_space"
)


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """Return the JSON object in a file of `folder`. Raises :class:`BundleError` for anything else, and for more than 16 MB."""
    path = safe_join(folder, name)
    try:
        if path.stat().st_size > MAX_JSON:
            raise BundleError(f"{folder.name}/{name} is larger than {MAX_JSON >> 20} MB")
        text = path.read_bytes().decode("utf-8-sig")
        found = json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(f"{folder.name}/{name} cannot be read as JSON ({str(error)[:200]})") from error
    if not isinstance(found, dict) or ("\\u" in text and not is_text(json.dumps(found, ensure_ascii=False))):
        raise BundleError(f"{folder.name}/{name}: expected a JSON object without lone surrogates")
    return found


def weight_files(folder: Path) -> list[Path]:
    """Return the files that hold the weights: `model.safetensors`, else those of the index, else the only `.safetensors` file.

    Raises :class:`BundleError` for an index that names anything but `.safetensors` files of this folder, and where it is not clear which
    files belong together; :class:`InputError` for a file that is a link to outside.
    """
    names = sorted(path.name for path in folder.glob("*.safetensors"))
    if "model.safetensors" in names:
        chosen = ["model.safetensors"]
    elif (folder / "model.safetensors.index.json").is_file():
        shards = read_json(folder, "model.safetensors.index.json").get("weight_map")
        if not isinstance(shards, dict) or not shards or not all(isinstance(name, str) for name in shards.values()):
            raise BundleError(f"{folder.name}/model.safetensors.index.json has no 'weight_map' from tensors to files")
        chosen = sorted(set(shards.values()))
    elif len(names) == 1:
        chosen = names
    else:
        raise BundleError(f"{folder.name}/ holds {len(names)} .safetensors files and no model.safetensors or index that joins them")
    for name in chosen[: MAX_SHARDS + 1]:
        if not _SHARD.fullmatch(name) or name not in names:
            raise BundleError(
                f"{folder.name}/: its index names {name[:100]!r}; expected the name of a .safetensors file in the same folder"
            )
    if len(chosen) > MAX_SHARDS:
        raise BundleError(f"{folder.name}/: its index names {len(chosen)} files, more than {MAX_SHARDS}")
    return [safe_join(folder, name) for name in chosen]


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Return every tensor of :func:`weight_files`. Raises :class:`BundleError` for a damaged file and for a tensor that comes twice."""
    from safetensors import SafetensorError, safe_open

    tensors: dict[str, Tensor] = {}
    for path in weight_files(folder):
        try:
            with safe_open(str(path), framework="pt", device="cpu") as file:
                found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        except (SafetensorError, OSError, ValueError, RuntimeError, KeyError, AttributeError) as error:
            raise BundleError(f"{folder.name}/{path.name} is no whole .safetensors file ({str(error)[:200]})") from error
        twice = tensors.keys() & found.keys()
        if twice:
            raise BundleError(f"{folder.name}/: {sorted(twice)[0]!r} stands in two files")
        tensors |= found
    return tensors


def read_config(folder: Path) -> dict[str, Any]:
    """Return what `config.json` says of the network, without settings that lead to other files, to code or to kernels.

    Raises :class:`BundleError` for a quantised model, and for counts that no network has.
    """
    config = _cleaned(read_json(folder, "config.json"), folder.name)
    if not isinstance(config.get("model_type"), str):
        raise BundleError(f"{folder.name}/config.json does not say its 'model_type'")
    return config


def copy_tokenizer(folder: Path, target: Path, config: dict[str, Any]) -> None:
    """Copy a tokenizer's files into the empty folder `target`, its settings cleaned, without its chat templates."""
    for name in _VOCABULARIES:
        if (folder / name).is_file():
            path = safe_join(folder, name)
            if path.stat().st_size > MAX_VOCABULARY_FILE:
                raise BundleError(f"{folder.name}/{name} is larger than {MAX_VOCABULARY_FILE >> 20} MB")
            shutil.copyfile(path, target / name)
    settings = read_json(folder, "tokenizer_config.json") if (folder / "tokenizer_config.json").is_file() else {}
    kept = {key: value for key, value in settings.items() if _TOKENIZER_SETTINGS.fullmatch(key)}
    for name, content in (("tokenizer_config.json", kept), ("config.json", config)):
        (target / name).write_text(json.dumps(content), encoding="utf-8")


def chat_template(folder: Path) -> str:
    """Return the text of a model's chat template, "" where it has none. It is looked at and never run."""
    if (folder / "chat_template.jinja").is_file():
        with safe_join(folder, "chat_template.jinja").open("rb") as file:
            return file.read(MAX_JSON).decode("utf-8", "replace")
    settings = read_json(folder, "tokenizer_config.json") if (folder / "tokenizer_config.json").is_file() else {}
    found = settings.get("chat_template")
    if isinstance(found, list):  # several, each {"name", "template"}
        found = next((one.get("template") for one in found if isinstance(one, dict) and one.get("name") == "default"), "")
    return found if isinstance(found, str) else ""


@contextlib.contextmanager
def offline() -> Iterator[None]:
    """Keep transformers and huggingface_hub off the network while the block runs, whatever the environment says."""
    import huggingface_hub.constants as constants
    import transformers.utils.hub as hub

    switches = [(module, name) for module, name in ((constants, "HF_HUB_OFFLINE"), (hub, "_is_offline_mode")) if hasattr(module, name)]
    before = [getattr(module, name) for module, name in switches]
    try:
        for module, name in switches:
            setattr(module, name, True)
        yield
    finally:
        for (module, name), value in zip(switches, before, strict=True):
            setattr(module, name, value)


def _cleaned(config: dict[str, Any], where: str) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for key, value in config.items():
        if key == "quantization_config" and value:
            raise BundleError(f"{where}/: a quantised language model needs kernels of its own; use one with plain weights")
        if _DROPPED.fullmatch(key) or key == "quantization_config" or (key in ("dtype", "torch_dtype") and value not in _DTYPES):
            continue
        if isinstance(value, int) and not isinstance(value, bool):
            _check_number(key, value, where)
        kept[key] = _cleaned_value(value, where)
    return kept


def _cleaned_value(value: Any, where: str) -> Any:
    if isinstance(value, list):
        return [_cleaned_value(one, where) for one in value]
    return _cleaned(value, where) if isinstance(value, dict) else value


def _check_number(key: str, value: int, where: str) -> None:
    most = MAX_INTEGER
    if re.search(r"layers?$|depth", key):
        most = MAX_LAYERS
    elif re.search(r"position|length|n_ctx", key):
        most = MAX_LENGTH
    elif re.match(r"(num|n)_", key) and key not in ("n_embd", "n_inner"):
        most = MAX_COUNT
    if abs(value) > most:
        raise BundleError(f"{where}/config.json has {key}={str(value)[:30]}; at most {most} is expected")
