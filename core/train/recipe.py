"""Recipes: dataclasses of hyper-parameters that know their networks, their batches and their loss.

A recipe says *what* is trained; `loop.py` says *how* a run goes. The smallest recipe:

>>> @dataclass
... class Line(Recipe):
...     name: ClassVar[str] = "line"
...     def setup(self, device):
...         self.net = StraightLine().to(device)
...     def modules(self):
...         return {"net": self.net}
...     def batch(self, index, generator):
...         x = torch.rand(self.batch_size, 1, generator=generator)
...         return {"x": x, "y": 3 * x + 1}
...     def loss(self, batch):
...         return {"loss": F.mse_loss(self.net(batch["x"]), batch["y"])}

Two rules make a resumed run equal an uninterrupted one, bit for bit, with no random state to store:

* `batch(index, generator)` depends on its arguments alone: images, crops, captions and noise are chosen by `index` and
  `generator`. :class:`EpochOrder` gives shuffled epochs under this rule.
* Everything that `loss` draws (noise, timesteps, dropout) comes from torch's default generator. The loop seeds it again at every
  step from (seed, step), inside a fork, so that the caller's random state stays as it was.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn

from ..bundles.find import resolve_bundle
from ..bundles.format import read_info
from ..checks import real_number, whole_number
from ..errors import BundleError, InputError

if TYPE_CHECKING:
    from torch.optim import Optimizer

Losses = dict[str, torch.Tensor]
MOST = 2**20
"""Of pictures in a batch, batches in a step, steps of a warm-up and threads."""


@dataclass
class Recipe:
    """Base of every recipe. Fields are hyper-parameters: `--set key=value` sets them and the bundle's provenance records them.

    A subclass must define :meth:`setup`, :meth:`modules`, :meth:`batch`, :meth:`loss` and :meth:`finish`; the rest has defaults.
    """

    name: ClassVar[str] = "recipe"
    default_steps: ClassVar[int] = 1000
    # Settings that may differ when a run is resumed: they do not change what is computed.
    volatile: ClassVar[frozenset[str]] = frozenset({"data", "prefetch"})
    # Settings that name bundles, with the kind that each must be: their headers are read before any work.
    bundles: ClassVar[Mapping[str, str]] = {}

    data: str = ""  # a dataset folder; each recipe says what it must hold
    seed: int = 0  # of weights, data order and noise
    batch_size: int = 16  # pictures (or triples, or pairs) a batch
    lr: float = 1e-3  # peak learning rate
    weight_decay: float = 0.0  # AdamW's
    schedule: str = "cosine"  # "cosine" falls to lr * lr_final, "constant" stays
    warmup: int = 100  # steps of linear rise
    lr_final: float = 0.0  # fraction of lr at the last step of a cosine
    clip: float = 1.0  # largest gradient norm; 0 switches clipping off
    ema: float = 0.0  # decay of the averaged weights, 0 for none
    precision: str = "no"  # "no" (float32) or "bf16" (autocast)
    accumulate: int = 1  # batches a step, in each process
    prefetch: int = 0  # threads that prepare coming batches

    def setup(self, device: torch.device) -> None:
        """Build the networks on `device` and open the data. Called once; the default generator is seeded with `seed`."""
        raise NotImplementedError

    def modules(self) -> dict[str, nn.Module]:
        """Return the networks that are trained and checkpointed, by name."""
        raise NotImplementedError

    def batch(self, index: int, generator: torch.Generator) -> Any:
        """Return batch number `index` of the endless stream, on the CPU: tensors in any nesting of dicts, lists and tuples.

        The batch must depend on the arguments alone (see the module's docstring). The loop moves it to the device.
        """
        raise NotImplementedError

    def loss(self, batch: Any) -> Losses:
        """Return the scalar to descend under "loss"; further scalars are logged."""
        raise NotImplementedError

    def finish(self, out: Path, provenance: dict[str, Any]) -> list[Path]:
        """Write the bundle(s), `out` first, with `provenance` in their metadata; return what was written.

        The modules hold their averaged weights (where `ema` is set) and are in evaluation mode. The method may add to
        `provenance["metrics"]`. The loop calls it again with another `out` where the first place cannot be written.
        """
        raise NotImplementedError

    def optimizers(self) -> dict[str, Optimizer]:
        """Return the optimizers by name; by default one AdamW over every trained parameter."""
        parameters = [p for module in self.modules().values() for p in module.parameters() if p.requires_grad]
        return {"main": self.adamw(parameters)}

    def phases(self) -> list[tuple[list[str], Callable[[Any], Losses]]]:
        """Return what one step does, in order: (names of the optimizers that step, the loss they descend).

        A GAN returns `[(["generator"], self.generator_loss), (["discriminator"], self.discriminator_loss)]`. Parameters of the other
        phases' optimizers take no gradient meanwhile. Every phase of a step is given the same batch object, so that one phase can use what
        the phase before it put into the batch (a new entry of a dict). [] is the default: one phase, in which every optimizer descends
        :meth:`loss`.
        """
        return []

    def ema_names(self) -> list[str]:
        """Return which of :meth:`modules` are averaged; all by default."""
        return list(self.modules())

    def evaluate(self, step: int, run_dir: Path) -> dict[str, float]:
        """Return numbers for the log. Called every `eval_every` steps with averaged weights, in evaluation mode, without gradients.

        The method may write samples into `run_dir`. By default it returns nothing.
        """
        return {}

    def adamw(self, parameters: Any, lr: float | None = None, betas: tuple[float, float] = (0.9, 0.999)) -> Optimizer:
        """Return an AdamW with this recipe's settings, fused (one kernel for all parameters, on the CPU too)."""
        return torch.optim.AdamW(parameters, lr=self.lr if lr is None else lr, betas=betas, weight_decay=self.weight_decay, fused=True)

    def lr_factor(self, step: int, steps: int) -> float:
        """Return the factor of the learning rate at `step` of `steps`: a linear warm-up, then constant or half a cosine."""
        rise = min(1.0, (step + 1) / self.warmup) if self.warmup > 0 else 1.0
        if self.schedule == "constant":
            return rise
        progress = max(0, step - self.warmup) / max(1, steps - self.warmup)
        return rise * (self.lr_final + (1 - self.lr_final) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))

    def check(self) -> None:
        """Raise :class:`InputError` for a hyper-parameter out of range. A subclass extends it."""
        if self.schedule not in ("cosine", "constant"):
            raise InputError(f"schedule={self.schedule!r}: expected 'cosine' or 'constant'")
        if self.precision not in ("no", "bf16"):
            raise InputError(f"precision={self.precision!r}: expected 'no' (float32) or 'bf16'")
        for key, low in (("batch_size", 1), ("accumulate", 1), ("warmup", 0), ("prefetch", 0)):
            whole_number(key, getattr(self, key), low, MOST)
        for key in ("lr", "weight_decay", "clip", "lr_final"):
            real_number(key, getattr(self, key), 0.0, 1e30)
        if not 0 <= self.ema < 1:
            raise InputError(f"ema={self.ema!r}: expected 0 (none) or a decay below 1, such as 0.999")

    def check_shares(self, *keys: str) -> None:
        """Raise :class:`InputError` where one of the settings `keys` is not a share from 0 to 1."""
        for key in keys:
            if not 0 <= getattr(self, key) <= 1:
                raise InputError(f"{key}={getattr(self, key)!r}: expected a share from 0 to 1")

    def check_files(self) -> None:
        """Find the bundles in the settings: a path, from the working folder, or else a name in a weights folder.

        Raises :class:`BundleError` for one that is missing, damaged or of another kind, by its header alone.
        """
        for key, kind in self.bundles.items():
            found = [located(key, path, kind) for path in self.paths_in(key)]
            for path in found:
                check_bundle(key, path, kind)
            setattr(self, key, ",".join(found))

    def paths_in(self, key: str) -> list[str]:
        """Return the files that the setting `key` names; [] where it is empty."""
        path = getattr(self, key)
        return [path] if path else []

    def settings(self) -> dict[str, Any]:
        """Return the hyper-parameters as JSON values."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


def located(key: str, path: str, kind: str) -> str:
    """Return `path` where it is a file, else the path of the bundle of that name and `kind` in a weights folder.

    Raises :class:`BundleError`, naming the setting `key` and the folders that were searched, where there is neither.
    """
    missing = f"{key}: no such file {path}"
    try:
        if Path(path).is_file():
            return path
        found = None if Path(path).is_absolute() else resolve_bundle(path, kind)
    except (InputError, OSError, ValueError) as error:  # a name that no file can have, or that leaves its folder
        raise BundleError(f"{missing}: {error}") from error
    except BundleError as error:
        raise BundleError(f"{missing} in {Path.cwd()}, and {error}") from error
    if found is None:
        raise BundleError(missing)
    return str(found)


def check_bundle(key: str, path: str, kind: str) -> None:
    """Raise :class:`BundleError`, naming the setting `key`, where `path` is no sound bundle of this kind, by its header alone."""
    try:
        read_info(path, kind)
    except (BundleError, OSError, ValueError) as error:  # OSError and ValueError: a name that no file can have
        raise BundleError(f"{key}: {error}") from error


def derived_seed(*parts: object) -> int:
    """Return a seed that depends on every part: the same on every machine, unrelated for neighbouring parts."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:8], "little") >> 1


def python_random(generator: torch.Generator) -> random.Random:
    """Return a random source of Python's own, seeded with one number drawn from `generator`."""
    return random.Random(int(torch.randint(2**62, (1,), generator=generator)))


class EpochOrder:
    """Shuffled epochs as a pure function: which of `count` items are in batch `index`.

    Each epoch is a permutation drawn from (seed, epoch). A batch may hold the end of one epoch and the start of the next, so that every
    item is seen equally often.
    """

    def __init__(self, count: int, batch_size: int, seed: int) -> None:
        if count < 1:
            raise InputError(f"there must be at least one item to train on, not {count}")
        self.count, self.batch_size, self.seed = count, batch_size, seed
        self._epochs: dict[int, Sequence[int]] = {}

    def indices(self, index: int) -> list[int]:
        """Return the `batch_size` items of batch `index`."""
        first = index * self.batch_size
        return [self._epoch(i // self.count)[i % self.count] for i in range(first, first + self.batch_size)]

    def _epoch(self, epoch: int) -> Sequence[int]:
        order = self._epochs.get(epoch)
        if order is None:
            generator = torch.Generator().manual_seed(derived_seed(self.seed, "epoch", epoch))
            order = torch.randperm(self.count, generator=generator).tolist()
            # A batch may hold items of two epochs, and prefetching looks ahead; epochs before those are not needed again.
            self._epochs = {e: o for e, o in self._epochs.items() if e >= epoch - 1} | {epoch: order}
        return order
