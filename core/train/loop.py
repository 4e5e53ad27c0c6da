"""The one training loop, on Hugging Face accelerate: one process or many machines with no change of code.

`train(recipe, out, steps)` runs a :class:`~.recipe.Recipe` to the end and returns where its files are. A run lives in a folder:

    runs/<out's stem>/checkpoint-00001000.safetensors    all that is needed to go on (the newest two are kept)
                      log.jsonl                          {"step", "loss", ..., "lr", "grad_norm", "seconds"} every `log_every` steps
                      loss.png                           the same as a picture

A run that was stopped and started again ends with the same weights, bit for bit, as one that never stopped: batches and noise
are functions of (seed, step), see `recipe.py`. Between several processes gradients are averaged by `accelerator.reduce`, not by
a wrapper around each network, so that a recipe may call any method of its networks and train several at once. P processes see
the batches that one process with `accumulate` P times larger sees.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import autocast

from ..errors import Cancelled, InputError, MissingPackageError, TrainingError
from ..files import replacing
from ..progress import Progress, raise_if_cancelled
from .checkpoint import checkpoints, load_checkpoint, save_checkpoint
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
    and raises :class:`Cancelled`. Raises :class:`InputError` for bad numbers, :class:`TrainingError` when the loss or a gradient
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
        self.recipe, self.steps, self.run_dir, self.log_every = recipe, steps, run_dir, log_every
        self.accelerator, self.device, self.main = accelerator, device, accelerator.is_main_process
        torch.manual_seed(derived_seed(recipe.seed, "setup"))
        recipe.setup(device)
        self.modules = recipe.modules()
        self.optimizers: dict[str, Optimizer] = recipe.optimizers()
        recipe.__dict__["_optimizers"] = self.optimizers
        self.phases = recipe.phases()
        self.base_lrs = {name: [group["lr"] for group in opt.param_groups] for name, opt in self.optimizers.items()}
        self.parameters = {name: [p for g in opt.param_groups for p in g["params"]] for name, opt in self.optimizers.items()}
        self._share_initial_weights()
        names = recipe.ema_names() if recipe.ema > 0 else []
        self.averaged: list[torch.Tensor] = [p for name in names for p in self.modules[name].parameters()]
        self.ema = [p.detach().clone() for p in self.averaged]
        self.step = 0
        self.pending: dict[str, list[float]] = {}  # sums since the last line of the log
        self.metrics: dict[str, float] = {}
        self.seconds = 0.0
        self.log = run_dir / "log.jsonl"

    # One step ----------------------------------------------------------------------------------------------------------------

    def go(self, save_every: int, eval_every: int) -> None:
        """Train from where the run stands to its last step."""
        for module in self.modules.values():
            module.train()
        saved = self.step if checkpoints(self.run_dir) else -1
        with self._batches() as take, Progress(self.steps, f"train {self.recipe.name}") if self.main else nullcontext() as bar:
            if bar is not None and self.step:
                bar.update(self.step)
            while self.step < self.steps:
                started = time.perf_counter()
                scalars = self._one_step(take)
                self.step += 1
                self.seconds += time.perf_counter() - started
                if eval_every and (self.step % eval_every == 0 or self.step == self.steps):
                    self._evaluate()
                self._record(scalars)
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
        batches = [take(first + micro) for micro in range(recipe.accumulate)]
        scalars: dict[str, float] = {"lr": recipe.lr * factor}
        for names, loss_of in self.phases:
            parameters = [p for name in names for p in self.parameters[name]]
            with self._only(names):
                for batch in batches:
                    self._backward(loss_of, batch, scalars)
            self._average_gradients(parameters)
            norm = float(torch.nn.utils.clip_grad_norm_(parameters, recipe.clip or float("inf")))
            key = "grad_norm" if len(self.phases) == 1 else f"grad_norm_{'_'.join(names)}"
            scalars[key] = norm
            self._check_finite(key, norm)
            for name in names:
                self.optimizers[name].step()
                self.optimizers[name].zero_grad(set_to_none=True)
        if self.ema:
            # A short warm-up, or the first random weights would stay in the average for a long time.
            decay = min(recipe.ema, (1 + self.step) / (10 + self.step))
            with torch.no_grad():
                torch._foreach_lerp_(self.ema, self.averaged, 1 - decay)
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

    @contextmanager
    def _batches(self) -> Iterator[Callable[[int], Any]]:
        """A function index -> batch on the device, prepared ahead by `prefetch` threads; the order is the same either way."""
        recipe, ahead = self.recipe, self.recipe.prefetch

        def make(index: int) -> Any:
            generator = torch.Generator().manual_seed(derived_seed(recipe.seed, "batch", index))
            return recipe.batch(index, generator)

        if not ahead:
            yield lambda index: _to_device(make(index), self.device)
            return
        coming: dict[int, Future[Any]] = {}
        per_step = recipe.accumulate
        stride = per_step * self.accelerator.num_processes
        with ThreadPoolExecutor(ahead, thread_name_prefix="rapiddraw-batch") as pool:

            def take(index: int) -> Any:
                mine = coming.pop(index, None) or pool.submit(make, index)
                upcoming = index
                while len(coming) < ahead:
                    upcoming = upcoming + 1 if (upcoming + 1) % per_step else upcoming + 1 - per_step + stride
                    if upcoming not in coming:
                        coming[upcoming] = pool.submit(make, upcoming)
                return _to_device(mine.result(), self.device)

            try:
                yield take
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    # Several processes -------------------------------------------------------------------------------------------------------

    def _share_initial_weights(self) -> None:
        if self.accelerator.num_processes > 1:
            from accelerate.utils import broadcast

            with torch.no_grad():
                for module in self.modules.values():
                    for tensor in (*module.parameters(), *module.buffers()):
                        tensor.copy_(broadcast(tensor.detach().clone()))

    def _average_gradients(self, parameters: list[torch.nn.Parameter]) -> None:
        if self.accelerator.num_processes > 1:
            grads = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
            flat = self.accelerator.reduce(torch.cat([g.reshape(-1) for g in grads]), "mean")
            for p, part in zip(parameters, flat.split([g.numel() for g in grads]), strict=True):
                p.grad = part.view_as(p).clone()

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
        if self.accelerator.num_processes > 1:
            flag = self.accelerator.reduce(torch.tensor([float(stop is not None)], device=self.device), "sum")
            if float(flag) > 0 and stop is None:
                stop = Cancelled("stopped because another process of this run was stopped")
        return stop

    # Log, checkpoints, the end -----------------------------------------------------------------------------------------------

    def _record(self, scalars: dict[str, float]) -> None:
        for key, value in scalars.items():
            entry = self.pending.setdefault(key, [0.0, 0.0])
            entry[0] += value
            entry[1] += 1
        if self.step % self.log_every and self.step != self.steps:
            return
        line: dict[str, float] = {key: total / count for key, (total, count) in self.pending.items()}
        line["lr"] = scalars["lr"]
        self.pending = {}
        self.metrics |= line
        if self.main:
            self.run_dir.mkdir(parents=True, exist_ok=True)
            with self.log.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": self.step, **line, "seconds": round(self.seconds, 2)}) + "\n")

    def _evaluate(self) -> None:
        if not self.main:
            return
        self.run_dir.mkdir(parents=True, exist_ok=True)
        with self._averaged_weights(), torch.no_grad():
            numbers = self.recipe.evaluate(self.step, self.run_dir)
        self.pending |= {f"eval_{key}": [float(value), 1.0] for key, value in numbers.items()}

    @contextmanager
    def _averaged_weights(self) -> Iterator[None]:
        """The modules with their averaged weights, in eval mode; afterwards everything is as it was."""
        training = [(m, m.training) for module in self.modules.values() for m in module.modules()]
        live = [p.detach().clone() for p in self.averaged]
        with torch.no_grad():
            for p, mean in zip(self.averaged, self.ema, strict=True):
                p.copy_(mean)
        for module in self.modules.values():
            module.eval()
        try:
            yield
        finally:
            with torch.no_grad():
                for p, value in zip(self.averaged, live, strict=True):
                    p.copy_(value)
            for module, mode in training:
                module.training = mode

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
                "ema": self.ema,
                "pending": self.pending,
                "metrics": self.metrics,
                "seconds": self.seconds,
            }
            save_checkpoint(self.run_dir, self.step, state)
        self.accelerator.wait_for_everyone()

    def forget(self) -> None:
        """Start over: remove the checkpoints and the log of an earlier run in this folder."""
        if self.main:
            for path in (*checkpoints(self.run_dir), self.log):
                path.unlink(missing_ok=True)
        self.accelerator.wait_for_everyone()

    def resume(self) -> None:
        """Go on from the newest checkpoint, if there is one. Raises :class:`TrainingError` where it does not fit the recipe."""
        found = checkpoints(self.run_dir)
        if not found:
            return self.forget()  # a log without a checkpoint belongs to a run that cannot go on
        step, state = load_checkpoint(found[-1])
        self._check_same(state, found[-1])
        if step > self.steps:
            raise TrainingError(f"{found[-1]} is already at step {step}, past the {self.steps} asked for; ask for more, or start over")
        try:
            for name, module in self.modules.items():
                module.load_state_dict(state["modules"][name])
            for name, optimizer in self.optimizers.items():
                optimizer.load_state_dict(state["optimizers"][name])
            for mine, theirs in zip(self.ema, state["ema"], strict=True):
                mine.copy_(theirs)
        except (KeyError, RuntimeError, ValueError) as error:
            raise TrainingError(f"{found[-1]} does not fit this recipe's networks ({error}); start over in another run folder") from error
        self.step, self.pending, self.metrics, self.seconds = step, state["pending"], state["metrics"], state["seconds"]
        if self.main and self.log.is_file():
            kept = [line for line in self.log.read_text(encoding="utf-8").splitlines(True) if _step_of(line) <= step]
            with replacing(self.log) as temporary:
                temporary.write_text("".join(kept), encoding="utf-8")
        logger.info("%s resumes at step %d of %d from %s", self.recipe.name, step, self.steps, found[-1])

    def _check_same(self, state: dict[str, Any], path: Path) -> None:
        if state.get("recipe") != self.recipe.name:
            raise TrainingError(f"{path} belongs to recipe {state.get('recipe')!r}, not {self.recipe.name!r}; choose another run folder")
        then, now = state["settings"], json.loads(json.dumps(self.recipe.settings()))
        differing = [k for k in sorted({*then, *now} - self.recipe.volatile) if then.get(k) != now.get(k)]
        if differing:
            listed = ", ".join(f"{k} was {then.get(k)!r} and is {now.get(k)!r}" for k in differing)
            raise TrainingError(f"cannot resume from {path}: {listed}. Use the same settings, or start over with resume off")
        if state["steps"] != self.steps or state["processes"] != self.accelerator.num_processes:
            logger.warning("%s: resumed with another number of steps or processes, so this is not the run it would have been", path.name)

    def finish(self, out: Path) -> TrainResult:
        """Let the recipe write its bundle from the averaged weights; draw the loss."""
        from .plot import plot_losses

        files: list[Path] = []
        lines = [json.loads(line) for line in self.log.read_text(encoding="utf-8").splitlines()] if self.log.is_file() else []
        losses = [(int(line["step"]), float(line["loss"])) for line in lines]
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
                "seconds": round(self.seconds, 1),
                "metrics": {key: float(f"{value:.6g}") for key, value in self.metrics.items() if key != "lr"},
            }
            with self._averaged_weights(), torch.no_grad():
                files = self.recipe.finish(out, provenance)
            plot = plot_losses(losses, self.run_dir / "loss.png", f"{self.recipe.name}: loss over {self.steps} steps")
        self.accelerator.wait_for_everyone()
        return TrainResult(files, self.run_dir, self.log, plot, self.steps, losses, dict(self.metrics))


def _accelerator() -> Accelerator:
    try:
        from accelerate import Accelerator
    except ImportError as error:
        raise MissingPackageError("training needs the package accelerate: pip install 'rapiddraw[train]'") from error
    return Accelerator()


def _to_device(batch: Any, device: torch.device) -> Any:
    if device.type == "cpu":
        return batch
    from accelerate.utils import send_to_device

    return send_to_device(batch, device, non_blocking=True)


def _step_of(line: str) -> int:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):  # a line cut short by a crash
        return 2**62
