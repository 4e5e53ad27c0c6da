"""A node that trains picture prompts for a MODEL of the user's, by any CLIP_VISION (PanGu-Draw, section 5.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .loaders import content_of
from .train_domain import FolderTraining, training_inputs

if TYPE_CHECKING:
    from ..core.operations.distill import Run
    from ..core.operations.domain_run import Job
    from .sockets import Inputs

LINKED = "(the linked clip_vision)"
_FILENAME = (
    "The projection's file, in rapiddraw/ of the output folder, where Image Variation Encode finds it. One of the same name is replaced. "
    "Checkpoints and samples lie in rapiddraw/NAME-run of the output folder; delete them when the training is done."
)
_LR = "Peak learning rate of the projection; it falls to 0 along a cosine. Higher learns faster and may diverge. 0.0001 to 0.001 are usual."
_TOKENS = "Tokens that a picture becomes, 1 to 256. More carry more of the picture and leave less to the text; 4 to 32 are usual."
_TOWER = (
    "What reads the pictures where no clip_vision is linked: an image tower of this pack. The shipped one knows Orchard pictures (this "
    "pack's drawings) alone."
)
_DROPOUT = (
    "Share of captions replaced by the empty text, 0 to 1, so that the picture's tokens carry what the caption would. 0.5 is our default."
)
_HIDDEN = "Width of the projection between the embedding and the tokens, 1 to 8192. Higher can learn more and makes a larger file."
_READING = (
    "Steps of a quick regression before the training, in which the tokens learn to say what each picture's caption says. 0: none. More "
    "start the training nearer to the captions."
)
_VISION = "Reads the pictures: any CLIP Vision model, from Load CLIP Vision. It is not trained. Use the same one when you draw."


class TrainImageTokens(FolderTraining):
    """MODEL, CLIP, VAE, CLIP_VISION and a folder in, a projection and a workflow out."""

    DISPLAY_NAME = "Train Image Tokens"
    CATEGORY = "RapidDraw/train"
    WORKS_WITH = (
        "Most models that take a text alone: SD 1.5, SDXL, Flux, Qwen-Image, Z-Image, Wan, with any CLIP Vision model. Refused are models "
        "that take a picture or a mask too, such as inpainting and image to video."
    )
    SEARCH_ALIASES = ("train ip adapter", "train ipadapter", "image prompt", "reference image", "picture as prompt", "clip vision training")
    DESCRIPTION = (
        "Teaches your own model to take pictures as prompts: from a folder of pictures and any CLIP Vision model to a small projection for "
        "Image Variation Encode, and a ready workflow that draws with it. Only the projection is trained; the model is as before. "
        "PanGu-Draw fuses its model with such an image variation model (section 5.2). The held-out share and the samples are those of "
        "Train Domain Model. A stopped run goes on when it is queued again with the same settings."
    )
    RETURN_TYPES = ("STRING", "STRING", "IMAGE", "IMAGE")
    RETURN_NAMES = ("trained", "report", "loss_plot", "samples")
    OUTPUT_TOOLTIPS = (
        "The projection's name, for the input trained of Image Variation Encode.",
        "The pictures, the loss on held-out pictures by the text alone and with the picture, the file and the workflow.",
        "The loss over the steps.",
        "The prompts, drawn from the text alone (first row) and with a picture of the folder (second row); the pictures (third row).",
    )
    FUNCTION = "execute"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        from ..core.bundles.find import list_bundles

        inputs = training_inputs()
        required, optional = inputs["required"], inputs["optional"]
        for name in ("rank", "layers"):
            del required[name]
        required["filename"] = ("STRING", {"default": "my-image-tokens", "tooltip": _FILENAME})
        required["lr"] = ("FLOAT", {**required["lr"][1], "default": 5e-4, "tooltip": _LR})
        required["tokens"] = ("INT", {"default": 16, "min": 1, "max": 256, "tooltip": _TOKENS})
        required["tower_name"] = ([LINKED, *list_bundles("image")], {"default": LINKED, "tooltip": _TOWER})
        del optional["alpha"]
        optional["caption_dropout"] = ("FLOAT", {**optional["caption_dropout"][1], "default": 0.5, "tooltip": _DROPOUT})
        optional["hidden"] = ("INT", {"default": 1024, "min": 1, "max": 8192, "advanced": True, "tooltip": _HIDDEN})
        optional["reading"] = ("INT", {"default": 200, "min": 0, "max": 100000, "advanced": True, "tooltip": _READING})
        optional["clip_vision"] = ("CLIP_VISION", {"tooltip": _VISION})
        return inputs

    @classmethod
    def IS_CHANGED(cls, folder: str | None = None, tower_name: str | None = None, **_: Any) -> str:
        return f"{super().IS_CHANGED(folder)}-{content_of(image=tower_name)}"

    def train(self, graph: tuple[Any, Any, Any], job: Job, settings: dict[str, Any], run: Run) -> tuple[str, tuple[Any, ...]]:
        """See :meth:`FolderTraining.train`."""
        from ..core.bundles.find import resolve_bundle
        from ..core.operations.domain_image_tokens import ImageTokensTuning
        from ..core.operations.train_image_tokens import reader_of, train_image_tokens

        name = settings.pop("tower_name")
        reader = reader_of(settings.pop("clip_vision", None), None if name == LINKED else resolve_bundle(name, "image"))
        made = train_image_tokens(graph, reader, job, ImageTokensTuning(**settings), run)
        return made.report, (made.name, made.report, made.plot, made.samples)


NODE_CLASS_MAPPINGS = {"RapidDrawTrainImageTokens": TrainImageTokens}
