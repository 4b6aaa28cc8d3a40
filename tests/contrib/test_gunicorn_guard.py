"""Watched milters: the same to the MTA, known by what stays the same, refused by the ledger."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from aiomilter import Milter, Reply, Server, Status, no_reply
from aiomilter.aio.ledger import CrashLedger, Identity, WorkerNotes
from aiomilter.app.handlers import handler_table
from aiomilter.contrib.gunicorn_guard import Guard
from tests.aio.serving import session, warnings
from tests.mta import (
    ABORT,
    CONNECT,
    EOH,
    EOM,
    HEADER,
    HELO,
    MAIL,
    RCPT,
    Mta,
    macros,
    packet,
)

MESSAGE_ID = packet(b"L", b"Message-ID\0<1@a.example>\0")
OTHER_ID = packet(b"L", b"Message-ID\0<2@a.example>\0")
OTHER_CLIENT = b"\0\0\0\x19Cmx.example\x004\x30\x39192.0.2.2\0"


class Ledger:
    """Notes and ledger of one process, and a milter that copies the notes of a stage."""

    def __init__(self, verdict: Status = Status.TEMPFAIL) -> None:
        self.notes = WorkerNotes()
        self.ledger = CrashLedger(1)
        self.guard = Guard(self.notes, self.ledger, verdict)
        self.seen: dict[str, list[Identity]] = {}
        self.called: list[str] = []

    def milter(self) -> Milter:
        return self.guard.watched(lambda: Noting(self))()

    async def blame_for(self, stage: str, *packets: bytes) -> None:
        """Let a message be the end of a worker, as far as the ledger is concerned."""
        async with session(self.milter) as mta:
            await mta.converse(*packets)
        assert self.ledger.blame(self.seen[stage])
        self.called.clear()


class Noting(Milter):
    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def note(self, stage: str) -> None:
        self._ledger.seen[stage] = self._ledger.notes.suspects()
        self._ledger.called.append(stage)

    async def on_connect(self, *_arguments: Any) -> None:
        self.note("connect")

    async def on_helo(self, hostname: str) -> None:
        self.note("helo")

    async def on_mail(self, sender: str, params: list[str]) -> None:
        self.note("mail")

    def on_rcpt(self, recipient: str, params: list[str]) -> None:
        self.note("rcpt")

    async def on_header(self, name: str, value: str) -> None:
        self.note("header")

    async def on_eoh(self) -> None:
        self.note("eoh")

    async def on_eom(self, actions: Any) -> Status:
        self.note("eom")
        return Status.ACCEPT


ENVELOPE = (CONNECT, HELO, MAIL, RCPT)
MESSAGE = (*ENVELOPE, HEADER, MESSAGE_ID, EOH, EOM)


async def test_a_message_is_noted_while_a_handler_runs_and_only_then() -> None:
    ledger = Ledger()
    async with session(ledger.milter) as mta:
        assert await mta.converse(*MESSAGE) == b"ccccccca"
    assert ledger.notes.suspects() == []
    assert ledger.seen["connect"] == ledger.seen["helo"] == []
    assert [len(ledger.seen[stage]) for stage in ("mail", "rcpt", "header", "eom")] == [1, 1, 1, 1]
    assert ledger.seen["mail"][0].label == b"<alice@a.example>"
    assert ledger.seen["eom"][0].label == b"<1@a.example>"


@pytest.mark.parametrize(
    ("stage", "answers", "called"),
    [
        ("mail", b"cct", ["connect", "helo"]),
        ("rcpt", b"ccct", ["connect", "helo", "mail"]),
        ("eom", b"ccccct", ["connect", "helo", "mail", "rcpt", "header"]),
    ],
)
async def test_it_is_refused_where_it_was_the_end_and_not_before(
    stage: str, answers: bytes, called: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    ledger = Ledger()
    await ledger.blame_for(stage, *MESSAGE)
    with caplog.at_level(logging.WARNING):
        async with session(ledger.milter) as mta:
            assert await mta.converse(*MESSAGE[: len(answers)]) == answers
    assert ledger.called == called
    line = "this message has ended too many workers; it gets its verdict without Noting"
    assert any(line in record.getMessage() for record in caplog.records)


async def test_another_message_of_the_same_envelope_passes() -> None:
    ledger = Ledger()
    await ledger.blame_for("eom", *MESSAGE)
    async with session(ledger.milter) as mta:
        assert await mta.converse(*ENVELOPE, OTHER_ID, EOH, EOM) == b"cccccca"
        # A refused one on the same connection, and then another again.
        assert await mta.converse(MAIL, RCPT, MESSAGE_ID) == b"cct"
        assert await mta.converse(MAIL, RCPT, OTHER_ID, EOH, EOM) == b"cccca"


async def test_a_message_id_is_enough_from_whichever_client() -> None:
    ledger = Ledger()
    await ledger.blame_for("eom", *MESSAGE)
    async with session(ledger.milter) as mta:
        assert await mta.converse(OTHER_CLIENT, HELO, MAIL, RCPT, MESSAGE_ID) == b"cccct"


async def test_an_envelope_is_that_of_its_client() -> None:
    ledger = Ledger()
    await ledger.blame_for("mail", *MESSAGE)
    async with session(ledger.milter) as mta:
        assert await mta.converse(OTHER_CLIENT, HELO, MAIL) == b"ccc"


async def test_a_recipient_that_is_refused_leaves_the_others() -> None:
    ledger = Ledger()
    await ledger.blame_for("rcpt", *ENVELOPE)
    other = packet(b"R", b"<carol@b.example>\0")
    async with session(ledger.milter) as mta:
        assert await mta.converse(CONNECT, HELO, MAIL, other, RCPT, EOH, EOM) == b"cccctca"


async def test_a_queue_id_is_enough() -> None:
    ledger = Ledger()
    queue_id = macros(b"M", b"i", b"4XyZ12abc")
    async with session(ledger.milter) as mta:
        await mta.converse(CONNECT, HELO)
        await mta.ask(queue_id + MAIL)
    assert [one.label for one in ledger.ledger.blame(ledger.seen["mail"])] == ["4XyZ12abc"]
    async with session(ledger.milter) as mta:
        assert await mta.converse(OTHER_CLIENT, HELO, queue_id + MAIL) == b"cct"


@pytest.mark.parametrize(
    ("verdict", "letter"), [(Status.REJECT, b"r"), (Status.ACCEPT, b"a"), (Status.DISCARD, b"d")]
)
async def test_the_verdict_is_the_configured_one(verdict: Status, letter: bytes) -> None:
    ledger = Ledger(verdict)
    await ledger.blame_for("eom", *MESSAGE)
    async with session(ledger.milter) as mta:
        assert (await mta.converse(*ENVELOPE, MESSAGE_ID))[-1:] == letter


async def test_a_handler_that_only_observes_has_no_verdict_to_give(
    caplog: pytest.LogCaptureFixture,
) -> None:
    called: list[str] = []

    class Observing(Milter):
        @no_reply
        async def on_header(self, name: str, value: str) -> None:
            called.append(name)

        async def on_eom(self, actions: Any) -> Status:
            called.append("eom")
            return Status.ACCEPT

    ledger = Ledger(Status.REJECT)
    factory = ledger.guard.watched(Observing)
    async with session(factory) as mta:
        mta.send(MESSAGE_ID)
        assert await mta.converse(EOM) == b"a"
    assert called == ["Message-ID", "eom"]


def test_a_watched_class_has_the_same_handlers_and_options() -> None:
    class Some(Milter):
        @no_reply
        async def on_header(self, name: str, value: str) -> None: ...

        def on_eom(self, actions: Any) -> None: ...

    ledger = Ledger()
    milter = ledger.guard.watched(Some)()
    plain, watched = handler_table(Some), handler_table(type(milter))
    assert isinstance(milter, Some)
    assert watched.class_name == plain.class_name
    assert (watched.handled, watched.options) == (plain.handled, plain.options)
    for name, handler in plain.by_name.items():
        twin = watched.by_name[name]
        assert (twin.is_async, twin.no_reply) == (handler.is_async, handler.no_reply)


def test_a_frozen_class_with_slots_is_watched_as_well() -> None:
    @dataclass(frozen=True, slots=True)
    class Frozen(Milter):
        limit: int = 3

        async def on_eoh(self) -> Reply:
            return Reply(550, "5.7.1", str(self.limit))

    ledger = Ledger()
    milter = ledger.guard.watched(Frozen)()
    assert isinstance(milter, Frozen)
    assert type(milter) is not Frozen


def test_what_is_no_milter_is_left_to_who_says_so() -> None:
    ledger = Ledger()
    factory: Any = ledger.guard.watched(lambda: 3)  # type: ignore[arg-type, return-value]  # on purpose
    assert factory() == 3


async def test_begin_message_of_the_class_is_called(caplog: pytest.LogCaptureFixture) -> None:
    begun: list[str] = []

    class Beginning(Milter):
        def begin_message(self) -> None:
            begun.append("message")

        async def on_mail(self, sender: str, params: list[str]) -> None: ...

    ledger = Ledger()
    async with session(ledger.guard.watched(Beginning)) as mta:
        await mta.converse(MAIL)
    assert begun == ["message"]
    assert not warnings(caplog)


async def test_messages_of_one_sender_are_told_apart_by_their_size() -> None:
    def bounce(size: int) -> bytes:
        return packet(b"M", b"<>\0SIZE=%d\0" % size)

    ledger = Ledger()
    await ledger.blame_for("mail", CONNECT, HELO, bounce(4711), RCPT)
    async with session(ledger.milter) as mta:
        assert await mta.converse(CONNECT, HELO, bounce(4711)) == b"cct"
    async with session(ledger.milter) as mta:
        assert await mta.converse(CONNECT, HELO, bounce(815), RCPT, EOH, EOM) == b"ccccca"


async def test_without_a_message_id_the_size_counts_for_the_content_as_well() -> None:
    def bounce(size: int) -> tuple[bytes, ...]:
        return CONNECT, HELO, packet(b"M", b"<>\0SIZE=%d\0" % size), RCPT, HEADER, EOH, EOM

    ledger = Ledger()
    await ledger.blame_for("eom", *bounce(4711))
    async with session(ledger.milter) as mta:
        assert await mta.converse(*bounce(815)) == b"cccccca"
    async with session(ledger.milter) as mta:
        assert await mta.converse(*bounce(4711)[:5]) == b"cccct"


# Suspects


class Suspects(Ledger):
    """A ledger that refuses nobody yet, and what a server tells of its messages."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = CrashLedger(2)
        self.guard = Guard(self.notes, self.ledger, Status.TEMPFAIL)

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Mta]:
        async with (
            Server(self.milter, "inet:0", observers=[self.guard]) as server,
            Mta.connected(server.sockets[0]) as mta,
        ):
            await mta.begin()
            yield mta

    async def suspect(self, stage: str, *packets: bytes) -> Identity:
        """Let a message be at work in a worker that dies, as far as the ledger is concerned."""
        async with self.session() as mta:
            await mta.converse(*packets)
        assert self.ledger.blame(self.seen[stage]) == []
        (identity,) = self.seen[stage]
        assert self.notes.cleared() == []
        return identity


@pytest.mark.parametrize("stage", ["mail", "rcpt"])
async def test_a_suspect_at_mail_or_rcpt_is_cleared_when_the_handler_has_returned(
    stage: str,
) -> None:
    suspects = Suspects()
    identity = await suspects.suspect(stage, *MESSAGE)
    async with suspects.session() as mta:
        await mta.converse(*ENVELOPE)
        assert suspects.notes.cleared() == [identity.envelope]


async def test_a_suspect_later_is_cleared_when_the_message_has_its_verdict() -> None:
    suspects = Suspects()
    identity = await suspects.suspect("eom", *MESSAGE)
    async with suspects.session() as mta:
        await mta.converse(*MESSAGE[:-1])
        assert suspects.notes.cleared() == []
        assert await mta.converse(EOM) == b"a"
        assert suspects.notes.cleared() == [identity.envelope]
        # Once for each time that it is served.
        await mta.converse(MAIL, RCPT, OTHER_ID, EOH, EOM)
        assert suspects.notes.cleared() == []


@pytest.mark.parametrize("end", [ABORT, b""])
async def test_a_message_that_is_given_up_clears_no_name(end: bytes) -> None:
    suspects = Suspects()
    await suspects.suspect("eom", *MESSAGE)
    async with suspects.session() as mta:
        await mta.converse(*MESSAGE[:-1])
        mta.send(end)
    async with suspects.session() as mta:
        await mta.converse(MAIL)
    assert suspects.notes.cleared() == []


async def test_a_handler_that_fails_has_killed_nobody() -> None:
    class Failing(Milter):
        async def on_mail(self, sender: str, params: list[str]) -> None:
            suspects.seen["mail"] = suspects.notes.suspects()
            raise ValueError

    suspects = Suspects()
    factory = suspects.guard.watched(Failing)
    async with session(factory) as mta:
        assert await mta.converse(MAIL) == b"t"
    (identity,) = suspects.seen["mail"]
    suspects.ledger.blame([identity])
    async with session(factory) as mta:
        assert await mta.converse(MAIL) == b"t"
    assert suspects.notes.cleared() == [identity.envelope]


class NotingWhole(Milter):
    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    async def on_message(self, message: Any) -> None:
        self._ledger.seen["message"] = self._ledger.notes.suspects()
        self._ledger.called.append(message.headers.get_text("Message-ID"))


class WholeLedger(Ledger):
    def milter(self) -> Milter:
        return self.guard.watched(lambda: NotingWhole(self))()


WHOLE = (CONNECT, MAIL, RCPT, HEADER, MESSAGE_ID, EOM)
"""What an MTA sends of it to a milter with nothing but `on_message`."""


async def _whole(mta: Mta, *packets: bytes) -> bytes:
    """Send a message; return the answer to its end, which is the only one."""
    mta.send(*packets)
    return (await mta.reply())[:1]


async def test_a_whole_message_that_was_the_end_is_refused_from_whichever_client() -> None:
    ledger = WholeLedger()
    async with session(ledger.milter) as mta:
        assert await _whole(mta, *WHOLE) == b"c"
    assert ledger.notes.suspects() == []
    assert [suspect.label for suspect in ledger.seen["message"]] == [b"<1@a.example>"]
    assert ledger.ledger.blame(ledger.seen["message"])
    async with session(ledger.milter) as mta:
        assert await _whole(mta, *WHOLE) == b"t"
        assert await _whole(mta, MAIL, RCPT, OTHER_ID, EOM) == b"c"
    async with session(ledger.milter) as mta:
        assert await _whole(mta, OTHER_CLIENT, MAIL, RCPT, MESSAGE_ID, EOM) == b"t"
    assert ledger.called == ["<1@a.example>", "<2@a.example>"]


def test_all_handlers_of_messages_are_watched() -> None:
    names = {name for name in vars(Milter) if name.startswith("on_")}
    own = {name: vars(Watchable)[name] for name in names if name in vars(Watchable)}
    milter = Ledger().guard.watched(Watchable)()
    watched = {name for name in own if getattr(type(milter), name) is not own[name]}
    assert watched == names - {
        *("on_negotiate", "on_connect", "on_helo", "on_unknown", "on_close"),
    }


class Watchable(Milter):
    async def on_mail(self, sender: str, params: list[str]) -> None: ...

    async def on_rcpt(self, recipient: str, params: list[str]) -> None: ...

    async def on_data(self) -> None: ...

    async def on_header(self, name: str, value: str) -> None: ...

    async def on_eoh(self) -> None: ...

    async def on_body(self, chunk: bytes) -> None: ...

    async def on_eom(self, actions: Any) -> None: ...

    async def on_message(self, message: Any) -> None: ...

    async def on_abort(self) -> None: ...
