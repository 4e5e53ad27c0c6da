"""A node that trains a LoRA for any MODEL in the graph on a folder of pictures (Rapid Diffusion, section 3.1.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..core.operations.distill import Run
    from ..core.operations.domain_run import Job
    from .sockets import Inputs

_TIPS = {
    "model": "The base: any model that takes a text alone. Its weights stay as they are.",
    "clip": "Encodes the captions; a knowledge graph on it is used.",
    "vae": "Encodes the pictures. It is not trained.",
    "folder": (
        "A folder in the input folder (or the output folder): at least 3 pictures, 20 or more are better, with a .txt of "
        "captions beside each, or with a captions.jsonl. Empty: 16 pictures of an imaginary fruit that no shipped model knows "
        "are drawn, to try the node."
    ),
    "filename": (
        "The LoRA's file, in loras/ of the output folder, where Load LoRA finds it. A LoRA that this node made under the same "
        "name is replaced. Checkpoints and samples lie in rapiddraw/NAME-run of the output folder; delete them when the training "
        "is done."
    ),
    "steps": "Training steps of batch_size pictures each. More learns more; 1000 to 3000 are usual.",
    "batch_size": "Pictures in each step. More is steadier, slower, and needs more memory.",
    "lr": (
        "Peak learning rate; it falls to 0 along a cosine. Higher learns faster and may diverge. 0.0001 suits SD 1.5, SDXL and flow models."
    ),
    "rank": "Rank of each pair, 1 to 1024. Higher can learn more and makes a larger file; 4 to 32 are usual.",
    "layers": ("Layers that get a pair. attention is usual; more layers learn more of shapes and textures, and make a larger file."),
    "size": (
        "Pixels: the side of square pictures; pictures of other shapes have about as many pixels. 512 for SD 1.5, 1024 for SDXL and later."
    ),
    "prompts": ("Prompts, one a line and at most 4, that are drawn four times in the run, to watch what is learned. Empty: two captions."),
    "seed": "Chooses the noise, the order and the split. The same seed and settings give the same file.",
    "alpha": "The pairs count alpha / rank times. As high as rank: once. Lower learns more slowly.",
    "subject": ("The name of what pictures without a caption show. Empty: the name of the folder inside the folder that they lie in."),
    "template": (
        "Captions of the pictures that have none, one a line; object in curly brackets is the subject. Rapid Diffusion (section 3.1.1) "
        "uses 'the photo of X'."
    ),
    "caption_dropout": (
        "Share of captions replaced by the empty text, 0 to 1, so that guidance keeps working. Higher listens less to captions. "
        "0.1 is usual."
    ),
    "weighting": (
        "How noise levels count. min_snr: times min(SNR, 5), less at low noise, learns faster (Hang et al. 2023). none: all alike."
    ),
    "buckets": "On: pictures keep about their shape, up to twice as wide as high. Off: all are cropped to squares.",
    "flip": "On: every picture is shown mirrored too. Not for faces, letters, or anything with a left and a right.",
    "checkpointing": (
        "Gradient checkpointing computes the model's blocks twice in a step, which needs much less memory and about a third more "
        "time. auto: on a GPU, where free memory asks for it."
    ),
    "save_every": "Steps between checkpoints. Fewer lose less work when a run stops; the newest two are kept.",
    "text_rank": (
        "Rank of a LoRA on the text encoder as well, in the same file; 0 trains none. 4 to 16 are usual. For SD 1.5, SDXL and this pack's "
        "bundles. It helps with words that the text encoder reads in another sense, and forgets more."
    ),
    "text_lr": (
        "Learning rate of the text encoder's LoRA and of the projection, as a share of lr. Higher learns names faster and forgets more."
    ),
    "learn_projection": (
        "On: learns how the text encoder reads the knowledge graph on the CLIP (its matrix W), from the pictures. For names that the text "
        "encoder does not know (Rapid Diffusion, section 3.1.1). The file NAME-projection is for the input projection of Apply Knowledge."
    ),
    "resume": (
        "On: goes on from the last checkpoint of this filename, where there is one. Off: starts again and removes the old checkpoints."
    ),
}


def _advanced(name: str) -> dict[str, Any]:
    return {"advanced": True, "tooltip": _TIPS[name]}


def training_inputs() -> Inputs:
    """Return the inputs of a training on a folder of pictures, whatever it trains."""
    from ..core.operations.domain_choices import CHECKPOINTING, LAYERS

    most = {"min": 1, "max": 1000000}
    return {
        "required": {
            "model": ("MODEL", {"tooltip": _TIPS["model"]}),
            "clip": ("CLIP", {"tooltip": _TIPS["clip"]}),
            "vae": ("VAE", {"tooltip": _TIPS["vae"]}),
            "folder": ("STRING", {"default": "", "tooltip": _TIPS["folder"]}),
            "filename": ("STRING", {"default": "my-domain", "tooltip": _TIPS["filename"]}),
            "steps": ("INT", {"default": 1000, **most, "tooltip": _TIPS["steps"]}),
            "batch_size": ("INT", {"default": 1, "min": 1, "max": 1024, "tooltip": _TIPS["batch_size"]}),
            "lr": ("FLOAT", {"default": 1e-4, "min": 0.0, "max": 1.0, "step": 1e-5, "round": 1e-9, "tooltip": _TIPS["lr"]}),
            "rank": ("INT", {"default": 16, "min": 1, "max": 1024, "tooltip": _TIPS["rank"]}),
            "layers": (list(LAYERS), {"default": "attention", "tooltip": _TIPS["layers"]}),
            "size": ("INT", {"default": 512, "min": 32, "max": 4096, "step": 8, "tooltip": _TIPS["size"]}),
            "prompts": ("STRING", {"default": "", "multiline": True, "tooltip": _TIPS["prompts"]}),
            "seed": ("INT", {"default": 0, "min": 0, "max": 2**64 - 1, "tooltip": _TIPS["seed"]}),
        },
        "optional": {
            "alpha": ("FLOAT", {"default": 16.0, "min": 0.001, "max": 1e6, "step": 0.5, **_advanced("alpha")}),
            "subject": ("STRING", {"default": "", "tooltip": _TIPS["subject"]}),
            "template": ("STRING", {"default": "a photo of {object}", "multiline": True, **_advanced("template")}),
            "caption_dropout": ("FLOAT", {"default": 0.1, "min": 0.0, "max": 1.0, "step": 0.01, **_advanced("caption_dropout")}),
            "weighting": (["min_snr", "none"], {"default": "min_snr", **_advanced("weighting")}),
            "buckets": ("BOOLEAN", {"default": True, **_advanced("buckets")}),
            "flip": ("BOOLEAN", {"default": False, **_advanced("flip")}),
            "checkpointing": (list(CHECKPOINTING), {"default": "auto", **_advanced("checkpointing")}),
            "save_every": ("INT", {"default": 500, **most, **_advanced("save_every")}),
            "resume": ("BOOLEAN", {"default": True, **_advanced("resume")}),
        },
        "hidden": {"prompt": "PROMPT", "unique_id": "UNIQUE_ID"},
    }  # fmt: skip


class FolderTraining:
    """What the nodes share that train on a folder of pictures: their run, and when it is run again."""

    @classmethod
    def IS_CHANGED(cls, folder: str | None = None, **_: Any) -> str:
        from ..core.data.places import fingerprint

        return fingerprint(folder)

    def execute(
        self,
        model: Any,
        clip: Any,
        vae: Any,
        folder: str,
        filename: str,
        steps: int,
        prompts: str,
        save_every: int = 500,
        resume: bool = True,
        prompt: dict[str, Any] | None = None,
        unique_id: str | None = None,
        **settings: Any,
    ) -> dict[str, Any]:
        from ..core.operations.distill import Run
        from ..core.operations.domain_run import Job
        from . import NODE_CLASS_MAPPINGS

        job = Job(folder, filename, prompts, prompt or {}, str(unique_id), NODE_CLASS_MAPPINGS)
        report, result = self.train((model, clip, vae), job, settings, Run(steps, save_every, resume))
        return {"ui": {"text": [report]}, "result": result}

    def train(self, graph: tuple[Any, Any, Any], job: Job, settings: dict[str, Any], run: Run) -> tuple[str, tuple[Any, ...]]:
        """Train on MODEL, CLIP and VAE by the node's other inputs, and return (the report, the node's outputs)."""
        raise NotImplementedError


class TrainDomainModel(FolderTraining):
    """MODEL, CLIP, VAE and a folder in, a LoRA file and a workflow out."""

    DISPLAY_NAME = "Train Domain Model"
    CATEGORY = "RapidDraw/train"
    WORKS_WITH = (
        "Most models that take a text alone: SD 1.5, SDXL, Flux, Qwen-Image, Z-Image, Wan. Refused are models that take a picture or a "
        "mask too, such as inpainting and image to video."
    )
    SEARCH_ALIASES = ("train lora", "fine-tune", "finetune", "dreambooth", "train on my pictures", "custom model", "lora trainer")
    DESCRIPTION = (
        "Teaches your own model your own pictures: from a folder of pictures to a LoRA file, and a ready workflow that draws with it. "
        "Works with SD 1.5, SDXL, Flux, Qwen-Image, Z-Image, Wan and other models that take a text alone. A tenth of the pictures is "
        "held out, to tell what was learned from what was learned by heart (80, 10 and 10 per cent, as in Rapid Diffusion, appendix B). "
        "Samples appear while it trains. A stopped run goes on when it is queued again with the same settings. The model at the input is "
        "not changed."
    )
    RETURN_TYPES = ("MODEL", "CLIP", "STRING", "IMAGE", "IMAGE")
    RETURN_NAMES = ("model", "clip", "report", "loss_plot", "samples")
    OUTPUT_TOOLTIPS = (
        "The model with the trained LoRA on it.",
        "The text encoder with what was trained of it.",
        "The pictures, the loss on held-out pictures before and after, the file and the workflow.",
        "The loss over the steps.",
        "The prompts, drawn by the model as it was (first row) and with the LoRA (second row).",
    )
    FUNCTION = "execute"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        inputs = training_inputs()
        inputs["optional"] |= {
            "text_rank": ("INT", {"default": 0, "min": 0, "max": 1024, **_advanced("text_rank")}),
            "text_lr": ("FLOAT", {"default": 0.5, "min": 0.0, "max": 10.0, "step": 0.01, **_advanced("text_lr")}),
            "learn_projection": ("BOOLEAN", {"default": False, **_advanced("learn_projection")}),
        }
        return inputs

    def train(self, graph: tuple[Any, Any, Any], job: Job, settings: dict[str, Any], run: Run) -> tuple[str, tuple[Any, ...]]:
        """See :meth:`FolderTraining.train`."""
        from ..core.operations.domain import DomainTuning
        from ..core.operations.train_domain import train_domain

        made = train_domain(graph, job, DomainTuning(**settings), run)
        return made.report, (made.model, made.clip, made.report, made.plot, made.samples)


NODE_CLASS_MAPPINGS = {"RapidDrawTrainDomainModel": TrainDomainModel}
