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


# What a message may cost. These are what it does cost, and a little for other Pythons: who needs
# more says why here. A clock would not notice a call; a count does.
_CALLS_PER_COMMAND = 17.0
_CALLS_PER_COMMAND_OF_OBSERVERS = 12.0


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_command_takes_no_more_calls_than_it_did(loop: str) -> None:
    assert count_calls(loop=loop)["library_calls_per_command"] <= _CALLS_PER_COMMAND
    observed = count_calls(loop=loop, no_reply=True)
    assert observed["library_calls_per_command"] <= _CALLS_PER_COMMAND_OF_OBSERVERS


_NEEDS_STRACE = pytest.mark.skipif(
    not (shutil.which("strace") and shutil.which("gcc")), reason="strace or gcc is not installed"
)


@_NEEDS_STRACE
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_command_takes_three_system_calls(loop: str) -> None:
    # Waiting, reading and writing: as many as a loop in C has.
    assert count_syscalls(messages=20, loop=loop)["per_command"] < 3.1


@_NEEDS_STRACE
def test_a_command_takes_at_least_a_read_and_a_write() -> None:
    calls = count_syscalls(messages=10, transport="unix")
    assert calls["sendto"] >= COMMANDS
    assert calls["total"] >= 2 * COMMANDS
    assert calls["per_command"] == calls["total"] / COMMANDS
