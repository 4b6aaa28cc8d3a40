"""``aiomilter bench``: what is sent, what is counted, and how it ends."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from typing import Any

import pytest

from aiomilter import EomActions, Milter, Reply, SocketInfo, Status, no_reply
from aiomilter.cli.latency import Latencies, format_time
from tests.cli.milters import Talk, answering, called, foreign, served
from tests.packets import packet

AGREED = packet("O", b"\0\0\0\x06\0\0\x01\xff\0\0\0\0")
ENOUGH_S = 120
"""Also for a busy machine; nothing takes as long when all is well."""


class Counting(Milter):
    """Counts what it sees, for all sessions."""

    seen: Counter[str]
    queue_ids: set[str]

    async def on_connect(self, hostname: str, client: SocketInfo) -> None:
        self.seen["connect"] += 1

    async def on_rcpt(self, recipient: str, params: list[str]) -> None:
        self.seen["rcpt"] += 1

    @no_reply
    async def on_header(self, name: str, value: str) -> None:
        self.seen["header"] += 1

    async def on_body(self, chunk: bytes) -> None:
        self.seen["body bytes"] += len(chunk)

    async def on_eom(self, actions: EomActions) -> Status:
        self.seen["eom"] += 1
        self.queue_ids.add(self.macros["i"])
        actions.add_header("X-Seen", "yes")
        await actions.progress()
        return Status.ACCEPT


def counting() -> type[Counting]:
    return type("Counting", (Counting,), {"seen": Counter(), "queue_ids": set()})


def bench(*arguments: str) -> tuple[int, dict[str, Any]]:
    result = called("bench", *arguments, "--json")
    return result.exit_code, json.loads(result.stdout)


def test_sends_what_was_asked_for() -> None:
    milter = counting()
    with served(milter) as address:
        code, document = bench(
            address, "-n", "30", "-c", "3", "--size", "100000", "--headers", "7",
            "--recipients", "2",
        )  # fmt: skip
    assert code == document["exit_code"] == 0
    assert milter.seen == {
        "connect": 3, "rcpt": 60, "header": 210, "body bytes": 3_000_000, "eom": 30,
    }  # fmt: skip
    assert len(milter.queue_ids) == 30
    assert (document["messages"], document["failed"]) == (30, 0)
    assert document["verdicts"] == {"ACCEPT": 30}
    assert document["connections_opened"] == 3


def test_json_has_everything() -> None:
    with served(counting()) as address:
        _, document = bench(address, "-n", "20", "-c", "2")
    assert list(document) == [
        "format", "version", "address", "connections", "connections_opened", "hang_ups",
        "messages", "failed", "elapsed_s", "messages_per_s", "verdicts", "errors", "interrupted",
        "given_up", "message", "stages", "histogram", "exit_code",
    ]  # fmt: skip
    times = document["message"]
    assert list(times) == ["count", "p50", "p90", "p95", "p99", "max", "mean"]
    assert times["count"] == 20
    assert 0 < times["p50"] <= times["p90"] <= times["p99"] <= times["max"]
    # Headers are not answered, HELO and DATA not wanted.
    assert list(document["stages"]) == ["open", "negotiate", "connect", "rcpt", "body", "eom"]
    assert document["stages"]["eom"]["count"] == 20
    assert sum(bucket["count"] for bucket in document["histogram"]) == 20
    assert document["messages_per_s"] == pytest.approx(20 / document["elapsed_s"])


def test_a_person_gets_a_table_and_a_histogram() -> None:
    with served(counting()) as address:
        result = called("bench", address, "-n", "20")
    lines = result.stdout.splitlines()
    assert result.exit_code == 0
    assert result.stderr == ""  # the bar is for terminals
    assert "messages/s  (20 in " in lines[0]
    assert lines[1].split() == ["ACCEPT", "20"]
    assert ["latency", "count", "p50", "p90", "p95", "p99", "max"] in map(str.split, lines)
    assert any("█" in line for line in lines)


def test_messages_per_connection_opens_new_ones() -> None:
    milter = counting()
    with served(milter) as address:
        _, document = bench(address, "-n", "10", "-c", "2", "--messages-per-connection", "1")
    assert milter.seen["connect"] == 10
    assert document["connections_opened"] == 10


def test_a_duration_ends_it() -> None:
    with served(counting()) as address:
        code, document = bench(address, "--duration", "0.2", "-c", "2")
    assert code == 0
    assert document["messages"] > 0
    assert 0.2 <= document["elapsed_s"] < ENOUGH_S
    assert document["interrupted"] is False


def test_a_message_from_stdin_is_what_is_sent() -> None:
    milter = counting()
    with served(milter) as address:
        result = called("bench", address, "-", "-n", "2", "--json", stdin=b"A: b\n\nhi\n")
    assert result.exit_code == 0
    assert (milter.seen["header"], milter.seen["body bytes"]) == (2, 8)


def test_refusals_are_verdicts_and_no_failures() -> None:
    class Refusing(Milter):
        async def on_rcpt(self, recipient: str, params: list[str]) -> Reply:
            return Reply(451, "4.7.1", "later")

    with served(Refusing) as address:
        code, document = bench(address, "-n", "10", "--recipients", "2")
    assert code == 0
    assert document["verdicts"] == {"TEMPFAIL": 10}
    assert document["stages"]["rcpt"]["count"] == 20
    assert "eom" not in document["stages"]


def test_one_recipient_that_is_left_is_enough() -> None:
    class Choosing(Milter):
        async def on_rcpt(self, recipient: str, params: list[str]) -> Status | None:
            return Status.REJECT if "1@" in recipient else None

    with served(Choosing) as address:
        _, document = bench(address, "-n", "4", "--recipients", "2")
    assert document["verdicts"] == {"ACCEPT": 4}


@pytest.mark.parametrize(
    ("verdict", "name"), [("r", "REJECT"), ("a", "ACCEPT"), ("t", "TEMPFAIL"), ("4", "TEMPFAIL")]
)
def test_a_verdict_at_connect_ends_the_connection(verdict: str, name: str) -> None:
    with foreign(answering({"O": AGREED, "C": packet(verdict)})) as address:
        code, document = bench(address, "-n", "6", "-c", "2")
    assert code == 0
    assert document["verdicts"] == {name: 6}
    assert document["connections_opened"] == 6
    assert document["message"] == {"count": 0}


COME_BACK = packet("y", b"421 4.3.2 come back\0")


def test_421_ends_the_connection_and_another_one_is_opened() -> None:
    class Hanging(Milter):
        """Says 421 to every third message, at its first recipient."""

        messages = 0

        async def on_rcpt(self, recipient: str, params: list[str]) -> Reply | None:
            Hanging.messages += "1@" in recipient
            has_enough = "1@" in recipient and not Hanging.messages % 3
            return Reply(421, "4.3.2", "come back") if has_enough else None

    with served(Hanging) as address:
        code, document = bench(address, "-n", "9", "-c", "1", "--recipients", "2")
    assert code == 0
    assert document["verdicts"] == {"ACCEPT": 6, "TEMPFAIL": 3}
    # After the last one there is nothing left to open another connection for.
    assert (document["hang_ups"], document["connections_opened"]) == (3, 3)
    # The second recipient is not asked about where the first one has ended it all.
    assert document["stages"]["rcpt"]["count"] == 15


@pytest.mark.parametrize("letter", ["C", "H", "M", "B", "E"])
def test_421_hangs_up_at_every_stage(letter: str) -> None:
    with foreign(answering({"O": AGREED, letter: COME_BACK})) as address:
        result = called("bench", address, "-n", "4", "-c", "2")
        _, document = bench(address, "-n", "4", "-c", "2")
    assert (document["hang_ups"], document["connections_opened"]) == (4, 4)
    assert document["verdicts"] == {"TEMPFAIL": 4}
    assert "4  connections closed, as the milter said 421" in result.stdout


def test_what_only_begins_with_4_hangs_up_on_nobody() -> None:
    with foreign(answering({"O": AGREED, "M": packet("y", b"420 4.3.2 later\0")})) as address:
        _, document = bench(address, "-n", "4", "-c", "1")
    assert (document["hang_ups"], document["connections_opened"]) == (0, 1)


def test_skip_leaves_out_the_rest_of_the_body() -> None:
    with foreign(answering({"O": AGREED, "B": packet("s")})) as address:
        _, document = bench(address, "-n", "3", "--size", "200000")
    assert document["stages"]["body"]["count"] == 3
    assert document["verdicts"] == {"ACCEPT": 3}


def test_discard_before_a_message_means_nothing() -> None:
    with foreign(answering({"O": AGREED, "C": packet("d"), "B": packet("d")})) as address:
        _, document = bench(address, "-n", "2")
    assert document["verdicts"] == {"DISCARD": 2}
    assert document["connections_opened"] <= 2


def failing_at(number: int, then: bytes | None) -> Talk:
    """Return a milter whose n-th end of message goes wrong."""
    count = 0

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal count
        while True:
            letter = (await reader.readexactly(int.from_bytes(await reader.readexactly(4))))[:1]
            if letter == b"E":
                count += 1
                if count == number:
                    if then is None:
                        return
                    writer.write(then)
                    continue
            if letter == b"Q":
                return
            writer.write(AGREED if letter == b"O" else b"" if letter in b"DA" else packet("c"))

    return talk


@pytest.mark.parametrize(
    ("then", "error"),
    [
        (None, "has closed the connection instead of an answer to eom"),
        (packet("?"), "breaks a rule of the milter protocol: '?' is no reply to eom"),
        (packet("f"), "breaks a rule of the milter protocol: 'f' is no reply to eom"),
        (b"HTTP/1.1 ", "breaks a rule of the milter protocol: this is HTTP"),
        (b"", "has not answered eom within 0.5 s"),
    ],
)
def test_a_message_without_a_verdict_is_a_failure(then: bytes | None, error: str) -> None:
    timeout = str(ENOUGH_S) if then != b"" else "0.5"
    with foreign(failing_at(3, then)) as address:
        result = called("bench", address, "-n", "6", "-c", "1", "--timeout", timeout, "--json")
    document = json.loads(result.stdout)
    assert result.exit_code == document["exit_code"] == 1
    assert (document["messages"], document["failed"]) == (5, 1)
    (text,) = document["errors"]
    assert error in text
    assert document["connections_opened"] == 2


def test_errors_are_shown_with_how_often_they_came() -> None:
    with foreign(failing_at(2, packet("\x1b"))) as address:
        result = called("bench", address, "-n", "4", "-c", "1")
    assert result.exit_code == 1
    assert "    1 × " in result.stdout
    assert r"'\x1b' is no reply to eom" in result.stdout
    assert "\x1b" not in result.stdout


def test_a_milter_that_is_gone_is_given_up() -> None:
    with foreign(answering({"O": AGREED, "M": None})) as address:
        result = called("bench", address, "-n", "100000", "-c", "2", "--json")
    document = json.loads(result.stdout)
    assert result.exit_code == 2
    assert document["given_up"] is True
    assert document["failed"] == 10
    assert "no message came to a verdict: " in result.stderr
    assert "instead of an answer to mail" in result.stderr


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    result = called("bench", f"inet:{port}")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr == (
        f"aiomilter: inet:{port}: nobody listens there; is the milter running, and on this port?\n"
    )


def test_another_protocol_is_named() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mx ESMTP\r\n")
        await reader.read()

    with foreign(talk) as address:
        result = called("bench", address)
    assert result.exit_code == 2
    assert "this is SMTP, not the milter protocol" in result.stderr


def test_size_belongs_to_a_message_that_is_made_up() -> None:
    result = called("bench", "inet:1", "-", "--size", "5", stdin=b"A: b\n")
    assert result.exit_code == 2
    assert result.stderr.startswith(
        "aiomilter: --size and --headers are for a message that is made"
    )


def interrupted(begun: threading.Event, *arguments: str) -> tuple[int, bytes, bytes]:
    """Return what the command has come to after Ctrl-C, as soon as it has begun."""
    command = [sys.executable, "-m", "aiomilter.cli", "bench", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            assert begun.wait(ENOUGH_S), process.poll()
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=ENOUGH_S)
        finally:
            # Leaving the block waits for the process.
            process.kill()
        return process.returncode, out, err


def test_ctrl_c_ends_it_with_what_there_is() -> None:
    begun = threading.Event()

    class Telling(Milter):
        async def on_connect(self, hostname: str, client: SocketInfo) -> None:
            self.messages = 0

        async def on_eom(self, actions: EomActions) -> None:
            self.messages += 1
            if self.messages == 2:
                begun.set()

    with served(Telling) as address:
        code, out, err = interrupted(begun, address, "--duration", "60", "--json")
    document = json.loads(out)
    assert (code, err) == (0, b"")
    assert document["interrupted"] is True
    assert document["messages"] > 0


def test_ctrl_c_while_nothing_answers() -> None:
    begun = threading.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(1)
        begun.set()
        await reader.read()

    with foreign(talk) as address:
        code, out, err = interrupted(begun, address, "--timeout", "600")
    assert (code, out) == (2, b"")
    assert err == b"aiomilter: ended from outside before any message came to a verdict\n"


def test_percentiles_are_the_nearest_rank() -> None:
    latencies = Latencies()
    for number in range(100, 0, -1):
        latencies.add(number / 1000)
    assert latencies.summary() == pytest.approx(
        {"p50": 0.050, "p90": 0.090, "p95": 0.095, "p99": 0.099, "max": 0.1, "mean": 0.0505}
    )
    assert Latencies().summary() == {}


def test_a_histogram_begins_and_ends_with_a_bar() -> None:
    latencies = Latencies()
    for seconds in (0.0015, 0.0016, 0.0120):
        latencies.add(seconds)
    assert [(round(bar.below_s, 6), bar.count) for bar in latencies.histogram()] == [
        (0.002, 2),
        (0.005, 0),
        (0.01, 0),
        (0.02, 1),
    ]
    assert Latencies().histogram() == []


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.0000004, "0 µs"), (0.000123, "123 µs"), (0.0123, "12.3 ms"), (0.5, "500 ms"), (12, "12 s")],
)
def test_times_have_three_digits(seconds: float, shown: str) -> None:
    assert format_time(seconds) == shown


@pytest.mark.parametrize("option", ["--timeout", "--duration"])
@pytest.mark.parametrize("value", ["nan", "inf", "0"])
def test_times_are_finite(option: str, value: str) -> None:
    result = called("bench", "inet:1", option, value)
    assert result.exit_code == 2
    assert f"invalid value for '{option}'" in result.stderr.lower()
