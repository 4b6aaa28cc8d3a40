"""Counting calls: the same in every run, and less where less is done."""

import shutil

import pytest

from bench.counts import count_calls, count_syscalls
from bench.dialogue import COMMANDS


def test_the_count_is_the_same_again() -> None:
    assert count_calls() == count_calls()


def test_the_parts_add_up() -> None:
    counts = count_calls()
    assert sum(counts["by_function"].values()) == counts["calls_per_message"]
    assert counts["library_calls_per_command"] == counts["library_calls_per_message"] / COMMANDS
    assert list(counts["by_stage"]) == ["mail", "rcpt", "data", "header", "eoh", "body", "eom"]


def test_observers_cost_less() -> None:
    answered, observed = count_calls(), count_calls(no_reply=True)
    assert observed["calls_per_message"] < answered["calls_per_message"]


def test_nothing_is_profiled_afterwards() -> None:
    import sys

    count_calls()
    assert sys.getprofile() is None


@pytest.mark.skipif(
    not (shutil.which("strace") and shutil.which("gcc")), reason="strace or gcc is not installed"
)
def test_a_command_takes_at_least_a_read_and_a_write() -> None:
    calls = count_syscalls(messages=10, transport="unix")
    assert calls["sendto"] >= COMMANDS
    assert calls["total"] >= 2 * COMMANDS
    assert calls["per_command"] == calls["total"] / COMMANDS
