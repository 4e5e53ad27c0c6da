"""A user's own language model as a writer of prompts: any causal model that transformers has a class for. Never downloaded.

A folder counts as a model where it holds `config.json` and `.safetensors` files. Nothing in it is executed, its chat template included, and
nothing outside it is read (see :mod:`.model_folder`).
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import paths
from ..errors import BundleError, InputError, RapidDrawError
from ..language import is_text
from ..progress import Progress
from .model_folder import chat_template, copy_tokenizer, offline, read_config, read_weights
from .protect import Span
from .writers import Candidate, question_words

if TYPE_CHECKING:
    import torch

MAX_NEW = 96
MAX_BUFFERS = 2**28
MAX_MODELS = 200


def list_models() -> list[str]:
    """Return the names of the folders that hold a language model, relative to the folder of models in which they lie."""
    names = set()
    for folder in paths.language_model_dirs():
        configs = sorted(name for name, _ in paths.model_files(folder) if name.endswith("/config.json"))
        for config in configs[:MAX_MODELS]:
            model = config.removesuffix("/config.json")
            if any((folder / model).glob("*.safetensors")):
                names.add(model)
    return sorted(name for name in names if is_text(name))


def resolve_model(name: str) -> Path:
    """Return the folder of the model `name`.

    Raises :class:`InputError` for a name that leaves the folder of models, :class:`BundleError` for an unknown one, or one without
    `.safetensors` files.
    """
    for folder in paths.language_model_dirs():
        path = paths.model_path(folder, name)
        if (path / "config.json").is_file():
            if not any(path.glob("*.safetensors")):
                raise BundleError(f"the language model {name!r} has no .safetensors files; pickled weights are not read")
            for file in path.iterdir():
                paths.safe_join(path, file.name)  # the owner may link the folder; the files in it may not lead elsewhere
            return path
    known = ", ".join(list_models()) or "none"
    raise BundleError(f"no language model named {name!r}; there is {known}. Put its folder into models/rapiddraw/llm or models/LLM")


def model_fingerprint(name: str) -> str:
    """Return a text that changes when a model's files change: their names, sizes and times. Hashing gigabytes would take longer than
    running the model.
    """
    stats = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in sorted(resolve_model(name).iterdir()) if file.is_file()]
    return repr(stats)


CHATS = {
    "<|im_start|>": "<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n",
    "<|start_header_id|>": (
        "<|start_header_id|>user<|end_header_id|>\n\n{text}<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
    ),
    "<start_of_turn>": "<start_of_turn>user\n{text}<end_of_turn>\n<start_of_turn>model\n",
    "<|start_of_role|>": "<|start_of_role|>user<|end_of_role|>{text}<|end_of_text|>\n<|start_of_role|>assistant<|end_of_role|>",
    "<|end|>": "<|user|>\n{text}<|end|>\n<|assistant|>\n",
    "<|user|>": "<|user|>\n{text}{end}\n<|assistant|>\n",
    "[INST]": "[INST] {text} [/INST]",
}
"""Ways to ask chat models, by a mark that stands in the template of each. A model's own template is a program; it is not run."""


@dataclass(frozen=True)
class CausalWriter:
    """A user's language model. It is asked with a few examples; where `chat` (one of :data:`CHATS`) is given, as a chat. The first line of
    its answer is the prompt.
    """

    network: Any
    tokenizer: Any
    chat: str = ""

    def write(
        self, text: str, spans: Sequence[Span], language: str, count: int, temperature: float, generator: torch.Generator
    ) -> list[Candidate]:
        """See :class:`~.writers.Writer`. Raises :class:`InputError` where the prompt does not fit into the model's context,
        :class:`BundleError` where the network and its tokenizer do not work together."""
        if not is_text(text):
            raise InputError("the prompt holds half of a surrogate pair, which is no character; write it again")
        try:
            return self._write(text, language, count, temperature, generator)
        except RapidDrawError:
            raise
        except Exception as error:  # whatever a strange folder makes transformers say
            raise BundleError(f"the language model failed while it wrote ({first_line(error)})") from error

    def _write(self, text: str, language: str, count: int, temperature: float, generator: torch.Generator) -> list[Candidate]:
        from .sampling import continuations

        question = self._ask(" ".join(text.split()), language)
        rows = self.network.get_input_embeddings().weight.shape[0]
        if not question or max(question) >= rows:
            raise BundleError(f"the tokenizer of this language model gives ids from {rows} on, which its network does not know")
        context = getattr(self.network.config, "max_position_embeddings", 0)
        context = context if isinstance(context, int) and context > 0 else 2**20
        room = min(MAX_NEW, context - len(question))
        if room < 8:
            raise InputError(f"the prompt and its question take {len(question)} tokens; this language model holds {context}")
        ends = {self.tokenizer.eos_token_id, *self.tokenizer("\n", add_special_tokens=False)["input_ids"][-1:]} - {None}
        with Progress(room, "writing prompts", "token") as bar:
            found = continuations(self.network, question, count, temperature, generator, ends, room, bar)
        answers = [(self.tokenizer.decode(tokens, skip_special_tokens=True).strip(), score) for tokens, score in found]
        return [(answer.splitlines()[0].strip(), score) for answer, score in answers if answer]

    def _ask(self, text: str, language: str) -> list[int]:
        words = question_words(language)
        shown = "\n\n".join(f"{words['short']}: {short}\n{words['long']}: {long}" for short, long in words["examples"])
        asked = f"{words['task']}\n\n{shown}\n\n{words['short']}: {text}"
        if self.chat:
            end = self.tokenizer.eos_token or ""
            return list(self.tokenizer(CHATS[self.chat].replace("{end}", end).replace("{text}", asked))["input_ids"])
        return list(self.tokenizer(f"{asked}\n{words['long']}:")["input_ids"])


def load_causal(path: Path) -> CausalWriter:
    """Load the model and the tokenizer in a folder, on the CPU. Raises :class:`BundleError` where that is not possible, and
    :class:`InputError` for a file that is a link to outside."""
    try:
        template, config = chat_template(path), read_config(path)
        with offline():
            tokenizer = load_tokenizer(path, config)
            network = load_network(path, config)
    except RapidDrawError:
        raise
    except BaseException as error:  # whatever a strange folder makes transformers say; tokenizers' panics are no Exception
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise BundleError(f"transformers cannot load a causal language model from {path.name}/ ({first_line(error)})") from error
    known = tokenizer.get_vocab()
    chat = next((mark for mark in CHATS if mark in template and (mark in known or mark == "[INST]")), "")
    return CausalWriter(network.eval().requires_grad_(False), tokenizer, chat)


def load_tokenizer(path: Path, config: dict[str, Any]) -> Any:
    """Return the tokenizer in a model's folder, of its plain files alone."""
    from transformers import AutoTokenizer

    with tempfile.TemporaryDirectory(prefix="rapiddraw-") as folder:
        copy_tokenizer(path, Path(folder), config)
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def load_network(path: Path, config: dict[str, Any], classes: Any = None) -> Any:
    """Return the network in a model's folder, of the class that `classes` (by default the causal language models) has for its settings.

    Raises :class:`BundleError` where the files hold fewer weights than the settings describe.
    """
    import torch
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig

    settings = AutoConfig.for_model(**config)
    network_class = (classes or MODEL_FOR_CAUSAL_LM_MAPPING)[type(settings)]
    attention = "sdpa" if getattr(network_class, "_supports_sdpa", False) else "eager"
    settings._attn_implementation = attention
    with torch.device("meta"):
        plan = network_class(settings)
    weights = read_weights(path)
    wanted, given = sum(p.numel() for p in plan.parameters()), sum(tensor.numel() for tensor in weights.values())
    if wanted > 2 * given or sum(buffer.numel() for buffer in plan.buffers()) > MAX_BUFFERS:
        raise BundleError(f"{path.name}/config.json describes a network of {wanted} weights, but the files hold {given}")
    network, report = network_class.from_pretrained(
        None, config=settings, state_dict=weights, attn_implementation=attention, local_files_only=True, output_loading_info=True
    )
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise BundleError(f"{path.name}/ lacks {len(missing)} tensors of its network, such as {missing[0]!r}")
    return network


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, at most 300 characters; its type where it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
