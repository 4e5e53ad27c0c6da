"""Does the service cost little, lose nothing, and grow? Throughput, kills, clients, memory, replicas, and the simulator of its size.

    python -m rapiddraw bench serve --parts overhead,kills,clients,memory        (one process)
    python -m rapiddraw bench serve                                              (Ray Serve too; needs the extra `ray`)

Each replica has one thread. `overhead` and the parts with replicas draw `text_to_image` with few steps; the others draw an empty picture:
they measure the service itself. Parts that are not measured are kept from the result before. Time on a quiet machine only.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import random
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from ..core.errors import InputError
from . import common
from .checks import CHOSEN, Basis, Check, Expectation, at_least, at_most, between, equal, exact
from .serve_process import ServeProcess

PARTS = ("overhead", "kills", "clients", "memory", "replicas", "burst")
_RAY = ("replicas", "burst")
PICTURES = 120
_DRAW = "Steps.steps"
_EMPTY = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 16, "height": 16, "batch_size": 1, "color": 0}, "_meta": {"title": "Colour"}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "empty"}},
}
_BLOCK = 10
"""Pictures that follow each other and are counted as one: two replicas end theirs in pairs, so that single gaps lean on each other."""
_LOAD = 0.7  # share of the time in which two replicas are busy while the simulator is checked


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m rapiddraw bench serve`."""
    parser.add_argument("--parts", help=f"parts to measure, separated by commas (default: all of {','.join(PARTS)})")
    parser.add_argument("--pictures", type=int, default=PICTURES, help=f"pictures in each measurement of time ({PICTURES})")
    parser.add_argument("--steps", type=int, default=5, help="steps of one picture (5)")
    parser.add_argument("--jobs", type=int, default=1000, help="jobs of the part with kills (1000)")
    parser.add_argument("--kill-every", type=int, default=50, help="jobs between two kills (50)")
    parser.add_argument("--clients", type=int, default=200, help="clients at the same time (200)")
    parser.add_argument("--memory-jobs", type=int, default=500, help="jobs while the memory is watched (500)")
    parser.add_argument("--patience", type=float, default=3600, help="longest time of one part in seconds (3600)")


def expectations(args: argparse.Namespace) -> dict[str, Expectation]:
    """Return the expectations by key."""
    timed = Basis(args.pictures, "pictures")
    return {
        "overhead": Expectation("seconds a picture in the service over those in a bare loop", at_most(1.03), CHOSEN, timed),
        "lost": Expectation(f"jobs lost, with a kill every {args.kill_every}", equal(0), CHOSEN, exact(args.jobs, "jobs")),
        "twice": Expectation("jobs without a picture of their own, or with two", equal(0), CHOSEN, exact(args.jobs, "jobs")),
        "clients": Expectation("clients at the same time that got no picture", equal(0), CHOSEN, exact(args.clients, "clients")),
        "memory": Expectation("resident memory at the end over that after a fifth of the jobs", at_most(1.05), CHOSEN,
                              exact(args.memory_jobs, "jobs")),
        "replicas": Expectation("pictures a second at two replicas over one", at_least(1.8), CHOSEN, timed),
        "p50": Expectation("simulated p50 over measured, two replicas", between(0.85, 1.15), CHOSEN, exact(args.pictures, "pictures")),
        "p95": Expectation("simulated p95 over measured, two replicas", between(0.85, 1.15), CHOSEN, exact(args.pictures, "pictures")),
        "up": Expectation("most replicas during a burst, of 2", equal(2), CHOSEN, exact(1, "bursts")),
        "down": Expectation("replicas after a burst", equal(1), CHOSEN, exact(1, "bursts")),
        "burst": Expectation("jobs lost in a burst", equal(0), CHOSEN, exact(args.pictures, "jobs")),
    }  # fmt: skip


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure the chosen parts and return the result (see :func:`common.result`)."""
    chosen = common.chosen_names(args.parts, list(PARTS), "part", "--parts")
    if importlib.util.find_spec("ray") is None and set(chosen) & set(_RAY):
        if args.parts:
            raise InputError('these parts need Ray: pip install "rapiddraw[ray]"')
        chosen = [part for part in chosen if part not in _RAY]
    wanted = expectations(args)
    parts_of = {wanted[key].claim: part for part, keys in _CHECKS.items() for key in keys}
    found = common.parts_before("serve", parts_of.get)
    with tempfile.TemporaryDirectory() as folder:
        for part in chosen:
            place = Path(folder) / part
            place.mkdir()
            (place / "empty.json").write_text(json.dumps(_EMPTY), encoding="utf-8")
            found[part] = _MEASURE[part](args, place, wanted)
    named = [part for part in PARTS if part in found]
    command = "python -m rapiddraw bench serve" + (f" --parts {','.join(named)}" if len(named) < len(PARTS) else "")
    command += f" --pictures {args.pictures}" if args.pictures != PICTURES else ""
    return common.result("serve", command, *common.joined_parts(found, PARTS))


Measured = tuple[list[dict[str, Any]], list[Check]]


def _bodies(args: argparse.Namespace, count: int) -> list[dict[str, Any]]:
    return [{"graph": "text_to_image", "seed": seed, "set": {_DRAW: args.steps}} for seed in range(count)]


def _gaps(server: ServeProcess) -> list[float]:
    """Seconds between the ends of jobs that follow each other."""
    ends = sorted(job.finished or 0.0 for job in _done(server))
    return [after - before for before, after in zip(ends, ends[1:], strict=False)]


def _blocks(gaps: list[float]) -> list[float]:
    """Mean gap of every :data:`_BLOCK` that follow each other; of all of them where there are fewer."""
    size = min(_BLOCK, len(gaps))
    return [sum(gaps[first : first + size]) / size for first in range(0, len(gaps) - size + 1, size)]


def _done(server: ServeProcess) -> list[Any]:
    """The jobs of a service that has ended."""
    import contextlib

    from ..serve.store import JobStore

    with contextlib.closing(JobStore(server.folder / "jobs.sqlite")) as store:
        return store.listed(None, ("done",), most=10**6)


def _overhead(args: argparse.Namespace, place: Path, wanted: dict[str, Expectation]) -> Measured:
    """A bare loop over the engine, and the same graphs through the service."""
    from ..api.engines import EmbeddedEngine, changed
    from ..core.graph.formats import read_graph
    from ..core.metrics.bootstrap import ratio_of_means
    from ..core.paths import using_dirs
    from ..nodes.registry import registry

    nodes, bare = registry(), []
    engine = EmbeddedEngine(nodes)
    with using_dirs(place / "input", place / "output", place / "temp"):
        for body in _bodies(args, args.pictures + 1):
            began = time.perf_counter()
            graph = changed(read_graph("text_to_image"), nodes, [f"{_DRAW}={args.steps}"], body["seed"])
            engine.check(graph)
            engine.run(graph)
            bare.append(time.perf_counter() - began)
    del engine
    server = ServeProcess("text_to_image", place / "served").start()
    try:
        for body in _bodies(args, args.pictures + 1):
            server.ask("/generate", body)
        server.wait(args.pictures + 1, args.patience)
    finally:
        server.stop()
    served, bare = _gaps(server), bare[1:]  # the first one loads the models
    row = {"bare s": round(sum(bare) / len(bare), 4), "served s": round(sum(served) / len(served), 4)}
    return [row], [wanted["overhead"].judge(ratio_of_means(served, bare))]


def _kills(args: argparse.Namespace, place: Path, wanted: dict[str, Expectation]) -> Measured:
    """Jobs while the process is killed again and again."""
    server = ServeProcess(str(place / "empty.json"), place / "served", "--warm-up", "").start()
    for number in range(args.jobs):
        server.ask("/generate", {"graph": "empty", "set": {"Colour.color": number}})
    kills, ends = 0, time.monotonic() + args.patience
    try:
        while (done := server.counts().get("done", 0)) < args.jobs and time.monotonic() < ends:
            if done >= (kills + 1) * args.kill_every:
                server.kill()
                kills += 1
                server.start()
            time.sleep(0.01)
    finally:
        server.stop()
    jobs = _done(server)
    pictures = {_pixel(server.folder / "results" / job.id / str(job.attempt) / name) for job in jobs for name in job.files}
    odd = sum(len(job.files) != 1 for job in jobs) + len(jobs) - len(pictures)
    row = {
        "jobs": args.jobs,
        "kills": kills,
        "pictures": len(pictures),
        "second attempts": sum(job.deaths for job in jobs),
    }
    return [row], [wanted["lost"].judge(args.jobs - len(jobs)), wanted["twice"].judge(odd)]


def _pixel(path: Path) -> tuple[int, ...]:
    from PIL import Image

    with Image.open(path) as picture:
        return tuple(picture.convert("RGB").getpixel((0, 0)))  # type: ignore[arg-type]


def _clients(args: argparse.Namespace, place: Path, wanted: dict[str, Expectation]) -> Measured:
    """Clients that all begin at once; each asks for a picture and polls until it is there."""
    server, got, together = ServeProcess(str(place / "empty.json"), place / "served", "--warm-up", ""), [], threading.Barrier(args.clients)
    server.start()

    def client(number: int) -> None:
        together.wait()
        ends = time.monotonic() + args.patience
        job = server.ask("/generate", {"graph": "empty", "set": {"Colour.color": number}})
        while job["state"] in ("queued", "running") and time.monotonic() < ends:
            time.sleep(0.2)
            job = server.ask(f"/jobs/{job['id']}")
        if job["state"] == "done" and job["images"]:
            got.append(number)

    threads = [threading.Thread(target=client, args=(number,)) for number in range(args.clients)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        server.stop()
    return [{"clients": args.clients, "got": len(got)}], [wanted["clients"].judge(args.clients - len(got))]


def _memory(args: argparse.Namespace, place: Path, wanted: dict[str, Expectation]) -> Measured:
    """Resident memory while many jobs run."""
    server = ServeProcess(str(place / "empty.json"), place / "served", "--warm-up", "").start()
    early = args.memory_jobs // 5
    sizes = []
    try:
        for first, last in ((0, early), (early, args.memory_jobs)):
            for number in range(first, last):
                server.ask("/generate", {"graph": "empty", "set": {"Colour.color": number}})
            server.wait(last, args.patience)
            sizes.append(server.memory())
    finally:
        server.stop()
    row = {"jobs": args.memory_jobs, "MB after a fifth": sizes[0] >> 20, "MB at the end": sizes[1] >> 20}
    return [row], [wanted["memory"].judge(sizes[1] / sizes[0])]


def _replicas(args: argparse.Namespace, place: Path, wanted: dict[str, Expectation]) -> Measured:
    """Throughput at one and at two replicas, and the waits at two beside the simulated ones."""
    from ..core.metrics.bootstrap import ratio_of_means
    from ..serve.plan import Load, percentile, simulate

    rows, gaps, seconds = [], {}, [0.0]
    for count in (1, 2):
        server = ServeProcess("text_to_image", place / f"at{count}", "--ray", "--min", str(count), "--max", str(count)).start()
        try:
            for body in _bodies(args, args.pictures + count):
                server.ask("/generate", body)
            server.wait(args.pictures + count, args.patience)
        finally:
            server.stop()
        gaps[count] = _gaps(server)[: args.pictures]
        seconds = [(job.finished or 0.0) - (job.started or 0.0) for job in _done(server)][count:]
        rows.append({"replicas": count, "pictures/s": round(len(gaps[count]) / sum(gaps[count]), 3)})
    server = ServeProcess("text_to_image", place / "waits", "--ray", "--min", "2", "--max", "2").start()
    chance, qps = random.Random(0), _LOAD * 2 * len(seconds) / sum(seconds)
    try:
        for body in _bodies(args, args.pictures):
            time.sleep(chance.expovariate(qps))
            server.ask("/generate", body)
        server.wait(args.pictures, args.patience)
    finally:
        server.stop()
    jobs = _done(server)
    times = tuple((job.finished or 0.0) - (job.started or 0.0) for job in jobs)
    waits = [(job.finished or 0.0) - job.created for job in jobs]
    arrivals = tuple(job.created - jobs[0].created for job in jobs)
    simulated = simulate(Load(qps, sum(times) / len(times), measured=times, arrivals=arrivals), 2)
    measured = {"p50": percentile(waits, 50), "p95": percentile(waits, 95)}
    rows.append({"replicas": 2, "load": _LOAD, "p50 s": round(measured["p50"], 3), "p95 s": round(measured["p95"], 3),
                 "simulated p50 s": round(simulated.p50, 3), "simulated p95 s": round(simulated.p95, 3)})  # fmt: skip
    checks = [wanted["replicas"].judge(ratio_of_means(_blocks(gaps[1]), _blocks(gaps[2])))]
    return rows, checks + [wanted[name].judge(getattr(simulated, name) / value) for name, value in measured.items()]


def _burst(args: argparse.Namespace, place: Path, wanted: dict[str, Expectation]) -> Measured:
    """Replicas that come with a burst of requests and go after it."""
    server = ServeProcess("text_to_image", place / "served", "--ray", "--min", "1", "--max", "2").start()
    most, ends = 0, time.monotonic() + args.patience
    try:
        for body in _bodies(args, args.pictures):
            server.ask("/generate", body)
        while time.monotonic() < ends:
            line = next(line for line in server.text("/metrics").splitlines() if line.startswith("rapiddraw_replicas "))
            now = int(float(line.split()[1]))
            most = max(most, now)
            if server.counts().get("done", 0) == args.pictures and (now == 1 or most == 1):
                break
            time.sleep(2)
    finally:
        server.stop()
    lost = args.pictures - len(_done(server))
    row = {"jobs": args.pictures, "most replicas": most, "replicas after": now}
    return [row], [wanted["up"].judge(most), wanted["down"].judge(now), wanted["burst"].judge(lost)]


_CHECKS = {
    "overhead": ("overhead",), "kills": ("lost", "twice"), "clients": ("clients",), "memory": ("memory",),
    "replicas": ("replicas", "p50", "p95"), "burst": ("up", "down", "burst"),
}  # fmt: skip
_MEASURE = {
    "overhead": _overhead, "kills": _kills, "clients": _clients, "memory": _memory, "replicas": _replicas, "burst": _burst,
}  # fmt: skip
