"""A node that trains a Kronecker adapter for a MODEL on a folder of pictures (ELR-Diffusion, section 2.4, equation 9)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .train_domain import FolderTraining, TrainDomainModel, training_inputs

if TYPE_CHECKING:
    from ..core.operations.distill import Run
    from ..core.operations.domain_run import Job
    from .sockets import Inputs

_FILENAME = (
    "The adapter's file, in rapiddraw/ of the output folder, where Load Kronecker Adapter finds it. An adapter of the same name is "
    "replaced. Checkpoints and samples lie in rapiddraw/NAME-run of the output folder; delete them when the training is done."
)
_LR = "Peak learning rate; it falls to 0 along a cosine. Higher learns faster and may diverge. 0.001 is our default: the paper gives none."
_RANK = (
    "Rank of the factors u and v, 1 to 1024. Higher can learn more and makes a larger file; 2 to 8 are usual. A layer's update reaches up "
    "to 64 times this rank."
)


class TrainKroneckerAdapter(FolderTraining):
    """MODEL, CLIP, VAE and a folder in, an adapter file and a workflow out."""

    DISPLAY_NAME = "Train Kronecker Adapter"
    CATEGORY = "RapidDraw/train"
    WORKS_WITH = TrainDomainModel.WORKS_WITH
    SEARCH_ALIASES = ("train lokr", "lycoris", "fine-tune", "train adapter", "train on my pictures", "custom model")
    DESCRIPTION = (
        "Teaches your own model your own pictures with a Kronecker adapter, which changes the weights in many more directions than other "
        "adapters of its size (ELR-Diffusion, section 2.4, equation 9). The node ends with one small file for Load Kronecker Adapter, and "
        "a ready workflow that draws with it. The pictures, the held-out share and the samples are those of Train Domain Model. A stopped "
        "run goes on when it is queued again with the same settings. The model at the input is not changed."
    )
    RETURN_TYPES = ("MODEL", "STRING", "IMAGE", "IMAGE")
    RETURN_NAMES = ("model", "report", "loss_plot", "samples")
    OUTPUT_TOOLTIPS = (
        "The model with the trained adapter on it.",
        "The pictures, the loss on held-out pictures before and after, the file and the workflow.",
        "The loss over the steps.",
        "The prompts, drawn by the model as it was (first row) and with the adapter (second row).",
    )
    FUNCTION = "execute"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        inputs = training_inputs()
        required, optional = inputs["required"], inputs["optional"]
        required["filename"] = ("STRING", {"default": "my-adapter", "tooltip": _FILENAME})
        required["lr"] = ("FLOAT", {**required["lr"][1], "default": 1e-3, "tooltip": _LR})
        required["rank"] = ("INT", {**required["rank"][1], "default": 4, "tooltip": _RANK})
        required["layers"] = (required["layers"][0], {**required["layers"][1], "default": "attention and feed-forward"})
        del optional["alpha"]
        return inputs

    def train(self, graph: tuple[Any, Any, Any], job: Job, settings: dict[str, Any], run: Run) -> tuple[str, tuple[Any, ...]]:
        """See :meth:`FolderTraining.train`."""
        from ..core.operations.domain_kronecker import KroneckerTuning, train_kronecker

        made = train_kronecker(graph, job, KroneckerTuning(**settings), run)
        return made.report, (made.model, made.report, made.plot, made.samples)


NODE_CLASS_MAPPINGS = {"RapidDrawTrainKroneckerAdapter": TrainKroneckerAdapter}
