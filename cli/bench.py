"""Command `bench`: the measurement of a claim, or the report of all that were measured."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .common import note, say

EXAMPLE = """examples:
  python -m rapiddraw bench list
  python -m rapiddraw bench retrieval
  python -m rapiddraw bench all           (every benchmark, then the report)
  python -m rapiddraw bench all --dry-run (every check with its origin, count and interval; measures nothing)
  python -m rapiddraw bench report        (BENCHMARKS.md and its plots, from benchmarks/results)"""


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "bench", help="measure a claim", description="Measure a claim and write the result to benchmarks/results/NAME.json.",
        epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    names = parser.add_subparsers(dest="name", metavar="NAME", required=True)
    names.add_parser("list", help="list the benchmarks", description="List the benchmarks.")
    names.add_parser(
        "report", help="write BENCHMARKS.md from the results", description="Write BENCHMARKS.md and its plots from the results."
    )
    every = names.add_parser("all", help="run every benchmark, then write the report", description="Run every benchmark, one by one.")
    every.add_argument("--skip", nargs="*", default=[], metavar="NAME", help="benchmarks to leave out")
    every.add_argument("--dry-run", action="store_true", help="measure nothing: list each check with its origin, count and interval")
    for name, module in benchmarks().items():
        one = names.add_parser(
            name, aliases=[name.replace("_", "-")] if "_" in name else [], help=_first_line(module), description=module.__doc__,
            epilog=f"example: python -m rapiddraw bench {name}", formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip
        one.add_argument("--results", type=Path, help="folder of the result file (default benchmarks/results)")
        if hasattr(module, "add_arguments"):
            module.add_arguments(one)


def run(args: argparse.Namespace) -> int:
    from ..benchmarks.common import results_dir, save_result
    from ..core.files import check_writable

    if args.name == "list":
        for name, module in benchmarks().items():
            say(f"{name:<16} {_first_line(module)}")
        return 0
    if args.name == "report":
        from ..benchmarks.report import write_report

        say(str(write_report()))
        return 0
    if args.name == "all":
        return list_checks(args.skip) if args.dry_run else run_all(args.skip)
    check_writable(args.results or results_dir())
    outcome = _measured(benchmarks()[args.name.replace("-", "_")], args)
    path = save_result(outcome, args.results)
    for check in outcome["checks"]:
        value = f"{check['value']:.4g}" if isinstance(check["value"], float) else check["value"]
        ends = check.get("interval")
        few = check["resampled"].startswith("none: it needs")
        interval = " (too few for an interval)" if few else "" if ends is None else f" ({ends[0]:.4g} to {ends[1]:.4g})"
        note(f"{'holds' if check['holds'] else 'DOES NOT HOLD'}: {check['claim']}: {value}{interval}, expected {check['expected']}")
    say(str(path))
    return 0


def _measured(module: Any, args: argparse.Namespace) -> dict[str, Any]:
    """Run a benchmark. It is given the command line, because `hardening` tries that too and benchmarks import no commands."""
    from . import main

    args.command_line = main
    return module.run(args)


def list_checks(skip: Sequence[str] = ()) -> int:
    """Print every check with its origin, count and interval, as it would be measured with the defaults."""
    from ..benchmarks.checks import listing

    count = 0
    for name, module in benchmarks().items():
        if name not in skip:
            wanted = module.expectations(_defaults(module))
            count += len(wanted)
            for line in listing(name, wanted):
                say(line)
    say(f"{count} checks; nothing was measured")
    return 0


def _defaults(module: Any) -> argparse.Namespace:
    """Return the defaults of a benchmark's options."""
    options = argparse.ArgumentParser()
    if hasattr(module, "add_arguments"):
        module.add_arguments(options)
    return options.parse_args([])


def run_all(skip: Sequence[str] = ()) -> int:
    """Run every benchmark with its defaults, by name, then write the report.

    A benchmark that cannot run is named and does not stop the others; its last result stays in the report. The exit code is then 1.
    """
    from ..benchmarks.common import results_dir, save_result
    from ..benchmarks.report import write_report
    from ..core.errors import Cancelled
    from ..core.files import check_writable

    check_writable(results_dir())
    failed = []
    for name, module in benchmarks().items():
        if name in skip:
            continue
        note(f"bench {name}")
        try:
            say(str(save_result(_measured(module, _defaults(module)))))
        except Cancelled:
            raise
        except Exception as error:
            failed.append(name)
            note(f"bench {name} could not run: {error}")
    say(str(write_report()))
    return 1 if failed else 0


def benchmarks() -> dict[str, Any]:
    """Return the modules of benchmarks/ that measure something, by name. They import nothing heavy until they run."""
    from ..benchmarks.common import names

    package = f"{__package__.rpartition('.')[0]}.benchmarks"
    return {name: importlib.import_module(f"{package}.{name}") for name in names()}


def _first_line(module: Any) -> str:
    return (module.__doc__ or "").strip().splitlines()[0].replace("%", "%%") if module.__doc__ else ""
