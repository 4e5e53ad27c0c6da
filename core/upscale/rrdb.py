"""ESRGAN upscalers: a network from a file, and the object around it that enlarges images.

The network is a library's: basicsr's `RRDBNet` (Wang et al. 2018, "ESRGAN", and its x2/x1 form of Real-ESRGAN, 2021), or spandrel's where
basicsr cannot be imported. Each of the three layouts of :mod:`.layouts` loads into either and gives equal pixels.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from ..errors import BundleError, InputError, MissingPackageError
from . import basicsr_shim
from .checkpoint import plain_tensors, read_state
from .layouts import RRDBConfig, derive, to_basicsr, to_sequential, unwrap

if TYPE_CHECKING:
    from torch import Tensor, nn

log = logging.getLogger("rapiddraw")
BACKENDS = ("basicsr", "spandrel")


class Upscaler:
    """An ESRGAN network and its properties, for the UPSCALE_MODEL socket.

    It has every member of spandrel's `ImageModelDescriptor` that ComfyUI's ImageUpscaleWithModel uses: `model`, `scale`, `to()`, and a call
    on NCHW in [0, 1].
    """

    def __init__(self, model: nn.Module, config: RRDBConfig, name: str = "ESRGAN") -> None:
        self.model, self.config, self.name = model.eval().requires_grad_(False), config, name

    @property
    def scale(self) -> int:
        """Output pixels for each input pixel, along each side."""
        return self.config.scale

    @property
    def input_channels(self) -> int:
        return self.config.in_channels

    @property
    def output_channels(self) -> int:
        return self.config.out_channels

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.model.parameters()).dtype

    def to(self, *args: Any, **kwargs: Any) -> Upscaler:
        """Move the network, as `nn.Module.to` does; returns self."""
        self.model.to(*args, **kwargs)
        return self

    def eval(self) -> Upscaler:
        """Return self: an upscaler is always in evaluation mode. spandrel's descriptors have this method."""
        return self

    def __call__(self, image: Tensor) -> Tensor:
        """Return (B, `output_channels`, H*scale, W*scale) in [0, 1], from (B, C, H, W) in [0, 1] with C = `input_channels`, any H and W.

        Sizes that a folding network cannot take are padded by reflection, and the result is cropped. Raises :class:`InputError`.
        """
        if image.ndim != 4 or image.shape[1] != self.input_channels or 0 in image.shape:
            raise InputError(f"{self.name} takes images (batch, {self.input_channels}, height, width), not {tuple(image.shape)}")
        height, width = image.shape[2:]
        with torch.no_grad():
            result = self.model(pad_to_multiple(image, self.config.shuffle))
        return result[:, :, : height * self.scale, : width * self.scale].clamp(0, 1)


def pad_to_multiple(image: Tensor, multiple: int) -> Tensor:
    """Return (B, C, H, W) extended at the right and the bottom, by reflection, so that both sides are multiples of `multiple`."""
    height, width = image.shape[2:]
    right, bottom = -width % multiple, -height % multiple
    if not right and not bottom:
        return image
    # Reflection needs more pixels than it adds; a one-pixel strip can only be repeated.
    mode = "reflect" if right < width and bottom < height else "replicate"
    return functional.pad(image, (0, right, 0, bottom), mode=mode)


def build(config: RRDBConfig, backend: str | None = None, device: str | torch.device = "cpu") -> nn.Module:
    """Return a library's RRDBNet with new weights: basicsr's where it can be imported and fits, else spandrel's.

    basicsr always upsamples twice, spandrel always grows by 32 channels. `backend` forces one of :data:`BACKENDS`. Raises
    :class:`MissingPackageError` where the library that is needed is missing, :class:`InputError` where the forced one does not fit.
    """
    return _build(config, backend or _choose(config), device)[0]


def from_state(state: Any, backend: str | None = None, name: str = "ESRGAN") -> Upscaler:
    """Return an :class:`Upscaler` that computes in float32, from a checkpoint's mapping in any layout, bare or wrapped.

    Raises :class:`BundleError` where the weights are not those of an ESRGAN network, and what :func:`build` raises.
    """
    weights = plain_tensors(to_basicsr(unwrap(state)))
    config = derive(weights)
    try:
        model, used = _build(config, backend or _choose(config), "meta")  # meta: no memory, and no draw from the global random state
    except (ValueError, TypeError, ArithmeticError) as error:
        if isinstance(error, InputError):
            raise
        raise BundleError(f"{name}: the shapes of the weights make no network ({error})") from error
    if used == "spandrel":
        weights = to_sequential(weights)
    try:
        model.load_state_dict(weights, assign=True)
    except RuntimeError as error:
        raise BundleError(f"{name}: the weights do not fit an ESRGAN network: {str(error).splitlines()[-1].strip()}") from error
    log.debug("%s: x%d, %d blocks of %d features, by %s", name, config.scale, config.num_block, config.num_feat, used)
    return Upscaler(model, config, name)


def load_upscaler(path: str | os.PathLike[str], backend: str | None = None) -> Upscaler:
    """Return an upscaler from a RapidDraw bundle, a plain ESRGAN `.safetensors`, a `.pth` (never unpickled freely), or ncnn's
    `.param` with its `.bin` beside it.

    Raises :class:`BundleError`, which names the file, for one that is missing, damaged, unsafe or of another kind;
    :class:`MissingPackageError`.
    """
    path = Path(path)
    try:
        return from_state(read_state(path), backend, path.stem)
    except BundleError as error:
        raise error if path.name in str(error) else BundleError(f"{path.name}: {error}") from error


def _choose(config: RRDBConfig) -> str:
    return "basicsr" if config.upsamples == 2 and basicsr_shim.available() else "spandrel"


def _build(config: RRDBConfig, backend: str, device: str | torch.device) -> tuple[nn.Module, str]:
    if backend not in BACKENDS:
        raise InputError(f"unknown backend {backend!r}: {' or '.join(BACKENDS)}")
    with torch.device(device):
        return (_basicsr(config) if backend == "basicsr" else _spandrel(config)), backend


def _basicsr(config: RRDBConfig) -> nn.Module:
    if config.upsamples != 2:
        raise InputError(f"basicsr's RRDBNet upsamples twice; this network does {config.upsamples} times. Use spandrel for it")
    network: nn.Module = basicsr_shim.rrdbnet_class()(
        num_in_ch=config.in_channels,
        num_out_ch=config.out_channels,
        scale=config.scale,
        num_feat=config.num_feat,
        num_block=config.num_block,
        num_grow_ch=config.num_grow,
    )
    return network


def _spandrel(config: RRDBConfig) -> nn.Module:
    if config.num_grow != 32:
        raise MissingPackageError(
            f"an ESRGAN network with {config.num_grow} growth channels needs basicsr (spandrel's always has 32): "
            "`pip install --no-build-isolation basicsr`, on Python 3.12 or older"
        )
    try:
        from spandrel.architectures.ESRGAN import ESRGAN
    except ImportError as error:
        raise MissingPackageError(
            f"upscaling needs spandrel or basicsr, and neither can be imported ({error}): `pip install spandrel`"
        ) from error
    network: nn.Module = ESRGAN(
        in_nc=config.in_channels * config.shuffle**2,
        out_nc=config.out_channels,
        num_filters=config.num_feat,
        num_blocks=config.num_block,
        scale=2**config.upsamples,
        shuffle_factor=config.shuffle if config.shuffle > 1 else None,
    )
    return network
