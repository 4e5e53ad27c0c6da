"""The one training loop, on Hugging Face accelerate: one process or many machines with no change of code.

`train(recipe, out, steps)` runs a :class:`~.recipe.Recipe` to the end and returns where its files are. A run lives in a folder:

    runs/<out's stem>/checkpoint-00001000.safetensors    all that is needed to go on (the newest two are kept)
                      log.jsonl                          {"step", "loss", ..., "lr", "grad_norm", "seconds"} every `log_every` steps
                      loss.png                           the same as a picture

A run that was stopped and started again ends with the same weights, bit for bit, as one that never stopped: batches and noise
are functions of (seed, step), see `recipe.py`. P processes see the batches that one process with `accumulate` P times larger sees.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import autocast

from ..errors import InputError, MissingPackageError, TrainingError
from ..progress import Progress, raise_if_cancelled
from .average import AveragedWeights
from .batches import batches
from .checkpoint import check_same, checkpoints, load_checkpoint, save_checkpoint
from .losslog import LossLog
from .processes import agree_to_stop, average_gradients, share_weights
from .recipe import Recipe, derived_seed

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch.optim import Optimizer

logger = logging.getLogger("rapiddraw")


@dataclass(frozen=True)
class TrainResult:
    """Where a finished run left its files. `losses` holds the log's (step, loss) pairs, `metrics` the last numbers logged."""

    files: list[Path]
    run_dir: Path
    log: Path
    plot: Path | None
    steps: int
    losses: list[tuple[int, float]]
    metrics: dict[str, float]


def train(
    recipe: Recipe,
    out: str | Path,
    steps: int,
    *,
    run_dir: str | Path | None = None,
    resume: bool = True,
    save_every: int = 500,
    log_every: int = 20,
    eval_every: int = 0,
    device: str | torch.device | None = None,
) -> TrainResult:
    """Run `recipe` for `steps` optimizer steps and write its bundle to `out`.

    `resume` goes on from the newest checkpoint in `run_dir` (default `runs/<out's stem>`), if there is one; without it, older
    checkpoints there are removed. `device` overrides accelerate's choice. Cancelling (see `core.progress`) saves a checkpoint
    and raises :class:`~..errors.Cancelled`. Raises :class:`InputError` for bad numbers, :class:`TrainingError` when the loss or a gradient
    is no longer finite (the weights before it are in the last checkpoint) or a checkpoint does not fit the recipe.
    """
    for key, value, low in (("steps", steps, 1), ("save_every", save_every, 1), ("log_every", log_every, 1), ("eval_every", eval_every, 0)):
        if not isinstance(value, int) or value < low:
            raise InputError(f"{key}={value!r}: expected a whole number of at least {low}")
    recipe.check()
    raise_if_cancelled()
    accelerator = _accelerator()
    place = torch.device(device) if device is not None else accelerator.device
    out = Path(out)
    folder = Path(run_dir) if run_dir is not None else Path("runs") / out.stem
    cuda = [place] if place.type == "cuda" else []
    # A node runs under inference mode, whose tensors can never need gradients; the fork leaves the caller's random state alone.
    with torch.inference_mode(False), torch.enable_grad(), torch.random.fork_rng(devices=cuda):
        run = _Run(recipe, steps, folder, accelerator, place, log_every)
        if resume:
            run.resume()
        else:
            run.forget()
        run.go(save_every, eval_every)
        return run.finish(out)


class _Run:
    """The state of one run: what a checkpoint holds, and how a step changes it."""

    def __init__(self, recipe: Recipe, steps: int, run_dir: Path, accelerator: Accelerator, device: torch.device, log_every: int) -> None:
        self.recipe, self.steps, self.run_dir = recipe, steps, run_dir
        self.accelerator, self.device, self.main = accelerator, device, accelerator.is_main_process
        torch.manual_seed(derived_seed(recipe.seed, "setup"))
        recipe.setup(device)
        self.modules = recipe.modules()
        self.optimizers: dict[str, Optimizer] = recipe.optimizers()
        recipe.__dict__["_optimizers"] = self.optimizers
        self.phases = recipe.phases()
        self.base_lrs = {name: [group["lr"] for group in opt.param_groups] for name, opt in self.optimizers.items()}
        self.parameters = {name: [p for g in opt.param_groups for p in g["params"]] for name, opt in self.optimizers.items()}
        share_weights(accelerator, self.modules.values())
        self.averaged = AveragedWeights(self.modules, recipe.ema_names(), recipe.ema)
        self.log = LossLog(run_dir / "log.jsonl", log_every, writes=self.main)
        self.step = 0
        self.whole = True  # whether the weights are as the last step left them

    def go(self, save_every: int, eval_every: int) -> None:
        """Train from where the run stands to its last step."""
        for module in self.modules.values():
            module.train()
        saved = self.step if checkpoints(self.run_dir) else -1
        progress = Progress(self.steps, f"train {self.recipe.name}") if self.main else nullcontext()
        with batches(self.recipe, self.device, self.accelerator.num_processes) as take, progress as bar:
            if bar is not None and self.step:
                bar.update(self.step)
            while self.step < self.steps:
                started = time.perf_counter()
                try:
                    scalars = self._one_step(take)
                except Exception as error:  # a host may stop the work inside a network, and memory may run out
                    alone = self.accelerator.num_processes == 1  # several write a checkpoint together or not at all
                    if alone and self.whole and saved != self.step and not isinstance(error, TrainingError):
                        self.save()
                    raise
                self.step += 1
                self.log.seconds += time.perf_counter() - started
                if eval_every and (self.step % eval_every == 0 or self.step == self.steps):
                    self._evaluate()
                self.log.record(self.step, scalars, last=self.step == self.steps)
                if self.step % save_every == 0 or self.step == self.steps:
                    self.save()
                    saved = self.step
                stop = self._report(bar, scalars["loss"])
                if stop is not None:
                    if saved != self.step:
                        self.save()
                    raise stop

    def _one_step(self, take: Callable[[int], Any]) -> dict[str, float]:
        recipe, processes = self.recipe, self.accelerator.num_processes
        torch.manual_seed(derived_seed(recipe.seed, "step", self.step, self.accelerator.process_index))
        factor = recipe.lr_factor(self.step, self.steps)
        for name, optimizer in self.optimizers.items():
            for group, lr in zip(optimizer.param_groups, self.base_lrs[name], strict=True):
                group["lr"] = lr * factor
        first = self.step * recipe.accumulate * processes + self.accelerator.process_index * recipe.accumulate
        taken = [take(first + micro) for micro in range(recipe.accumulate)]
        scalars: dict[str, float] = {"lr": recipe.lr * factor}
        for names, loss_of in self.phases:
            parameters = [p for name in names for p in self.parameters[name]]
            with self._only(names):
                for batch in taken:
                    self._backward(loss_of, batch, scalars)
            average_gradients(self.accelerator, parameters)
            norm = float(torch.nn.utils.clip_grad_norm_(parameters, recipe.clip or float("inf")))
            key = "grad_norm" if len(self.phases) == 1 else f"grad_norm_{'_'.join(names)}"
            scalars[key] = norm
            self._check_finite(key, norm)
            self.whole = False
            for name in names:
                self.optimizers[name].step()
                self.optimizers[name].zero_grad(set_to_none=True)
        self.averaged.update(self.step)
        self.whole = True
        return scalars

    def _backward(self, loss_of: Callable[[Any], dict[str, torch.Tensor]], batch: Any, scalars: dict[str, float]) -> None:
        share = 1 / self.recipe.accumulate
        half = autocast(self.device.type, torch.bfloat16) if self.recipe.precision == "bf16" else nullcontext()
        with half:
            losses = loss_of(batch)
        value = float(losses["loss"].detach())
        self._check_finite("loss", value)
        (losses["loss"] * share).backward()
        for key, loss in losses.items():
            # In a run of several phases "loss" is their sum; each names its own part itself.
            scalars[key] = scalars.get(key, 0.0) + share * (value if key == "loss" else float(torch.as_tensor(loss).detach()))

    @contextmanager
    def _only(self, names: list[str]) -> Iterator[None]:
        """Gradients for the optimizers of this phase alone; the others' parameters are constants meanwhile."""
        mine = {id(p) for name in names for p in self.parameters[name]}
        others = [p for params in self.parameters.values() for p in params if id(p) not in mine and p.requires_grad]
        for p in others:
            p.requires_grad_(False)
        try:
            yield
        finally:
            for p in others:
                p.requires_grad_(True)

    def _check_finite(self, what: str, value: float) -> None:
        if value - value != 0.0:  # NaN or infinite
            last = checkpoints(self.run_dir)
            raise TrainingError(
                f"{what} is {value} at step {self.step} of {self.recipe.name}: the training diverged. Lower lr "
                f"(now {self.recipe.lr:g}), raise warmup, lower clip, or use precision=no. "
                + (f"The weights before it are in {last[-1]}." if last else "No checkpoint was written yet.")
            )

    def _report(self, bar: Progress | None, loss: float) -> BaseException | None:
        """Advance the bar. What asks for a stop (a cancel, a host's own interrupt) is returned, on every process at once."""
        stop: BaseException | None = None
        try:
            if bar is not None:
                bar.update(loss=f"{loss:.4f}")
            else:
                raise_if_cancelled()
        except BaseException as error:  # whatever it is, the checkpoint comes first and then it is raised again
            stop = error
        return agree_to_stop(self.accelerator, stop, self.device)

    def _evaluate(self) -> None:
        if not self.main:
            return
        self.run_dir.mkdir(parents=True, exist_ok=True)
        with self.averaged.applied(), torch.no_grad():
            numbers = self.recipe.evaluate(self.step, self.run_dir)
        self.log.set({f"eval_{key}": float(value) for key, value in numbers.items()})

    def save(self) -> None:
        """Write a checkpoint (by one process, the others wait)."""
        if self.main:
            state = {
                "recipe": self.recipe.name,
                "settings": self.recipe.settings(),
                "steps": self.steps,
                "processes": self.accelerator.num_processes,
                "modules": {name: dict(module.state_dict()) for name, module in self.modules.items()},
                "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
                "ema": self.averaged.means,
                "pending": self.log.pending,
                "metrics": self.log.metrics,
                "seconds": self.log.seconds,
            }
            save_checkpoint(self.run_dir, self.step, state)
        self.accelerator.wait_for_everyone()

    def forget(self) -> None:
        """Start over: remove the checkpoints and the log of an earlier run in this folder."""
        if self.main:
            for path in (*checkpoints(self.run_dir), self.log.path):
                path.unlink(missing_ok=True)
        self.accelerator.wait_for_everyone()

    def resume(self) -> None:
        """Go on from the newest checkpoint, if there is one. Raises :class:`TrainingError` where it does not fit the recipe."""
        found = checkpoints(self.run_dir)
        if not found:
            return self.forget()  # a log without a checkpoint belongs to a run that cannot go on
        step, state = load_checkpoint(found[-1])
        check_same(state, found[-1], self.recipe, self.steps, self.accelerator.num_processes)
        if step > self.steps:
            raise TrainingError(f"{found[-1]} is already at step {step}, past the {self.steps} asked for; ask for more, or start over")
        try:
            for name, module in self.modules.items():
                module.load_state_dict(state["modules"][name])
            for name, optimizer in self.optimizers.items():
                optimizer.load_state_dict(state["optimizers"][name])
            for mine, theirs in zip(self.averaged.means, state["ema"], strict=True):
                mine.copy_(theirs)
        except (KeyError, RuntimeError, ValueError) as error:
            raise TrainingError(f"{found[-1]} does not fit this recipe's networks ({error}); start over in another run folder") from error
        self.step, log = step, self.log
        log.pending, log.metrics, log.seconds = state["pending"], state["metrics"], state["seconds"]
        log.cut(step)
        logger.info("%s resumes at step %d of %d from %s", self.recipe.name, step, self.steps, found[-1])

    def finish(self, out: Path) -> TrainResult:
        """Let the recipe write its bundle from the averaged weights; draw the loss."""
        from .plot import plot_losses

        files: list[Path] = []
        losses, metrics = self.log.losses(), self.log.metrics
        plot: Path | None = None
        if self.main:
            # Files and folders by their name alone: their place on this machine is nobody's business.
            settings = {key: Path(v).name if isinstance(v, str) and "/" in v else v for key, v in self.recipe.settings().items()}
            provenance = {
                "recipe": self.recipe.name,
                "data": settings.pop("data", ""),
                "seed": settings.pop("seed", 0),
                "steps": self.steps,
                "settings": settings,
                "processes": self.accelerator.num_processes,
                "seconds": round(self.log.seconds, 1),
                "metrics": {key: float(f"{value:.6g}") for key, value in metrics.items() if key != "lr"},
            }
            with self.averaged.applied(), torch.no_grad():
                files = self.recipe.finish(out, provenance)
            plot = plot_losses(losses, self.run_dir / "loss.png", f"{self.recipe.name}: loss over {self.steps} steps")
        self.accelerator.wait_for_everyone()
        return TrainResult(files, self.run_dir, self.log.path, plot, self.steps, losses, dict(metrics))


def _accelerator() -> Accelerator:
    try:
        from accelerate import Accelerator
    except ImportError as error:
        raise MissingPackageError("training needs the package accelerate: pip install 'rapiddraw[train]'") from error
    return Accelerator()
