"""Settings of a U-Net's training, and the checks of which of them go together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from ...checks import whole_number
from ...diffusion.weighting import WEIGHTINGS
from ...errors import InputError
from ..recipe import Recipe


@dataclass
class UnetSettings(Recipe):
    """Settings of a U-Net's training; the defaults train the shipped Orchard model. `data` is an image folder with captions; `vae`,
    `text` and `graph` are bundles."""

    bundles: ClassVar[Mapping[str, str]] = {"vae": "vae", "text": "text", "graph": "kg", "base": "unet", "align": "text", "base_vae": "vae"}

    batch_size: int = 32
    lr: float = 1e-3
    text_lr: float = 2e-4  # learning rate of the text encoder; 0 freezes it
    ema: float = 0.999
    precision: str = "bf16"
    vae: str = ""  # the VAE bundle whose latents are learned
    text: str = ""  # one bundle, or several with commas between them: their features are concatenated in this order
    graph: str = ""  # optional: without it no knowledge is injected
    base: str = ""  # a U-Net bundle to fine-tune
    align: str = ""  # the text bundle that `base` was trained with, where `text` names others: attention starts from a least-squares fit
    new_latents: bool = False  # move `base` to another VAE: its first and last convolutions start anew
    base_vae: str = ""  # new_latents: the VAE that `base` was trained with; its ends then start from a least-squares fit of the latents
    new_prediction: bool = False  # train `base` further with another `prediction` than its own, such as flow
    size: int = 128  # side of a picture in pixels
    widths: tuple[int, ...] = (64, 96, 160)  # channels of each level, multiples of 32
    attention: tuple[int, ...] = (0, 1, 1)  # levels with self- and cross-attention
    heads: int = 4  # attention heads
    prediction: str = "v"  # what the network gives: "v", "eps", "x0" or "flow"
    weighting: str = "none"  # "none" (all timesteps equal, which learns layouts sooner) or "min_snr"
    t_min: int = 0  # lowest timestep that is trained
    t_max: int = 1000  # timesteps below this one are trained
    timesteps: str = "uniform"  # how timesteps in [t_min, t_max) are drawn; "logit_normal" draws the middle and upper ones more often
    low_share: float = 0.0  # share of the pictures that are enlarged from half the size (PanGu-Draw, section 4.1, on structure data)
    low_kept: bool = True  # False leaves those pictures out, for a comparison
    foreground: float = 1.0  # how many times the error inside segmented objects counts; above 1 the folder must hold segmentation maps
    caption_dropout: float = 0.1  # share of captions replaced by the empty prompt, for guidance
    encoder_dropout: float = 0.0  # of several encoders: share of captions that one of them, drawn at random, reads alone
    reads: tuple[int, ...] = ()  # of several encoders: numbers (from 0) of those that read captions, the others the empty prompt; () is all
    joined: float = 0.0  # share of captions that are two captions of the picture in a row, perhaps in two languages
    trained: str = "all"  # or "cross_attention", or "attention" (self-attention too)
    buckets: bool = False  # pictures of many aspect ratios, each batch of one ratio; the U-Net reads the index of the ratio
    bucket_scale: float = 0.125  # factor on the paper's sizes for the structure model (Table 7): 64x256 to 256x64
    style_prefix: float = 0.0  # share of captions whose words for a known style become a one-token prefix (PanGu-Draw, section 7)
    knowledge_dropout: float = 0.2  # share of captions read without the graph
    renamed: float = 0.0  # share of the others whose names become random word pieces, so that the graph alone tells what they name
    compile: bool = False  # compile the U-Net (`torch.compile`): a minute at first, then faster steps on a GPU
    checkpointing: bool = False  # gradient checkpointing: the backward pass computes activations again, for less memory and more time

    def settings(self) -> dict[str, Any]:
        """See :meth:`Recipe.settings`. Settings that were added are left out at what they were before, so that older runs are resumed."""
        return {key: value for key, value in super().settings().items() if value or key not in ("renamed", "compile")}

    def texts(self) -> list[str]:
        """Return the text bundles, in the order in which their features stand."""
        return [path.strip() for path in self.text.split(",") if path.strip()]

    def paths_in(self, key: str) -> list[str]:
        return self.texts() if key == "text" else super().paths_in(key)

    def check(self) -> None:
        super().check()
        for key in ("data", "vae", "text"):
            if not getattr(self, key):
                raise InputError(
                    f"{key} is empty: a U-Net needs a folder of captioned images (data), a VAE (vae) and a text encoder (text)"
                )
        if any(width % 32 for width in self.widths) or len(self.widths) != len(self.attention):
            raise InputError(f"widths={self.widths}, attention={self.attention}: expected multiples of 32 and as many flags as widths")
        whole_number("heads", self.heads, 1, 1024)
        if self.buckets and self.name != "unet":
            raise InputError(f"buckets=true is for the recipe unet: {self.name} takes pictures of one size")
        if self.buckets and self.low_share:
            raise InputError("buckets=true goes with whole pictures: leave out low_share")
        if self.trained not in ("all", "attention", "cross_attention") or (
            self.trained != "all" and (not self.base or self.new_latents or self.text_lr)
        ):
            raise InputError(f"trained={self.trained!r}: expected all, or (cross_)attention with a base, its own VAE, and text_lr=0")
        if not all(str(number).isdecimal() for number in self.reads):  # from the command line they come as text
            raise InputError(f"reads={self.reads!r}: expected the numbers of text encoders, from 0")
        if len(self.texts()) > 1 and self.text_lr:
            raise InputError(f"text_lr={self.text_lr!r} with several text encoders: they stay as they are (set text_lr=0)")
        self.check_shares("caption_dropout", "encoder_dropout", "joined", "knowledge_dropout", "style_prefix", "renamed")
        if self.renamed and not self.graph:
            raise InputError(f"renamed={self.renamed!r} and no graph: without one nothing tells what a renamed thing is; set graph")
        if self.align and not self.base:
            raise InputError("align is set and base is empty: name the U-Net bundle that gets other text encoders")
        if self.new_latents and not self.base:
            raise InputError("new_latents is set and base is empty: name the U-Net bundle that moves to another VAE")
        if self.base_vae and not self.new_latents:
            raise InputError("base_vae is set and new_latents is not: it names the VAE that a U-Net leaves; set new_latents=true")
        if self.new_prediction and not self.base:
            raise InputError("new_prediction is set and base is empty: name the U-Net bundle that learns another prediction")
        if not 0 <= self.t_min < self.t_max <= 1000:
            raise InputError(f"t_min={self.t_min}, t_max={self.t_max}: expected 0 <= t_min < t_max <= 1000")
        if not 0 <= self.low_share <= 1 or (self.low_share == 1 and not self.low_kept):
            raise InputError(f"low_share={self.low_share!r}: expected a share from 0 to 1, and pictures left to train on")
        if self.timesteps not in ("uniform", "logit_normal"):
            raise InputError(f"timesteps={self.timesteps!r}: expected 'uniform' or 'logit_normal'")
        if not 1 <= self.foreground <= 100:
            raise InputError(f"foreground={self.foreground!r}: expected 1 (every pixel alike) to 100")
        if self.weighting not in WEIGHTINGS:
            raise InputError(f"weighting={self.weighting!r}: expected {' or '.join(WEIGHTINGS)}")
