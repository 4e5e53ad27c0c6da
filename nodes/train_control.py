"""A node that trains a control adapter for a U-Net of the user's on a folder of pictures (ELR-Diffusion, section 2.4)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .train_domain import FolderTraining, training_inputs

if TYPE_CHECKING:
    from ..core.operations.distill import Run
    from ..core.operations.domain_run import Job
    from .sockets import Inputs

_FILENAME = (
    "The adapter's file, in rapiddraw/ of the output folder, where Load Control Adapter finds it. An adapter of the same name is "
    "replaced. Checkpoints and samples lie in rapiddraw/NAME-run of the output folder; delete them when the training is done."
)
_CONDITIONS = "What pictures shall follow. Each may be left out when you draw: the adapter is trained for that."
_MAPS = (
    "drawn from the pictures: as Condition Map draws edges (canny) and sketches. maps of the folder: PNG files maps/edges, maps/sketch and "
    "maps/segmentation in the folder, named as the pictures are; segments are numbers, 0 to 7."
)
_FORMAT = (
    "The adapter's weights. lowrank: a copy of the model's encoder in thin factors. kronecker: a frozen copy with Kronecker updates; "
    "fewest weights are trained. dense: a whole copy; it learns most and needs most memory."
)
_RATIO = "Share of the copy's parameters that lowrank keeps, 0.05 to 1. Higher is nearer to dense, and a larger file. Else unused."
_RANK = "Rank of the updates of kronecker, 1 to 1024. Higher can learn more. Else unused."
_DROPOUT = "Share of captions replaced by the empty text, 0 to 1, so that the adapter listens to its maps. 0.5 is usual for control."


class TrainControlAdapter(FolderTraining):
    """MODEL, CLIP, VAE and a folder in, a control adapter and a workflow out."""

    DISPLAY_NAME = "Train Control Adapter"
    CATEGORY = "RapidDraw/train"
    WORKS_WITH = "U-Nets: SD 1.5, SD 2, SDXL and fine-tunes of them. Other models are refused before any work."
    SEARCH_ALIASES = ("train controlnet", "controlnet training", "train t2i adapter", "own control model", "edges", "scribble")
    DESCRIPTION = (
        "Makes a ControlNet of your own for your own model: pictures then follow edges, sketches or segments. It learns from a folder "
        "of pictures alone; the maps are drawn from them, or lie in the folder. The adapter is a small copy of the U-Net's encoder in "
        "low rank (ELR-Diffusion, section 2.4). The node ends with a file for Load Control Adapter, and a ready workflow that draws "
        "with it. The held-out share and the samples are those of Train Domain Model. A stopped run goes on when it is queued again "
        "with the same settings. For U-Nets only."
    )
    RETURN_TYPES = ("CONTROL_NET", "STRING", "IMAGE", "IMAGE")
    RETURN_NAMES = ("control_net", "report", "loss_plot", "samples")
    OUTPUT_TOOLTIPS = (
        "The trained adapter, for Apply Control Adapter and the stock Apply ControlNet.",
        "The pictures, the loss on held-out pictures without and with control, the file and the workflow.",
        "The loss over the steps.",
        "The prompts, drawn by the model alone (first row) and with the maps of pictures of the folder (second row).",
    )
    FUNCTION = "execute"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        from ..core.operations.domain_choices import CONDITIONS, CONTROL_FORMATS, CONTROL_MAPS

        inputs = training_inputs()
        required, optional = inputs["required"], inputs["optional"]
        rank = required.pop("rank")
        del required["layers"]
        required["filename"] = ("STRING", {"default": "my-control", "tooltip": _FILENAME})
        required["conditions"] = (list(CONDITIONS), {"default": CONDITIONS[0], "tooltip": _CONDITIONS})
        required["maps"] = (list(CONTROL_MAPS), {"default": CONTROL_MAPS[0], "tooltip": _MAPS})
        required["format"] = (list(CONTROL_FORMATS), {"default": CONTROL_FORMATS[0], "tooltip": _FORMAT})
        required["ratio"] = ("FLOAT", {"default": 0.33, "min": 0.05, "max": 1.0, "step": 0.01, "tooltip": _RATIO})
        del optional["alpha"]
        optional["caption_dropout"] = ("FLOAT", {**optional["caption_dropout"][1], "default": 0.5, "tooltip": _DROPOUT})
        optional["rank"] = ("INT", {**rank[1], "default": 4, "advanced": True, "tooltip": _RANK})
        return inputs

    def train(self, graph: tuple[Any, Any, Any], job: Job, settings: dict[str, Any], run: Run) -> tuple[str, tuple[Any, ...]]:
        """See :meth:`FolderTraining.train`."""
        from ..core.operations.domain_control import ControlTuning
        from ..core.operations.train_control import train_control

        conditions = tuple(kind.strip() for kind in settings["conditions"].split(","))
        made = train_control(graph, job, ControlTuning(**{**settings, "conditions": conditions}), run)
        return made.report, (made.control_net, made.report, made.plot, made.samples)


NODE_CLASS_MAPPINGS = {"RapidDrawTrainControlAdapter": TrainControlAdapter}
