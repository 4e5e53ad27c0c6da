"""A node that fine-tunes an ESRGAN upscaler on a folder of pictures (Rapid Diffusion, section 4.5 and appendix C)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .works_with import PICTURES

if TYPE_CHECKING:
    from .sockets import Inputs

_INCLUDED = "included image tower"


class TrainUpscaler:
    """UPSCALE_MODEL in, the same network out, trained on the user's pictures."""

    DISPLAY_NAME = "Train Upscaler"
    CATEGORY = "RapidDraw/image"
    WORKS_WITH = PICTURES
    SEARCH_ALIASES = ("train esrgan", "fine-tune upscaler", "finetune", "super resolution training", "gan", "restore", "real-esrgan")
    DESCRIPTION = (
        "Makes an upscaler better on your kind of pictures: fine-tunes any ESRGAN (RRDB) network on a folder, as Rapid Diffusion does "
        "(appendix C). With a VAE it learns to mend what that VAE leaves out of a picture. The report compares bicubic interpolation and "
        "the network before and after, on pictures that were held out. A stopped run goes on when it is queued again with the same "
        "settings."
    )
    RETURN_TYPES = ("UPSCALE_MODEL", "STRING", "IMAGE", "IMAGE")
    RETURN_NAMES = ("upscale_model", "report", "loss_plot", "compared")
    OUTPUT_TOOLTIPS = (
        "The trained upscaler, for ESRGAN Upscale and the stock Upscale Image (using Model).",
        "What the folder holds and what was left out, then PSNR, SSIM and perceptual distance on held-out pictures, and the files' names.",
        "The loss over the steps.",
        "Held-out pictures in rows: bicubic interpolation, the upscaler before, the trained one, the true picture.",
    )
    FUNCTION = "execute"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        from ..core.bundles.find import list_bundles
        from ..core.scoring.find import list_networks

        folder_tip = (
            "A folder of pictures in the input or output folder, at least 2 of patch px or more; every seventeenth is held "
            "out. Captions are not needed. Empty: scenes of the Orchard (this pack's drawings) are drawn."
        )
        file_tip = (
            "The file to write, in rapiddraw/ of the output folder; the critic is written beside it as NAME-critic. An upscaler of that "
            "name is replaced."
        )
        lr_tip = (
            "Learning rate of Adam, halved at 1/8, 1/4, 1/2 and 3/4 of the run. Rapid Diffusion: 0.0001. Higher learns faster and may "
            "diverge."
        )
        degradation_tip = (
            "What the small pictures go through. bicubic: only the reduction. vae: encoded and decoded by the VAE at the input. jpeg: "
            "compressed at quality 30 to 95. blur: a soft lens and a little noise."
        )
        degraded_tip = "Share of the small pictures that goes through the degradation, 0 to 1. The others are only reduced."
        perceptual_tip = (
            "Whose feature maps are compared. VGG19 weights of torchvision (a file with vgg19 in its name, in a weights folder) are what "
            "ESRGAN uses; the included image tower knows drawings."
        )
        gan_tip = (
            "Weight of the critic's term, which sharpens textures and costs PSNR. ESRGAN has 0.005; 0 trains without a critic. The critic "
            "(UNetDiscriminatorSN of 64 features) needs basicsr, which Python 3.13 and later cannot install."
        )
        critics = ["new", *list_bundles("critic")]
        required: dict[str, Any] = {
            "upscale_model": ("UPSCALE_MODEL", {"tooltip": "An ESRGAN network (RRDB) that enlarges by 4, 2 or 1. It is not changed."}),
            "folder": ("STRING", {"default": "", "tooltip": folder_tip}),
            "filename": ("STRING", {"default": "my-upscaler", "tooltip": file_tip}),
            "steps": (
                "INT",
                {"default": 1000, "min": 1, "max": 1000000, "tooltip": "Training steps of batch_size patches. More trains better."},
            ),
            "batch_size": (
                "INT",
                {"default": 16, "min": 1, "max": 256, "tooltip": "Patches in each step. Rapid Diffusion: 16. More needs more memory."},
            ),
            "lr": ("FLOAT", {"default": 1e-4, "min": 0.0, "max": 1.0, "step": 1e-6, "round": 1e-9, "tooltip": lr_tip}),
            "patch": (
                "INT",
                {
                    "default": 128,
                    "min": 32,
                    "max": 512,
                    "step": 8,
                    "tooltip": "Side in pixels of the large patches. ESRGAN: 128. Larger sees more of a picture and needs more memory.",
                },
            ),
            "degradation": (["bicubic", "vae", "jpeg", "blur"], {"default": "bicubic", "tooltip": degradation_tip}),
            "degraded": ("FLOAT", {"default": 0.5, "min": 0.0, "max": 1.0, "step": 0.05, "tooltip": degraded_tip}),
            "pixel_weight": (
                "FLOAT",
                {
                    "default": 0.01,
                    "min": 0.0,
                    "max": 1000.0,
                    "step": 0.01,
                    "tooltip": "Weight of the L1 on pixels. ESRGAN: 0.01; 1 with the other two at 0 trains for PSNR alone.",
                },
            ),
            "perceptual_weight": (
                "FLOAT",
                {
                    "default": 1.0,
                    "min": 0.0,
                    "max": 1000.0,
                    "step": 0.05,
                    "tooltip": "Weight of the L1 between feature maps. ESRGAN: 1; 0 leaves it out.",
                },
            ),
            "perceptual": ([_INCLUDED, *list_networks()], {"default": _INCLUDED, "tooltip": perceptual_tip}),
            "gan_weight": ("FLOAT", {"default": 0.005, "min": 0.0, "max": 1000.0, "step": 0.001, "tooltip": gan_tip}),
            "critic": (
                critics,
                {
                    "default": "new",
                    "tooltip": "The critic of an earlier run, to go on with; new starts one. It counts where gan_weight is above 0.",
                },
            ),
            "seed": (
                "INT",
                {"default": 0, "min": 0, "max": 2**64 - 1, "tooltip": "Chooses the patches. The same seed gives the same file."},
            ),
            "save_every": (
                "INT",
                {"default": 500, "min": 1, "max": 1000000, "tooltip": "Steps between checkpoints; the newest two are kept."},
            ),
            "resume": (
                "BOOLEAN",
                {"default": True, "tooltip": "On: goes on from the last checkpoint of this filename. Off: starts again."},
            ),
        }
        return {"required": required, "optional": {"vae": ("VAE", {"tooltip": "The VAE of the degradation vae; not used by the others."})}}

    @classmethod
    def IS_CHANGED(cls, folder: str | None = None, **_: Any) -> str:
        from ..core.data.places import fingerprint

        return fingerprint(folder)

    def execute(
        self,
        upscale_model: Any,
        folder: str,
        filename: str,
        steps: int,
        batch_size: int,
        lr: float,
        patch: int,
        degradation: str,
        degraded: float,
        pixel_weight: float,
        perceptual_weight: float,
        perceptual: str,
        gan_weight: float,
        critic: str,
        seed: int,
        save_every: int,
        resume: bool,
        vae: Any = None,
    ) -> dict[str, Any]:
        from ..core.operations.distill import Run
        from ..core.operations.train_upscaler import settings_of, train_upscaler

        how = {"degradation": degradation, "degraded": degraded, "perceptual": "" if perceptual == _INCLUDED else perceptual}
        recipe = settings_of(how, critic if critic != "new" else "", vae is not None)
        recipe.seed, recipe.batch_size, recipe.lr, recipe.patch = seed, batch_size, lr, patch
        recipe.pixel_weight, recipe.perceptual_weight, recipe.gan_weight = pixel_weight, perceptual_weight, gan_weight
        through = vae if degradation == "vae" else None
        trained, report, plot, compared = train_upscaler(upscale_model, folder, filename, recipe, Run(steps, save_every, resume), through)
        return {"ui": {"text": [report]}, "result": (trained, report, plot, compared)}


NODE_CLASS_MAPPINGS = {"RapidDrawTrainUpscaler": TrainUpscaler}
