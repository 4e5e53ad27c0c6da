"""Train Kronecker Adapter: from a folder of pictures and a MODEL, CLIP and VAE to an adapter file and a workflow that draws with it.

The updates are those of ELR-Diffusion (section 2.4, eq. 9), which puts them on its control adapter; here they lie on the model itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from ..errors import InputError
from ..host import current
from ..lowrank.adapter import save_adapter
from ..lowrank.hooked import Hooked, paired_layers
from ..lowrank.kronecker_hooks import hook_updates
from ..lowrank.roles import role_of
from .adapt import adapt_model
from .distill import Run
from .domain import DomainTuning
from .domain_choices import LAYERS
from .domain_run import Job, bundle_name, bundle_path, run_domain
from .ready_workflow import workflow_line
from .train_domain import Tuned


@dataclass
class KroneckerTuning(DomainTuning):
    """The recipe behind Train Kronecker Adapter. `rank` is that of u and v; `alpha` is not used."""

    name: ClassVar[str] = "domain_kronecker"
    called: ClassVar[str] = "Kronecker adapter"
    takes_text: ClassVar[bool] = False
    place: ClassVar[str] = "rapiddraw of the output folder, for Load Kronecker Adapter"

    lr: float = 1e-3
    rank: int = 4
    layers: str = "attention and feed-forward"

    def check_model(self, model: Any, empty: Any) -> None:
        super().check_model(model, empty)
        network = current().speed.network_of("model", model)
        if not self.chosen(network, model):
            raise InputError(f"no layer of this {type(network).__name__} that an adapter file can name is among {self.layers!r}")

    def attach(self, network: nn.Module, device: torch.device) -> Mapping[str, Hooked]:
        return {"updates": hook_updates(network, self.chosen(network, self.model), self.rank, device)}

    def chosen(self, network: nn.Module, model: Any) -> list[str]:
        """Return the names of the layers that get an update: those of a kind in `layers` for which an adapter file has a name."""
        known = current().surgery.layer_names(model)
        return [name for name, _ in paired_layers(network) if name in known and role_of(name, LAYERS[self.layers])]

    def write(self, out: Path, told: Mapping[str, Any]) -> list[Path]:
        hooked: Any = self.learned["updates"]
        known = current().surgery.layer_names(self.model)
        updates = {known[name]: update for name, update in hooked.updates().items()}
        return [save_adapter(out, updates, "unet", told, rank=self.rank)]


def train_kronecker(parts: tuple[Any, Any, Any], job: Job, recipe: KroneckerTuning, run: Run) -> Tuned:
    """Train a Kronecker adapter for `parts` (MODEL, CLIP, VAE), none of which is changed. See :func:`~.domain_run.run_domain`."""
    model, clip, _ = parts
    out = bundle_path(job.filename, "adapter")
    made = run_domain(parts, job, recipe, run, [out])
    (path,) = made.result.files
    with torch.inference_mode():
        tuned = adapt_model(model, path, 1.0)
    lines = made.report(recipe, [out])
    if job.graph:
        inputs = {"model": None, "adapter_name": bundle_name(out), "strength": 1.0}
        loader = {"class_type": "RapidDrawKroneckerAdapterLoader", "inputs": inputs}
        lines.append(workflow_line(job.filename, lambda: made.drawing(recipe, job, loader), job.classes))
    return Tuned(tuned, clip, "\n".join(lines), made.plot(), made.samples, (path,))
