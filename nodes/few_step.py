"""Nodes that train and load students which draw in a few steps what their teacher draws in many."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .sockets import Inputs

METHODS = ("trajectory", "progressive", "cfg_aware", "guidance_embedded", "consistency", "adversarial")
SCHEDULERS = ("sgm_uniform", "simple", "normal", "karras")
LINKED = "(the linked file)"
_LAYERS = {
    "all": ("attention", "feed_forward", "resnet", "projection"),
    "attention and feed-forward": ("attention", "feed_forward"),
    "attention": ("attention",),
}


class DistillFewSteps:
    """MODEL in, a student of it out that draws in a few steps."""

    DISPLAY_NAME = "Distill Few Steps"
    CATEGORY = "RapidDraw/few steps"
    WORKS_WITH = (
        "Most models. Methods guidance_embedded and adversarial are for U-Nets, such as SD 1.5 and SDXL; refused are inpainting models."
    )
    SEARCH_ALIASES = ("train", "distillation", "speed lora", "lightning", "turbo", "lcm", "hyper", "fewer steps", "step distillation")
    DESCRIPTION = (
        "Makes a speed LoRA of your own model: trains a student that draws in 1 to 8 steps what the model draws in many, from prompts "
        "alone. Without pictures the model draws its own examples. The result is a LoRA that works on every fine-tune of the same base, "
        "also in the stock Load LoRA; its file says how it is to be sampled. A stopped run goes on from its last checkpoint when it is "
        "queued again with the same settings. LoRAs on the model are taught too; the model at the input is not changed."
    )
    RETURN_TYPES = ("MODEL", "STRING", "STRING", "IMAGE", "IMAGE")
    RETURN_NAMES = ("student", "file", "report", "loss_plot", "samples")
    OUTPUT_TOOLTIPS = (
        "The model with the student's LoRA.",
        "The name of the student's file, for Load Few-Step Model.",
        "How the student is sampled, what it was trained on, and the loss at the start, at the end, and on held-out prompts.",
        "The loss over the steps.",
        "Pictures of prompts that were not trained on: the teacher's above, the student's below. Without a VAE the loss again.",
    )
    FUNCTION = "execute"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        prompts_tip = "What the student should draw well: a prompt a line, 20 or more, or the name of a .txt file in the input folder."
        method_tip = (
            "trajectory: meets the ends of the teacher's own runs; simple and good. progressive: halves the steps in rounds (Salimans and "
            "Ho). cfg_aware: keeps guidance at the sampler, at any scale (SnapFusion). guidance_embedded: is told the scale, one "
            "evaluation a step (Meng et al.). consistency: 2 to 8 steps, sampler lcm (LCM). adversarial: sharpest in one step (UFOGen)."
        )
        teacher_tip = (
            "Steps of the teacher's run that the student learns to shorten. More is closer to the model at its best and slower to prepare. "
            "For progressive few_steps times 2, 4, 8 or 16."
        )
        guidance_tip = (
            "The guidance scale that the student learns from the teacher; it is then sampled at scale 1, in half the time. 1: learns none. "
            "For cfg_aware and guidance_embedded the scale that is suggested later; they learn those from 2 to 14 (SnapFusion)."
        )
        drawn_tip = (
            "Latents that the model draws to learn from, where folder or vae is missing. More is better and takes longer to prepare."
        )
        network_tip = (
            "LoRA: a small file that also works on other fine-tunes. whole: a U-Net of its own, which can learn more and needs 16 bytes of "
            "memory for each of its parameters."
        )
        folder_tip = (
            "A folder in the input or output folder: pictures with captions, as for Distill UNet. Its captions are added to the "
            "prompts; with a VAE its pictures are learned from, and the teacher draws none."
        )
        filename_tip = (
            "The student's file, in loras/ of the output folder; a whole network in rapiddraw/. Checkpoints lie in rapiddraw/NAME-run; "
            "delete them when the training is done."
        )
        save_tip = "Steps between checkpoints. Fewer steps lose less work when a run stops; the newest two are kept."
        resume_tip = (
            "On: goes on from the last checkpoint of this filename, where there is one. Off: starts again and removes the old checkpoints."
        )
        return {
            "required": {
                "model": ("MODEL", {"tooltip": "The teacher: any model that takes a text alone, such as SD 1.5, SDXL, Flux or Wan."}),
                "clip": ("CLIP", {"tooltip": "Encodes the prompts. It is not trained."}),
                "prompts": ("STRING", {"default": "", "multiline": True, "tooltip": prompts_tip}),
                "filename": ("STRING", {"default": "few-steps", "tooltip": filename_tip}),
                "method": (list(METHODS), {"default": "trajectory", "tooltip": method_tip}),
                "few_steps": (
                    "INT",
                    {"default": 4, "min": 1, "max": 64, "tooltip": "Steps of the student: 8, 4, 2 or 1. Fewer are harder to learn."},
                ),
                "guidance": ("FLOAT", {"default": 5.0, "min": 1.0, "max": 30.0, "step": 0.1, "tooltip": guidance_tip}),
                "steps": (
                    "INT",
                    {"default": 500, "min": 1, "max": 1000000, "tooltip": "Training steps. More trains better and takes longer."},
                ),
                "batch_size": (
                    "INT",
                    {"default": 4, "min": 1, "max": 1024, "tooltip": "Latents in a training step. More is steadier and needs more memory."},
                ),
                "lr": (
                    "FLOAT",
                    {
                        "default": 1e-4, "min": 0.0, "max": 1.0, "step": 1e-6, "round": 1e-9,
                        "tooltip": "Peak learning rate; it falls to 0 along a cosine. Higher learns faster and may diverge.",
                    },
                ),
                "size": (
                    "INT",
                    {"default": 512, "min": 32, "max": 4096, "step": 8, "tooltip": "Side in pixels of the square that is learned."},
                ),
                "teacher_steps": ("INT", {"default": 32, "min": 1, "max": 1000, "tooltip": teacher_tip}),
                "drawn": ("INT", {"default": 128, "min": 2, "max": 65536, "tooltip": drawn_tip}),
                "network": (["LoRA", "whole"], {"default": "LoRA", "tooltip": network_tip}),
                "rank": (
                    "INT",
                    {"default": 32, "min": 1, "max": 1024, "tooltip": "Rank of the LoRA. Higher learns more and makes a larger file."},
                ),
                "layers": (list(_LAYERS), {"default": "all", "tooltip": "The layers that get a LoRA. Fewer make a smaller file."}),
                "seed": (
                    "INT",
                    {"default": 0, "min": 0, "max": 2**64 - 1, "tooltip": "Chooses the noise, the noise levels and the order."},
                ),
                "save_every": ("INT", {"default": 100, "min": 1, "max": 1000000, "tooltip": save_tip}),
                "resume": ("BOOLEAN", {"default": True, "tooltip": resume_tip}),
            },
            "optional": {
                "vae": ("VAE", {"tooltip": "Encodes the pictures of folder, and decodes samples to look at. It is not trained."}),
                "folder": ("STRING", {"default": "", "tooltip": folder_tip}),
                "scheduler": (
                    list(SCHEDULERS),
                    {"default": "sgm_uniform", "tooltip": "The schedule of the student's noise levels; the file remembers it."},
                ),
            },
        }  # fmt: skip

    @classmethod
    def IS_CHANGED(cls, prompts: str | None = None, folder: str | None = None, **_: Any) -> str:
        from ..core.data.places import fingerprint
        from ..core.errors import RapidDrawError
        from ..core.operations.few_step import prompts_digest

        try:
            return f"{prompts_digest(prompts or '')}-{fingerprint(folder)}"
        except (RapidDrawError, OSError):
            return ""

    def execute(
        self,
        model: Any,
        clip: Any,
        prompts: str,
        filename: str,
        method: str,
        few_steps: int,
        guidance: float,
        steps: int,
        batch_size: int,
        lr: float,
        size: int,
        teacher_steps: int,
        drawn: int,
        network: str,
        rank: int,
        layers: str,
        seed: int,
        save_every: int,
        resume: bool,
        vae: Any = None,
        folder: str = "",
        scheduler: str = "sgm_uniform",
    ) -> dict[str, Any]:
        from ..core.operations.distill import Run
        from ..core.operations.few_step import FewStepParts, distill_few_steps
        from ..core.train.recipes.few_step import FewStepRecipe

        recipe = FewStepRecipe(
            seed=seed, batch_size=batch_size, lr=lr, method=method, few=few_steps, teacher_steps=teacher_steps, scheduler=scheduler,
            guidance=guidance, network=network.lower(), rank=rank, targets=_LAYERS.get(layers, ()), drawn=drawn, size=size,
        )  # fmt: skip
        made = distill_few_steps(FewStepParts(model, clip, vae), prompts, folder, filename, recipe, Run(steps, save_every, resume))
        return {"ui": {"text": [made.report]}, "result": (made.model, made.file, made.report, made.loss, made.samples)}


class LoadFewStepModel:
    """MODEL in, the student of it out, with the sampler, the noise levels and the guidance scale that it needs."""

    DISPLAY_NAME = "Load Few-Step Model"
    CATEGORY = "RapidDraw/few steps"
    WORKS_WITH = "The model that the student was distilled from, and fine-tunes of it."
    SEARCH_ALIASES = ("load lora", "speed lora", "lightning", "turbo", "lcm", "few steps", "load student")
    DESCRIPTION = (
        "Loads a student of Distill Few Steps onto its model and gives everything that it is sampled with: sampler, noise levels and "
        "guidance scale, as its file says, so that none of them is set wrong. A file of another model is refused with the reason."
    )
    RETURN_TYPES = ("MODEL", "SAMPLER", "SIGMAS", "FLOAT")
    RETURN_NAMES = ("model", "sampler", "sigmas", "cfg")
    OUTPUT_TOOLTIPS = (
        "The model with the student's weights; the model at the input is not changed.",
        "The sampler that the student was made for, for SamplerCustomAdvanced.",
        "The student's noise levels, for SamplerCustomAdvanced.",
        "The guidance scale for CFGGuider: 1 for a student that has learned guidance.",
    )
    FUNCTION = "execute"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        from ..core.fewstep.find import list_students

        student_tip = f"The student's file, in a loras folder or a weights folder. {LINKED}: that of the input file."
        steps_tip = "0: as many steps as the student was trained for. Consistency students also draw in others; all others draw worse."
        scale_tip = (
            "0: the student's own scale. Another one is for students of cfg_aware and guidance_embedded, which know the scales from 2 to "
            "14. Students that have learned one scale keep it; a warning says so."
        )
        return {
            "required": {
                "model": ("MODEL", {"tooltip": "The model that the student was distilled from, or a fine-tune of it."}),
                "student": ([LINKED, *list_students()], {"tooltip": student_tip}),
                "steps": ("INT", {"default": 0, "min": 0, "max": 1000, "tooltip": steps_tip}),
                "scale": ("FLOAT", {"default": 0.0, "min": 0.0, "max": 100.0, "step": 0.1, "tooltip": scale_tip}),
            },
            "optional": {
                "file": ("STRING", {"forceInput": True, "tooltip": "A file's name, from Distill Few Steps, in the place of student."})
            },
        }

    @classmethod
    def IS_CHANGED(cls, student: str | None = None, file: str | None = None, **_: Any) -> str:
        from ..core.errors import RapidDrawError
        from ..core.fewstep.find import resolve_student
        from ..core.paths import file_sha256

        name = (file if student == LINKED else student) or ""
        try:
            return file_sha256(resolve_student(name))
        except RapidDrawError:
            return name

    def execute(self, model: Any, student: str, steps: int, scale: float, file: str = "") -> tuple[Any, Any, Any, float]:
        from ..core.errors import InputError
        from ..core.fewstep.find import resolve_student
        from ..core.operations.few_step import apply_student

        if student == LINKED and not file:
            raise InputError("no student was chosen: choose one, or link file from Distill Few Steps")
        return apply_student(model, resolve_student(file if student == LINKED else student), steps, scale)


NODE_CLASS_MAPPINGS = {"RapidDrawDistillFewSteps": DistillFewSteps, "RapidDrawLoadFewStepModel": LoadFewStepModel}
