"""Clones of the embedded host's MODELs, CLIPs and VAEs whose networks run through a function."""

from __future__ import annotations

from typing import Any

from ...speed.around import Around, Runner
from .clip import Clip
from .sd_clip import SdClip
from .vae import Vae


def network_of(part: str, whole: Any) -> Any:
    """See :meth:`SpeedTopic.network_of`. Of a CLIP with two encoders it is the larger one's."""
    if part == "clip":
        return list(whole.encoders.values())[-1].network if isinstance(whole, SdClip) else whole.encoder.text_model
    return whole.model.diffusion_model if part == "model" else whole.first_stage_model


def run_around(part: str, whole: Any, run: Runner) -> Any:
    """See :meth:`SpeedTopic.run_around`."""
    if part == "vae":
        return Vae(Around(whole.first_stage_model, ("decode", "encode"), run), whole.latent_format, whole.device)
    clone = whole.clone()
    if isinstance(clone, SdClip):
        last = list(clone.encoders)[-1]
        clone.encoders[last] = Around(clone.encoders[last], ("encode",), run)  # type: ignore[assignment]
    elif isinstance(clone, Clip):
        clone.encoder = Around(clone.encoder, ("encode_embeddings",), run)  # type: ignore[assignment]
    else:
        clone.model = Around(clone.model, ("apply_model",), run)
    return clone


def runner_of(model: Any) -> Runner | None:
    """See :meth:`SpeedTopic.runner_of`."""
    return vars(model.model).get("_run")
