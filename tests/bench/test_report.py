"""The report and the chart."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from xml.etree import ElementTree

from bench import chart, report, results
from bench.contests import Case
from bench.figures import Sample, Target
from bench.results import Machine, Results

CASE = Case(
    name="publish",
    title="durable publish",
    contestants={},
    targets=(
        Target(text="2x the peer", ours="Trivium", theirs=("peer",), at_least=2.0),
        Target(text="5x the peer & more", ours="Trivium", theirs=("peer",), at_least=5.0),
        Target(text="9x the peer", ours="Trivium", theirs=("peer",), at_least=9.0, stretch=True),
    ),
)
SAMPLES = {
    "Trivium": [Sample(rate=rate, p50_ms=1.234, cpu_us=25.0, load_share=0.5) for rate in (30_000, 29_000, 31_000)],
    "peer": [Sample(rate=10_000, memory_mib=51.3)] * 3,
}
MACHINE = Machine("a CPU", 2, 24.0, "6.1", "ext4", "3.11.7", {"starlette": "1.0"}, "abc", 0.1)


def run_of(samples: Mapping[str, Mapping[str, Sequence[Sample]]], *, quick: bool = False) -> Results:
    failures = {} if samples else {"publish": "LoadFailed: refused\nand more"}
    references = {"fdatasync of 4 KiB": [Sample(rate=5000, p50_ms=0.16, p99_ms=2.0)]}
    when = datetime(2026, 1, 1, tzinfo=UTC)
    return Results(when, quick, 3, 3.0, MACHINE, references, samples, failures)


def test_report_tells_each_target_with_its_outcome() -> None:
    """A ratio stands beside its bound with its spread, and whether it was reached."""
    text = report.markdown(run_of({"publish": SAMPLES}), [CASE])
    assert "| durable publish | 2x the peer | 3.00x (2.90 - 3.10) | reached |" in text
    assert "|  | 5x the peer & more | 3.00x (2.90 - 3.10) | **missed** |" in text
    assert "|  | 9x the peer (stretch) | 3.00x (2.90 - 3.10) | not yet |" in text


def test_report_tells_every_figure() -> None:
    """Rates with their spread, latencies, CPU and how busy the cores were; a column of memory where it was measured."""
    text = report.markdown(run_of({"publish": SAMPLES}), [CASE])
    assert "|  | messages/s | p50 | p99 | CPU each | cores busy | resident memory |" in text
    assert "| Trivium | 30,000 (29,000 - 31,000) | 1.23 ms | - | 25.0 us | 75% / 50% | - |" in text
    assert "| fdatasync of 4 KiB | 0.16 ms | 2.00 ms | 5,000 (5,000 - 5,000) |" in text


def test_report_of_a_quick_run_says_so() -> None:
    """Nobody takes its figures for more than they are."""
    assert "quick run" in report.markdown(run_of({"publish": SAMPLES}, quick=True), [CASE])
    assert "quick run" not in report.markdown(run_of({"publish": SAMPLES}), [CASE])


def test_report_names_what_failed() -> None:
    """A case without figures is told of, with the first line of the reason."""
    assert "`publish` failed: LoadFailed: refused\n" in report.markdown(run_of({}), [CASE])


def test_results_survive_their_file(tmp_path: Path) -> None:
    """The report can be made again from the file."""
    found = run_of({"publish": SAMPLES})
    results.write(found, tmp_path / "results.json")
    assert results.read(tmp_path / "results.json") == found


def test_a_case_that_is_measured_again_takes_the_place_of_its_failure() -> None:
    """The other cases stay as they were, and the report tells which is of another time."""
    found = run_of({}).with_again(run_of({"publish": SAMPLES}))
    assert not found.failures
    assert "`publish` was measured again: 2026-01-01 00:00 UTC, commit abc." in report.markdown(found, [CASE])
    other = run_of({"publish": SAMPLES}).with_again(run_of({"other": SAMPLES}))
    assert set(other.samples) == {"publish", "other"}
    assert set(other.again) == {"other"}


def test_chart_is_a_picture_of_every_target() -> None:
    """Well-formed SVG: a bar and a label for each target."""
    found = list(report.verdicts(run_of({"publish": SAMPLES}), [CASE]))
    picture = ElementTree.fromstring(chart.svg(found))  # noqa: S314 - our own
    texts = [element.text for element in picture.iter("{http://www.w3.org/2000/svg}text")]
    assert "publish: 5x the peer & more" in texts
    assert sum(element.get("fill") == "#c1440e" for element in picture.iter()) == 1
