"""Handlers that are stepped where their command arrives: to them it is their connection's task."""

from __future__ import annotations

import asyncio
import functools
import logging
from contextvars import ContextVar
from typing import Any, ClassVar

import pytest

from aiomilter import Config, Milter, Observer, Server, Status
from aiomilter.aio.connection import Connection
from aiomilter.aio.handler_host import HandlerHost
from aiomilter.app.handlers import Handler, HandlerKind
from aiomilter.session.filter import FilterSession
from tests.aio.serving import Recorder, errors, recorder, serving, session
from tests.mta import BODY, MAIL, RCPT, Mta, split_packets

_told: ContextVar[str] = ContextVar("told", default="nothing")


async def _answers(act: Any) -> bytes:
    """Return the answers to MAIL, RCPT and a piece of body, where RCPT does something."""

    class Acting(Recorder):
        async def act(self, where: str) -> Any:
            return await act() if where == "rcpt" else None

    async with session(recorder(Acting)) as mta:
        return await mta.converse(MAIL, RCPT, BODY)


class _OwnError(Exception):
    pass


async def _a_turn() -> None:
    await asyncio.sleep(0)


async def _a_wait() -> None:
    await asyncio.sleep(0.001)


async def _what_is_there_already() -> None:
    future = asyncio.get_running_loop().create_future()
    future.set_result(None)
    await future


async def _a_time_limit_that_passes() -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.001):
            await asyncio.Event().wait()
    await asyncio.sleep(0)


async def _a_group() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(asyncio.sleep(0))


async def _one_thing_after_another() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def _a_cancellation_taken_back() -> None:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().call_soon(task.cancel)
    with pytest.raises(asyncio.CancelledError):
        await asyncio.Event().wait()
    task.uncancel()


@pytest.mark.parametrize(
    "act",
    [
        _a_turn,
        _a_wait,
        _what_is_there_already,
        _a_time_limit_that_passes,
        _a_group,
        _one_thing_after_another,
        _a_cancellation_taken_back,
    ],
)
async def test_a_handler_may_wait_for(act: Any) -> None:
    assert await _answers(act) == b"ccc"


async def test_a_result_that_was_waited_for_is_the_answer() -> None:
    async def act() -> Status:
        await asyncio.sleep(0)
        return Status.REJECT

    assert await _answers(act) == b"crc"


async def test_all_handlers_run_in_one_task_and_one_context() -> None:
    tasks: list[object] = []
    told: list[str] = []

    class Asking(Recorder):
        async def act(self, where: str) -> None:
            tasks.append(asyncio.current_task())
            told.append(_told.get())
            if where == "rcpt":
                await asyncio.sleep(0)
            _told.set(where)

    async with session(recorder(Asking)) as mta:
        await mta.converse(MAIL, RCPT, BODY)
    assert told[:3] == ["nothing", "mail", "rcpt"]
    assert len(set(tasks)) == 1
    assert tasks[0] is not None
    assert tasks[0] is not asyncio.current_task()
    assert _told.get() == "nothing"


async def test_the_log_blames_the_handler_for_what_it_awaits(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def act() -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(future.set_exception, _OwnError("of the future"))
        await future

    assert await _answers(act) == b"ctc"
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.exc_info is not None
    trace = record.exc_info[2]
    assert trace is not None
    while trace.tb_next is not None:
        trace = trace.tb_next
    assert trace.tb_frame.f_code.co_name == "act"


async def test_something_that_cannot_be_awaited_is_a_fault(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Odd:
        def __await__(self) -> Any:
            yield 7

    async def act() -> None:
        await Odd()

    assert await _answers(act) == b"ctc"
    (line,) = errors(caplog)
    assert "bad yield" in line


async def end_at_rcpt(milter: type[Recorder], servers: list[Server]) -> None:
    """Serve a session of which the milter makes an end at RCPT; it knows the server by the list."""
    async with serving(milter) as server, Mta.connected(server.sockets[0]) as mta:
        servers.append(server)
        await mta.begin()
        assert await mta.ask(MAIL) == b"c"
        mta.send(RCPT)
        assert split_packets(await mta.rest()) == [b"t"]
        await milter.journal.until("close")


async def test_a_server_that_is_stopped_by_a_handler_closes_the_connection() -> None:
    servers: list[Server] = []

    class Stopping(Recorder):
        async def act(self, where: str) -> None:
            if where == "rcpt":
                await servers[0].stop(0)

    milter = recorder(Stopping)
    await end_at_rcpt(milter, servers)
    assert milter.journal.entries[-3:] == ["rcpt", "abort", "close"]


async def test_a_cancellation_on_the_way_to_the_task_costs_the_answer_but_no_hook() -> None:
    servers: list[Server] = []

    class Ending(Recorder):
        async def act(self, where: str) -> None:
            if where != "rcpt":
                return
            task = asyncio.current_task()
            assert task is not None
            asyncio.get_running_loop().call_soon(task.cancel)
            (connection,) = servers[0]._connections
            connection.cut_short()
            try:
                await asyncio.Event().wait()
            finally:
                self.journal.note("cut")

    milter = recorder(Ending)
    await end_at_rcpt(milter, servers)
    assert milter.journal.entries[-4:] == ["rcpt", "cut", "abort", "close"]


async def test_a_handler_that_is_no_function_is_called_as_well() -> None:
    async def refuse(
        _greeting: str, _milter: Milter, _recipient: str, _params: list[str]
    ) -> Status:
        return Status.REJECT

    class Partial(Milter):
        on_rcpt = functools.partial(refuse, "hello")  # pyright: ignore[reportAssignmentType, reportIncompatibleMethodOverride]

    async with session(Partial) as mta:
        assert await mta.converse(MAIL, RCPT) == b"cr"


def test_only_what_makes_a_coroutine_and_does_nothing_else_is_plain() -> None:
    async def real() -> None: ...

    def marked() -> None: ...

    assert Handler("on_rcpt", real, is_async=True).is_plain
    assert not Handler("on_rcpt", marked, is_async=True).is_plain
    assert not Handler("on_rcpt", functools.partial(real), is_async=True).is_plain
    assert not Handler("on_rcpt", real, is_async=False).is_plain
    assert not Handler("on_eom", real, is_async=True, kind=HandlerKind.EOM).is_plain


# Faults of the library itself


def _fail_once(monkeypatch: pytest.MonkeyPatch, owner: type, name: str) -> None:
    before = getattr(owner, name)

    def fail(*arguments: Any) -> None:
        monkeypatch.setattr(owner, name, before)
        raise ZeroDivisionError

    monkeypatch.setattr(owner, name, fail)


@pytest.mark.parametrize(
    ("owner", "name", "answer"),
    [
        (Connection, "_finish_batch", b"c"),
        (Connection, "_serve_now", b"t"),
        (FilterSession, "go_on", b"t"),
    ],
)
async def test_a_fault_of_the_library_costs_an_answer_and_no_hook(
    owner: type,
    name: str,
    answer: bytes,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    milter = recorder()
    async with session(milter) as mta:
        assert await mta.ask(MAIL) == b"c"
        _fail_once(monkeypatch, owner, name)
        mta.send(RCPT)
        assert split_packets(await mta.rest()) == [answer]
        await milter.journal.until("close")
    assert milter.journal.entries[-2:] == ["abort", "close"]
    (line,) = errors(caplog)
    assert line.startswith("internal error in the connection from ")


async def test_a_clock_that_cannot_be_started_costs_no_hook(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Waiting(Recorder):
        async def act(self, where: str) -> None:
            if where == "rcpt":
                await asyncio.sleep(0.001)

    milter = recorder(Waiting)
    seen: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, about: seen.append(about))
    async with session(milter) as mta:
        assert await mta.ask(MAIL) == b"c"
        _fail_once(monkeypatch, HandlerHost, "start_clock")
        mta.send(RCPT)
        await mta.rest()
        await milter.journal.until("close")
    assert len(seen) == 1
    assert milter.journal.entries[-2:] == ["abort", "close"]


# What observers hear


class _Listener(Observer):
    heard: ClassVar[list[tuple[str, str]]]

    def handler_finished(self, handler: str, seconds: float, result: str) -> None:
        assert 0 <= seconds < 60
        self.heard.append((handler, result))


@pytest.mark.parametrize("waits", [False, True])
async def test_observers_hear_once_of_each_handler(waits: bool) -> None:
    class Varied(Recorder):
        async def act(self, where: str) -> Any:
            if waits:
                await asyncio.sleep(0)
            if where == "rcpt":
                return Status.REJECT
            if where == "body":
                raise _OwnError
            return None

    class Listener(_Listener):
        heard: ClassVar[list[tuple[str, str]]] = []

    async with (
        Server(recorder(Varied), "inet:0", config=Config(), observers=[Listener()]) as server,
        Mta.connected(server.sockets[0]) as mta,
    ):
        await mta.begin()
        assert await mta.converse(MAIL, RCPT, BODY) == b"crt"
    assert Listener.heard == [
        ("on_mail", "continue"),
        ("on_rcpt", "reject"),
        ("on_body", "fault"),
        ("on_close", "continue"),
    ]
