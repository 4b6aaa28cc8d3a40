"""One connection: the dialogue, how bytes may come and how they leave."""

from __future__ import annotations

import asyncio
import itertools
import logging
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aiomilter import Config, EomActions, Milter, Reply, SocketInfo, Status, no_reply
from aiomilter.aio.connection import Connection
from aiomilter.aio.line import Line
from aiomilter.aio.shared import Shared
from aiomilter.aio.threads import WorkerThreads
from aiomilter.session.filter import FilterSession
from tests.aio.serving import Recorder, errors, recorder, serving, session, until_true, warnings
from tests.mta import (
    ABORT,
    BODY,
    CONNECT,
    DATA,
    EOM,
    HEADER,
    HELO,
    MAIL,
    MESSAGE,
    OFFER,
    PATIENCE_S,
    QUIT,
    RCPT,
    UNKNOWN,
    Mta,
    macros,
    packet,
    split_packets,
)

DIALOGUE = (
    OFFER,
    macros(b"C", b"j", b"mta.example"),
    CONNECT,
    HELO,
    UNKNOWN,
    macros(b"M", b"i", b"Q1"),
    *MESSAGE,
    ABORT,
    *MESSAGE,
    MAIL,
    QUIT,
)
REPLIES = [b"O"] + [b"c"] * 9 + [b"h", b"a"] + [b"c"] * 6 + [b"h", b"a", b"c"]
ENTRIES_OF_MESSAGE = ["mail", "rcpt", "data", "header", "eoh", "body", "eom"]
ENTRIES = ["connect", "helo", "unknown", *ENTRIES_OF_MESSAGE * 2, "mail", "abort", "close"]


def letters(data: bytes) -> list[bytes]:
    return [reply[:1] for reply in split_packets(data)]


def address(kind: str, tmp_path: Path) -> str:
    return {"unix": f"unix:{tmp_path}/milter.sock", "inet": "inet:0", "inet6": "inet6:0"}[kind]


@pytest.mark.parametrize("kind", ["unix", "inet", "inet6"])
async def test_a_dialogue_step_by_step(kind: str, tmp_path: Path) -> None:
    milter = recorder()
    async with serving(milter, address(kind, tmp_path)) as server:
        async with Mta.connected(server.sockets[0]) as mta:
            replies: list[bytes] = []
            for command in DIALOGUE:
                mta.send(command)
                if command[4:5] not in (b"D", b"A", b"Q"):
                    replies.append((await mta.reply())[:1])
                    if replies[-1] == b"h":
                        replies.append(await mta.reply())
            assert replies == REPLIES
            assert await mta.rest() == b""
        await milter.journal.until("close")
    assert milter.journal.entries == ENTRIES


@pytest.mark.parametrize("kind", ["unix", "inet"])
async def test_a_dialogue_byte_by_byte(kind: str, tmp_path: Path) -> None:
    milter = recorder()
    async with serving(milter, address(kind, tmp_path)) as server:
        async with Mta.connected(server.sockets[0]) as mta:
            for byte in b"".join(DIALOGUE):
                mta.send(bytes((byte,)))
                await asyncio.sleep(0)
            assert letters(await mta.rest()) == REPLIES
        await milter.journal.until("close")
    assert milter.journal.entries == ENTRIES


@pytest.mark.parametrize("kind", ["unix", "inet"])
async def test_a_dialogue_in_one_write(kind: str, tmp_path: Path) -> None:
    milter = recorder()
    async with serving(milter, address(kind, tmp_path)) as server:
        async with Mta.connected(server.sockets[0]) as mta:
            mta.send(*DIALOGUE)
            assert letters(await mta.rest()) == REPLIES
        await milter.journal.until("close")
    assert milter.journal.entries == ENTRIES


async def test_the_end_of_the_stream_is_not_the_end_of_the_answers() -> None:
    milter = recorder()
    async with serving(milter) as server:
        async with Mta.connected(server.sockets[0]) as mta:
            mta.send(*DIALOGUE[:-2])
            mta.send_eof()
            assert letters(await mta.rest()) == REPLIES[:-1]
        await milter.journal.until("close")
    assert "abort" not in milter.journal.entries


async def test_the_end_of_the_stream_inside_a_packet_aborts_the_message(
    caplog: pytest.LogCaptureFixture,
) -> None:
    milter = recorder()
    async with session(milter) as mta:
        assert await mta.converse(MAIL, RCPT) == b"cc"
        mta.send(HEADER[:12])
        mta.send_eof()
        assert await mta.rest() == b""
    await milter.journal.until("close")
    assert milter.journal.entries == ["mail", "rcpt", "abort", "close"]
    assert errors(caplog) == warnings(caplog) == []


async def test_a_connection_without_a_byte_has_no_handler_and_no_record(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def factory() -> Milter:
        raise AssertionError("must not be called")

    async with serving(factory) as server:
        for _ in range(20):
            async with Mta.connected(server.sockets[0]):
                pass
        await until_true(lambda: not server.connections)
    assert errors(caplog) == warnings(caplog) == []


@pytest.mark.parametrize("tail", [ABORT, macros(b"M", b"i", b"Q1"), MAIL[:5], b""], ids=repr)
@pytest.mark.parametrize("kind", ["unix", "inet"])
async def test_a_reset_is_noticed_also_behind_what_has_no_answer(
    kind: str, tail: bytes, tmp_path: Path
) -> None:
    milter = recorder()
    async with serving(milter, address(kind, tmp_path)) as server:
        listener = server.sockets[0]
        name = listener.getsockname()
        # It blocks, and the loop must not turn from here to the end of the connection: the reset
        # is there when the bytes ahead of it are read.
        with socket.socket(listener.family, socket.SOCK_STREAM) as sock:
            sock.connect(name if kind == "unix" else name[:2])
            sock.sendall(OFFER + CONNECT + HELO + MAIL)
            await milter.journal.until("mail")
            await until_true(lambda: len(sock.recv(1000, socket.MSG_PEEK)) > 10)
            sock.sendall(tail)
            # Answers that nobody has read make it a reset, on a unix socket as well.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await milter.journal.until("close")
        await until_true(lambda: server.connections == 0)
    assert milter.journal.entries == ["connect", "helo", "mail", "abort", "close"]


async def test_a_reset_right_behind_the_end_of_message_runs_hooks_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    milter = recorder()
    async with serving(milter) as server:
        async with Mta.connected(server.sockets[0]) as mta:
            await mta.begin()
            assert await mta.converse(*MESSAGE[:-1]) == b"c" * 6
            mta.send(EOM)
            mta.reset()
        await milter.journal.until("close")
    entries = milter.journal.entries
    assert entries.count("close") == 1
    assert entries.count("abort") <= 1
    assert errors(caplog) == warnings(caplog) == []


# How answers leave


class FakeTransport(asyncio.Transport):
    """Keeps what is written, write by write."""

    def __init__(self, protocol: Connection) -> None:
        super().__init__()
        self.protocol = protocol
        self.writes: list[bytes] = []
        self.pauses = 0
        self.was_aborted = False
        self.has_closed = asyncio.Event()
        protocol.connection_made(self)

    def feed(self, *data: bytes) -> None:
        """Have the protocol read bytes, as much at a time as it likes."""
        rest = memoryview(b"".join(data))
        while rest:
            buffer = memoryview(self.protocol.get_buffer(-1))
            size = min(len(buffer), len(rest))
            buffer[:size] = rest[:size]
            self.protocol.buffer_updated(size)
            rest = rest[size:]

    async def written(self, count: int) -> list[bytes]:
        """Return the writes as soon as there are so many."""
        await until_true(lambda: len(self.writes) >= count)
        return self.writes

    def write(self, data: Any) -> None:
        self.writes.append(bytes(data))

    def is_closing(self) -> bool:
        return self.has_closed.is_set()

    def close(self) -> None:
        self.has_closed.set()

    def abort(self) -> None:
        self.was_aborted = True
        self.close()
        asyncio.get_running_loop().call_soon(self.protocol.connection_lost, None)

    def is_paused(self) -> bool:
        assert self.pauses in (0, 1)
        return self.pauses == 1

    def pause_reading(self) -> None:
        self.pauses += 1

    def resume_reading(self) -> None:
        self.pauses -= 1

    def get_write_buffer_size(self) -> int:
        return 0


def connected(factory: Callable[[], Milter], **settings: Any) -> FakeTransport:
    """Return a transport with a connection on it."""
    numbers = itertools.count(1)
    shared = Shared(Config(**settings), WorkerThreads(1), lambda: f"s{next(numbers)}")
    return FakeTransport(Connection(factory, shared, "inet:1", lambda _connection: None))


async def ended(transport: FakeTransport) -> None:
    """Hang up and wait for the end of the connection."""
    transport.protocol.connection_lost(None)
    async with asyncio.timeout(PATIENCE_S):
        await transport.has_closed.wait()


async def test_answers_to_one_read_leave_in_one_write_and_in_order() -> None:
    transport = connected(recorder())
    transport.feed(OFFER)
    await transport.written(1)
    transport.feed(CONNECT, HELO, *MESSAGE)
    _, answers = await transport.written(2)
    assert letters(answers) == [b"c"] * 8 + [b"h", b"a"]
    await ended(transport)


async def test_edits_and_verdict_leave_in_one_write() -> None:
    transport = connected(recorder())
    transport.feed(OFFER, *MESSAGE[:-1])
    await transport.written(1)
    transport.feed(EOM)
    assert letters((await transport.written(2))[1]) == [b"h", b"a"]
    await ended(transport)


async def test_answers_do_not_wait_for_a_handler_that_takes_its_time() -> None:
    release = asyncio.Event()

    class Slow(Recorder):
        async def act(self, where: str) -> None:
            if where == "rcpt":
                await release.wait()

    transport = connected(recorder(Slow))
    transport.feed(OFFER, MAIL, RCPT)
    assert letters((await transport.written(1))[0]) == [b"O", b"c"]
    release.set()
    assert letters((await transport.written(2))[1]) == [b"c"]
    await ended(transport)


async def test_nothing_is_written_where_nothing_is_to_be_said() -> None:
    class Observer(Milter):
        @no_reply
        async def on_mail(self, sender: str, params: list[str]) -> None: ...

        @no_reply
        async def on_rcpt(self, recipient: str, params: list[str]) -> None: ...

    transport = connected(Observer)
    transport.feed(OFFER, MAIL, RCPT)
    await transport.written(1)
    transport.feed(macros(b"T", b"i", b"Q1"), RCPT, RCPT)
    transport.feed(EOM)
    assert letters(b"".join(await transport.written(2))) == [b"O", b"c"]
    await ended(transport)


async def test_reading_pauses_while_a_handler_runs_and_much_has_come_in() -> None:
    release = asyncio.Event()

    class Slow(Recorder):
        async def act(self, where: str) -> None:
            if where == "mail":
                await release.wait()

    milter = recorder(Slow)
    transport = connected(milter)
    chunk = packet(b"B", b"x" * 60_000)
    transport.feed(OFFER, *MESSAGE[:1])
    await milter.journal.until("mail")
    transport.feed(RCPT, chunk)
    assert not transport.is_paused()
    transport.feed(chunk, chunk, chunk)
    assert transport.is_paused()
    release.set()
    await milter.journal.until("body", 4)
    await until_true(lambda: not transport.is_paused())
    await ended(transport)


async def test_a_transport_without_a_socket_or_an_address_is_served() -> None:
    transport = connected(recorder())
    assert Line(transport, asyncio.get_running_loop()).peer == "a unix socket"
    await ended(transport)


async def test_a_connection_that_is_gone_before_a_byte_has_come_ends() -> None:
    transport = connected(recorder())
    transport.protocol.connection_lost(ConnectionResetError())
    async with asyncio.timeout(PATIENCE_S):
        await transport.has_closed.wait()
    assert transport.writes == []


async def test_a_task_that_somebody_cancels_while_it_waits_runs_its_hooks() -> None:
    milter = recorder()
    before = asyncio.all_tasks()
    transport = connected(milter)
    (task,) = asyncio.all_tasks() - before
    transport.feed(OFFER, MAIL)
    await transport.written(1)
    await milter.journal.until("mail")
    await asyncio.sleep(0)
    task.cancel()
    async with asyncio.timeout(PATIENCE_S):
        await transport.has_closed.wait()
    assert milter.journal.entries == ["mail", "abort", "close"]


async def test_a_task_that_somebody_cancels_inside_a_handler_answers_and_ends(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Waiting(Recorder):
        async def act(self, where: str) -> None:
            if where == "mail":
                await asyncio.Event().wait()

    milter = recorder(Waiting)
    before = asyncio.all_tasks()
    transport = connected(milter)
    (task,) = asyncio.all_tasks() - before
    transport.feed(OFFER, MAIL)
    await milter.journal.until("mail")
    task.cancel()
    async with asyncio.timeout(PATIENCE_S):
        await transport.has_closed.wait()
    assert letters(b"".join(transport.writes)) == [b"O", b"t"]
    assert milter.journal.entries == ["mail", "close"]
    (line,) = errors(caplog)
    assert "its task was cancelled" in line


async def test_a_fault_of_the_library_itself_ends_one_connection(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: object) -> None:
        raise ZeroDivisionError

    milter = recorder()
    transport = connected(milter)
    transport.feed(OFFER)
    await transport.written(1)
    monkeypatch.setattr(Connection, "_finish_batch", fail)
    transport.feed(MAIL)
    async with asyncio.timeout(PATIENCE_S):
        await transport.has_closed.wait()
    (line,) = errors(caplog)
    assert line == "internal error in the connection from a unix socket"


async def test_what_a_fault_of_the_library_leaves_unanswered_is_no_hang(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    milter = recorder()
    async with session(milter) as mta:
        assert await mta.ask(MAIL) == b"c"
        monkeypatch.setattr(FilterSession, "go_on", lambda _session: None)
        mta.send(RCPT)
        assert split_packets(await mta.rest()) == [b"t"]
    (line,) = errors(caplog)
    assert line.startswith("internal error in the connection from ")


@pytest.mark.skipif(not hasattr(socket, "TCP_QUICKACK"), reason="an option of Linux")
async def test_macros_ahead_of_their_command_are_acknowledged_at_once() -> None:
    """Sendmail writes the two separately: else it would wait for a delayed acknowledgement."""
    asked: list[int] = []

    class Listening(Line):
        def acknowledge_at_once(self) -> None:
            asked.append(1)
            super().acknowledge_at_once()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("aiomilter.aio.connection.Line", Listening)
        async with session(recorder()) as mta:
            assert await mta.ask(MAIL) == b"c"
            assert asked == []
            mta.send(macros(b"R", b"{rcpt_mailer}", b"esmtp"))
            await until_true(lambda: bool(asked))
            assert await mta.ask(RCPT) == b"c"
            assert len(asked) == 1


async def test_small_packets_are_not_held_back_on_tcp() -> None:
    options: list[int] = []

    class Looking(Milter):
        async def on_mail(self, sender: str, params: list[str]) -> None: ...

    with pytest.MonkeyPatch.context() as patch:
        made = Connection.connection_made

        def look(self: Connection, transport: asyncio.BaseTransport) -> None:
            made(self, transport)
            sock = transport.get_extra_info("socket")
            options.append(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            options.append(sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE))

        patch.setattr(Connection, "connection_made", look)
        async with session(Looking) as mta:
            assert await mta.ask(MAIL) == b"c"
    assert [bool(option) for option in options] == [True, True]


# Broken rules


VIOLATIONS: list[tuple[str, bytes, str]] = [
    ("HTTP", b"GET / HTTP/1.0\r\n\r\n", "this is HTTP, not the milter protocol"),
    ("TLS", b"\x16\x03\x01\x02\x00", "this is TLS, not the milter protocol"),
    ("SSH", b"SSH-2.0-x\r\n", "this is SSH, not the milter protocol"),
    ("huge length", b"\x10\0\0\0", "above the limit of 4096"),
    ("short offer", packet(b"O", b"\0" * 8), "less than 12 bytes"),
    ("old version", packet(b"O", b"\0\0\0\1" + b"\0" * 8), "too old"),
    ("unknown command", packet(b"Z"), "in state INIT: an unknown command: 'Z'"),
    ("unknown command later", OFFER + MAIL + packet(b"\xff"), "an unknown command"),
    ("bad header", OFFER + MAIL + RCPT + packet(b"L", b"x"), "a header packet without"),
    ("too long", OFFER + b"\0\1\0\1B", "announces 65536 bytes of payload"),
]


@pytest.mark.parametrize(
    ("data", "words"), [case[1:] for case in VIOLATIONS], ids=[case[0] for case in VIOLATIONS]
)
async def test_a_broken_rule_is_one_record_and_the_end_of_that_connection_alone(
    data: bytes, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    milter = recorder()
    async with (
        serving(milter) as server,
        Mta.connected(server.sockets[0]) as other,
        Mta.connected(server.sockets[0]) as mta,
    ):
        await other.begin()
        mta.send(data)
        rest = await mta.rest()
        assert letters(rest) == [b"O", b"c", b"c"][: len(letters(rest))]
        other.send(*MESSAGE)
        assert letters(b"".join(map(repacked, await other.replies(8))))[-1] == b"a"
    (line,) = warnings(caplog)
    assert words in line
    assert "closed the connection from 127.0.0.1:" in line
    assert errors(caplog) == []
    assert all(record.exc_info is None for record in caplog.records)
    aborted = b"M<alice" in data
    assert milter.journal.entries.count("abort") == aborted


def repacked(reply: bytes) -> bytes:
    return len(reply).to_bytes(4, "big") + reply


async def test_what_comes_behind_a_broken_rule_is_not_served() -> None:
    milter = recorder()
    async with session(milter) as mta:
        mta.send(MAIL, packet(b"Z"), RCPT, *MESSAGE)
        assert await mta.rest() == b"\0\0\0\x01c"
    await milter.journal.until("close")
    assert milter.journal.entries == ["mail", "abort", "close"]


async def test_a_hostile_name_is_one_harmless_line(caplog: pytest.LogCaptureFixture) -> None:
    class Logging(Milter):
        async def on_helo(self, hostname: str) -> None:
            self.log.warning("helo %a", hostname)

    caplog.set_level(logging.INFO)
    evil = "\n\x1b[31m\u202e%s".encode()
    async with session(Logging) as mta:
        mta.send(macros(b"H", b"i", evil))
        assert await mta.ask(packet(b"H", evil + b"\0")) == b"c"
    (line,) = warnings(caplog)
    assert line.isascii()
    assert line.isprintable()


async def test_a_blocking_call_on_the_loop_is_noticed(
    blocking_error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    """The check that runs with all tests of this folder does see handlers."""

    class Blocking(Milter):
        async def on_mail(self, sender: str, params: list[str]) -> None:
            Path("/etc/passwd").stat()

    async with session(Blocking) as mta:
        assert await mta.ask(MAIL) == b"t"
    (line,) = errors(caplog)
    assert blocking_error.__name__ in line


async def test_a_hundred_connections_at_once() -> None:
    class Working(Milter):
        messages = 0

        def begin_message(self) -> None:
            self.messages += 1

        async def on_connect(self, hostname: str, client: SocketInfo) -> None:
            self.name = hostname

        async def on_mail(self, sender: str, params: list[str]) -> None:
            await asyncio.sleep(0)

        async def on_rcpt(self, recipient: str, params: list[str]) -> Reply | None:
            return Reply(550, "5.1.1", self.name) if "bob" in recipient else None

        async def on_eom(self, actions: EomActions) -> Status:
            actions.add_header("X", f"{self.name} {self.messages} {self.recipients}")
            return Status.ACCEPT

    async def one(number: int, listener: socket.socket) -> None:
        name = f"client{number}".encode()
        async with Mta.connected(listener) as mta:
            await mta.begin()
            assert await mta.ask(packet(b"C", name + b"\0U")) == b"c"
            for message in (1, 2, 3):
                assert await mta.ask(MAIL) == b"c"
                assert await mta.ask(RCPT) == b"y550 5.1.1 " + name + b"\0"
                assert await mta.ask(packet(b"R", b"<" + name + b">\0")) == b"c"
                assert await mta.ask(DATA, BODY) == b"c"
                assert await mta.reply() == b"c"
                expected = f"hX\0{name.decode()} {message} ('<{name.decode()}>',)\0"
                assert await mta.ask(EOM) == expected.encode()
                assert await mta.reply() == b"a"
            mta.send(QUIT)
            assert await mta.rest() == b""

    async with serving(Working) as server, asyncio.TaskGroup() as group:
        for number in range(100):
            group.create_task(one(number, server.sockets[0]))
