"""The sums and the reports of the benchmarks. Nothing here measures."""

from __future__ import annotations

import importlib
import json
import random
import re
import sys
import tomllib
from contextlib import nullcontext
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

sys.path.append(str(Path(__file__).parents[2]))  # last: the keyd that is tested is the one that is installed

from benchmarks import __main__ as command
from benchmarks import compare, figures, load, profile, report, workers
from benchmarks.daemon import BenchDaemon, allowed_in
from benchmarks.figures import Entry, Outcome, Table
from benchmarks.goals import GOALS, Options, against_openbao, of_transport
from benchmarks.load import Load, Target
from benchmarks.report import Part
from benchmarks.run import QUICK, is_whole
from keyd.config import loader

VERDICT = {"goal", "figure", "bar", "met", "counts", "unit", "better", "what"}
ORIGIN = {"date", "commit", "load_average", "rounds", "seconds"}
MEMBERS = {"part"} | VERDICT | ORIGIN


def part(name: str, *entries: Entry, commit: str = "c", tables: list[Table] | None = None) -> Part:
    origin = {"date": "2027-01-31", "commit": commit, "load_average": 1.5, "rounds": 5, "seconds": 1.5}
    return Part(name, Outcome(list(entries), tables or []), origin)


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


def test_what_stands_beside_a_goal_does_not_count() -> None:
    entry = Entry("1 whole path", 9.0, 3.0, "times", "what", at_most=True).beside("http2")
    assert (entry.goal, entry.met, entry.counts) == ("1 whole path, http2", False, False)
    assert figures.missed([entry]) == []
    assert entry.line().startswith("(missed)")
    found = report.document([part("1", entry)])
    assert found["missed"] == []
    assert "| (missed) | 1.5 |" in report.goals_table(found["goals"])


def test_the_default_transport_counts() -> None:
    entries = [Entry("1 a", 1.0, 3.0, "times", "x"), Entry("1 b", 1.0, 3.0, "times", "y")]
    default, other = of_transport(entries, "grpcio", ""), of_transport(entries, "http2", 'transport = "http2"')
    assert figures.missed([*default, *other]) == ["1 a", "1 b"]
    assert [entry.goal for entry in other] == ["1 a, http2", "1 b, http2"]
    assert default[0].what == "x; transport grpcio, the default"
    assert other[0].what == "x; transport http2, which is not the default"


def test_latest_has_one_object_for_each_goal() -> None:
    entries = [Entry("1 a", 2.0, 3.0, "times", "x", at_most=True), Entry("1 b", None, 3.0, "times", "y")]
    document = json.loads(json.dumps(report.document([part("1", *entries, tables=[Table("t", ("c",), [["1"]])])])))
    assert [set(goal) for goal in document["goals"]] == [MEMBERS, MEMBERS]
    assert [(goal["met"], goal["figure"], goal["better"]) for goal in document["goals"]] == [
        (True, 2.0, "lower"),
        (False, None, "higher"),
    ]
    assert document["missed"] == ["1 b"]
    assert document["tables"] == [{"part": "1", "title": "t", "columns": ["c"], "rows": [["1"]]}]


def test_goals_that_were_not_measured_again_stay_as_they_were() -> None:
    old = [
        part("1", Entry("1 a", 1.0, 3.0, "times", "x"), commit="old", tables=[Table("of 1", ("c",), [["1"]])]),
        part("2", Entry("2 a", 1.0, 3.0, "times", "x"), Entry("2 gone", 1.0, 3.0, "times", "x"), commit="old"),
        part("floods", Entry("flood: x", 5.0, 3.0, "times", "x"), commit="old", tables=[Table("of floods", ("c",), [["1"]])]),
    ]
    before = json.loads(json.dumps(report.document(old)))
    after = report.document(
        [part("2", Entry("2 a", 4.0, 3.0, "times", "x"), commit="new", tables=[Table("of 2", (), [])])], before
    )
    assert [(goal["goal"], goal["figure"], goal["commit"]) for goal in after["goals"]] == [
        ("1 a", 1.0, "old"),
        ("2 a", 4.0, "new"),
        ("flood: x", 5.0, "old"),
    ]
    assert after["missed"] == ["1 a"]
    assert [table["title"] for table in after["tables"]] == ["of 1", "of 2", "of floods"]


def test_the_document_says_what_latest_says() -> None:
    """Nobody writes figures into it by hand, and none are left over from before."""
    text = report.DOCUMENT.read_text()
    assert report.rendered(text, json.loads(report.LATEST.read_text())) == text


def test_the_figures_in_the_repository_are_of_that_form() -> None:
    document = json.loads(report.LATEST.read_text())
    assert {"machine", "goals", "missed", "tables"} == set(document)
    assert {goal["part"] for goal in document["goals"]} == set(GOALS)
    names = [goal["goal"] for goal in document["goals"]]
    assert len(set(names)) == len(names)
    for goal in document["goals"]:
        assert set(goal) == MEMBERS
        again = Entry(goal["goal"], goal["figure"], goal["bar"], goal["unit"], goal["what"], at_most=goal["better"] == "lower")
        assert again.met == goal["met"]
        assert (goal["goal"] in document["missed"]) == (goal["counts"] and not goal["met"])


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
    assert load.command(Target("x", 1, "http://h/m", program="/a/h2load"), 1, 1, tmp_path)[0] == "/a/h2load"
    assert load.command(Target("x", 1, "http://h/m"), 1, 1, tmp_path) == ["h2load", "-D1000ms", "-c1", "-m1", "http://h/m"]


def test_signatures_are_counted_from_the_figures_of_the_daemon() -> None:
    text = """\
# TYPE keyd_decisions_total counter
keyd_decisions_total{operation="sign",reason=""} 1200.0
keyd_decisions_total{operation="sign",reason="",worker="2"} 1e+02
keyd_decisions_total{operation="sign",reason="RATE"} 7.0
keyd_decisions_total{operation="sign_jwt",reason=""} 9.0
"""
    assert allowed_in(text) == {"": 1200, "2": 100}
    assert allowed_in("") == {}


def test_the_share_of_the_load_generator_is_taken_out() -> None:
    run = Load(count=900, seconds=1.0, server_cpu=1.5, load_cpu=0.2, p50=1, p90=2, p99=3)
    assert workers.without_load(run, cores=2) == pytest.approx(1000)
    assert (run.rate, round(run.cpu_each), round(run.load_each), run.load_busy) == (900, 1667, 222, 0.2)


def test_two_workers_of_which_one_signs_are_not_measured() -> None:
    run = Load(count=900, seconds=1.0, server_cpu=1.5, load_cpu=0.2, p50=1, p90=2, p99=3)
    twice = Load(count=1800, seconds=1.0, server_cpu=1.5, load_cpu=0.2, p50=1, p90=2, p99=3)
    for busiest, expected in ((0.6, 2.0), (0.9, None)):
        runs = {("unix", 1): [workers.Share(run, 1.0)], ("unix", 2): [workers.Share(twice, busiest)]}
        found = workers.outcome(runs, 8)
        assert [(entry.goal, entry.figure) for entry in found.entries] == [("4 unix", expected), ("4 tcp", None)]
        assert "90%" in found.entries[0].what or expected


def test_what_is_said_to_be_two_workers_is_not_one(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Load(count=900, seconds=1.0, server_cpu=1.5, load_cpu=0.2, p50=1, p90=2, p99=3)
    target = Target("keyd", 1, "http://localhost/")
    two = against_openbao._Server("two", [target, target], object())  # type: ignore[arg-type]
    for busiest in (0.7, 0.8):
        monkeypatch.setattr(workers, "run_both", lambda *_, busiest=busiest: workers.Share(run, busiest))
        with nullcontext() if busiest == 0.7 else pytest.raises(AssertionError, match="80%"):
            assert against_openbao._run(two, 4, 1.0) is run


def test_what_is_measured_is_the_python_that_is_given_from_its_beginning(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "this one: $*"\nexit 3\n')
    python.chmod(0o755)
    keyd = BenchDaemon(python=str(python))
    try:
        keyd.start(wait=False)
        assert keyd.process is not None
        assert (keyd.process.wait(30), keyd.log.read_text()) == (3, f"this one: -m keyd serve --config {keyd.config}\n")
    finally:
        keyd.close()


def test_every_benchmark_can_be_started() -> None:
    for name in command.NAMES + command.PROCESSES:
        assert callable(importlib.import_module(f"benchmarks.{name}").main)
    assert "benchmarks/" not in "".join(re.findall(r"^\t.*$", (command.ROOT / "Makefile").read_text(), re.MULTILINE))


@pytest.mark.parametrize(
    ("options", "section", "expected"),
    [
        ({}, "server", {"transport": None, "workers": None}),
        ({"server": 'transport = "http2"'}, "server", {"transport": "http2"}),
        ({"server": "workers = 2", "backend": "file"}, "server", {"workers": 2}),
        ({"http": "own_process = true"}, "http", {"own_process": True, "listen": "127.0.0.1:0"}),
        ({}, "defaults", {"backend": "memory"}),
        ({"backend": "file"}, "defaults", {"backend": "file"}),
    ],
)
def test_the_daemon_is_as_delivered_but_for_what_is_asked(
    options: dict[str, str], section: str, expected: dict[str, object]
) -> None:
    daemon = BenchDaemon(**options)  # type: ignore[arg-type]
    try:
        found = tomllib.loads(daemon.config.read_text())
        assert {name: found[section].get(name) for name in expected} == expected
        # Keys in memory are one process's: with them, no daemon takes several.
        assert ("memory" in found["backends"]) == (options.get("backend") != "file")
        loader.load(daemon.config)  # raises where the daemon would not start
    finally:
        daemon.close()


def test_every_goal_has_its_module() -> None:
    there = {path.stem for path in (Path(load.__file__).parent / "goals").glob("[a-z]*.py")}
    assert there == set(GOALS.values())
    assert set(QUICK) < set(GOALS)


def test_what_is_less_than_the_goals_ask_for_is_not_written_down() -> None:
    assert is_whole(Options(seconds=1, rounds=1))
    for less in ({"keys": 99_999}, {"agents": 999}, {"all_transports": False}):
        assert not is_whole(Options(**less))  # type: ignore[arg-type]


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
