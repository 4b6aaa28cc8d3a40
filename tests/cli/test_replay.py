"""``aiomilter replay``: the same answers, other answers, and none."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from aiomilter import EomActions, Milter, Reply, Server, Status, no_reply
from aiomilter.cli.replay import replay
from tests.mta import EOM, HELO, MAIL, OFFER, PATIENCE_S, QUIT, RCPT, macros, packet

pytestmark = pytest.mark.usefixtures("no_unhandled_errors")

CONTINUE = packet(b"c")
NEGOTIATED = packet(b"O", b"\0\0\0\x06\0\0\x01\xff\0\0\0\0")
STAMP = packet(b"h", b"X-Stamp\0one\0")
HEADER = {"format": "aiomilter-record", "version": 1, "started": "", "listen": "", "to": ""}

SESSION = [
    ("mta", OFFER),
    ("milter", NEGOTIATED),
    ("mta", macros(b"M", b"i", b"4X")),
    ("mta", MAIL),
    ("milter", CONTINUE),
    ("mta", RCPT),
    ("milter", CONTINUE),
    ("mta", EOM),
    ("milter", STAMP),
    ("milter", CONTINUE),
    ("mta", QUIT),
    ("milter", b""),
    ("mta", b""),
]
"""Packets by who sent them; nothing is the end of a stream."""


def lines(session: Iterable[tuple[str, bytes]], connection: int = 1) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [{"t": 0, "connection": connection, "event": "open"}]
    for at, (sender, data) in enumerate(session, 1):
        line = {"t": at / 1000, "connection": connection, "from": sender}
        line |= {"event": "packet", "data": data.hex()} if data else {"event": "eof"}
        found.append(line)
    return [*found, {"t": 1, "connection": connection, "event": "close"}]


@pytest.fixture
def record(tmp_path: Path) -> Path:
    return tmp_path / "r.jsonl"


def write(path: Path, *sessions: Iterable[tuple[str, bytes]]) -> None:
    found = [HEADER]
    for number, session in enumerate(sessions, 1):
        found += lines(session, number)
    path.write_text("".join(json.dumps(line) + "\n" for line in found))


def without(session: list[tuple[str, bytes]], *unwanted: tuple[str, bytes]) -> Any:
    return [one for one in session if one not in unwanted]


def replacing(session: list[tuple[str, bytes]], old: bytes, *new: bytes) -> Any:
    return [
        (sender, other)
        for sender, data in session
        for other in (new if data == old else (data,))
        if sender
    ]


@asynccontextmanager
async def scripted(session: list[tuple[str, bytes]]) -> AsyncIterator[str]:
    """Serve a milter that keeps to a script: it waits for just what the MTA said in it.

    At the end of the script it keeps the connection open, unless the script has an end of stream.
    """
    tasks: set[asyncio.Task[None]] = set()
    done = asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            for sender, data in session:
                if sender == "mta":
                    with contextlib.suppress(asyncio.IncompleteReadError):
                        assert await reader.readexactly(len(data)) == data
                elif data:
                    writer.write(data)
                else:
                    writer.close()
                    return
            await done.wait()
        finally:
            writer.transport.abort()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.get_running_loop().create_task(handle(reader, writer)))

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield f"inet:{server.sockets[0].getsockname()[1]}@127.0.0.1"
    finally:
        # Whoever has connected and gone is still on its way to `accept` for some turns of the loop.
        for _ in range(5):
            await asyncio.sleep(0)
        server.close()
        done.set()
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.gather(*tasks)


async def run(*arguments: object) -> Result:
    return await asyncio.to_thread(CliRunner().invoke, replay, [str(one) for one in arguments])


async def test_the_same_answers(record: Path) -> None:
    write(record, SESSION)
    async with scripted(SESSION) as address:
        result = await run(record, address)
    assert result.stdout.splitlines() == [
        "connection 1: sent 6 packets, 4 answers, the same",
        "1 connection, all answers as recorded",
    ]
    assert (result.exit_code, result.stderr) == (0, "")


async def test_another_value_is_shown_recorded_and_now(record: Path) -> None:
    write(record, SESSION)
    now = replacing(SESSION, STAMP, packet(b"h", b"X-Stamp\0two\x1b[31m\0"))
    async with scripted(now) as address:
        result = await run(record, address)
    assert result.exit_code == 1
    assert result.stdout.splitlines() == [
        "connection 1: sent 6 packets, 4 answers, 1 different",
        "  answer 4, to eom:",
        "    - recorded      add_header        X-Stamp: one",
        r"    + now           add_header        X-Stamp: two\x1b[31m",
        "      now and then  continue",
        "1 of 1 connection with other answers than recorded",
    ]


async def test_edits_that_come_or_go_do_not_shift_what_follows(record: Path) -> None:
    edits = [STAMP, packet(b"q", b"why\0")]
    twice = [*SESSION[:-3], *SESSION[2:]]
    write(record, twice)
    async with scripted(replacing(twice, STAMP, *edits)) as address:
        more = await run(record, address)
    async with scripted(without(twice, ("milter", STAMP))) as address:
        fewer = await run(record, address)
    assert more.stdout.count("+ now           quarantine        why") == 2
    assert "2 different" in more.stdout
    assert fewer.stdout.count("- recorded      add_header        X-Stamp: one") == 2
    assert "2 different" in fewer.stdout


async def test_packets_that_look_alike_differ_all_the_same(record: Path) -> None:
    body = b"x" * 100
    recorded = replacing(SESSION, STAMP, packet(b"b", body + b"1"))
    write(record, recorded)
    now = replacing(SESSION, STAMP, packet(b"b", body + b"2"))
    async with scripted(now) as address:
        result = await run(record, address)
    assert result.exit_code == 1
    assert "they differ from byte 105 of the packet on" in result.stdout


async def test_progress_is_not_compared(record: Path) -> None:
    progress = packet(b"p")
    write(record, replacing(SESSION, STAMP, progress, STAMP))
    now = replacing(SESSION, STAMP, progress, STAMP, progress, progress)
    async with scripted(now) as address:
        assert (await run(record, address)).exit_code == 0


async def test_an_answer_that_does_not_come(record: Path) -> None:
    write(record, SESSION)
    async with scripted(SESSION[:4]) as address:
        result = await run(record, address, "--timeout", "0.1")
    assert result.exit_code == 1
    assert result.stdout.splitlines()[:4] == [
        "connection 1: sent 3 packets, 1 answer, 1 different",
        "  answer 2, to mail:",
        "    - recorded      continue",
        "    no answer within 0.1 s",
    ]


async def test_a_connection_that_is_closed_instead(record: Path) -> None:
    write(record, SESSION)
    async with scripted([*SESSION[:6], ("milter", b"")]) as address:
        result = await run(record, address)
    assert result.exit_code == 1
    assert result.stdout.splitlines()[1:4] == [
        "  answer 3, to rcpt:",
        "    - recorded      continue",
        "    the milter closed the connection",
    ]


async def test_a_connection_that_stays_open_instead(record: Path) -> None:
    write(record, [*SESSION[:4], ("milter", b"")])
    async with scripted(SESSION[:4]) as address:
        result = await run(record, address, "--timeout", "0.1")
    assert result.exit_code == 1
    assert "the milter closed the connection when it was recorded" in result.stdout


async def test_answers_that_were_not_recorded(record: Path) -> None:
    write(record, [*SESSION[:4], ("mta", b"")])
    async with scripted([*SESSION[:5], ("milter", b"")]) as address:
        result = await run(record, address)
    assert result.exit_code == 1
    assert result.stdout.splitlines()[1:4] == [
        "  answer 2, to mail:",
        "    + now           continue",
        "    nothing was recorded here",
    ]


async def test_another_negotiation_is_named_as_the_reason(record: Path) -> None:
    write(record, SESSION)
    other = packet(b"O", b"\0\0\0\x06\0\0\x01\xff\0\0\0\x01")
    now = replacing(replacing(SESSION, NEGOTIATED, other), STAMP)
    async with scripted(now) as address:
        result = await run(record, address)
    assert "2 different" in result.stdout
    assert "another negotiation makes the MTA send other packets than these" in result.stdout


async def test_recorded_closings_and_pieces_are_sent_as_they_were(record: Path) -> None:
    write(record, [*SESSION[:2]])
    with record.open("a") as file:
        for line in (
            {"t": 2, "connection": 1, "event": "bytes", "from": "mta", "data": "0000"},
            {"t": 2, "connection": 1, "event": "eof", "from": "mta"},
            {"t": 2, "connection": 1, "event": "eof", "from": "milter"},
        ):
            file.write(json.dumps(line) + "\n")
    async with scripted([*SESSION[:2], ("mta", b"\0\0"), ("mta", b""), ("milter", b"")]) as address:
        assert (await run(record, address)).exit_code == 0


async def test_recorded_times_are_kept_if_asked_for(record: Path) -> None:
    session = lines(SESSION)
    for line in session[8:]:
        line["t"] += 0.3
    record.write_text("".join(json.dumps(line) + "\n" for line in [HEADER, *session]))
    loop = asyncio.get_running_loop()
    async with scripted(SESSION) as address:
        start = loop.time()
        result = await run(record, address, "--timing")
        assert loop.time() - start >= 0.3
    assert result.exit_code == 0


class Gate(Milter):
    """Counts its messages, refuses one recipient and asks for no replies to headers."""

    async def on_rcpt(self, recipient: str, params: list[str]) -> Reply | None:
        return Reply(550, "5.1.1", "no such user") if "nobody" in recipient else None

    @no_reply
    async def on_header(self, name: str, value: str) -> None:
        pass

    async def on_eom(self, actions: EomActions) -> Status:
        actions.add_header("X-Stamp", "one")
        return Status.ACCEPT


async def test_several_connections_and_a_choice_of_them(record: Path) -> None:
    async with Server(Gate, "inet:0") as server:
        address = f"inet:{server.sockets[0].getsockname()[1]}@127.0.0.1"
        options = b"\0\0\0\x06\0\0\x01\xff\0\x00\x03\xd7"
        session = [("mta", OFFER), ("milter", packet(b"O", options)), ("mta", HELO), ("mta", QUIT)]
        write(record, SESSION, session, session)
        everything = await run(record, address)
        one = await run(record, address, "--connection", "1")
        none = await run(record, address, "--connection", "7")
    assert (
        everything.stdout.splitlines()[-1] == "3 of 3 connections with other answers than recorded"
    )
    assert one.stdout.splitlines()[-1] == "1 of 1 connection with other answers than recorded"
    assert none.exit_code == 2
    assert none.stderr == f"aiomilter: {record} has no connection 7; it has 1, 2, 3\n"


async def test_json_for_scripts(record: Path) -> None:
    write(record, SESSION)
    async with scripted(without(SESSION, ("milter", STAMP))) as address:
        result = await run(record, address, "--json")
        assert result.exit_code == 1
    continued = {"data": CONTINUE.hex(), "name": "continue", "fields": {}}
    stamp = {
        "data": STAMP.hex(),
        "name": "add_header",
        "fields": {"name": "X-Stamp", "value": "one"},
    }
    assert json.loads(result.stdout) == {
        "record": str(record),
        "address": address,
        "same": False,
        "connections": [
            {
                "connection": 1,
                "sent": 6,
                "answers": 4,
                "record_cut_off": False,
                "differences": [
                    {
                        "answer": 4,
                        "to": "eom",
                        "recorded": [stamp, continued],
                        "now": [continued],
                        "note": "",
                    }
                ],
            }
        ],
    }


async def test_what_is_no_milter_cannot_be_spoken_to(record: Path) -> None:
    write(record, SESSION)
    async with scripted([("milter", b"HTTP/1.1 400 Bad Request\r\n"), ("milter", b"")]) as address:
        result = await run(record, address)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"aiomilter: {address} does not keep to the milter protocol: ")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("unix:/none", "unix:/none: there is no such socket; is the milter running"),
        ("x", "'x' is no address"),
    ],
)
async def test_without_a_milter_it_is_one_sentence(
    record: Path, address: str, problem: str
) -> None:
    write(record, SESSION)
    result = await run(record, address)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"aiomilter: {problem}")
    assert result.stderr.count("\n") == 1


async def test_records_that_cannot_be_replayed(tmp_path: Path, record: Path) -> None:
    missing = await run(tmp_path / "none", "inet:9")
    assert (missing.exit_code, missing.stderr) == (
        2,
        f"aiomilter: cannot read {tmp_path}/none: No such file or directory\n",
    )
    write(record)
    empty = await run(record, "inet:9")
    assert (empty.exit_code, empty.stderr) == (
        2,
        f"aiomilter: in {record} no MTA has sent anything; there is nothing to replay\n",
    )


def cut_off(path: Path, session: list[tuple[str, bytes]]) -> None:
    """Write a record that does not go on to the connection's end."""
    found = [HEADER, *lines(session)[:-1]]
    path.write_text("".join(json.dumps(line) + "\n" for line in found))


@pytest.mark.parametrize("length", range(1, 10))
async def test_what_comes_after_the_end_of_a_record_that_is_cut_off_is_not_compared(
    record: Path, length: int
) -> None:
    cut_off(record, SESSION[:length])
    unrecorded = itertools.takewhile(lambda one: one[0] == "milter", SESSION[length:])
    async with scripted([*SESSION[:length], *unrecorded]) as address:
        result = await run(record, address, "--timeout", "10")
    assert result.exit_code == 0, result.output
    assert "the record ends here" in result.output


async def test_what_a_record_that_is_cut_off_has_is_compared(record: Path) -> None:
    cut_off(record, SESSION[:9])
    other = packet(b"h", b"X-Stamp\0two\0")
    async with scripted(replacing(SESSION[:10], STAMP, other)) as address:
        result = await run(record, address)
    assert result.exit_code == 1
    assert "- recorded" in result.output


async def test_without_an_answer_to_the_first_offer_no_other_connection_is_tried(
    record: Path,
) -> None:
    write(record, SESSION, SESSION)
    async with scripted([("mta", OFFER)]) as address:
        result = await run(record, address, "--timeout", "0.05")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.count("does not answer the first packet within 0.05 s") == 1


@pytest.mark.parametrize("value", ["nan", "inf"])
async def test_the_timeout_is_finite(record: Path, value: str) -> None:
    write(record, SESSION)
    result = await run(record, "inet:1", "--timeout", value)
    assert result.exit_code == 2
    assert "is no number of seconds" in result.stderr
