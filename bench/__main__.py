"""Runs the benchmark: `python -m bench --help`."""

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from fnmatch import fnmatch
from pathlib import Path
from subprocess import SubprocessError

from pika.exceptions import AMQPError

from bench import chart, report, results
from bench.cases import CASES
from bench.contests import Case, Pace, hold
from bench.figures import Samples
from bench.ground import Ground, Occupied
from bench.loads import LoadFailed
from bench.references import REFERENCES
from bench.results import Results
from bench.servers import PEERS, ROOT, ServerFailed
from tools.rabbitmq import NodeError

_RESULTS = ROOT / "bench/results.json"
_FOLDER = ROOT / ".trivium/bench"
_FULL = Pace(rounds=7, seconds=2.0, warm_seconds=2.0)
#: The shortest: wrk and h2load know whole seconds only.
_QUICK = Pace(rounds=2, seconds=1.0, warm_seconds=0.0)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    if not options.report:
        chosen = [case for case in CASES if _wanted(case, options)]
        if problem := _problem(chosen):
            print(f"error: {problem}", file=sys.stderr)
            return 2
        try:
            found = measure(chosen, options)
        except Occupied as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        if options.again:
            before = results.read(options.results)
            if (before.quick, before.rounds, before.seconds) != (found.quick, found.rounds, found.seconds):
                print("error: --again needs rounds of the same number and length as before", file=sys.stderr)
                return 2
            found = before.with_again(found)
        results.write(found, options.results)
    found = results.read(options.results)
    for case, verdict in report.verdicts(found, CASES):
        print(report.line(case, verdict))
    for name, reason in found.failures.items():
        print(f"failed   {name}: {reason}")
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "performance.md").write_text(report.markdown(found, CASES))
    (options.out / "performance.svg").write_text(chart.svg(list(report.verdicts(found, CASES))))
    return 1 if found.failures else 0


def measure(chosen: Sequence[Case], options: argparse.Namespace) -> Results:
    """Hold the cases one after another. One that fails is told of at the end, and the others go on."""
    pace = _QUICK if options.quick else _FULL
    if options.rounds:
        pace = Pace(options.rounds, pace.seconds, pace.warm_seconds)
    cores = sorted(os.sched_getaffinity(0))
    server_core, load_core = cores[0], cores[-1]  # neighbours may be threads of one core
    machine, begun = results.this_machine(ROOT), time.monotonic()
    os.sched_setaffinity(0, {load_core})
    samples: dict[str, Samples] = {}
    failures: dict[str, str] = {}
    with Ground(_FOLDER, (server_core, load_core), quick=options.quick) as ground:
        for number, case in enumerate([REFERENCES, *chosen]):
            tell = _teller(f"[{number}/{len(chosen)}] {case.name}", begun)
            try:
                samples[case.name] = hold(case, ground, pace, tell)
            except (ServerFailed, LoadFailed, NodeError, AMQPError, OSError, SubprocessError) as error:
                failures[case.name] = f"{type(error).__name__}: {error}"
                tell(f"failed: {error}")
    references = samples.pop(REFERENCES.name, {})
    return Results(results.now(), options.quick, pace.rounds, pace.seconds, machine, references, samples, failures)


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(prog="python -m bench", description="Measures Trivium beside its peers.")
    found.add_argument("--quick", action="store_true", help="short rounds and few: does every case work?")
    found.add_argument("--rounds", type=int, metavar="N", help="other than seven, or two where quick")
    found.add_argument("--only", metavar="PATTERN", help=f"cases of these names: {', '.join(c.name for c in CASES)}")
    found.add_argument("--again", action="store_true", help="keep what the results have of the other cases")
    found.add_argument("--report", action="store_true", help="measure nothing, write the report again")
    found.add_argument("--results", type=Path, default=_RESULTS, metavar="FILE", help="what was measured, as JSON")
    found.add_argument("--out", type=Path, default=ROOT / "docs", metavar="FOLDER", help="where the report goes")
    return found


def _wanted(case: Case, options: argparse.Namespace) -> bool:
    if options.only:
        return fnmatch(case.name, options.only)
    return not (options.quick and case.only_full)


def _problem(chosen: Sequence[Case]) -> str | None:
    """Why nothing can be measured here."""
    if not chosen:
        return "--only names no case"
    if len(os.sched_getaffinity(0)) < 2:
        return "two cores are needed, one for the server and one for the load"
    if not PEERS.is_dir():
        return "bench/.venv is missing: use `make bench`"
    return None


def _teller(what: str, begun: float) -> Callable[[str], None]:
    def tell(step: str) -> None:
        print(f"{time.monotonic() - begun:6.1f} s {what}: {step}", file=sys.stderr, flush=True)

    return tell


if __name__ == "__main__":
    sys.exit(main())
