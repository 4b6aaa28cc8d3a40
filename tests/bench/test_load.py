"""The load generator: it takes the right answers, and no other."""

import sys
from pathlib import Path

import pytest

from bench.compare.counting import aiomilter_command
from bench.compare.load import Load
from bench.compare.milter import running
from bench.compare.programs import BenchError

WRONG = str(Path(__file__).with_name("wrong_milter.py"))


@pytest.mark.parametrize(
    ("how", "complaint"),
    [
        ("WrongValue", "not the edit and CONTINUE"),
        ("TwoHeaders", "not the edit and CONTINUE"),
        ("NoHeader", "not the edit and CONTINUE"),
        ("WrongVerdict", "not the edit and CONTINUE"),
        ("WrongStage", "not CONTINUE"),
    ],
)
def test_a_wrong_answer_ends_the_run(how: str, complaint: str, load: Load, tmp_path: Path) -> None:
    command = [sys.executable, WRONG, "{address}", how]
    with (
        running(command, tmp_path, transport="unix") as milter,
        pytest.raises(BenchError, match=complaint),
    ):
        load.send(milter.address, ("-n", 2, "-m", 4))


def test_what_does_not_listen_is_an_error(load: Load, tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="connect"):
        load.send(f"unix:{tmp_path}/nobody.sock", ("-n", 1, "-m", 1))


@pytest.mark.parametrize("transport", ["tcp", "unix"])
def test_every_way_of_sending_gets_its_answers(transport: str, load: Load, tmp_path: Path) -> None:
    command = aiomilter_command(no_reply=False, loop="asyncio")
    with running(command, tmp_path, transport=transport) as milter:
        for options in (
            ("-n", 3, "-k", 1),  # a connection for each message
            ("-n", 2, "-a"),  # as Postfix
            ("-n", 1, "-s"),  # as Sendmail
            ("-n", 2, "-B", 200_000),  # a body in pieces
            ("-n", 2, "-B", 0, "-H", 0),
        ):
            report = load.send(milter.address, (*options, "-m", 5))
            assert report["messages"] == 5, options


def test_messages_begin_at_the_rate_that_was_asked_for(load: Load, tmp_path: Path) -> None:
    command = aiomilter_command(no_reply=True, loop="asyncio")
    with running(command, tmp_path, transport="unix") as milter:
        report = load.send(milter.address, ("-n", 4, "-m", 21, "-r", 200))
    # The last one begins a tenth of a second after the first.
    assert report["seconds"] >= 0.1
    assert report["replies_per_message"] == 1


def test_a_changed_header_is_asked_for_and_not_an_added_one(load: Load, tmp_path: Path) -> None:
    command = aiomilter_command(no_reply=False, loop="asyncio")
    command[command.index("add")] = "change"
    with running(command, tmp_path, transport="unix") as milter:
        assert load.send(milter.address, ("-n", 2, "-m", 4, "-e"))["messages"] == 4
        with pytest.raises(BenchError, match="not the edit"):
            load.send(milter.address, ("-n", 1, "-m", 1))
