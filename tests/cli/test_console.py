"""How the command line ends when the world around it is not as usual, and what it prints."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest

from aiomilter import EomActions, Milter
from aiomilter.app.mta.content import Content
from aiomilter.app.mta.delivery import Delivery
from aiomilter.app.mta.envelope import Envelope
from aiomilter.app.text import printable
from aiomilter.cli import main
from aiomilter.cli.commands import aiomilter
from aiomilter.cli.console import quoted
from aiomilter.cli.diff import diff_lines
from tests.cli.milters import Talk, called, foreign, served

PROGRAM = [sys.executable, "-m", "aiomilter.cli"]
FULL = Path("/dev/full")
ENVELOPE = Envelope("a@example.com", "b@example.org")


def ended(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> Any:
    """Return the exit code of a command line whose command raises."""

    def raising(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(aiomilter, "main", raising)
    with pytest.raises(SystemExit) as caught:
        main()
    return caught.value.code


# How it ends


@pytest.mark.skipif(not FULL.exists(), reason="only Linux has a device that is always full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("arguments", [["check", "ADDRESS", "-q"], ["check", "ADDRESS", "--json"]])
def test_a_full_disk_is_no_refusal(arguments: list[str], unbuffered: str) -> None:
    with served(Milter) as address, FULL.open("wb") as full:
        command = [*PROGRAM, *(address if one == "ADDRESS" else one for one in arguments)]
        done = subprocess.run(
            command,
            stdout=full,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
            check=False,
        )
    assert done.stderr == b"aiomilter: cannot write to stdout: No space left on device\n"
    assert done.returncode == 2


def test_an_encoding_without_a_character_is_no_fault() -> None:
    with served(Milter) as address:
        done = subprocess.run(
            [*PROGRAM, "check", address, "--from", "é@example.com"],
            capture_output=True,
            env={**os.environ, "LC_ALL": "C", "PYTHONIOENCODING": "ascii"},
            check=False,
        )
    assert (done.returncode, done.stderr) == (0, b"")
    assert rb"<\xe9@example.com>" in done.stdout


def test_a_closed_stdin_is_told_of() -> None:
    program = "import sys; sys.stdin = None; from aiomilter.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, "check", "inet:1", "-"], capture_output=True, check=False
    )
    assert done.stderr == b"aiomilter: cannot read the message: stdin is closed; name a file\n"
    assert done.returncode == 2


@pytest.mark.parametrize("error", [KeyboardInterrupt(), click.Abort()])
def test_an_interrupt_ends_without_a_word(
    error: BaseException, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ended(monkeypatch, error) == 130
    assert capsys.readouterr() == ("", "")


def test_an_interrupt_in_a_command_ends_without_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("aiomilter.cli.check.message_of", interrupted)
    result = called("check", "inet:1")
    assert (result.exit_code, result.output) == (130, "")


@pytest.mark.parametrize("error", [RuntimeError("odd"), OSError(errno.ENOENT, "odd")])
def test_what_nobody_has_foreseen_is_no_refusal(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ended(monkeypatch, error) == 2
    said = capsys.readouterr().err
    assert said.startswith("Traceback")
    assert said.endswith("\naiomilter: this is a fault of aiomilter itself; please report it, "
                         "with the lines above\n")  # fmt: skip


@pytest.mark.parametrize(("code", "seen"), [(None, 0), (0, 0), (1, 1), (2, 2), ("no", 2)])
def test_an_exit_code_is_passed_on(
    code: Any, seen: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ended(monkeypatch, SystemExit(code)) == seen
    assert capsys.readouterr().err == ("no\n" if code == "no" else "")


# What is shown


def test_bytes_and_control_characters_are_visible() -> None:
    assert printable(b"caf\xc3\xa9 \xe9\x1b\x00") == r"café \xe9\x1b\x00"
    assert printable("\ud800") == r"\ud800"


def test_a_quoted_value_is_short() -> None:
    assert quoted("a\n") == r"'a\n'"
    assert quoted("x" * 1_000) == f"'{'x' * 80}...'"


# The diff of a large message


def diff(old: Content, new: Content) -> list[str]:
    return diff_lines(ENVELOPE, old, Delivery(ENVELOPE, new, None))


def many(count: int, value: str = " v") -> list[tuple[str, str]]:
    return [(f"X-{number}", value) for number in range(count)]


def test_a_change_behind_many_headers_is_shown() -> None:
    old = Content([*many(6_000), ("Subject", " a")], b"x\r\n")
    new = Content([*many(6_000), ("Subject", " b")], b"x\r\n")
    assert diff(old, new)[2:] == [
        "@@ -5998,4 +5998,4 @@", " X-5997: v", " X-5998: v", " X-5999: v", "-Subject: a",
        "+Subject: b",
    ]  # fmt: skip


def test_many_changed_headers_are_told_of_in_a_line() -> None:
    old, new = Content(many(5_000), b""), Content(many(5_001, " w"), b"")
    assert diff(old, new) == ["The headers differ: 5,000 lines, now 5,001."]


@pytest.mark.parametrize("body", [b"x\r\n", b"x\r\n" * 5_000])
def test_a_change_that_cannot_be_seen_is_no_empty_diff(body: bytes) -> None:
    old = Content([("Subject", " a")], body)
    assert diff(old, Content(old.headers, body.removesuffix(b"\r\n"))) == [
        "The message differs in what cannot be shown, such as its last line end."
    ]


def test_a_message_with_many_headers_is_never_called_unchanged() -> None:
    class Adding(Milter):
        async def on_eom(self, actions: EomActions) -> None:
            actions.add_header("X-Last", "here")

    message = b"".join(b"X-%d: v\n" % number for number in range(4_500)) + b"\nbody\n"
    with served(Adding) as address:
        shown = called("check", address, "-", stdin=message).stdout
    assert "+X-Last: here" in shown
    assert "unchanged" not in shown


# Who is no milter


def lines_only(answer: bytes) -> Talk:
    """Return a server that says nothing before it has read a line."""

    async def talk(reader: Any, writer: Any) -> None:
        await reader.readuntil(b"\r\n")
        writer.write(answer)
        await reader.read()

    return talk


@pytest.mark.parametrize(
    ("answer", "name"),
    [
        (b"HTTP/1.0 400 Bad Request\r\n\r\n", "HTTP"),
        (b"<!DOCTYPE HTML>\n<html>", "HTTP"),
        (b"500 5.5.2 what?\r\n", "SMTP or the like"),
    ],
)
def test_a_server_of_lines_is_named_after_an_empty_line(answer: bytes, name: str) -> None:
    with foreign(lines_only(answer)) as address:
        result = called("check", address, "--timeout", "0.2")
    assert result.exit_code == 2
    assert re.match(
        rf"aiomilter: {address}: this is {name}, not the milter protocol: .* port\?\n$",
        result.stderr,
    )


# Options that mean nothing


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--timeout", "nan"], "'nan' is no number of seconds."),
        (["--timeout", "inf"], "'inf' is no number of seconds."),
        (["--timeout", "x"], "'x' is not a valid number."),
        (["--repeat", "x"], "'x' is not a valid integer."),
        (["--offer", "options=-1"], "a number from 0 to 0xffffffff"),
        (["--offer", "actions=0x1ffffffff"], "a number from 0 to 0xffffffff"),
        (["--output", ""], "--output is empty; name a file"),
        (["--rcpt", ""], "--rcpt is empty; name a recipient"),
        (["--macro", "x y=1"], "there is a blank in the name"),
        (["--macro", "x" * 500], f"not '{'x' * 80}...'"),
        ([""], "the message's name is empty"),
    ],
)
def test_an_option_without_a_meaning_is_refused(arguments: list[str], sentence: str) -> None:
    result = called("check", "inet:1", *arguments)
    assert result.exit_code == 2
    assert sentence in result.stderr
    assert result.stderr.count("\n") == 1
