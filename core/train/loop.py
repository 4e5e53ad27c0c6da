"""The one training loop: one process on torch alone, or many machines on Hugging Face accelerate, with no change of code.

`train(recipe, out, steps)` runs a :class:`~.recipe.Recipe` to the end and returns where its files are. A run lives in a folder:

    runs/<stem of out>/checkpoint-00001000.safetensors   the state after 1000 steps (the newest two files are kept)
                       log.jsonl                         {"step", "loss", ..., "lr", "grad_norm", "seconds"}, a line every `every.log` steps
                       loss.png                          the loss over the steps

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

from ..checks import whole_number
from ..errors import TrainingError
from ..progress import Progress, raise_if_cancelled
from .average import AveragedWeights
from .batches import batches
from .checkpoint import check_same, check_step, checkpoints, load_checkpoint, save_checkpoint
from .losslog import LossLog
from .plot import plot_losses
from .processes import Processes, check_precision, join_processes, sound_attention
from .recipe import Recipe, derived_seed
from .writing import check_writable, tried, write_somewhere

if TYPE_CHECKING:
    from torch.optim import Optimizer

logger = logging.getLogger("rapiddraw")
MOST_STEPS = 10**9
MEASURED = 3
"""Steps that a run with a budget takes before it says how many more it will take."""
MEASURED_AGAIN = 50
"""Steps after which such a run corrects that number by what the last ones took: others may use the same machine."""


@dataclass(frozen=True)
class Intervals:
    """Steps between two checkpoints (`save`), two lines of the log (`log`) and two evaluations (`evaluate`, 0 for none)."""

    save: int = 500
    log: int = 20
    evaluate: int = 0

    def check(self) -> None:
        """Raise :class:`InputError` for an interval that is no whole number or is too small."""
        for name, value, low in (("save_every", self.save, 1), ("log_every", self.log, 1), ("eval_every", self.evaluate, 0)):
            whole_number(name, value, low, MOST_STEPS)


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

    def tenths(self) -> list[str]:
        """Return the line of a report that compares the mean losses of the first and the last tenth; none where no loss was logged."""
        if not self.losses:
            return []
        share = max(1, len(self.losses) // 10)
        first, last = (sum(loss for _, loss in part) / len(part) for part in (self.losses[:share], self.losses[-share:]))
        return [f"loss {first:.4g} in the first tenth, {last:.4g} in the last"]


def train(
    recipe: Recipe,
    out: str | Path,
    steps: int,
    *,
    run_dir: str | Path | None = None,
    resume: bool = True,
    every: Intervals | None = None,
    device: str | torch.device | None = None,
    seconds: float | None = None,
) -> TrainResult:
    """Run `recipe` for `steps` optimizer steps and write its bundle to `out`.

    With a budget of `seconds`, setting up included, the run takes as many of the steps as fit, by what its last ones took, and the learning
    rate falls to the end of those. A run that resumes keeps their number.

    `resume` goes on from the newest checkpoint in `run_dir` (default `runs/<stem of out>`), if there is one; without `resume`, older
    checkpoints there are removed. `device` is a GPU where there is one by default. Cancelling (see `core.progress`) saves a checkpoint and
    raises :class:`~..errors.Cancelled`. Where `out` can no longer be written at the end, the bundle is written beside the checkpoints.

    Raises, before any work, :class:`InputError` for bad numbers and for a device or a precision that this machine does not have,
    :class:`WriteError` for places that cannot be written, :class:`BundleError` for files that are missing or of another kind. Raises
    :class:`TrainingError` when the loss or a gradient is no longer finite (the last checkpoint holds the weights before that) or a
    checkpoint does not fit the recipe.
    """
    every = every or Intervals()
    whole_number("steps", steps, 1, MOST_STEPS)
    every.check()
    recipe.check()
    processes = join_processes(device)
    check_precision(recipe.precision, processes.device)
    out = Path(out)
    folder = Path(run_dir) if run_dir is not None else Path("runs") / out.stem
    recipe.check_files()
    check_writable(out, folder)
    raise_if_cancelled()
    cuda = [processes.device] if processes.device.type == "cuda" else []
    # A node runs under inference mode, whose tensors can never need gradients; the fork leaves the caller's random state alone.
    with torch.inference_mode(False), torch.enable_grad(), torch.random.fork_rng(devices=cuda):
        began = time.perf_counter()
        run = _Run(recipe, steps, folder, processes, every)
        if seconds is not None:
            run.budget = max(0.0, seconds - (time.perf_counter() - began))
        if resume:
            run.resume()
        else:
            run.forget()
        run.go()
        return run.finish(out)


class _Run:
    """The state of one run: what a checkpoint holds, and how a step changes it."""

    def __init__(self, recipe: Recipe, steps: int, run_dir: Path, processes: Processes, every: Intervals) -> None:
        self.recipe, self.steps, self.run_dir, self.every = recipe, steps, run_dir, every
        self.processes, self.device = processes, processes.device
        torch.manual_seed(derived_seed(recipe.seed, "setup"))
        recipe.setup(self.device)
        self.modules = recipe.modules()
        self.optimizers: dict[str, Optimizer] = recipe.optimizers()
        self.phases = recipe.phases() or [(list(self.optimizers), recipe.loss)]
        self.base_lrs = {name: [group["lr"] for group in opt.param_groups] for name, opt in self.optimizers.items()}
        self.parameters = {name: [p for g in opt.param_groups for p in g["params"]] for name, opt in self.optimizers.items()}
        processes.share_weights(self.modules.values())
        self.averaged = AveragedWeights(self.modules, recipe.ema_names(), recipe.ema)
        self.log = LossLog(run_dir / "log.jsonl", every.log, writes=processes.main)
        self.step, self.saved = 0, -1
        self.planned = steps
        self.budget: float | None = None
        self.first_step = 0.0  # seconds: what is built and compiled once is not a step's cost
        self.fitted = (1, 0.0)  # the step and the seconds from which the next fit to a budget measures
        self.whole = True  # whether a step is finished, so that its weights may be saved

    def go(self) -> None:
        """Train from where the run stands to its last step."""
        for module in self.modules.values():
            module.train()
        self.saved = self.step if checkpoints(self.run_dir) else -1
        fits = False
        with batches(self.recipe, self.device, self.processes.count) as take:
            if self.budget is not None and self.step < MEASURED:
                while self.step < min(MEASURED, self.steps):
                    self._advance(take, None)
                self.fitted = (1, self.first_step)
                self._fit_to_budget(self.budget)
                logger.info("%s: %d steps fit into %.0f s", self.recipe.name, self.steps, self.budget)
                fits = True
            progress = Progress(self.steps, f"train {self.recipe.name}") if self.processes.main else nullcontext()
            with progress as bar:
                if bar is not None and self.step:
                    bar.update(self.step)
                while self.step < self.steps:
                    self._advance(take, bar)
                    if fits and self.budget is not None and self.step % MEASURED_AGAIN == 0 and self.step < self.steps:
                        self._fit_to_budget(self.budget)
            self.save()  # the last step is saved already, unless a budget was used up by the measured ones

    def _fit_to_budget(self, seconds: float) -> None:
        """Take as many of the planned steps as fit into `seconds`, by what the steps since the last fit took."""
        since, spent = self.fitted
        cost = self.processes.mean((self.log.seconds - spent) / max(1, self.step - since))
        left = self.processes.mean(seconds - self.log.seconds)
        self.steps = min(self.planned, max(self.step, self.step + int(left / max(cost, 1e-9))))
        self.fitted = (self.step, self.log.seconds)

    def _advance(self, take: Callable[[int], Any], bar: Progress | None) -> None:
        """Do one step, with what belongs to it: evaluation, log, checkpoint, progress."""
        started = time.perf_counter()
        with self._kept():
            scalars = self._one_step(take)
        self.step += 1
        taken = time.perf_counter() - started
        self.log.seconds += taken
        if self.step == 1:
            self.first_step = taken
        last = self.step == self.steps
        with self._kept():
            try:
                if self.every.evaluate and (self.step % self.every.evaluate == 0 or last):
                    self._evaluate()
            finally:
                self.log.record(self.step, scalars, last=last)
        if self.step % self.every.save == 0 or last:
            self.save()
        stop = self._report(bar, scalars["loss"])
        if stop is not None:
            self.save()
            raise stop

    @contextmanager
    def _kept(self) -> Iterator[None]:
        """Write a checkpoint where an error ends the block: a host may stop the work inside a network, and memory may run out."""
        try:
            yield
        except BaseException as error:
            alone = self.processes.count == 1  # several write a checkpoint together or not at all
            if alone and self.whole and not isinstance(error, TrainingError):
                self.save()
            raise

    def _one_step(self, take: Callable[[int], Any]) -> dict[str, float]:
        recipe, processes = self.recipe, self.processes
        torch.manual_seed(derived_seed(recipe.seed, "step", self.step, processes.index))
        factor = recipe.lr_factor(self.step, self.steps)
        for name, optimizer in self.optimizers.items():
            for group, lr in zip(optimizer.param_groups, self.base_lrs[name], strict=True):
                group["lr"] = lr * factor
        first = (self.step * processes.count + processes.index) * recipe.accumulate
        taken = [take(first + micro) for micro in range(recipe.accumulate)]
        scalars: dict[str, float] = {"lr": recipe.lr * factor}
        for names, loss_of in self.phases:
            parameters = [p for name in names for p in self.parameters[name]]
            with self._only(names):
                for batch in taken:
                    self._backward(loss_of, batch, scalars)
            processes.average_gradients(parameters)
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
        with half, sound_attention(self.device):
            losses = loss_of(batch)
        value = float(losses["loss"].detach())
        self._check_finite("loss", value)
        (losses["loss"] * share).backward()
        for key, loss in losses.items():
            # In a run of several phases "loss" is the sum of theirs; each phase logs its own part under a name of its own.
            scalars[key] = scalars.get(key, 0.0) + share * (value if key == "loss" else float(torch.as_tensor(loss).detach()))

    @contextmanager
    def _only(self, names: list[str]) -> Iterator[None]:
        """Let the parameters of the optimizers `names` alone take gradients."""
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
        """Advance the bar. Return the exception that asks for a stop (a cancel, a host's own interrupt), on every process at once."""
        stop: BaseException | None = None
        try:
            if bar is not None:
                bar.update(loss=f"{loss:.4f}")
            else:
                raise_if_cancelled()
        except BaseException as error:  # any exception: the checkpoint is written first, then it is raised again
            stop = error
        return self.processes.agree_to_stop(stop)

    def _evaluate(self) -> None:
        if not self.processes.main:
            return
        with self.averaged.applied(), torch.no_grad():
            numbers: dict[str, float] = {}
            tried(lambda: numbers.update(self.recipe.evaluate(self.step, self.run_dir)), f"the evaluation at step {self.step}")
        self.log.set({f"eval_{key}": float(value) for key, value in numbers.items()})

    def save(self) -> None:
        """Write a checkpoint (by one process, the others wait), unless this step has one. A disk that is full does not end the run."""
        if self.saved == self.step:
            return
        self.saved = self.step  # one try for each step, in every process alike: otherwise they would wait for each other
        if self.processes.main:
            state = {
                "recipe": self.recipe.name,
                "settings": self.recipe.settings(),
                "steps": self.steps,
                "processes": self.processes.count,
                "modules": {name: dict(module.state_dict()) for name, module in self.modules.items()},
                "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
                "ema": self.averaged.means,
                "pending": self.log.pending,
                "metrics": self.log.metrics,
                "seconds": self.log.seconds,
            }
            tried(lambda: save_checkpoint(self.run_dir, self.step, state), f"writing the checkpoint of step {self.step}")
        self.processes.wait()

    def forget(self) -> None:
        """Start over: remove the checkpoints and the log of an earlier run in this folder."""
        if self.processes.main:
            for path in (*checkpoints(self.run_dir), self.log.path):
                path.unlink(missing_ok=True)
        self.processes.wait()

    def resume(self) -> None:
        """Go on from the newest checkpoint, if there is one. Raises :class:`TrainingError` where it does not fit the recipe."""
        found = checkpoints(self.run_dir)
        if not found:
            return self.forget()  # a log without a checkpoint belongs to a run that cannot go on
        step, state = load_checkpoint(found[-1])
        if self.budget is not None and step >= MEASURED:
            self.steps = min(self.steps, state["steps"])
        check_same(state, found[-1], self.recipe, self.steps, self.processes.count)
        check_step(found[-1], step, self.steps)
        try:
            for name, module in self.modules.items():
                module.load_state_dict(state["modules"][name])
            for name, optimizer in self.optimizers.items():
                optimizer.load_state_dict(state["optimizers"][name])
                _lay_out_alike(optimizer)
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
        files: list[Path] = []
        losses, metrics = self.log.losses(), self.log.metrics
        plot: Path | None = None
        if self.processes.main:
            # Files and folders by their name alone: a bundle that is shared does not tell where they lie on this machine.
            settings = {key: Path(v).name if isinstance(v, str) and "/" in v else v for key, v in self.recipe.settings().items()}
            provenance = {
                "recipe": self.recipe.name,
                "data": settings.pop("data", ""),
                "seed": settings.pop("seed", 0),
                "steps": self.steps,
                "settings": settings,
                "processes": self.processes.count,
                "seconds": round(self.log.seconds, 1),
                "metrics": {key: float(f"{value:.6g}") for key, value in metrics.items() if key != "lr"},
            }
            with self.averaged.applied(), torch.no_grad():
                files = write_somewhere(lambda path: self.recipe.finish(path, provenance), out, self.run_dir)
            picture = self.run_dir / "loss.png"
            title = f"{self.recipe.name}: loss over {self.steps} steps"
            plot = picture if tried(lambda: plot_losses(losses, picture, title), f"writing {picture}") else None
        self.processes.wait()
        return TrainResult(files, self.run_dir, self.log.path, plot, self.steps, losses, dict(metrics))


def _lay_out_alike(optimizer: Optimizer) -> None:
    """Give what an optimizer remembers of each parameter that parameter's memory layout: a fused step reads both in one order, and
    a checkpoint keeps values, not layouts."""
    for parameter, remembered in optimizer.state.items():
        for key, value in remembered.items():
            if isinstance(value, torch.Tensor) and value.shape == parameter.shape and value.stride() != parameter.stride():
                remembered[key] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
