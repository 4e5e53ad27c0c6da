"""A user's own language model as a writer of prompts: any causal model that transformers can load from a folder. Never downloaded.

A folder counts as a model where it holds `config.json` and `.safetensors` files. Nothing in it is executed: code of its own
(`trust_remote_code`) and pickles are refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import paths
from ..errors import BundleError, InputError
from ..progress import Progress
from .protect import Span
from .writers import Candidate, question_words

if TYPE_CHECKING:
    import torch

MAX_NEW = 96
MAX_MODELS = 200


def list_models() -> list[str]:
    """Names of the folders that hold a language model, relative to the folder of models they lie in."""
    names = set()
    for folder in paths.language_model_dirs():
        for config in sorted(folder.rglob("config.json"))[:MAX_MODELS]:
            if config.parent != folder and any(config.parent.glob("*.safetensors")):
                names.add(config.parent.relative_to(folder).as_posix())
    return sorted(names)


def resolve_model(name: str) -> Path:
    """The folder of the model `name`. Raises :class:`InputError` for a name that leaves its folder, :class:`BundleError` for an unknown
    one, or one that holds no `.safetensors` files."""
    for folder in paths.language_model_dirs():
        path = paths.safe_join(folder, name)
        if (path / "config.json").is_file():
            if not any(path.glob("*.safetensors")):
                raise BundleError(f"the language model {name!r} has no .safetensors files; pickled weights are not read")
            for file in path.iterdir():
                paths.safe_join(folder, file.relative_to(folder.resolve()))  # its files may not lead elsewhere either
            return path
    known = ", ".join(list_models()) or "none"
    raise BundleError(f"no language model named {name!r}; there is {known}. Put its folder into models/rapiddraw/llm or models/LLM")


def model_fingerprint(name: str) -> str:
    """What changes when a model's files do: their names, sizes and times. Hashing gigabytes would take longer than running them."""
    stats = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in sorted(resolve_model(name).iterdir()) if file.is_file()]
    return repr(stats)


@dataclass(frozen=True)
class CausalWriter:
    """A language model of the user's. It is asked with a few examples, or by its chat template where it has one, and its first line is
    taken for the prompt."""

    network: Any
    tokenizer: Any

    def write(
        self, text: str, spans: Sequence[Span], language: str, count: int, temperature: float, generator: torch.Generator
    ) -> list[Candidate]:
        """See :class:`~.writers.Writer`. Raises :class:`InputError` where the prompt does not fit into the model's context."""
        from .sampling import continuations

        question = self._ask(" ".join(text.split()), language)
        context = int(getattr(self.network.config, "max_position_embeddings", 0) or 2**20)
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
        if getattr(self.tokenizer, "chat_template", None):
            asked = [{"role": "user", "content": f"{words['task']}\n\n{shown}\n\n{words['short']}: {text}"}]
            ids = self.tokenizer.apply_chat_template(asked, add_generation_prompt=True, tokenize=True, return_dict=True)["input_ids"]
            return list(ids)
        return list(self.tokenizer(f"{words['task']}\n\n{shown}\n\n{words['short']}: {text}\n{words['long']}:")["input_ids"])


def load_causal(path: Path) -> CausalWriter:
    """The model and the tokenizer in a folder, on the CPU. Raises :class:`BundleError` where transformers cannot load them."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(path), local_files_only=True, trust_remote_code=False)
        network = AutoModelForCausalLM.from_pretrained(str(path), local_files_only=True, trust_remote_code=False, use_safetensors=True)
    except Exception as error:  # whatever a strange folder makes transformers say
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BundleError(f"transformers cannot load a causal language model from {path.name}/ ({first[:300]})") from error
    return CausalWriter(network.eval().requires_grad_(False), tokenizer)
