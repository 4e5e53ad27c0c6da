"""Shipped networks, loaded as the benchmarks need them: a MODEL, CLIP and VAE in the current host, the knowledge graph, the judge."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..core.metrics.orchard import Parts


def shipped(name: str, kind: str) -> Path:
    """Return the path of `orchard-NAME.safetensors`, a bundle of `kind`."""
    from ..core.bundles.find import resolve_bundle

    return resolve_bundle(f"orchard-{name}.safetensors", kind)


def shipped_parts(unet: str | Path = "unet", vae: str = "vae", knowledge: bool = True) -> Parts:
    """Load a U-Net (a shipped name, or the path of a bundle), the shipped text encoder and a shipped VAE into the current host.

    With `knowledge` the text encoder reads names through the shipped knowledge graph.
    """
    from ..core.host import current
    from ..core.metrics.orchard import Parts

    host = current()
    path = unet if isinstance(unet, Path) else shipped(unet, "unet")
    model, clip, loaded = host.load_bundles(path, shipped("text", "text"), shipped(vae, "vae"))
    return Parts(host, model, host.knowledge.attach(clip, shipped_graph(), 1.0) if knowledge else clip, loaded)


def sampling(host: Any, cfg: float, steps: int, scheduler: str = "karras") -> Callable[..., Any]:
    """Return a function (model, positive, negative, latent, seed) -> unscaled latents that samples by dpmpp_2m under guidance `cfg`."""
    from ..core.host import SamplingRun

    def sample(model: Any, positive: Any, negative: Any, latent: Any, seed: int) -> Any:
        guider = host.sampling.make_guider(model, positive, negative, cfg)
        return host.sampling.sample(guider, latent, SamplingRun(seed, steps, "dpmpp_2m", scheduler))["samples"]

    return sample


def shipped_graph() -> Any:
    """Load the shipped knowledge graph."""
    from ..core.knowledge.graph import load_knowledge

    return load_knowledge(shipped("kg", "kg"))


def shipped_judge() -> Any:
    """Load the shipped judge."""
    from ..core.scoring.judge import load_judge

    return load_judge(shipped("judge", "judge"))
