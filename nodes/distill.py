"""A node that trains a low-rank student of any MODEL in the graph (ELR-Diffusion, section 2.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .sockets import Inputs


class DistillUNet:
    """MODEL in, a smaller MODEL out that was trained to predict the same."""

    DISPLAY_NAME = "Distill UNet (low-rank)"
    CATEGORY = "RapidDraw/low-rank"
    WORKS_WITH = "Most models. Refused are SD 1.5 inpainting, Playground 2.5, Cosmos, Wan 2.2 image to video and some rare families."
    SEARCH_ALIASES = ("train", "distillation", "compress model", "smaller model", "student teacher", "low vram", "vram")
    DESCRIPTION = (
        "Makes any model smaller and keeps more of its quality than factoring alone: factors it as Factorize UNet does, then trains the "
        "factors to predict what the whole model predicts, on a folder of captioned pictures (ELR-Diffusion, section 2.2). A stopped run "
        "goes on from its last checkpoint when it is queued again with the same settings. The student is saved under filename. LoRAs on "
        "the model are taught too; the model at the input is not changed."
    )
    RETURN_TYPES = ("MODEL", "STRING", "IMAGE")
    RETURN_NAMES = ("student", "report", "loss_plot")
    OUTPUT_TOOLTIPS = (
        "The trained low-rank model. LoRAs work on it.",
        "Parameters and bytes of teacher and student, the loss at the start and at the end, and the file's name.",
        "The loss over the steps.",
    )
    FUNCTION = "execute"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        folder_tip = (
            "A folder in the input or output folder: pictures with a .txt of captions beside each, or with a captions.jsonl. Empty: 48 "
            "Orchard pictures (this pack's drawings of imaginary fruits) are drawn, to try the node on the shipped model."
        )
        filename_tip = (
            "The student's file, in rapiddraw/ of the output folder. A U-Net of the same name is replaced. Checkpoints lie in NAME-run "
            "beside it; delete them when the training is done."
        )
        lr_tip = (
            "Peak learning rate; it falls to 0 along a cosine. Higher learns faster and may diverge. 0.00001 suits models of the size of "
            "SD 1.5, 0.0005 suits the small shipped model. ELR-Diffusion prints 10^5 (section 3.3), which can only mean 0.00001."
        )
        value_tip = (
            "param_ratio: share of the network's parameters that is left (ELR-Diffusion, Table 1: 790 of 1290 million, 0.61). energy: "
            "share of each weight's squared norm that is kept. rank: one rank for all layers. Higher keeps more of the model."
        )
        weighting_tip = "How noise levels count. none: all alike. min_snr: times min(SNR, 5), less at low noise (Hang et al. 2023)."
        feature_tip = (
            "Factor of the error between the feature maps of teacher and student, each in units of the teacher's spread. 0 leaves it out "
            "and is faster; 0.1 is a good start. ELR-Diffusion gives no value. For U-Nets only: 0 for other models."
        )
        task_tip = "Factor of the plain diffusion loss on the pictures. ELR-Diffusion found training without it better (section 2.2.2): 0."
        save_tip = (
            "Steps between checkpoints. Fewer steps lose less work when a run stops. A checkpoint is three times as large as the "
            "student in float32; the newest two are kept."
        )
        resume_tip = (
            "On: goes on from the last checkpoint of this filename, where there is one. Off: starts again and removes the old checkpoints."
        )
        return {
            "required": {
                "model": (
                    "MODEL",
                    {"tooltip": "The teacher: any model that takes a text alone: a bundle, SD 1.5, SDXL, Flux, Qwen-Image, Z-Image, Wan."},
                ),
                "clip": ("CLIP", {"tooltip": "Encodes the captions. It is not trained."}),
                "vae": ("VAE", {"tooltip": "Encodes the pictures. It is not trained."}),
                "folder": ("STRING", {"default": "", "tooltip": folder_tip}),
                "filename": ("STRING", {"default": "distilled-unet", "tooltip": filename_tip}),
                "steps": (
                    "INT",
                    {
                        "default": 1000,
                        "min": 1,
                        "max": 1000000,
                        "tooltip": "Training steps. Each step shows batch_size pictures. More trains better and takes longer.",
                    },
                ),
                "batch_size": (
                    "INT",
                    {
                        "default": 4,
                        "min": 1,
                        "max": 1024,
                        "tooltip": "Pictures in each step. More is steadier, slower, and needs more memory.",
                    },
                ),
                "lr": ("FLOAT", {"default": 1e-5, "min": 0.0, "max": 1.0, "step": 1e-6, "round": 1e-9, "tooltip": lr_tip}),
                "size": (
                    "INT",
                    {
                        "default": 512,
                        "min": 32,
                        "max": 4096,
                        "step": 8,
                        "tooltip": "Side in pixels of the square that pictures are cropped to.",
                    },
                ),
                "mode": (["param_ratio", "energy", "rank"], {"default": "param_ratio", "tooltip": "How the rank of each layer is chosen."}),
                "value": ("FLOAT", {"default": 0.61, "min": 0.01, "max": 10000.0, "step": 0.01, "tooltip": value_tip}),
                "weighting": (["none", "min_snr"], {"default": "none", "tooltip": weighting_tip}),
                "feature_weight": ("FLOAT", {"default": 0.0, "min": 0.0, "max": 1000.0, "step": 0.01, "tooltip": feature_tip}),
                "task_weight": ("FLOAT", {"default": 0.0, "min": 0.0, "max": 1000.0, "step": 0.01, "tooltip": task_tip}),
                "seed": (
                    "INT",
                    {
                        "default": 0,
                        "min": 0,
                        "max": 2**64 - 1,
                        "tooltip": "Chooses the noise, the timesteps and the order of the pictures.",
                    },
                ),
                "save_every": ("INT", {"default": 500, "min": 1, "max": 1000000, "tooltip": save_tip}),
                "resume": ("BOOLEAN", {"default": True, "tooltip": resume_tip}),
            }
        }

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
        batch_size: int,
        lr: float,
        size: int,
        mode: str,
        value: float,
        weighting: str,
        feature_weight: float,
        task_weight: float,
        seed: int,
        save_every: int,
        resume: bool,
    ) -> dict[str, Any]:
        from ..core.operations.distill import ModelDistillation, Run, distill_model

        recipe = ModelDistillation(
            seed=seed, batch_size=batch_size, lr=lr, size=size, mode=mode, value=value, weighting=weighting, features=feature_weight,
            task=task_weight,
        )  # fmt: skip
        student, report, plot = distill_model(model, clip, vae, folder, filename, recipe, Run(steps, save_every, resume))
        return {"ui": {"text": [report]}, "result": (student, report, plot)}


NODE_CLASS_MAPPINGS = {"RapidDrawDistillUNet": DistillUNet}
