"""Command `serve`: saved graphs behind an HTTP API."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from .common import note, say

EXAMPLE = """examples:
  python -m rapiddraw serve                        (the shipped graph text_to_image on http://127.0.0.1:8188)
  python -m rapiddraw serve my-graphs/ --port 9000
  python -m rapiddraw serve --new-key alice        (shows a key once; then: serve --listen 0.0.0.0)
  COMFYUI_PATH=~/ComfyUI python -m rapiddraw serve graph.json --host comfy
  python -m rapiddraw serve --ray --max 4 --num-gpus 1           (one process for each GPU, as many as there is work)
  python -m rapiddraw serve plan --qps 40 --latency 2.1 --p95 5  (how many replicas that takes, by simulation)

then: curl -s localhost:8188/generate -H 'Content-Type: application/json' -d '{"prompt": "a red pear on snow", "seed": 7}'"""


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "serve", help="draw graphs behind an HTTP API", description="Serve saved graphs over HTTP, with ComfyUI's own API.",
        epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument(
        "graphs", nargs="*", metavar="GRAPH", help="graphs or folders of graphs, or names of shipped graphs (text_to_image)"
    )
    parser.add_argument("--listen", default="127.0.0.1", metavar="ADDRESS", help="address to listen on; any but loopback needs API keys")
    parser.add_argument("--port", type=int, default=8188)
    parser.add_argument("--data", default="served", metavar="DIR", help="folder of jobs, uploads and results (./served)")
    parser.add_argument("--results", default="", metavar="PLACE", help="folder of the pictures, or s3://bucket/prefix (default: in --data)")
    parser.add_argument("--host", choices=("embedded", "comfy"), default="embedded", help="what draws: see `run --host`")
    parser.add_argument(
        "--allow-graphs", nargs="*", metavar="CLASS",
        help="admit any graph of these node classes and those of the registered graphs; 'all' for every class",
    )  # fmt: skip
    parser.add_argument("--allow-origin", action="append", default=[], metavar="ORIGIN", help="a site whose pages may use this service")
    parser.add_argument("--new-key", metavar="NAME", help="make an API key, show it once, and end")
    parser.add_argument("--priority", type=float, default=0.0, help="with --new-key: the highest priority of its jobs (0)")
    parser.add_argument("--mark", action="store_true", help="mark every picture as AI-generated")
    parser.add_argument("--block", metavar="FILE", help="a file of words and phrases, one a line, that no prompt may hold")
    parser.add_argument(
        "--warm-up", metavar="GRAPH", help="registered graph that runs once before /ready (default: the first); '' for none"
    )
    parser.add_argument("--queue", type=int, default=100, help="jobs that may wait; more are answered 429 (100)")
    parser.add_argument("--per-key", type=int, default=50, help="jobs of one key that may wait or run (50)")
    parser.add_argument("--rate", type=int, default=1200, help="requests of one key in a minute (1200)")
    parser.add_argument("--job-seconds", type=float, default=600, help="longest time of one job (600)")
    parser.add_argument("--max-pixels", type=int, default=4 * 2**20, help="most pixels of one batch of latents (4194304)")
    parser.add_argument("--max-steps", type=int, default=200, help="most steps of one sampling run (200)")
    parser.add_argument("--upload-mb", type=int, default=32, help="largest upload in MB (32)")
    parser.add_argument("--keep-days", type=float, default=0, help="delete jobs and their pictures this long after they ended (0: never)")
    parser.add_argument("--drain-seconds", type=float, default=30, help="how long running jobs may end after a stop is asked for (30)")
    parser.add_argument(
        "--ray", nargs="?", const="local", metavar="ADDRESS",
        help="serve on Ray: on this machine, or on the cluster at ADDRESS ('auto' finds one); needs the extra 'ray'",
    )  # fmt: skip
    parser.add_argument("--min", type=int, default=1, help="with --ray: fewest replicas (1)")
    parser.add_argument("--max", type=int, default=2, help="with --ray: most replicas (2)")
    parser.add_argument("--num-cpus", type=float, default=1, help="with --ray: CPUs of one replica (1)")
    parser.add_argument("--num-gpus", type=float, default=0, help="with --ray: GPUs of one replica, such as 1 or 0.5 (0)")
    planning = parser.add_argument_group("serve plan", "how many replicas a load needs; nothing is served")
    planning.add_argument("--qps", type=float, help="requests a second")
    planning.add_argument("--latency", type=float, metavar="SECONDS", help="time of one picture on one replica")
    planning.add_argument("--p95", type=float, metavar="SECONDS", help="19 of 20 requests must take at most this long")
    planning.add_argument("--variation", type=float, default=0.2, help="standard deviation of the latency over its mean (0.2)")
    planning.add_argument("--requests", type=int, default=20_000, help="requests to simulate (20000)")
    parser.add_argument("--log", choices=("json", "text"), default="json", help="form of the log on stderr (json)")


def run(args: argparse.Namespace) -> int:
    from ..core.errors import InputError, MissingPackageError

    if args.graphs == ["plan"]:
        return _plan(args)
    if args.host == "comfy" and not args.new_key:
        from .comfy import move_to_comfy_python

        moved = move_to_comfy_python(args.arguments)
        if moved is not None:
            return moved
    try:
        from ..serve import keys
        from ..serve import run as running
    except ModuleNotFoundError as error:
        raise MissingPackageError(f'serve needs the package {error.name}: pip install "rapiddraw[serve]"') from error
    key_file = Path(args.data) / "keys.json"
    if args.new_key:
        say(keys.new_key(key_file, args.new_key, args.priority))
        note(f"only its hash is kept, in {key_file}; the service reads it at its next start")
        return 0
    given = keys.Keys(key_file, os.environ.get("RAPIDDRAW_API_KEYS", "").split(","))
    settings = _settings(args)
    if not settings.is_local and not len(given):
        raise InputError(f"--listen {args.listen} is open to other machines and needs API keys: make one with --new-key NAME")
    if args.ray is None:
        return running.serve(settings, given, args.log)
    try:
        from ..serve.cluster import Cluster, serve_on_ray
    except ModuleNotFoundError as error:
        raise MissingPackageError(f'--ray needs the package {error.name}: pip install "rapiddraw[ray]"') from error
    return serve_on_ray(settings, given, Cluster(args.ray, args.min, args.max, args.num_cpus, args.num_gpus))


def _plan(args: argparse.Namespace) -> int:
    from ..serve import plan

    if None in (args.qps, args.latency, args.p95):
        note("serve plan needs --qps, --latency and --p95, for example: serve plan --qps 40 --latency 2.1 --p95 5")
        return 2
    load = plan.Load(args.qps, args.latency, args.variation, requests=args.requests)
    found = plan.needed(load, args.p95)
    say(f"{found.replicas} replicas: p50 {found.p50:.3g} s, p95 {found.p95:.3g} s, busy {found.utilisation:.0%} of the time")
    say(f"rule of thumb, ceil(QPS x latency / 0.8): {plan.rule_of_thumb(load)} replicas")
    say(f"\nhighest load within p95 {args.p95:g} s, at {args.latency:g} s a picture:")
    say(f"{'replicas':>8} {'QPS':>9} {'p50 s':>7} {'p95 s':>7} {'busy':>6}")
    for row in plan.table(load, args.p95):
        say(f"{row['replicas']:>8} {row['qps']:>9} {row['p50']:>7} {row['p95']:>7} {row['utilisation']:>6.0%}")
    return 0


def _settings(args: argparse.Namespace) -> Any:
    from ..core.errors import InputError
    from ..core.files import check_writable
    from ..serve.settings import Limits, Settings

    try:
        blocked = Path(args.block).read_text(encoding="utf-8").splitlines() if args.block else []
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read --block {args.block} ({error}); give a text file with one phrase a line") from error
    for place in (args.data, args.results):
        if place and not place.startswith("s3://"):
            check_writable(Path(place))
    graphs = tuple(args.graphs) or ("text_to_image",)
    limits = Limits(
        queue=args.queue, per_key=args.per_key, rate=args.rate, job_seconds=args.job_seconds, pixels=args.max_pixels, steps=args.max_steps,
        upload_bytes=args.upload_mb * 2**20,
    )  # fmt: skip
    return Settings(
        graphs=graphs, data=Path(args.data), host=args.listen, port=args.port, engine=args.host,
        allowed=None if args.allow_graphs is None else tuple(args.allow_graphs), origins=tuple(args.allow_origin), mark=args.mark,
        blocked=tuple(line.strip() for line in blocked if line.strip()), results=args.results, warm_up=args.warm_up,
        drain_seconds=args.drain_seconds, keep_days=args.keep_days, limits=limits,
    )  # fmt: skip
