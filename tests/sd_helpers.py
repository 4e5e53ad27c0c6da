"""Stable Diffusion checkpoints with random weights, as single files and as diffusers folders, in any size."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rapiddraw.tests.helpers import seeded

WORDS = ("red", "fruit", "green", "hill", "photo", "round", "blue", "sky")


def write_tokenizer(folder: Path) -> Path:
    """A tokenizer of CLIP's kind with a small vocabulary: `vocab.json` and `merges.txt`."""
    letters = [chr(code) for code in range(33, 127)]
    vocabulary, merges = [*letters, *(f"{letter}</w>" for letter in letters)], []
    for word in WORDS:
        parts = [*word[:-1], f"{word[-1]}</w>"]
        while len(parts) > 1:
            merge = (parts[0], parts[1])
            parts[:2] = ["".join(merge)]
            if parts[0] not in vocabulary:
                vocabulary.append(parts[0])
                merges.append(merge)
    vocabulary += ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(vocabulary)}), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(merge) for merge in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def clip_network(vocabulary: int, width: int = 32, layers: int = 3, seed: int = 0, **config: Any) -> Any:
    """transformers' CLIPTextModelWithProjection with random weights."""
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    whole = {
        "vocab_size": vocabulary, "hidden_size": width, "projection_dim": width, "intermediate_size": 2 * width,
        "num_hidden_layers": layers, "num_attention_heads": 2, "bos_token_id": vocabulary - 2, "eos_token_id": vocabulary - 1,
        "pad_token_id": 0, **config,
    }  # fmt: skip
    return seeded(lambda: CLIPTextModelWithProjection(CLIPTextConfig(**whole)).eval(), seed)
