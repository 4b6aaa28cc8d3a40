"""What a fault costs: one verdict, whatever comes out of a handler, and never the connection."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from aiomilter import EomActions, Milter, Negotiation, Reply, SocketInfo, Status, no_reply
from tests.aio.serving import Journal, Recorder, errors, recorder, serving, session, warnings
from tests.mta import ABORT, CONNECT, EOM, HELO, MAIL, MESSAGE, RCPT, UNKNOWN, Mta, offer

SECRET = "the password is swordfish"
SECOND_MESSAGE = [b"c"] * 6 + [b"hX-Message\x002\0", b"a"]


class OwnError(BaseException):
    """An exception of an author who knows no better."""


class Unprintable(Exception):
    """An exception whose text is a fault itself."""

    def __str__(self) -> str:
        raise SystemExit(3)


class Unshowable:
    """A result that cannot even be shown."""

    def __repr__(self) -> str:
        raise ValueError(SECRET)


def recurse() -> None:
    recurse()


def raises(error: BaseException) -> Callable[[], object]:
    def act() -> object:
        raise error

    return act


async def coroutine() -> Status:
    return Status.ACCEPT


FAULTS: dict[str, Callable[[], object]] = {
    "Exception": raises(Exception(SECRET)),
    "SystemExit": raises(SystemExit(1)),
    "KeyboardInterrupt": raises(KeyboardInterrupt(SECRET)),
    "GeneratorExit": raises(GeneratorExit()),
    "own BaseException": raises(OwnError(SECRET)),
    "CancelledError": raises(asyncio.CancelledError(SECRET)),
    "TimeoutError": raises(TimeoutError()),
    "RecursionError": recurse,
    "MemoryError": raises(MemoryError()),
    "StopIteration": raises(StopIteration(SECRET)),
    "StopAsyncIteration": raises(StopAsyncIteration(SECRET)),
    "exception group": raises(BaseExceptionGroup(SECRET, [SystemExit(1), OwnError()])),
    "exception without text": raises(Unprintable()),
    "exception with control characters": raises(ValueError(f"%s\r\n\x1b[31m{SECRET}")),
    "integer": lambda: 7,
    "True": lambda: True,
    "text": lambda: "ACCEPT",
    "coroutine": coroutine,
    "NOREPLY where it is not declared": lambda: Status.NOREPLY,
    "ALL_OPTS outside of the negotiation": lambda: Status.ALL_OPTS,
    "class": lambda: Reply,
    "object that cannot be shown": Unshowable,
}
faults = pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
STAGES = ["connect", "helo", "mail", "rcpt", "data", "header", "eoh", "body", "eom"]


async def second_message(mta: Mta) -> list[bytes]:
    """Send a whole message in one write and return its replies."""
    mta.send(ABORT, *MESSAGE)
    return await mta.replies(8)


async def until_fault(mta: Mta, stage: str) -> bytes:
    """Send one command after the other up to that of the stage; return the reply to it."""
    for name, command in zip(STAGES, (CONNECT, HELO, *MESSAGE), strict=True):
        reply = await mta.ask(command)
        if name == stage:
            return reply
        assert reply == b"c", name
    raise AssertionError(stage)


@faults
@pytest.mark.parametrize("stage", ["mail", "eom"])
async def test_a_fault_costs_one_tempfail_and_the_next_message_passes(
    fault: Callable[[], object], stage: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Faulty(Recorder):
        async def act(self, where: str) -> Any:
            if where == stage and self.messages == 1:
                return fault()
            return None

    milter = recorder(Faulty)
    async with session(milter) as mta:
        # The edit that was made before the fault does not leave.
        assert await until_fault(mta, stage) == b"t"
        assert await second_message(mta) == SECOND_MESSAGE
    assert len(errors(caplog)) == 1
    await milter.journal.until("close")
    assert milter.journal.entries.count("connect") == 1
    assert milter.journal.entries.count("close") == 1


@faults
async def test_a_fault_in_a_blocking_handler_costs_one_tempfail(
    fault: Callable[[], object], caplog: pytest.LogCaptureFixture
) -> None:
    class Blocking(Milter):
        messages = 0

        def begin_message(self) -> None:
            self.messages += 1

        def on_mail(self, sender: str, params: list[str]) -> Any:
            return fault() if self.messages == 1 else None

        def on_eom(self, actions: EomActions) -> Status:
            actions.add_header("X-Message", str(self.messages))
            return Status.ACCEPT

    async with session(Blocking) as mta:
        assert await mta.ask(MAIL) == b"t"
        assert await second_message(mta) == SECOND_MESSAGE
    assert len(errors(caplog)) == 1


@pytest.mark.parametrize("awaits_then", [False, True])
async def test_a_handler_that_cancels_its_own_task_costs_one_tempfail(
    awaits_then: bool, caplog: pytest.LogCaptureFixture
) -> None:
    class SelfCancelling(Recorder):
        async def act(self, where: str) -> None:
            if where == "mail" and self.messages == 1:
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
                if awaits_then:
                    await asyncio.sleep(60)

    async with session(recorder(SelfCancelling)) as mta:
        assert await until_fault(mta, "mail") == b"t"
        assert await second_message(mta) == SECOND_MESSAGE
    assert len(errors(caplog)) == 1


@pytest.mark.parametrize("stage", [*STAGES, "unknown"])
async def test_a_fault_at_any_stage_is_a_tempfail(
    stage: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Faulty(Recorder):
        failed = False

        async def act(self, where: str) -> None:
            if where == stage and not self.failed:
                self.failed = True
                raise RuntimeError(SECRET)

    async with session(recorder(Faulty)) as mta:
        if stage == "unknown":
            assert await mta.converse(CONNECT, HELO, UNKNOWN, MAIL) == b"cctc"
        else:
            assert await until_fault(mta, stage) == b"t"
        assert (await second_message(mta))[-1] == b"a"
    (line,) = errors(caplog)
    assert f"in on_{stage} of Faulty: RuntimeError" in line


async def test_a_fault_at_a_recipient_refuses_that_recipient_alone() -> None:
    class Faulty(Recorder):
        async def on_rcpt(self, recipient: str, params: list[str]) -> Any:
            if recipient == "<bob@b.example>":
                raise RuntimeError(SECRET)

    async with session(recorder(Faulty)) as mta:
        assert await mta.converse(MAIL, RCPT, b"\0\0\0\x05R<c>\0", *MESSAGE[2:]) == b"ctccccch"
        assert await mta.reply() == b"a"


async def test_nothing_of_an_exception_reaches_the_mta() -> None:
    class Faulty(Milter):
        async def on_mail(self, sender: str, params: list[str]) -> None:
            raise RuntimeError(SECRET)

    async with session(Faulty) as mta:
        mta.send(MAIL, b"\0\0\0\x01Q")
        assert await mta.rest() == b"\0\0\0\x01t"


async def test_five_edits_and_then_a_fault_are_a_tempfail_alone() -> None:
    class Faulty(Milter):
        messages = 0

        async def on_eom(self, actions: EomActions) -> None:
            self.messages += 1
            actions.add_header("A", "1")
            actions.change_header("B", 1, None)
            actions.add_recipient("<c>")
            actions.replace_body(b"x" * 100_000)
            actions.quarantine("why")
            if self.messages == 1:
                raise RuntimeError(SECRET)

    async with session(Faulty) as mta:
        assert await mta.converse(MAIL, RCPT, EOM) == b"cct"
        mta.send(MAIL, RCPT, EOM)
        replies = await mta.replies(9)
        assert b"".join(reply[:1] for reply in replies) == b"cchm+bbqc"


@pytest.mark.parametrize(
    ("on_error", "at_mail", "at_eom"),
    [
        ("tempfail", b"t", b"t"),
        ("reject", b"r", b"r"),
        ("accept", b"a", b"a"),
        ("continue", b"c", b"c"),
    ],
)
async def test_the_verdict_after_a_fault_is_configured(
    on_error: str, at_mail: bytes, at_eom: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    class Faulty(Milter):
        stage = "mail"

        async def on_mail(self, sender: str, params: list[str]) -> None:
            if self.stage == "mail":
                raise RuntimeError(SECRET)

        async def on_eom(self, actions: EomActions) -> None:
            actions.add_header("X", "y")
            raise RuntimeError(SECRET)

    async with session(Faulty, on_error=on_error) as mta:
        assert await mta.ask(MAIL) == at_mail
        Faulty.stage = "eom"
        assert await mta.converse(ABORT + MAIL, RCPT, EOM) == b"cc" + at_eom
    lines = errors(caplog)
    assert len(lines) == 2
    assert all(("unfiltered" in line) == (on_error in ("accept", "continue")) for line in lines)


async def test_a_fault_in_begin_message_fails_that_message_only(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Faulty(Recorder):
        def begin_message(self) -> None:
            super().begin_message()
            if self.messages == 1:
                raise SystemExit(SECRET)

    milter = recorder(Faulty)
    async with session(milter) as mta:
        assert await mta.converse(CONNECT, HELO, MAIL) == b"cct"
        assert await second_message(mta) == SECOND_MESSAGE
    (line,) = errors(caplog)
    assert "in begin_message of" in line
    assert milter.journal.entries.count("mail") == 1


async def test_a_begin_message_that_cancels_its_own_task_costs_one_tempfail() -> None:
    class SelfCancelling(Recorder):
        def begin_message(self) -> None:
            super().begin_message()
            task = asyncio.current_task()
            if self.messages == 1 and task is not None:
                task.cancel()

    async with session(recorder(SelfCancelling)) as mta:
        assert await mta.converse(CONNECT, HELO, MAIL) == b"cct"
        assert await second_message(mta) == SECOND_MESSAGE


async def test_a_message_whose_begin_failed_is_refused_at_every_stage() -> None:
    class Faulty(Milter):
        def begin_message(self) -> None:
            raise RuntimeError(SECRET)

        async def on_rcpt(self, recipient: str, params: list[str]) -> None:
            raise AssertionError("must not be called")

        async def on_eom(self, actions: EomActions) -> Status:
            return Status.ACCEPT

    async with session(Faulty) as mta:
        assert await mta.converse(RCPT, RCPT, EOM) == b"ttt"


@pytest.mark.parametrize("error", [RuntimeError(SECRET), SystemExit(1), asyncio.CancelledError()])
async def test_a_fault_in_the_factory_fails_the_session_and_not_the_server(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    def factory() -> Milter:
        raise error

    async with serving(factory) as server:
        for _ in range(2):
            async with Mta.connected(server.sockets[0]) as mta:
                await mta.begin()
                assert await mta.ask(MAIL) == b"t"
                assert await mta.ask(ABORT, MAIL) == b"t"
    lines = errors(caplog)
    assert len(lines) == 2
    assert "in the factory of the milter" in lines[0]


async def test_a_factory_that_makes_no_milter_fails_the_session(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with session(lambda: None) as mta:  # type: ignore[arg-type,return-value]  # the fault
        assert await mta.converse(CONNECT) == b"t"
    (line,) = errors(caplog)
    assert "the factory made None, which is no Milter" in line


async def test_a_class_that_cannot_work_fails_the_session_if_a_factory_hides_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Wrong(Milter):
        on_eom = no_reply(Milter.on_eom)
        actions = 1  # type: ignore[assignment]  # the fault

    def factory() -> Milter:
        return Wrong()

    async with session(factory) as mta:
        assert await mta.converse(CONNECT) == b"t"
    (line,) = errors(caplog)
    assert "ConfigError" in line


@pytest.mark.parametrize("on_error", ["accept", "continue"])
async def test_mail_may_pass_when_the_factory_fails(on_error: str) -> None:
    def factory() -> Milter:
        raise RuntimeError(SECRET)

    async with session(factory, on_error=on_error) as mta:
        assert await mta.ask(CONNECT) == on_error[:1].encode()


async def test_a_fault_in_the_negotiation_is_answered_at_the_next_event(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Faulty(Recorder):
        async def on_negotiate(self, negotiation: Negotiation) -> None:
            negotiation.actions = type(negotiation.actions)(0)
            raise SystemExit(SECRET)

    async with serving(recorder(Faulty)) as server, Mta.connected(server.sockets[0]) as mta:
        assert (await mta.negotiate())[:2] == (6, 0x1FF)
        assert await mta.ask(CONNECT) == b"t"
        assert await second_message(mta) == [b"c"] * 6 + [b"hX-Message\x001\0", b"a"]
    assert len(errors(caplog)) == 1


@pytest.mark.parametrize("error", [RuntimeError(SECRET), SystemExit(1), asyncio.CancelledError()])
async def test_a_fault_in_abort_and_close_costs_nothing(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    class Faulty(Recorder):
        async def act(self, where: str) -> None:
            if where in ("abort", "close"):
                raise error

    milter = recorder(Faulty)
    async with session(milter) as mta:
        await mta.converse(MAIL, RCPT)
        assert await second_message(mta) == SECOND_MESSAGE
    await milter.journal.until("close")
    assert len(errors(caplog)) == 2
    assert milter.journal.entries.count("abort") == 1
    assert milter.journal.entries.count("close") == 1


async def test_hooks_may_be_plain_functions_and_return_anything() -> None:
    journal = Journal()

    class Hooked(Milter):
        async def on_mail(self, sender: str, params: list[str]) -> None: ...

        def on_abort(self) -> Any:
            journal.note("abort")
            return coroutine()

        def on_close(self) -> Any:
            journal.note("close")
            return 7

    async with session(Hooked) as mta:
        await mta.ask(MAIL)
        mta.send(ABORT)
        assert await mta.ask(MAIL) == b"c"
    await journal.until("close")
    assert journal.entries == ["abort", "abort", "close"]


# Faults where the MTA gets no reply


class Observer(Milter):
    """Fails at its first MAIL, where it may not answer."""

    failed = False

    @no_reply
    async def on_mail(self, sender: str, params: list[str]) -> None:
        if not self.failed:
            self.failed = True
            raise RuntimeError(SECRET)

    async def on_rcpt(self, recipient: str, params: list[str]) -> Status:
        return Status.CONTINUE


class ObserverWithEom(Observer):
    """The same, with an end of message."""

    async def on_eom(self, actions: EomActions) -> Status:
        return Status.ACCEPT


@pytest.mark.parametrize("milter", [Observer, ObserverWithEom])
@pytest.mark.parametrize("options", [0x1FFFFF, 0x7F], ids=["offered", "not offered"])
async def test_a_fault_without_a_reply_is_delivered_where_there_is_one(
    milter: type[Milter], options: int, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(milter) as server, Mta.connected(server.sockets[0]) as mta:
        await mta.negotiate(0x1FF, options)
        if options == 0x7F:
            assert await mta.ask(MAIL) == b"c"  # on the milter's behalf
        else:
            mta.send(MAIL)
        # A refused recipient is not the whole message: the end of it is refused, too.
        assert await mta.converse(RCPT, RCPT, EOM) == b"ttt"
        # The next message passes.
        mta.send(MAIL, RCPT, EOM)
        expected = [b"c"] * (3 if options == 0x7F else 2)
        if milter is ObserverWithEom:
            expected[-1] = b"a"
        assert await mta.replies(len(expected)) == expected
    assert len(errors(caplog)) == 1


@pytest.mark.parametrize("stage", ["connect", "helo", "data", "header", "eoh", "body"])
async def test_a_fault_of_any_observer_refuses_the_message(stage: str) -> None:
    async def failing(self: Milter, *arguments: object) -> None:
        raise RuntimeError(SECRET)

    milter = type("Failing", (Milter,), {f"on_{stage}": no_reply(failing)})
    async with session(milter) as mta:
        mta.send(CONNECT, HELO, *MESSAGE, b"\0\0\0\x01Q")
        replies = await mta.rest()
    assert replies.count(b"\0\0\0\x01t") == 1


async def test_a_fault_of_an_observer_may_let_mail_pass() -> None:
    async with session(Observer, on_error="continue") as mta:
        mta.send(MAIL)
        assert await mta.converse(RCPT, EOM) == b"cc"


async def test_a_fault_of_an_observer_is_forgotten_with_its_message() -> None:
    async with session(ObserverWithEom) as mta:
        mta.send(MAIL, ABORT, MAIL)
        assert await mta.converse(RCPT, EOM) == b"ca"


async def test_a_verdict_of_an_observer_is_dropped_with_one_record(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Refusing(Milter):
        @no_reply
        async def on_mail(self, sender: str, params: list[str]) -> Status:
            return Status.REJECT

        async def on_eom(self, actions: EomActions) -> Status:
            return Status.ACCEPT

    async with session(Refusing) as mta:
        assert await mta.converse(MAIL + RCPT, EOM) == b"ca"
    (line,) = warnings(caplog)
    assert "REJECT" in line
    assert errors(caplog) == []


async def test_what_the_mta_sends_as_an_address_never_costs_the_connection() -> None:
    class Looking(Milter):
        async def on_connect(self, hostname: str, client: SocketInfo) -> None:
            assert client.family == "unknown"

    async with session(Looking) as mta:
        payload = b"Chost\x004\0\x19" + b"9" * 5_000 + b"\0"
        assert await mta.ask(len(payload).to_bytes(4, "big") + payload) == b"c"


def test_the_offer_written_by_hand_is_the_full_one() -> None:
    assert offer() == b"\0\0\0\x0dO\0\0\0\x06\0\0\x01\xff\0\x1f\xff\xff"
