"""The sums and the reports of the benchmarks. Nothing here measures."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

sys.path.append(str(Path(__file__).parents[2]))  # last: the keyd that is tested is the one that is installed

from benchmarks import compare, figures, load, profile, report
from benchmarks.daemon import allowed_in
from benchmarks.figures import Entry, Outcome, Table
from benchmarks.goals import Options, workers
from benchmarks.load import Load, Target
from benchmarks.run import GOALS, QUICK, is_whole

MEMBERS = {"goal", "figure", "bar", "met", "unit", "better", "what"}


@pytest.mark.parametrize(
    ("share", "expected"), [(0, 1), (0.01, 1), (0.5, 50), (0.505, 51), (0.9, 90), (0.99, 99), (0.991, 100), (1, 100)]
)
def test_a_percentile_is_the_nearest_rank(share: float, expected: int) -> None:
    values = [float(value) for value in range(1, 101)]
    random.Random(7).shuffle(values)
    assert figures.percentile(values, share) == expected


def test_a_percentile_of_one_value() -> None:
    assert [figures.percentile([3.0], share) for share in (0, 0.5, 1)] == [3, 3, 3]


@pytest.mark.parametrize(("values", "share"), [([], 0.5), ([1.0], -0.1), ([1.0], 1.1)])
def test_no_percentile(values: list[float], share: float) -> None:
    with pytest.raises(ValueError, match="percentile"):
        figures.percentile(values, share)


def test_ratios_are_taken_round_by_round() -> None:
    """A machine that was slow in one round was slow for both."""
    assert figures.median_ratio([100, 10, 100], [50, 5, 50]) == 2
    assert figures.median_ratio([90, 10, 20], [10, 10, 10]) == 2
    with pytest.raises(ValueError, match="shorter"):
        figures.median_ratio([1, 2], [1])


@pytest.mark.parametrize(
    ("figure", "at_most", "met"),
    [
        (3.0, False, True),
        (3.01, False, True),
        (2.99, False, False),
        (3.0, True, True),
        (2.99, True, True),
        (3.01, True, False),
        (None, False, False),
        (None, True, False),
        (float("nan"), True, False),
        (float("nan"), False, False),
    ],
)
def test_a_verdict(figure: float | None, at_most: bool, met: bool) -> None:
    entry = Entry("2 rate c=8", figure, 3.0, "times", "what", at_most=at_most)
    assert entry.met is met
    assert figures.missed([entry]) == ([] if met else ["2 rate c=8"])
    assert entry.line().startswith("met" if met else "MISSED")


def test_latest_has_one_object_for_each_goal() -> None:
    found = Outcome(
        [Entry("1 a", 2.0, 3.0, "times", "x", at_most=True), Entry("2 b", None, 3.0, "times", "y")], [Table("t", ("c",), [["1"]])]
    )
    document = json.loads(json.dumps(report.document(found, {"date": "2027-01-31", "commit": "c"})))
    assert [set(goal) for goal in document["goals"]] == [MEMBERS, MEMBERS]
    assert [(goal["met"], goal["figure"], goal["better"]) for goal in document["goals"]] == [
        (True, 2.0, "lower"),
        (False, None, "higher"),
    ]
    assert document["missed"] == ["2 b"]
    assert document["tables"] == [{"title": "t", "columns": ["c"], "rows": [["1"]]}]


def test_the_figures_in_the_repository_are_of_that_form() -> None:
    document = json.loads(report.LATEST.read_text())
    assert {"date", "commit", "machine", "goals", "missed", "tables"} <= set(document)
    names = [goal["goal"] for goal in document["goals"]]
    assert len(set(names)) == len(names)
    for goal in document["goals"]:
        assert set(goal) == MEMBERS
        again = Entry(goal["goal"], goal["figure"], goal["bar"], goal["unit"], goal["what"], at_most=goal["better"] == "lower")
        assert again.met == goal["met"]
        assert (goal["goal"] in document["missed"]) != goal["met"]


def test_the_document_has_a_place_for_what_is_generated() -> None:
    text = report.DOCUMENT.read_text()
    for name in ("goals", "tables"):
        assert report.between(text, name, "NEW").count("NEW") == text.count("NEW") + 1


def test_only_what_is_between_the_markers_changes() -> None:
    text = "a\n<!-- generated: x -->\nold\n<!-- end -->\nb\n<!-- generated: y -->\nkept\n<!-- end -->\nc\n"
    new = report.between(text, "x", "new")
    assert new == text.replace("old", "new")
    assert report.between(new, "x", "new") == new


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<!-- generated: x -->\n",
        "<!-- end --> <!-- generated: x -->",
        "<!-- generated: x -->\n<!-- end -->\n<!-- generated: x -->\n<!-- end -->",
        "<!-- generated: xy -->\n<!-- end -->",
    ],
)
def test_markers_that_are_not_there_once(text: str) -> None:
    with pytest.raises(report.MarkerError):
        report.between(text, "x", "new")


def test_the_plot_is_an_image_to_scale() -> None:
    root = ET.fromstring(report.plot("a & b", [("keyd <1>", 100.0), ("OpenBao", 50.0)]))
    widths = [int(each.attrib["width"]) for each in root.iter("{http://www.w3.org/2000/svg}rect")]
    assert widths[0] == 2 * widths[1] > 0
    assert "keyd <1>" in [each.text for each in root.iter("{http://www.w3.org/2000/svg}text")]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.01234, "0.0123"), (1.5, "1.50"), (12.34, "12.3"), (123.4, "123"), (1234.5, "1,234"), (float("nan"), "-")],
)
def test_numbers_for_people(value: float, text: str) -> None:
    assert figures.number(value) == text


def test_the_log_of_the_load_generator() -> None:
    log = "1796000000000000\t200\t120\n1796000000000001\t-1\t5\n1796000000000002\t200\t80\n1796000000000003\t403\t7\n"
    assert load.latencies_in(log, 200) == [120, 80]
    assert load.latencies_in(log, 304) == []


def test_the_command_line_of_the_load_generator(tmp_path: Path) -> None:
    target = Target("x", 1, "http://localhost/m", "unix:/s", ("a: b",), lambda: b"body", http1=True)
    line = load.command(target, 8, 1.5, tmp_path)
    assert line == [
        "h2load",
        "-D1500ms",
        "-c8",
        "-m1",
        "-Ha: b",
        f"-d{tmp_path}/body",
        "--h1",
        "--base-uri=unix:/s",
        "http://localhost/m",
    ]
    assert (tmp_path / "body").read_bytes() == b"body"
    assert load.command(Target("x", 1, "http://h/m"), 1, 1, tmp_path) == ["h2load", "-D1000ms", "-c1", "-m1", "http://h/m"]


def test_signatures_are_counted_from_the_figures_of_the_daemon() -> None:
    text = """\
# TYPE keyd_decisions_total counter
keyd_decisions_total{operation="sign",reason=""} 1200.0
keyd_decisions_total{operation="sign",reason="",worker="2"} 1e+02
keyd_decisions_total{operation="sign",reason="RATE"} 7.0
keyd_decisions_total{operation="sign_jwt",reason=""} 9.0
"""
    assert allowed_in(text) == 1300
    assert allowed_in("") == 0


def test_the_share_of_the_load_generator_is_taken_out() -> None:
    run = Load(count=900, seconds=1.0, server_cpu=1.5, load_cpu=0.2, p50=1, p90=2, p99=3)
    assert workers.without_load(run, cores=2) == pytest.approx(1000)
    assert (run.rate, round(run.cpu_each), round(run.load_each), run.load_busy) == (900, 1667, 222, 0.2)


def test_every_goal_has_its_module() -> None:
    there = {path.stem for path in (Path(load.__file__).parent / "goals").glob("[a-z]*.py")}
    assert there == set(GOALS.values())
    assert set(QUICK) < set(GOALS)


def test_what_is_less_than_the_goals_ask_for_is_not_written_down() -> None:
    assert is_whole(list(GOALS), Options(seconds=1, rounds=1))
    assert not is_whole(list(GOALS)[1:], Options())
    for less in ({"keys": 99_999}, {"agents": 999}, {"all_transports": False}):
        assert not is_whole(list(GOALS), Options(**less))  # type: ignore[arg-type]


RAW = """\
thread (1): MainThread;_run_once (asyncio/base_events.py:1922);sign (keyd/service/signing.py:9);sign_with (backends/encoding.py:7);0x7f (cryptography/_rust.abi3.so) 30
thread (1): MainThread;_run_once (asyncio/base_events.py:1922);_from_server (keyd/service/gate/relay.py:178);send (libc.so.6) 20
thread (1): MainThread;_run_once (asyncio/base_events.py:1922);parse (keyd/core/signature_base.py:12) 40
thread (1): MainThread;<module> (keyd/__main__.py:6);_run_once (asyncio/base_events.py:1922) 6
thread (3): pool;some_native (libother.so) 4
thread (1): MainThread;select (selectors.py:468);epoll_wait (libc.so.6) 900
thread (2): keyd-audit_0;sync (keyd/core/audit/trail_file.py:126);os_fdatasync (libpython3.11.so.1.0);fdatasync (libc.so.6) 900
thread (2): pool;_worker (concurrent/futures/thread.py:81);PyThread_acquire_lock_timed (libpython3.11.so.1.0);0x7f (libc.so.6);0x7e (libc.so.6) 900
this is no sample
"""


def test_threads_that_wait_are_not_at_work() -> None:
    samples = profile.parse(RAW)
    assert [count for _, count in samples] == [30, 20, 40, 6, 4]


def test_a_sample_counts_for_what_is_innermost_in_keyd() -> None:
    assert [profile.area(stack) for stack, _ in profile.parse(RAW)] == [
        "Ed25519 (cryptography)",
        "gate",
        "reading what is to be signed",
        "event loop",
        "anything else",
    ]


def test_python_and_native_are_told_apart() -> None:
    assert [profile.is_python(stack) for stack, _ in profile.parse(RAW)] == [False, False, True, True, False]
    rows = {row[0]: list(row[1:]) for row in profile.summary(profile.parse(RAW)).rows}
    assert rows["reading what is to be signed"] == ["40%", "40%", "0%"]
    assert rows["gate"] == ["20%", "0%", "20%"]
    assert rows["all of it"] == ["100 samples", "46%", "54%"]


def test_native_time_is_that_of_the_function_above_it() -> None:
    rows = [list(row) for row in profile.hottest(profile.parse(RAW), most=2).rows]
    assert rows == [["`parse (keyd/core/signature_base.py)`", "40.0%"], ["`sign_with (backends/encoding.py)`", "30.0%"]]


def test_nothing_to_sum_up() -> None:
    assert profile.parse("") == []
    assert profile.summary([]).rows[-1][1] == "0 samples"


def test_two_commits_are_compared_round_by_round() -> None:
    base = [{"cpu": 100.0, "gone": 1.0}, {"cpu": 400.0, "gone": 1.0}, {"cpu": 100.0, "gone": 1.0}]
    here = [{"cpu": 50.0, "new": 1.0}, {"cpu": 200.0}, {"cpu": 80.0}]
    table = compare.table(base, here, "abc")
    assert [list(row) for row in table.rows] == [["cpu", "100", "80.0", "0.50"]]
    assert table.columns[1:3] == ("abc", "this tree")
