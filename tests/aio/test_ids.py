"""The ids of session and message in log lines, a milter's own ones and the library's."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import threading

import pytest

from aiomilter import Config, EomActions, Milter, Server, SocketInfo, Status
from aiomilter.logs import current_ids, install
from tests.aio.serving import until_true
from tests.mta import CONNECT, EOM, HELO, MAIL, OFFER, QUIT, RCPT, Mta, macros, packet

QUEUE_ID = macros(b"R", b"i", b"4XyZ1")

_own = logging.getLogger("tests.own")


class Talking(Milter):
    """Logs from the loop, from a thread, from a task and from a thread of its own."""

    async def on_connect(self, hostname: str, client: SocketInfo) -> None:
        _own.info("connect")

    def on_rcpt(self, recipient: str, params: list[str]) -> None:
        _own.info("thread")

    async def on_eom(self, actions: EomActions) -> Status:
        _own.info("loop")
        await asyncio.create_task(self._task())
        await asyncio.to_thread(_own.info, "own thread")
        return Status.ACCEPT

    async def _task(self) -> None:
        _own.info("task")


async def test_own_lines_carry_the_ids(output: io.StringIO) -> None:
    handler = install("json", stream=output)
    async with Server(Talking, "inet:0") as server, Mta.connected(server.sockets[0]) as mta:
        mta.writer.write(OFFER + CONNECT + MAIL + QUEUE_ID + RCPT + EOM + QUIT)
        await mta.reader.read()
    logging.getLogger().removeHandler(handler)
    lines = [json.loads(line) for line in output.getvalue().splitlines()]
    own = {line["message"]: line.get("queue_id") for line in lines if line["logger"] == "tests.own"}
    assert own == {
        "connect": None,
        "thread": "4XyZ1",
        "loop": "4XyZ1",
        "task": "4XyZ1",
        "own thread": "4XyZ1",
    }
    ids = {line["session_id"] for line in lines if line["logger"] == "tests.own"}
    (mail,) = (line for line in lines if line["logger"] == "aiomilter.message")
    assert ids == {mail["session_id"]}
    assert mail["queue_id"] == "4XyZ1"
    assert "session_id" not in mail["mail"]
    assert mail["message"] == "accept at eom"
    assert current_ids() == (None, None)


NEXT_QUEUE_ID = macros(b"M", b"i", b"4XyZ2")


class Tracing(Milter):
    """Logs each call twice: by a logger of its own, and by the library's for the session."""

    def _trace(self, where: str) -> None:
        _own.info(where)
        self.log.info("%s", where)

    async def on_helo(self, hostname: str) -> None:
        self._trace("helo")

    def on_mail(self, sender: str, params: list[str]) -> None:
        self._trace("mail")

    async def on_rcpt(self, recipient: str, params: list[str]) -> Status | None:
        self._trace("rcpt")
        return Status.REJECT if recipient == "<no@a.example>" else None

    async def on_data(self) -> Status | None:
        self._trace("data")
        return None

    async def on_unknown(self, command: str) -> None:
        self._trace("unknown")

    async def on_abort(self) -> None:
        self._trace("abort")

    def on_close(self) -> None:
        self._trace("close")


class TracingToTheEnd(Tracing):
    """Has a handler also for the end of the message, where the others' session answers."""

    async def on_eom(self, actions: EomActions) -> Status | None:
        self._trace("eom")
        return None


def traced(output: io.StringIO) -> list[tuple[str, str | None]]:
    """What was called, and the queue id of its lines, which is the same in both."""
    found: list[tuple[str, str | None]] = []
    lines = [json.loads(line) for line in output.getvalue().splitlines()]
    own = [line for line in lines if line["logger"] == "tests.own"]
    librarys = [
        line
        for line in lines
        if line["logger"] not in ("tests.own", "aiomilter.message") and "session_id" in line
    ]
    for mine, theirs in zip(own, librarys, strict=True):
        queue_id = mine.get("queue_id")
        assert theirs.get("queue_id") == queue_id, (mine, theirs)
        assert theirs["message"].endswith(f" {queue_id or '-'}] {mine['message']}")
        found.append((mine["message"], queue_id))
    return found


UNKNOWN = packet(b"U", b"FOO\0")


@pytest.mark.parametrize("milter", [Tracing, TracingToTheEnd])
@pytest.mark.parametrize("with_records", [True, False])
@pytest.mark.parametrize("at_once", [True, False])
async def test_between_messages_lines_have_no_queue_id(
    output: io.StringIO, milter: type[Tracing], with_records: bool, at_once: bool
) -> None:
    handler = install("json", stream=output)
    _messages_off(not with_records)
    commands = [
        HELO, MAIL, QUEUE_ID + RCPT, EOM, HELO, NEXT_QUEUE_ID + MAIL, RCPT, EOM
    ]  # fmt: skip
    async with Server(milter, "inet:0") as server, Mta.connected(server.sockets[0]) as mta:
        await mta.ask(OFFER)
        if at_once:
            assert await mta.converse(*commands) == b"c" * len(commands)
        else:
            for command in commands:
                assert await mta.ask(command) == b"c"
            assert await mta.ask(UNKNOWN) == b"c"
        mta.send(QUIT)
        await mta.rest()
    logging.getLogger().removeHandler(handler)
    _messages_off(False)
    eom = [("eom", "4XyZ1")] if milter is TracingToTheEnd else []
    next_eom = [("eom", "4XyZ2")] if milter is TracingToTheEnd else []
    assert traced(output) == [
        ("helo", None), ("mail", None), ("rcpt", "4XyZ1"), *eom,
        ("helo", None), ("mail", "4XyZ2"), ("rcpt", "4XyZ2"), *next_eom,
        *([] if at_once else [("unknown", None)]), ("close", None),
    ]  # fmt: skip


def _messages_off(off: bool) -> None:
    """Have no record of messages, and so nobody who watches."""
    logging.getLogger("aiomilter.message").setLevel(logging.WARNING if off else logging.NOTSET)


@pytest.mark.parametrize("with_records", [True, False])
@pytest.mark.parametrize("how", ["abort", "next", "next with macros", "quit", "lost"])
async def test_what_is_given_up_has_its_own_queue_id(
    output: io.StringIO, how: str, with_records: bool
) -> None:
    handler = install("json", stream=output)
    _messages_off(not with_records)
    async with Server(Tracing, "inet:0") as server, Mta.connected(server.sockets[0]) as mta:
        await mta.ask(OFFER)
        own_id = macros(b"M", b"i", b"4XyZ1")
        assert await mta.converse(own_id + MAIL, RCPT) == b"cc"
        expected: list[tuple[str, str | None]] = [("mail", "4XyZ1"), ("rcpt", "4XyZ1")]
        expected.append(("abort", "4XyZ1"))
        if how == "abort":
            mta.send(packet(b"A"))
            assert await mta.ask(HELO) == b"c"
            expected.append(("helo", None))
        elif how == "next":
            assert await mta.ask(MAIL) == b"c"
            expected += [("mail", None), ("abort", None)]
        elif how == "next with macros":
            assert await mta.ask(NEXT_QUEUE_ID + MAIL) == b"c"
            expected += [("mail", "4XyZ2"), ("abort", "4XyZ2")]
        if how == "lost":
            mta.writer.transport.abort()
            await until_true(lambda: '"close"' in output.getvalue())
        else:
            mta.send(QUIT)
            await mta.rest()
        expected.append(("close", None))
    logging.getLogger().removeHandler(handler)
    _messages_off(False)
    assert traced(output) == expected
    ids = [
        json.loads(line).get("queue_id")
        for line in output.getvalue().splitlines()
        if "aiomilter.message" in line
    ]
    given_up = [queue_id for name, queue_id in expected if name == "abort"]
    assert ids == (given_up if with_records else [])


async def test_a_thread_that_a_message_has_left_behind_keeps_its_ids(output: io.StringIO) -> None:
    release, done = threading.Event(), threading.Event()

    class Leaving(Milter):
        async def on_eom(self, actions: EomActions) -> None:
            self.task = asyncio.ensure_future(asyncio.to_thread(self._log_late))

        async def on_helo(self, hostname: str) -> None:
            release.set()
            await until_true(done.is_set)

        def _log_late(self) -> None:
            release.wait(5)
            _own.info("late")
            done.set()

    handler = install("json", stream=output)
    async with Server(Leaving, "inet:0") as server, Mta.connected(server.sockets[0]) as mta:
        await mta.ask(OFFER)
        assert await mta.converse(MAIL, QUEUE_ID + RCPT, EOM, HELO) == b"cccc"
        mta.send(QUIT)
        await mta.rest()
    logging.getLogger().removeHandler(handler)
    lines = [json.loads(line) for line in output.getvalue().splitlines()]
    assert [line.get("queue_id") for line in lines if line["message"] == "late"] == ["4XyZ1"]


async def test_lines_after_a_handler_that_was_given_up_carry_the_ids() -> None:
    seen: list[tuple[str | None, str | None]] = []

    class Deaf(Milter):
        async def on_connect(self, hostname: str, client: SocketInfo) -> None:
            seen.append(current_ids())
            while not ended.is_set():
                try:
                    await ended.wait()
                except asyncio.CancelledError:
                    pass

        async def on_helo(self, hostname: str) -> None: ...

        async def on_close(self) -> None:
            seen.append(current_ids())

    ended = asyncio.Event()
    config = Config(handler_timeout=0.02, stop_grace=0)
    async with (
        Server(Deaf, "inet:0", config=config) as server,
        Mta.connected(server.sockets[0]) as mta,
    ):
        mta.writer.write(OFFER + CONNECT)
        await asyncio.wait_for(mta.reader.readexactly(5), 5)
        mta.writer.write(HELO + QUIT)
        await until_true(lambda: len(seen) == 2)
        ended.set()
    assert seen[0] == seen[1] != (None, None)
