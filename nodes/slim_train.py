"""Nodes that train smaller networks in the graph: a U-Net of fewer blocks, a decoder of fewer channels (SnapFusion, MobileDiffusion)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from .sockets import Inputs, Latent

_SWITCHES = {
    "no_outer_self_attention": (
        "no self-attention at high resolution",
        "No self-attention in the two levels of highest resolution; cross-attention stays. Saves 15% of the work (MobileDiffusion).",
    ),
    "deeper_middle": (
        "more transformers in the middle",
        "Two more transformer blocks in the middle of the U-Net, where they cost little. They change nothing until they are trained.",
    ),
    "shared_key_value": (
        "one projection for keys and values",
        "One projection for the keys and values of self-attention. Saves 5% of the parameters (MobileDiffusion).",
    ),
    "swish": ("swish for gelu", "Swish in the place of gelu, which is less stable in low precision (MobileDiffusion)."),
    "relu_attention": (
        "relu for softmax",
        "Relu in the place of softmax in self-attention, for devices on which softmax is slow. Attention kernels cannot serve it.",
    ),
    "trimmed_feed_forward": (
        "trimmed feed-forward",
        "Keeps three quarters of the hidden units of feed-forward networks. Saves 10% of the parameters (MobileDiffusion).",
    ),
    "separable_convolutions": (
        "separable convolutions",
        "Separable convolutions in the innermost level and the middle. Saves 10% of the parameters (MobileDiffusion).",
    ),
    "fewer_residual_blocks": (
        "fewer residual blocks",
        "One residual block fewer in each level. Saves 19% of the work and 15% of the parameters (MobileDiffusion).",
    ),
}
"""Switches by the name of their input: the name of the change, and what it does."""


class SlimUNet:
    """MODEL in, a faster MODEL out whose blocks were removed, copied and made cheaper, and that was trained to predict the same."""

    DISPLAY_NAME = "Slim UNet"
    CATEGORY = "RapidDraw/slim"
    SEARCH_ALIASES = ("faster model", "smaller model", "prune unet", "snapfusion", "mobile diffusion", "remove layers", "distillation")
    DESCRIPTION = (
        "Makes a U-Net faster, to a share of its time that you set: trains it to do without any one block, removes those that are least "
        "missed for each saved millisecond, copies the most useful ones, and trains what is left to predict what the whole model predicts "
        "(SnapFusion, Algorithm 1). MobileDiffusion's changes of single layers can be switched on too. A stopped run goes on when it is "
        "queued again with the same settings. The result is saved under filename, for Load Low-Rank UNet; LoRAs on kept blocks still work. "
        "U-Nets only."
    )
    WORKS_WITH = "U-Nets such as SD 1.5 and SDXL, fine-tunes of them, and bundles. Other models are refused."
    RETURN_TYPES = ("MODEL", "STRING", "IMAGE")
    RETURN_NAMES = ("student", "report", "loss_plot")
    OUTPUT_TOOLTIPS = (
        "The slimmed and trained model. The model at the input is not changed.",
        "What was removed and copied, parameters before and after, the loss at the start and at the end, and the file's name.",
        "The loss of the last training over its steps.",
    )
    FUNCTION = "execute"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        folder_tip = (
            "A folder in the input or output folder: pictures with a .txt of captions beside each, or with a captions.jsonl. Empty: 48 "
            "Orchard pictures (this pack's drawings of imaginary fruits), to try the node on the shipped model."
        )
        file_tip = (
            "The student's file, in rapiddraw/ of the output folder. A U-Net of the same name is replaced. Checkpoints lie in NAME-run "
            "beside it; delete them when the training is done."
        )
        preset_tip = (
            "A whole set of changes to begin with. snapfusion: the paper's final table, for U-Nets with SD 1.5's blocks. mobile: all eight "
            "changes of MobileDiffusion. none: only those that are switched on below."
        )
        latency_tip = (
            "Share of the model's time that is left, 0.1 to 1. Lower is faster and loses more. 1 removes no block beyond the changes "
            "chosen. A share that cannot be reached is refused, with the least that can."
        )
        measure_tip = "time: milliseconds on this machine. multiply-adds: counted, the same on every machine."
        copies_tip = "The most blocks that are copied where they are worth their time, 0 to 16. SnapFusion copies three."
        robust_tip = "Training steps before blocks are removed, in which blocks are left out at random. 0 removes at once."
        skip_tip = "Probability that a block is left out of such a step, 0 to 0.9. The slides give no value."
        size_tip = "Side in pixels of the square that pictures are cropped to, and the size that times are measured at."
        lr_tip = (
            "Peak learning rate of both trainings; it falls to 0 along a cosine. 0.00001 suits models of the size of SD 1.5, 0.0005 "
            "suits the small shipped model."
        )
        feature_tip = "Factor of the error between feature maps of teacher and student. 0 leaves it out and is faster; 0.1 is a good start."
        save_tip = "Steps between checkpoints. Fewer steps lose less work when a run stops."
        resume_tip = "On: goes on from the last checkpoint of this filename, where there is one. Off: starts again."
        count, off = {"min": 1, "max": 1000000}, {"default": False}
        return {
            "required": {
                "model": ("MODEL", {"tooltip": "The teacher: SD 1.5, SDXL, a fine-tune, or a bundle. LoRAs on it are taught too."}),
                "clip": ("CLIP", {"tooltip": "Encodes the captions. It is not trained."}),
                "vae": ("VAE", {"tooltip": "Encodes the pictures. It is not trained."}),
                "folder": ("STRING", {"default": "", "tooltip": folder_tip}),
                "filename": ("STRING", {"default": "slim-unet", "tooltip": file_tip}),
                "preset": (["none", "snapfusion", "mobile"], {"default": "none", "tooltip": preset_tip}),
                "latency": ("FLOAT", {"default": 0.6, "min": 0.1, "max": 1.0, "step": 0.05, "tooltip": latency_tip}),
                "measure": (["time", "multiply-adds"], {"default": "time", "tooltip": measure_tip}),
                "copies": ("INT", {"default": 1, "min": 0, "max": 16, "tooltip": copies_tip}),
                "robust_steps": ("INT", {"default": 200, "min": 0, "max": 1000000, "tooltip": robust_tip}),
                "skip": ("FLOAT", {"default": 0.1, "min": 0.0, "max": 0.9, "step": 0.01, "tooltip": skip_tip}),
                "steps": ("INT", {"default": 1000, **count, "tooltip": "Training steps after blocks are removed. More trains better."}),
                "batch_size": (
                    "INT",
                    {"default": 4, "min": 1, "max": 1024, "tooltip": "Pictures in a step. More is steadier and slower."},
                ),
                "lr": ("FLOAT", {"default": 1e-5, "min": 0.0, "max": 1.0, "step": 1e-6, "round": 1e-9, "tooltip": lr_tip}),
                "size": ("INT", {"default": 512, "min": 32, "max": 4096, "step": 8, "tooltip": size_tip}),
                "feature_weight": ("FLOAT", {"default": 0.0, "min": 0.0, "max": 1000.0, "step": 0.01, "tooltip": feature_tip}),
                "seed": (
                    "INT",
                    {"default": 0, "min": 0, "max": 2**64 - 1, "tooltip": "Chooses noise, timesteps, and blocks left out."},
                ),
                "save_every": ("INT", {"default": 500, **count, "tooltip": save_tip}),
                "resume": ("BOOLEAN", {"default": True, "tooltip": resume_tip}),
            },
            "optional": {name: ("BOOLEAN", {**off, "tooltip": tip}) for name, (_, tip) in _SWITCHES.items()},
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
        preset: str,
        latency: float,
        measure: str,
        copies: int,
        robust_steps: int,
        skip: float,
        steps: int,
        batch_size: int,
        lr: float,
        size: int,
        feature_weight: float,
        seed: int,
        save_every: int,
        resume: bool,
        **switches: bool,
    ) -> tuple[Any, str, Tensor]:
        from ..core.operations.distill import Run
        from ..core.operations.slim_model import Slim, SlimDistillation, slim_model

        chosen = tuple(_SWITCHES[name][0] for name, on in switches.items() if on)
        slim = Slim(preset, latency, measure, copies, robust_steps, skip, chosen)
        recipe = SlimDistillation(lr=lr, batch_size=batch_size, size=size, features=feature_weight, seed=seed)
        return slim_model(model, clip, vae, folder, filename, slim, recipe, Run(steps, save_every, resume))


class PruneVAEDecoder:
    """VAE in, a VAE with a smaller decoder out that was trained to draw the same."""

    DISPLAY_NAME = "Prune VAE Decoder"
    CATEGORY = "RapidDraw/slim"
    SEARCH_ALIASES = ("smaller vae", "faster vae", "compress vae", "tiny autoencoder", "taesd", "slow decode", "low vram")
    DESCRIPTION = (
        "Makes the decoder of a VAE smaller and faster: keeps a share of its channels, those of the largest weights (structured "
        "L1 pruning), then trains it to draw what the whole decoder draws (SnapFusion's image decoder: 13 of 50 million "
        "parameters). The encoder and the latents do not change. A stopped run goes on from its last checkpoint when it is queued "
        "again with the same settings."
    )
    WORKS_WITH = "VAEs of the kind AutoencoderKL: those of SD 1.5, SDXL, SD 3 and Flux, and bundles. Others are refused."
    RETURN_TYPES = ("VAE", "STRING", "IMAGE")
    RETURN_NAMES = ("vae", "report", "loss_plot")
    OUTPUT_TOOLTIPS = (
        "The VAE with the pruned decoder. The VAE at the input is not changed.",
        "Parameters and bytes of the decoder before and after, PSNR of its pictures to the whole decoder's, and the file's name.",
        "The loss over the steps.",
    )
    FUNCTION = "execute"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        share_tip = (
            "Share of the channels that is left, 0.1 to 1. Parameters fall with its square: 0.5 leaves a quarter, as in SnapFusion (13 "
            "of 50 million). 1 leaves the decoder as it is."
        )
        from_tip = (
            "Latents to train on. pictures: those of the folder, encoded. drawn: normal noise of the spread of such latents, which needs "
            "few pictures. A linked latent replaces both."
        )
        folder_tip = "A folder of pictures in the input or output folder. Empty: 48 Orchard pictures (drawings of imaginary fruits)."
        file_tip = "The file to write, in rapiddraw/ of the output folder. A VAE of the same name is replaced. Checkpoints lie in NAME-run."
        lr_tip = "Peak learning rate; it falls to 0 along a cosine. Higher learns faster and may diverge."
        batch_tip = "Latents in each step. More is steadier, slower, and needs more memory."
        resume_tip = "On: goes on from the last checkpoint of this filename, where there is one. Off: starts again."
        latent_tip = "Latents of the model that you draw with, in a batch. They replace those of pictures."
        return {
            "required": {
                "vae": ("VAE", {"tooltip": "The VAE whose decoder is pruned: SD 1.5, SDXL, SD 3, Flux, or a bundle."}),
                "share": ("FLOAT", {"default": 0.5, "min": 0.1, "max": 1.0, "step": 0.05, "tooltip": share_tip}),
                "latents_from": (["pictures", "drawn"], {"default": "pictures", "tooltip": from_tip}),
                "folder": ("STRING", {"default": "", "tooltip": folder_tip}),
                "size": ("INT", {"default": 256, "min": 32, "max": 4096, "step": 8, "tooltip": "Side of the pictures in pixels."}),
                "filename": ("STRING", {"default": "pruned-vae", "tooltip": file_tip}),
                "steps": (
                    "INT",
                    {"default": 1000, "min": 1, "max": 1000000, "tooltip": "Training steps. More trains better."},
                ),
                "batch_size": ("INT", {"default": 4, "min": 1, "max": 1024, "tooltip": batch_tip}),
                "lr": ("FLOAT", {"default": 1e-3, "min": 0.0, "max": 1.0, "step": 1e-6, "round": 1e-9, "tooltip": lr_tip}),
                "seed": ("INT", {"default": 0, "min": 0, "max": 2**64 - 1, "tooltip": "Chooses drawn latents, and the order of all."}),
                "resume": ("BOOLEAN", {"default": True, "tooltip": resume_tip}),
            },
            "optional": {"latent": ("LATENT", {"tooltip": latent_tip})},
        }

    @classmethod
    def IS_CHANGED(cls, folder: str | None = None, **_: Any) -> str:
        from ..core.data.places import fingerprint

        return fingerprint(folder)

    def execute(
        self,
        vae: Any,
        share: float,
        latents_from: str,
        folder: str,
        size: int,
        filename: str,
        steps: int,
        batch_size: int,
        lr: float,
        seed: int,
        resume: bool,
        latent: Latent | None = None,
    ) -> tuple[Any, str, Tensor]:
        from ..core.operations.distill import Run
        from ..core.operations.prune_vae import DecoderDistillation, Prune, prune_vae

        recipe = DecoderDistillation(lr=lr, batch_size=batch_size, seed=seed)
        return prune_vae(vae, Prune(share, latents_from, folder, size), filename, recipe, Run(steps, resume=resume), latent)


NODE_CLASS_MAPPINGS = {"RapidDrawSlimUNet": SlimUNet, "RapidDrawPruneVAEDecoder": PruneVAEDecoder}
