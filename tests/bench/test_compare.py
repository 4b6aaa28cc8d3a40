"""The comparison with a handful of messages, and its tables and its page."""

from dataclasses import replace
from pathlib import Path

import pytest

from bench.compare.__main__ import main
from bench.compare.load import Load
from bench.compare.measuring import Bench, Workload, measure_idle
from bench.compare.page import PAGE, RESULTS, page_with
from bench.compare.peers import Peer, find_peers
from bench.compare.report import as_markdown, as_text
from bench.compare.results import Results
from bench.compare.workloads import WORKLOADS

BY_NAME = {workload.name: workload for workload in WORKLOADS}
FEW = replace(BY_NAME["W1-50"], options=("-n", 2), messages=20)


@pytest.fixture
def peers(load: Load, tmp_path: Path) -> dict[str, Peer]:
    return {peer.name: peer for peer in find_peers(tmp_path)}


def bench(load: Load) -> Bench:
    return Bench(load, core=None, quick=False)


def test_the_limit_is_below_aiomilter(load: Load, peers: dict[str, Peer]) -> None:
    figures = {
        name: FEW.measure(FEW, peers[name], bench(load)) for name in ("floor", "aiomilter-asyncio")
    }
    for name, measured in figures.items():
        assert measured["messages"] == 20, name
        assert measured["replies"] == 19, name
        assert 0 < measured["p50_ms"] <= measured["p99_ms"] <= measured["p999_ms"], name
        assert measured["messages_per_s"] > 0, name
        assert measured["peak_rss_mb"] > 0.5, name
    assert 0 < figures["floor"]["cpu_us"] < figures["aiomilter-asyncio"]["cpu_us"] < 100_000


def test_observers_answer_once(load: Load, peers: dict[str, Peer]) -> None:
    workload = replace(BY_NAME["W3"], options=("-n", 2), messages=10)
    for name in ("floor", "aiomilter-asyncio"):
        assert workload.measure(workload, peers[name], bench(load))["replies"] == 1


def test_idle_connections_cost_memory(load: Load, peers: dict[str, Peer]) -> None:
    workload = replace(BY_NAME["W4-1000"], options=("-n", 200))
    figures = measure_idle(workload, peers["aiomilter-asyncio"], bench(load))
    assert 1 < figures["rss_kb"] < 100
    assert figures["threads"] >= 1


def test_names_of_workloads_are_unique() -> None:
    assert len(BY_NAME) == len(WORKLOADS)


def test_what_cannot_take_part_says_why() -> None:
    tcp_only = Peer("one", "1", {"add": ("x",)}, transports=("tcp",))
    assert BY_NAME["W1-unix"].refusal(tcp_only) == "has no unix sockets"
    assert BY_NAME["W1-50"].refusal(tcp_only) == ""
    assert BY_NAME["W3"].refusal(tcp_only).startswith("cannot do this")
    assert BY_NAME["W1-50"].refusal(replace(tcp_only, absent="no compiler")) == "no compiler"
    assert BY_NAME["W4-10000"].refusal(replace(tcp_only, most_connections=500)).startswith("so ")


def results() -> Results:
    made = Results()
    workload: Workload = BY_NAME["W1-50"]
    made.begin(workload, quick=False)
    for peer, values in {
        "floor": (90.0, 100.0, 130.0),
        "libmilter": (400.0,),
        "mine": (200.0,),
    }.items():
        for value in values:
            made.add("W1-50", peer, {"cpu_us": value, "p50_ms": 1.5})
    made.note_absence("W1-50", "other", "not installed")
    made.add_fault("W1-50", "mine", "out of time")
    return made


def test_ratios_are_those_of_the_medians() -> None:
    made = results()
    assert made.median("W1-50", "mine", "ratio_to_floor") == pytest.approx(2)
    assert made.median("W1-50", "mine", "ratio_to_libmilter") == pytest.approx(0.5)
    assert made.median("W1-50", "mine", "messages_per_s") is None


def test_tables_show_spread_absence_and_faults() -> None:
    text = as_text(results(), "W1-50")
    assert "90..130" in text
    assert "not installed" in text
    assert "1 rounds failed: out of time" in text
    table = as_markdown(results(), "W1-50")
    assert "| mine | 200 | 2.00 | 0.50 | – |" in table
    assert "Absent: other (not installed)." in table


def test_results_are_the_same_after_writing_and_reading(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    results().write(path)
    assert Results.read(path).document == results().document


def test_the_page_shows_the_results_that_are_kept() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page == page_with(Results.read(RESULTS), page), "run: python -m bench.compare.page"


def test_every_workload_of_the_page_exists() -> None:
    page = PAGE.read_text(encoding="utf-8")
    named = {line[5:-4] for line in page.splitlines() if line.startswith("<!-- ")} - {"end"}
    assert named - {"machine", "peers"} <= set(BY_NAME)


def test_the_program_measures_and_writes(
    load: Load, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "results.json"
    arguments = ["--quick", "--workload", "W1-unix", "--peer", "floor", "--json", str(path)]
    main(arguments)
    printed = capsys.readouterr().out
    assert "W1-unix: a small message, 50 connections, unix socket" in printed
    assert Results.read(path).values("W1-unix", "floor", "p50_ms")
