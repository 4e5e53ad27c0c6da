"""Nodes that train and load two LoRAs of one base for time-decoupled sampling (PanGu-Draw, section 4.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .train_domain import FolderTraining, TrainDomainModel, training_inputs
from .works_with import ANY_MODEL

if TYPE_CHECKING:
    from pathlib import Path

    from ..core.operations.distill import Run
    from ..core.operations.domain_run import Job
    from .sockets import Inputs

LINKED = "(the linked pair)"
_FILENAME = (
    "The LoRAs' files are NAME-structure and NAME-texture, in loras/ of the output folder, where loaders find them. LoRAs that this node "
    "made under the same name are replaced. Checkpoints and samples lie in rapiddraw/NAME-run of the output folder; delete them when the "
    "training is done."
)
_STEPS = (
    "Training steps of batch_size pictures each, for each of the two LoRAs. Two LoRAs of 500 steps cost as much as one LoRA of 1000 steps."
)
_SWITCH = (
    "Timestep of the switch, from 999 (noise) to 1 (picture). The structure LoRA is trained from here upwards, the texture LoRA below. "
    "Higher gives the texture LoRA more of the work. PanGu-Draw's value is 500 (section 5.3). The files remember it."
)


class TrainTimeDecoupledPair(FolderTraining):
    """MODEL, CLIP, VAE and a folder in, two LoRA files and a workflow out."""

    DISPLAY_NAME = "Train Time-Decoupled Pair"
    CATEGORY = "RapidDraw/train"
    WORKS_WITH = TrainDomainModel.WORKS_WITH
    SEARCH_ALIASES = ("train two loras", "train lora", "fine-tune", "two experts", "structure and texture", "train on my pictures")
    DESCRIPTION = (
        "Teaches your own model your own pictures with two LoRAs: one for the layout, at high noise levels, and one for the details, at "
        "low ones. Each has its full rank for its half of the drawing. The node ends with two files and a ready workflow that draws with "
        "both, by Load Time-Decoupled LoRAs. The pictures, the held-out share and the samples are those of Train Domain Model. A stopped "
        "run goes on when it is queued again with the same settings. The model at the input is not changed. Method: time-decoupled "
        "training of PanGu-Draw (section 4.1), with LoRAs in the place of whole models."
    )
    RETURN_TYPES = ("MODEL", "MODEL", "STRING", "STRING", "IMAGE", "IMAGE")
    RETURN_NAMES = ("structure", "texture", "pair", "report", "loss_plot", "samples")
    OUTPUT_TOOLTIPS = (
        "The model with the structure LoRA, for the input structure of Time-Decoupled KSampler.",
        "The model with the texture LoRA, for the input texture of Time-Decoupled KSampler.",
        "The pair's name, for the input pair of Load Time-Decoupled LoRAs.",
        "The pictures, the loss on held-out pictures before and after for each LoRA, the files and the workflow.",
        "The loss of both LoRAs together over the steps.",
        "The prompts, drawn by the model as it was (first row) and with both LoRAs (second row).",
    )
    FUNCTION = "execute"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        inputs = training_inputs()
        required = inputs["required"]
        required["filename"] = ("STRING", {"default": "my-pair", "tooltip": _FILENAME})
        required["steps"] = ("INT", {**required["steps"][1], "default": 500, "tooltip": _STEPS})
        required["t_struct"] = ("INT", {"default": 500, "min": 1, "max": 999, "tooltip": _SWITCH})
        return inputs

    def train(self, graph: tuple[Any, Any, Any], job: Job, settings: dict[str, Any], run: Run) -> tuple[str, tuple[Any, ...]]:
        """See :meth:`FolderTraining.train`."""
        from ..core.operations.domain_pair import PairTuning
        from ..core.operations.train_pair import train_pair

        made = train_pair(graph, job, PairTuning(**settings), run)
        return made.report, (made.structure, made.texture, made.name, made.report, made.plot, made.samples)


class LoadTimeDecoupledLoras:
    """MODEL in, the two MODELs of a time-decoupled pair out."""

    DISPLAY_NAME = "Load Time-Decoupled LoRAs"
    CATEGORY = "RapidDraw/time-decoupled"
    WORKS_WITH = ANY_MODEL
    SEARCH_ALIASES = ("load lora", "load two loras", "lora pair", "two experts", "wan high low noise", "structure and texture")
    DESCRIPTION = (
        "Loads both LoRAs of a time-decoupled pair onto one model and gives the two models and the switch that the time-decoupled nodes "
        "take. LoRAs of Train Time-Decoupled Pair tell their switch, and whether they were exchanged. Any other two LoRAs of the model "
        "work too. For any model that the LoRAs were trained for."
    )
    RETURN_TYPES = ("MODEL", "MODEL", "INT")
    RETURN_NAMES = ("structure", "texture", "t_struct")
    OUTPUT_TOOLTIPS = (
        "The model with the structure LoRA; the model at the input is not changed.",
        "The model with the texture LoRA.",
        "The timestep of the switch that the files tell of; 500 for LoRAs that tell of none.",
    )
    FUNCTION = "execute"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        from ..core.host import current

        names = [LINKED, *current().process.lora_names()]
        strength = {"default": 1.0, "min": -100.0, "max": 100.0, "step": 0.01}
        how = "How strongly this LoRA changes the model. 1 is as trained, 0 leaves the model as it is. May be negative."
        return {
            "required": {
                "model": ("MODEL", {"tooltip": "The model that the LoRAs were trained for, or a fine-tune of it."}),
                "structure_lora": (
                    names,
                    {"tooltip": f"The LoRA for the layout, at high noise levels: NAME-structure. {LINKED}: that of the input pair."},
                ),
                "texture_lora": (
                    names,
                    {"tooltip": f"The LoRA for the details, at low noise levels: NAME-texture. {LINKED}: that of the input pair."},
                ),
                "structure_strength": ("FLOAT", {**strength, "tooltip": how}),
                "texture_strength": ("FLOAT", {**strength, "tooltip": how}),
            },
            "optional": {
                "pair": (
                    "STRING",
                    {"forceInput": True, "tooltip": "A pair's name, from Train Time-Decoupled Pair, in the place of both files."},
                )
            },
        }

    @classmethod
    def IS_CHANGED(cls, structure_lora: str | None = None, texture_lora: str | None = None, pair: str | None = None, **_: Any) -> str:
        from ..core.errors import RapidDrawError
        from ..core.paths import file_sha256

        try:
            return "".join(file_sha256(path) for path in _files(structure_lora or LINKED, texture_lora or LINKED, pair or ""))
        except RapidDrawError:
            return ""

    def execute(
        self, model: Any, structure_lora: str, texture_lora: str, structure_strength: float, texture_strength: float, pair: str = ""
    ) -> tuple[Any, Any, int]:
        from ..core.operations.train_pair import load_pair

        return load_pair(model, *_files(structure_lora, texture_lora, pair), (structure_strength, texture_strength))


def _files(structure: str, texture: str, pair: str) -> tuple[Path, Path]:
    """Return the files of two LoRAs by their names; :data:`LINKED` stands for one of the pair of that name."""
    from ..core.errors import InputError
    from ..core.host import current

    if LINKED in (structure, texture) and not pair:
        raise InputError("no LoRA was chosen: choose two, or link pair from Train Time-Decoupled Pair")
    parts = (("structure", structure), ("texture", texture))
    first, second = (current().process.lora_path(f"{pair}-{part}.safetensors" if name == LINKED else name) for part, name in parts)
    return first, second


NODE_CLASS_MAPPINGS = {
    "RapidDrawTrainTimeDecoupledPair": TrainTimeDecoupledPair,
    "RapidDrawLoadTimeDecoupledLoras": LoadTimeDecoupledLoras,
}
