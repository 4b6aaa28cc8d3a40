"""What is left at work after its time, and mistakes that are found at the start."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
import time
from contextvars import ContextVar
from typing import Any

import pytest

from aiomilter import (
    Actions,
    ConfigError,
    EomActions,
    Milter,
    Negotiation,
    Reply,
    Server,
    Status,
    macros,
    no_reply,
    time_limit,
)
from tests.aio.serving import errors, serving, session, until_true
from tests.mta import ABORT, CONNECT, EOM, HELO, MAIL, RCPT, Mta

BRIEF_S = 0.05


async def test_a_thread_out_of_time_does_not_meet_the_next_message(
    caplog: pytest.LogCaptureFixture,
) -> None:
    released = threading.Event()

    class Trusting(Milter):
        trusted = False

        @time_limit(BRIEF_S)
        def on_mail(self, sender: str, params: list[str]) -> None:
            if sender == "<alice@a.example>" and not released.is_set():
                released.wait()
                self.trusted = True

        async def on_eom(self, actions: EomActions) -> Status:
            return Status.ACCEPT if self.trusted else Status.REJECT

    async with session(Trusting) as mta:
        try:
            assert await mta.ask(MAIL) == b"t"
            assert await mta.converse(ABORT + MAIL) == b"t"
        finally:
            released.set()
    assert "still at work" in errors(caplog)[1]


async def test_a_hook_in_a_thread_does_not_make_a_thread_out_of_time_forgotten(
    caplog: pytest.LogCaptureFixture,
) -> None:
    released = threading.Event()

    class Trusting(Milter):
        async def on_mail(self, sender: str, params: list[str]) -> None: ...

        @time_limit(BRIEF_S)
        def on_rcpt(self, recipient: str, params: list[str]) -> None:
            released.wait()

        def on_abort(self) -> None: ...

    async with session(Trusting) as mta:
        try:
            assert await mta.converse(MAIL, RCPT) == b"ct"
            mta.send(ABORT)
            assert await mta.ask(MAIL) == b"t"
        finally:
            released.set()
    assert "still at work" in errors(caplog)[1]


async def test_a_handler_that_blocks_the_loop_is_named(caplog: pytest.LogCaptureFixture) -> None:
    class Blocking(Milter):
        @time_limit(BRIEF_S)
        async def on_mail(self, sender: str, params: list[str]) -> None:
            until = time.monotonic() + 3 * BRIEF_S
            while time.monotonic() < until:
                pass

    async with session(Blocking) as mta:
        assert await mta.ask(MAIL) == b"t"
    assert "it blocked the event loop" in errors(caplog)[0]


async def test_too_few_threads_are_not_the_handlers_fault(
    caplog: pytest.LogCaptureFixture,
) -> None:
    released = threading.Event()

    class Waiting(Milter):
        def on_mail(self, sender: str, params: list[str]) -> None:
            released.wait()

    async with (
        serving(Waiting, max_threads=1, handler_timeout=0.1) as server,
        Mta.connected(server.sockets[0]) as first,
        Mta.connected(server.sockets[0]) as second,
    ):
        try:
            await first.begin()
            await second.begin()
            first.send(MAIL)
            await until_true(lambda: server.connections == 2)
            assert await second.ask(MAIL) == b"t"
        finally:
            released.set()
    assert any("all threads were busy" in line for line in errors(caplog))


async def test_mail_inside_a_message_has_the_macros_sent_ahead_of_it() -> None:
    seen: list[str | None] = []

    class Looking(Milter):
        async def on_mail(self, sender: str, params: list[str]) -> None:
            seen.append(self.macros.get("{auth_authen}"))

        async def on_rcpt(self, recipient: str, params: list[str]) -> None: ...

    def login(name: bytes) -> bytes:
        payload = b"DM{auth_authen}\0" + name + b"\0"
        return len(payload).to_bytes(4, "big") + payload

    async with session(Looking) as mta:
        assert await mta.converse(login(b"alice") + MAIL, RCPT, login(b"bob") + MAIL) == b"ccc"
        assert await mta.converse(RCPT, MAIL) == b"cc"
    assert seen == ["alice", "bob", None]


async def test_a_negotiation_that_is_given_up_and_fails_ends_the_connection() -> None:
    release = asyncio.Event()

    class Stubborn(Milter):
        actions = Actions.CHANGE_SENDER

        async def on_negotiate(self, negotiation: Negotiation) -> None:
            while not release.is_set():
                try:
                    await release.wait()
                except asyncio.CancelledError:
                    continue

    old = b"\0\0\0\x0dO\0\0\0\x02\0\0\0\x3f\0\0\0\x7f"
    async with (
        serving(Stubborn, handler_timeout=BRIEF_S) as server,
        Mta.connected(server.sockets[0]) as mta,
    ):
        mta.send(old)
        assert await mta.rest() == b""
        await until_true(lambda: not server.connections)
        release.set()


async def test_a_slow_but_steady_reader_is_not_cut_off() -> None:
    body = b"x" * 8_000_000

    class Verbose(Milter):
        async def on_eom(self, actions: EomActions) -> None:
            actions.replace_body(body)

    async with (
        serving(Verbose, write_timeout=0.4) as server,
        Mta.connected(server.sockets[0]) as mta,
    ):
        await mta.begin()
        mta.send(EOM)
        received = 0
        while received < len(body):
            piece = await mta.reader.read(400_000)
            assert piece, f"it was cut off after {received} bytes"
            received += len(piece)
            await asyncio.sleep(0.04)


async def test_a_milter_that_cannot_be_bound_costs_a_verdict(
    caplog: pytest.LogCaptureFixture,
) -> None:
    milter = Milter()
    async with session(lambda: milter) as mta:
        assert await mta.converse(HELO) == b"c"
    async with session(lambda: milter) as mta:
        assert await mta.ask(CONNECT) == b"t"
    assert "the same object twice" in errors(caplog)[0]


class _Misspelt(Milter):
    async def on_recipient(self, recipient: str, params: list[str]) -> None: ...


class _TooFew(Milter):
    async def on_mail(self, sender: str) -> None: ...  # type: ignore[override]  # the fault


class _Needy(Milter):
    def __init__(self, database: object) -> None:
        self.database = database


class _NoHandler(Milter):
    on_body = None  # type: ignore[assignment]  # the fault


@pytest.mark.parametrize(
    ("milter", "words"),
    [
        (_Misspelt, "is on_rcpt meant"),
        (_TooFew, "write on_mail\\(self, sender, params\\)"),
        (_Needy, "functools.partial\\(_Needy"),
        (_NoHandler, "cannot be called"),
        (functools.partial(_Misspelt), "is on_rcpt meant"),
    ],
)
async def test_a_class_that_cannot_work_is_found_out_at_the_start(milter: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Server(milter, "inet:0")


@pytest.mark.parametrize("names", [("auth_authen, i",), ("auth_authen",), ("",), ("a b",)])
def test_a_macro_of_no_name_is_found_out_at_once(names: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match="is no name of a macro"):
        macros(*names)


def test_decorators_without_their_arguments_are_found_out_at_once() -> None:
    async def handler(self: Milter) -> None: ...

    with pytest.raises(ConfigError, match="write @macros"):
        macros(handler)  # type: ignore[arg-type]  # the fault
    with pytest.raises(ConfigError, match="write @time_limit"):
        time_limit(handler)  # type: ignore[arg-type]  # the fault


async def test_options_of_one_class_do_not_reach_another() -> None:
    class Refusing(Milter):
        async def on_mail(self, sender: str, params: list[str]) -> Status:
            return Status.REJECT

    class Watching(Refusing):
        on_mail = no_reply(Refusing.on_mail)

    async with session(Refusing) as mta:
        assert await mta.ask(MAIL) == b"r"
    assert Watching.on_mail is not Refusing.on_mail


def test_a_reply_does_not_change() -> None:
    with pytest.raises(AttributeError, match="does not change"):
        Reply(550).code = 250  # the fault


async def test_what_a_session_keeps_in_context_variables_outlives_a_handler_that_was_given_up(
    caplog: pytest.LogCaptureFixture,
) -> None:
    client: ContextVar[str] = ContextVar("client", default="nobody")
    released = asyncio.Event()
    seen: list[str] = []

    class Stubborn(Milter):
        async def on_helo(self, hostname: str) -> None:
            client.set(hostname)

        @time_limit(BRIEF_S)
        async def on_mail(self, sender: str, params: list[str]) -> None:
            while not released.is_set():
                with contextlib.suppress(asyncio.CancelledError):
                    await released.wait()
            client.set("a stray")

        async def on_close(self) -> None:
            seen.append(client.get())

    async with session(Stubborn) as mta:
        assert await mta.converse(HELO, MAIL) == b"ct"
        released.set()
    await until_true(lambda: bool(seen))
    assert seen == ["mx.example"]
    assert "did not end" in errors(caplog)[0]
