"""Limits of time: of handlers, of the MTA, and of nothing else."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from aiomilter import EomActions, Milter, Negotiation, Status, no_reply, time_limit
from aiomilter.aio import connection, handler_host
from tests.aio.serving import (
    Journal,
    Recorder,
    errors,
    recorder,
    serving,
    session,
    until_true,
    warnings,
)
from tests.mta import (
    ABORT,
    BODY,
    CONNECT,
    EOM,
    HELO,
    MAIL,
    MESSAGE,
    OFFER,
    QUIT,
    RCPT,
    Mta,
    split_packets,
)

BRIEF_S = 0.05
STAGES = ["connect", "helo", "mail", "rcpt", "data", "header", "eoh", "body", "eom"]


@pytest.fixture
def short_graces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait a second for what a test has made never to come."""
    monkeypatch.setattr(handler_host, "_CANCEL_GRACE_S", BRIEF_S)
    monkeypatch.setattr(connection, "_EOF_GRACE_S", 2 * BRIEF_S)


class Sleeper(Recorder):
    """Sleeps for ever at one stage of its first message."""

    stage: str

    async def act(self, where: str) -> None:
        if where == self.stage and self.messages <= 1:
            try:
                await asyncio.Event().wait()
            finally:
                self.journal.note("cut")


def keep_busy(seconds: float) -> None:
    """Block the event loop."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


async def until(mta: Mta, stage: str) -> bytes:
    """Send one command after the other up to that of the stage; return the reply to it."""
    for name, command in zip(STAGES, (CONNECT, HELO, *MESSAGE), strict=True):
        reply = await mta.ask(command)
        if name == stage:
            return reply
        assert reply == b"c", name
    raise AssertionError(stage)


@pytest.mark.parametrize("stage", STAGES)
async def test_a_handler_that_waits_for_ever_costs_one_tempfail(
    stage: str, caplog: pytest.LogCaptureFixture
) -> None:
    milter = recorder(Sleeper, stage=stage)
    async with session(milter, handler_timeout=BRIEF_S, eom_timeout=BRIEF_S) as mta:
        assert await until(mta, stage) == b"t"
        if stage in ("connect", "helo"):
            assert await mta.ask(MAIL) == b"c"
        mta.send(ABORT, *MESSAGE)
        replies = await mta.replies(8)
        assert [reply[:1] for reply in replies] == [b"c"] * 6 + [b"h", b"a"]
    (line,) = errors(caplog)
    assert f"in on_{stage} of" in line
    assert "it took longer than its time limit of 0.05 s" in line
    assert milter.journal.entries.count("cut") == 1


@pytest.mark.parametrize("waits_before", [False, True])
@pytest.mark.parametrize("at_once", [False, True])
async def test_a_handler_has_its_clock_wherever_its_command_stands(
    waits_before: bool, at_once: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """In a read with others; behind handlers that have waited, or have not."""

    class Late(Recorder):
        async def act(self, where: str) -> None:
            if where == "header":
                await asyncio.Event().wait()
            elif waits_before:
                await asyncio.sleep(0)

    async with session(recorder(Late), handler_timeout=BRIEF_S) as mta:
        commands = [MAIL, RCPT, *MESSAGE[2:4]]
        if at_once:
            mta.send(*commands)
            assert await mta.replies(4) == [b"c", b"c", b"c", b"t"]
        else:
            assert [await mta.ask(command) for command in commands] == [b"c", b"c", b"c", b"t"]
    (line,) = errors(caplog)
    assert "in on_header of" in line


@pytest.mark.parametrize("waits_then", [False, True])
async def test_a_handler_that_blocks_the_loop_beyond_its_budget_costs_one_tempfail(
    waits_then: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Though no timer can go off meanwhile, and nobody knows of it until it waits."""

    class Blocking(Recorder):
        async def act(self, where: str) -> None:
            if where == "rcpt":
                keep_busy(4 * BRIEF_S)
                if waits_then:
                    await asyncio.sleep(0)

    async with session(recorder(Blocking), handler_timeout=BRIEF_S) as mta:
        assert await mta.converse(MAIL, RCPT, BODY) == b"ctc"
    (line,) = errors(caplog)
    assert "in on_rcpt of" in line
    assert "it blocked the event loop" in line


async def test_what_a_handler_blocks_before_it_waits_is_of_its_budget(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Late(Recorder):
        async def act(self, where: str) -> None:
            if where == "rcpt":
                keep_busy(6 * BRIEF_S)
                await asyncio.sleep(6 * BRIEF_S)

    async with session(recorder(Late), handler_timeout=8 * BRIEF_S) as mta:
        assert await mta.converse(MAIL, RCPT, BODY) == b"ctc"
    (line,) = errors(caplog)
    assert "in on_rcpt of" in line
    assert "it took longer than its time limit" in line


class OtherTime(asyncio.SelectorEventLoop):
    """A loop whose clock is not the system's, as that of uvloop on a Mac that has slept."""

    def __init__(self, ahead_s: float) -> None:
        self._ahead_s = ahead_s
        super().__init__()

    def time(self) -> float:
        return super().time() + self._ahead_s


@pytest.mark.parametrize("ahead_s", [-10_000.0, 10_000.0])
def test_a_loop_may_have_a_clock_of_its_own(
    ahead_s: float, caplog: pytest.LogCaptureFixture
) -> None:
    class Late(Recorder):
        async def act(self, where: str) -> None:
            if where == "mail":
                await asyncio.sleep(BRIEF_S)
            elif where == "rcpt":
                await asyncio.Event().wait()

    async def converse() -> bytes:
        async with session(recorder(Late), handler_timeout=4 * BRIEF_S) as mta:
            return await mta.converse(MAIL, RCPT)

    with asyncio.Runner(loop_factory=lambda: OtherTime(ahead_s)) as runner:
        assert runner.run(converse()) == b"ct"
    (line,) = errors(caplog)
    assert "it took longer than its time limit" in line


async def test_a_handler_may_block_the_loop_within_its_budget(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Slow(Recorder):
        async def act(self, where: str) -> None:
            if where == "rcpt":
                keep_busy(2 * BRIEF_S)

    async with session(recorder(Slow)) as mta:
        assert await mta.converse(MAIL, RCPT, BODY) == b"ccc"
    assert errors(caplog) == []


async def test_progress_is_sent_at_the_end_of_a_message_only() -> None:
    class Slow(Recorder):
        async def act(self, where: str) -> None:
            await asyncio.sleep(0.12)

    async with session(recorder(Slow), progress_interval=BRIEF_S) as mta:
        mta.send(MAIL, RCPT, EOM, QUIT)
        replies = split_packets(await mta.rest())
    assert replies[:2] == [b"c", b"c"]
    progress = replies[2:-2]
    assert len(progress) >= 2
    assert set(progress) == {b"p"}
    assert replies[-2:] == [b"hX-Message\x001\0", b"a"]


async def test_a_handler_may_tell_of_progress_itself() -> None:
    release = asyncio.Event()

    class Telling(Milter):
        async def on_eom(self, actions: EomActions) -> Status:
            actions.add_header("A", "b")
            await actions.progress()
            await release.wait()
            return Status.ACCEPT

    async with session(Telling) as mta:
        # The edit that was made before it stays where it is.
        assert await mta.converse(MAIL, RCPT, EOM) == b"ccp"
        release.set()
        assert await mta.replies(2) == [b"hA\0b\0", b"a"]


async def test_progress_does_not_make_the_budget_longer(caplog: pytest.LogCaptureFixture) -> None:
    milter = recorder(Sleeper, stage="eom")
    async with session(milter, progress_interval=0.03, eom_timeout=0.1) as mta:
        mta.send(MAIL, RCPT, EOM)
        assert await mta.replies(2) == [b"c", b"c"]
        replies: list[bytes] = []
        while not replies or replies[-1] == b"p":
            replies.append(await mta.reply())
    assert replies[-1] == b"t"
    assert 1 <= replies.count(b"p") <= 3
    assert len(errors(caplog)) == 1


async def test_a_handler_has_the_budget_that_its_decorator_says(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Limited(Milter):
        @time_limit(BRIEF_S)
        async def on_helo(self, hostname: str) -> None:
            await asyncio.Event().wait()

        @time_limit(BRIEF_S)
        def on_rcpt(self, recipient: str, params: list[str]) -> None:
            released.wait()

        @time_limit(5)
        async def on_eom(self, actions: EomActions) -> Status:
            await asyncio.sleep(3 * BRIEF_S)
            return Status.ACCEPT

    released = threading.Event()
    async with session(Limited, eom_timeout=BRIEF_S) as mta:
        try:
            assert await mta.converse(HELO, MAIL, RCPT) == b"tct"
            # Until the thread is through with it, nothing else is called on the milter.
            released.set()
            await asyncio.sleep(BRIEF_S)
            assert await mta.ask(EOM) == b"a"
        finally:
            released.set()
    assert len(errors(caplog)) == 2


@pytest.mark.usefixtures("short_graces")
@pytest.mark.parametrize("stage", STAGES)
async def test_a_handler_that_ignores_its_cancellation_is_given_up(
    stage: str, caplog: pytest.LogCaptureFixture
) -> None:
    release = asyncio.Event()

    class Stubborn(Recorder):
        async def act(self, where: str) -> Status | None:
            if where == stage and self.messages <= 1:
                while not release.is_set():
                    try:
                        await release.wait()
                    except asyncio.CancelledError:
                        pass
                self.journal.note("late")
                return Status.DISCARD
            return None

    milter = recorder(Stubborn)
    async with session(milter, handler_timeout=BRIEF_S, eom_timeout=BRIEF_S) as mta:
        assert await until(mta, stage) == b"t"
        # Nothing else is called on the milter as long as it is at work.
        assert await mta.converse(ABORT + MAIL) == b"t"
        # What it says when it comes back is sent to nobody, and ends nothing.
        release.set()
        await milter.journal.until("late")
        await asyncio.sleep(BRIEF_S)
        assert await mta.converse(ABORT + MAIL) == b"c"
        mta.send(*MESSAGE[1:])
        replies = await mta.replies(7)
        assert [reply[:1] for reply in replies] == [b"c"] * 5 + [b"h", b"a"]
    await milter.journal.until("close")
    assert milter.journal.entries.count("close") == 1
    given_up, not_called = errors(caplog)
    assert "it was cancelled, but did not end" in given_up
    assert "not called: an earlier handler, cut short, is still at work" in not_called


@pytest.mark.usefixtures("short_graces")
@pytest.mark.parametrize("hook", ["abort", "close"])
async def test_a_hook_that_ignores_its_cancellation_is_given_up(
    hook: str, caplog: pytest.LogCaptureFixture
) -> None:
    release = asyncio.Event()

    class Stubborn(Recorder):
        async def act(self, where: str) -> None:
            while where == hook and not release.is_set():
                try:
                    await release.wait()
                except asyncio.CancelledError:
                    self.journal.note("cut")

    milter = recorder(Stubborn)
    async with session(milter, handler_timeout=BRIEF_S) as mta:
        try:
            await mta.ask(MAIL)
            mta.send(ABORT, MAIL, QUIT)
            # Beside a hook that is still at work no handler is called.
            assert await mta.rest() == b"\0\0\0\x01" + (b"t" if hook == "abort" else b"c")
        finally:
            release.set()
    assert milter.journal.entries.count("close") == 1
    assert any("it was cancelled, but did not end" in line for line in errors(caplog))


@pytest.mark.usefixtures("short_graces")
async def test_a_negotiation_that_ignores_its_cancellation_is_given_up(
    caplog: pytest.LogCaptureFixture,
) -> None:
    release = asyncio.Event()

    class Stubborn(Milter):
        async def on_negotiate(self, negotiation: Negotiation) -> None:
            while not release.is_set():
                try:
                    await release.wait()
                except asyncio.CancelledError:
                    pass

        async def on_mail(self, sender: str, params: list[str]) -> None: ...

    async with (
        serving(Stubborn, handler_timeout=BRIEF_S) as server,
        Mta.connected(server.sockets[0]) as mta,
    ):
        try:
            # A fault here is no other than elsewhere: the next event gets the verdict.
            assert (await mta.ask(OFFER))[:1] == b"O"
            assert await mta.ask(MAIL) == b"t"
            release.set()
            await asyncio.sleep(BRIEF_S)
            assert await mta.converse(ABORT + MAIL) == b"c"
        finally:
            release.set()
    assert len(errors(caplog)) == 1


async def test_a_handler_that_takes_its_cancellation_back_is_cut_short_all_the_same(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Clever(Recorder):
        async def act(self, where: str) -> Status | None:
            if where not in ("mail", "data"):
                return None
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                task = asyncio.current_task()
                assert task is not None
                task.uncancel()
                self.journal.note("cut")
            return Status.DISCARD

    milter = recorder(Clever)
    async with session(milter, handler_timeout=BRIEF_S) as mta:
        assert await mta.converse(MAIL, ABORT + MAIL) == b"tt"
    assert milter.journal.entries.count("cut") == 2
    assert len(errors(caplog)) == 2


async def test_a_handler_may_use_timeouts_of_its_own() -> None:
    class Careful(Recorder):
        async def act(self, where: str) -> Status | None:
            if where != "mail":
                return None
            try:
                async with asyncio.timeout(0.01), asyncio.TaskGroup() as group:
                    group.create_task(asyncio.Event().wait())
            except TimeoutError:
                self.journal.note("timeout")
            return None

    milter = recorder(Careful)
    async with session(milter) as mta:
        assert await mta.converse(MAIL, RCPT) == b"cc"
    assert "timeout" in milter.journal.entries


async def test_a_blocking_handler_that_hangs_costs_one_tempfail_and_stalls_nobody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    released = threading.Event()
    journal = Journal()

    class Hanging(Milter):
        async def on_mail(self, sender: str, params: list[str]) -> None: ...

        def on_rcpt(self, recipient: str, params: list[str]) -> Status:
            if recipient == "<bob@b.example>":
                released.wait()
                journal.note("late")
            return Status.DISCARD

    async with (
        serving(Hanging, handler_timeout=0.2) as server,
        Mta.connected(server.sockets[0]) as mta,
        Mta.connected(server.sockets[0]) as other,
    ):
        await mta.begin()
        await other.begin()
        assert await mta.ask(MAIL) == b"c"
        mta.send(RCPT)
        assert await other.converse(MAIL, ABORT + MAIL) == b"cc"
        assert await mta.reply() == b"t"
        released.set()
        await journal.until("late")
        await asyncio.sleep(BRIEF_S)
        assert await mta.ask(b"\0\0\0\x05R<c>\0") == b"d"
    assert len(errors(caplog)) == 1


async def test_an_observer_out_of_time_fails_its_message() -> None:
    class Watching(Milter):
        @no_reply
        async def on_body(self, chunk: bytes) -> None:
            await asyncio.Event().wait()

    async with session(Watching, handler_timeout=BRIEF_S) as mta:
        assert await mta.converse(MAIL, RCPT, BODY + EOM) == b"cct"


# The MTA goes away while a handler runs


@pytest.mark.usefixtures("short_graces")
@pytest.mark.parametrize("leave", ["close", "reset"])
@pytest.mark.parametrize("stage", ["connect", "mail", "eom"])
async def test_a_handler_is_cut_short_when_the_mta_is_gone(
    leave: str, stage: str, caplog: pytest.LogCaptureFixture
) -> None:
    milter = recorder(Sleeper, stage=stage)
    async with serving(milter) as server:
        async with Mta.connected(server.sockets[0]) as mta:
            await mta.begin()
            # Nothing comes behind the command that the handler is for, as from any MTA.
            commands = dict(zip(STAGES, (CONNECT, HELO, *MESSAGE), strict=True))
            mta.send(*list(commands.values())[: STAGES.index(stage) + 1])
            await milter.journal.until(stage)
            if leave == "reset":
                mta.reset()
        await milter.journal.until("close")
        entries = milter.journal.entries
        # No verdict was given: a message in progress is aborted, and everything only once.
        aborts = [] if stage == "connect" else ["abort"]
        assert entries[entries.index(stage) + 1 :] == ["cut", *aborts, "close"]
    assert errors(caplog) == []
    assert warnings(caplog) == []


async def test_the_end_of_the_stream_leaves_a_handler_a_moment() -> None:
    class Slow(Recorder):
        async def act(self, where: str) -> None:
            if where == "eom":
                await asyncio.sleep(0.1)

    async with session(recorder(Slow)) as mta:
        mta.send(*MESSAGE)
        mta.send_eof()
        replies = split_packets(await mta.rest())
    assert [reply[:1] for reply in replies] == [b"c"] * 6 + [b"h", b"a"]


async def test_the_end_of_the_stream_makes_no_budget_longer(
    caplog: pytest.LogCaptureFixture,
) -> None:
    milter = recorder(Sleeper, stage="mail")
    async with session(milter, handler_timeout=0.2) as mta:
        loop = asyncio.get_running_loop()
        began = loop.time()
        mta.send(MAIL)
        await milter.journal.until("mail")
        mta.send_eof()
        await mta.rest()
        assert loop.time() - began < 0.7


# Limits on the MTA


async def test_an_mta_that_negotiates_nothing_is_dropped(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with (
        serving(Milter, negotiation_timeout=BRIEF_S) as server,
        Mta.connected(server.sockets[0]) as mta,
    ):
        assert await mta.rest() == b""
    (line,) = warnings(caplog)
    assert "nothing was negotiated in time" in line


async def test_bytes_now_and_then_do_not_make_the_negotiation_longer(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with (
        serving(Milter, negotiation_timeout=0.15, packet_timeout=5) as server,
        Mta.connected(server.sockets[0]) as mta,
    ):
        for byte in OFFER:
            if mta.reader.at_eof():
                break
            mta.writer.write(bytes((byte,)))
            try:
                async with asyncio.timeout(0.04):
                    await mta.reader.read()
            except TimeoutError:
                continue
            except ConnectionError:
                pass  # a byte was on its way when it was closed
            break
        else:
            raise AssertionError("it was never dropped")
    assert len(warnings(caplog)) == 1


async def test_a_packet_that_does_not_arrive_whole_ends_the_connection(
    caplog: pytest.LogCaptureFixture,
) -> None:
    milter = recorder()
    async with session(milter, packet_timeout=BRIEF_S) as mta:
        assert await mta.ask(MAIL) == b"c"
        mta.send(b"\0\0\0")
        assert await mta.rest() == b""
    await milter.journal.until("close")
    assert milter.journal.entries == ["mail", "abort", "close"]
    (line,) = warnings(caplog)
    assert "a packet did not arrive whole in time" in line


async def test_more_bytes_of_a_packet_do_not_make_its_time_longer() -> None:
    async with session(recorder(), packet_timeout=0.15) as mta:
        for _ in range(20):
            if mta.reader.at_eof():
                return
            mta.writer.write(b"\0" if mta.reader.at_eof() else BODY[:1])
            try:
                async with asyncio.timeout(0.03):
                    await mta.reader.read()
            except TimeoutError:
                continue
            except ConnectionError:
                pass  # a byte was on its way when it was closed
            return
    raise AssertionError("it was never dropped")


async def test_each_packet_has_its_own_time() -> None:
    async with session(recorder(), packet_timeout=0.15) as mta:
        for _ in range(4):
            mta.send(HELO[:5])
            await asyncio.sleep(0.06)
            assert await mta.ask(HELO[5:]) == b"c"


async def test_an_idle_mta_is_dropped_with_its_hooks(caplog: pytest.LogCaptureFixture) -> None:
    milter = recorder()
    async with session(milter, idle_timeout=BRIEF_S) as mta:
        assert await mta.ask(MAIL) == b"c"
        assert await mta.rest() == b""
    await milter.journal.until("close")
    assert milter.journal.entries == ["mail", "abort", "close"]
    (line,) = warnings(caplog)
    assert "idle" in line


async def test_a_handler_does_not_count_as_idleness() -> None:
    class Slow(Recorder):
        async def act(self, where: str) -> None:
            if where == "mail":
                await asyncio.sleep(0.15)

    async with session(recorder(Slow), idle_timeout=0.1, packet_timeout=BRIEF_S) as mta:
        assert await mta.converse(MAIL, RCPT) == b"cc"


@pytest.mark.parametrize("then", [b"", QUIT])
async def test_an_mta_that_does_not_read_is_dropped(
    then: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    milter = recorder(Verbose)
    async with (
        serving(milter, write_timeout=0.15) as server,
        Mta.connected(server.sockets[0]) as mta,
    ):
        await mta.begin()
        mta.writer.transport.pause_reading()  # type: ignore[attr-defined]
        mta.send(*MESSAGE, then)
        await milter.journal.until("close")
        await until_true(lambda: not server.connections)
        assert milter.journal.entries[-1] == "close"
        assert "abort" not in milter.journal.entries
    (line,) = warnings(caplog)
    assert "the MTA did not read its answers in time" in line


async def test_a_slow_reader_gets_everything() -> None:
    body = bytes(range(256)) * 20_000

    class Verbose(Milter):
        async def on_eom(self, actions: EomActions) -> Status:
            actions.replace_body(body, line_endings="raw")
            return Status.ACCEPT

    async with session(Verbose) as mta:
        mta.send(MAIL, RCPT, EOM, MAIL, QUIT)
        replies = split_packets(await mta.rest())
    assert b"".join(reply[1:] for reply in replies) == body
    assert b"".join(reply[:1] for reply in replies) == b"cc" + b"b" * 79 + b"ac"


class Verbose(Recorder):
    """Answers more than fits into all the buffers on the way."""

    async def on_eom(self, actions: EomActions) -> Status:
        self.journal.note("eom")
        actions.replace_body(b"x" * 10_000_000)
        return Status.ACCEPT


async def until_unread(mta: Mta, milter: type[Recorder]) -> None:
    """Have the milter answer more than is read, and come back when it waits for that."""
    mta.writer.transport.pause_reading()  # type: ignore[attr-defined]  # not in its type
    mta.send(MAIL, RCPT, EOM)
    await milter.journal.until("eom")
    await asyncio.sleep(0.02)


@pytest.mark.parametrize("then", ["command", "eof", "hang up"])
async def test_what_comes_while_answers_are_unread_is_not_forgotten(then: str) -> None:
    milter = recorder(Verbose)
    async with session(milter) as mta:
        await until_unread(mta, milter)
        if then == "command":
            mta.send(MAIL)
        elif then == "eof":
            mta.send_eof()
        else:
            mta.reset()
            await milter.journal.until("close")
            return
        await asyncio.sleep(0.02)
        mta.writer.transport.resume_reading()  # type: ignore[attr-defined]
        replies = await mta.replies(2 + 153 + 1)
        assert (replies[0], replies[-1]) == (b"c", b"a")
        if then == "command":
            assert await mta.reply() == b"c"
        else:
            assert await mta.rest() == b""
            await milter.journal.until("close")


async def test_a_server_can_stop_while_answers_are_unread() -> None:
    milter = recorder(Verbose)
    async with serving(milter) as server, Mta.connected(server.sockets[0]) as mta:
        await mta.begin()
        await until_unread(mta, milter)
        async with asyncio.timeout(4):
            await server.stop(0)
        assert server.connections == 0


async def test_the_record_of_an_idle_end_reads_well(caplog: pytest.LogCaptureFixture) -> None:
    async with session(recorder(), idle_timeout=BRIEF_S) as mta:
        await mta.rest()
    (line,) = warnings(caplog)
    assert "idle" in line
    assert "idle in time" not in line, "idle is what it was, not what it should have been"
