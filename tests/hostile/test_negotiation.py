"""Hostile negotiations and orders of commands, A13 to A25.

Where a command is out of order, libmilter is silent: it neither answers nor ends the connection.
So is this library, with one record a connection.
"""

from __future__ import annotations

import struct

import pytest

from aiomilter import Actions, EomActions, Status
from tests.aio.serving import Recorder, errors, recorder, serving, session, until_true
from tests.hostile.support import Teller, one_warning, serves_a_message, warnings
from tests.mta import (
    ABORT,
    BODY,
    CONNECT,
    DATA,
    EOH,
    EOM,
    HEADER,
    HELO,
    MAIL,
    MESSAGE,
    OFFER,
    QUIT,
    QUIT_NC,
    RCPT,
    Mta,
    macros,
    offer,
    packet,
)


@pytest.mark.parametrize("size", [0, 4, 8, 11])
async def test_a13_half_an_offer_ends_the_connection(
    size: int, caplog: pytest.LogCaptureFixture
) -> None:
    milter = recorder()
    async with serving(milter) as server, Mta.connected(server.sockets[0]) as mta:
        mta.send(packet(b"O", struct.pack(">III", 6, 0x1FF, 0x1FFFFF)[:size]))
        assert await mta.rest() == b""
    assert "127.0.0.1" in one_warning(caplog)
    assert "mail" not in milter.journal.entries


@pytest.mark.parametrize("version", [0, 1, 0x80000000])
async def test_a14_a_version_below_2_is_refused(
    version: int, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(recorder()) as server, Mta.connected(server.sockets[0]) as mta:
        mta.send(offer(version=version))
        assert await mta.rest() == b""
    assert f"protocol version {version}, too old to speak" in one_warning(caplog)


@pytest.mark.parametrize(("offered", "answered"), [(6, 6), (7, 6), (0x7FFFFFFF, 6), (3, 3)])
async def test_a14_no_version_above_6_is_answered(offered: int, answered: int) -> None:
    async with serving(recorder()) as server, Mta.connected(server.sockets[0]) as mta:
        assert (await mta.negotiate(0x1FF, 0x1FFFFF, offered))[0] == answered
        await serves_a_message(mta)


async def test_a14_version_2_works_without_what_came_later() -> None:
    class Editing(Recorder):
        async def on_eom(self, actions: EomActions) -> Status:
            actions.add_header("X-A", "b")
            actions.replace_body(b"new")
            actions.quarantine("why")
            return Status.ACCEPT

    async with (
        serving(recorder(Editing)) as server,
        Mta.connected(server.sockets[0]) as mta,
    ):
        assert await mta.negotiate(0x3F, 0x7F, 2) == (2, 0x3F, 0)
        assert await mta.converse(CONNECT, HELO, MAIL, RCPT, HEADER, EOH, BODY) == b"c" * 7
        mta.send(EOM)
        assert await mta.replies(4) == [b"hX-A\0b\0", b"bnew", b"qwhy\0", b"a"]


async def test_a15_an_mta_without_what_the_milter_needs_is_refused_with_one_record(
    caplog: pytest.LogCaptureFixture,
) -> None:
    milter = recorder(actions=Actions.CHANGE_HEADER | Actions.REPLACE_BODY)
    async with serving(milter) as server:
        async with Mta.connected(server.sockets[0]) as mta:
            mta.send(offer(actions=0x0D))
            assert await mta.rest() == b""
        line = one_warning(caplog)
        assert "REPLACE_BODY, CHANGE_HEADER" in line or "CHANGE_HEADER, REPLACE_BODY" in line
        async with Mta.connected(server.sockets[0]) as mta:
            _version, actions, _options = await mta.negotiate(0x1FF)
            assert actions == Actions.CHANGE_HEADER | Actions.REPLACE_BODY
    assert "mail" not in milter.journal.entries


@pytest.mark.parametrize("first", [(), (MAIL,), MESSAGE[:-1]])
async def test_a16_a_second_offer_is_ignored_with_a_record(
    first: tuple[bytes, ...], caplog: pytest.LogCaptureFixture
) -> None:
    milter = recorder()
    async with session(milter) as mta:
        assert await mta.converse(*first) == b"c" * len(first)
        mta.send(OFFER, OFFER)
        # No answer to the offers: the next one is to MAIL.
        await serves_a_message(mta, 2 if first else 1)
    assert "ignored a negotiate command" in one_warning(caplog)
    assert milter.journal.entries.count("abort") == (1 if first else 0)


async def test_a17_without_an_offer_an_mta_is_served_as_libmilter_does(
    caplog: pytest.LogCaptureFixture,
) -> None:
    milter = recorder()
    async with serving(milter) as server, Mta.connected(server.sockets[0]) as mta:
        # There is no action that may be used then, which is a fault of the milter's.
        assert await mta.converse(HELO, *MESSAGE) == b"c" * 7 + b"t"
    assert milter.journal.entries[:3] == ["helo", "mail", "rcpt"]
    (line,) = errors(caplog)
    assert "ADD_HEADER, which was not agreed" in line


async def test_a17_a_connect_ahead_of_the_offer_is_ignored_with_a_record(
    caplog: pytest.LogCaptureFixture,
) -> None:
    milter = recorder()
    async with serving(milter) as server, Mta.connected(server.sockets[0]) as mta:
        mta.send(CONNECT)
        mta.send(QUIT)
        assert await mta.rest() == b""
    assert "ignored a connect command" in one_warning(caplog)
    assert "connect" not in milter.journal.entries


async def test_a18_an_offer_may_be_longer_than_is_known() -> None:
    async with serving(recorder()) as server, Mta.connected(server.sockets[0]) as mta:
        answer = await mta.ask(packet(b"O", OFFER[5:] + bytes(range(20))))
        assert answer[:9] == b"O\0\0\0\6\0\0\1\xff"
        await serves_a_message(mta)


@pytest.mark.parametrize("command", [RCPT, BODY, EOH, EOM, DATA, HEADER, packet(b"E", b"tail")])
async def test_a19_without_mail_a_command_is_ignored_with_one_record(
    command: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    milter = recorder()
    async with session(milter) as mta:
        assert await mta.converse(CONNECT, HELO) == b"cc"
        mta.send(*[command] * 3)
        await serves_a_message(mta)
    assert one_warning(caplog).endswith("as libmilter does: it is out of order")
    assert milter.journal.entries.count("eom") == 1


async def test_a20_an_abort_without_a_message_is_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    milter = recorder()
    async with session(milter) as mta:
        assert await mta.converse(CONNECT, HELO) == b"cc"
        mta.send(ABORT, ABORT)
        assert await mta.converse(HELO) == b"c"
        await serves_a_message(mta)
        mta.send(ABORT, ABORT)
        await serves_a_message(mta, 2)
        mta.send(MAIL, ABORT, ABORT)
        assert await mta.reply() == b"c"
        await serves_a_message(mta, 4)
    assert milter.journal.entries.count("abort") == 1
    assert warnings(caplog) == []


async def test_a21_mail_inside_a_message_aborts_the_first_one_only() -> None:
    milter = recorder(Teller)
    async with session(milter) as mta:
        assert await mta.converse(macros(b"M", b"i", b"Q1") + MAIL, RCPT) == b"cc"
        assert await mta.converse(packet(b"M", b"<other@a.example>\0")) == b"c"
        assert await mta.converse(RCPT, DATA, EOH) == b"ccc"
        mta.send(EOM)
        assert await mta.replies(2) == [b"hX-Message\x002\0", b"a"]
    assert [word.split()[0] for word in milter.journal.entries] == [
        *("mail", "rcpt", "abort", "mail", "rcpt", "data", "eoh", "eom", "close")
    ]
    # The queue id of the first message is not that of the second.
    assert milter.journal.entries[-2] == "eom None"


@pytest.mark.parametrize("stage", range(1, len(MESSAGE)))
async def test_a22_quit_inside_a_message_runs_both_hooks_once(stage: int) -> None:
    milter = recorder()
    async with session(milter) as mta:
        assert await mta.converse(*MESSAGE[:stage]) == b"c" * stage
        mta.send(QUIT)
        assert await mta.rest() == b""
    await milter.journal.until("close")
    assert milter.journal.entries[stage:] == ["abort", "close"]


async def test_a23_a_new_session_on_the_connection_has_nothing_of_the_old_one() -> None:
    class Keeping(Recorder):
        async def on_mail(self, sender: str, params: list[str]) -> None:
            self.journal.note(f"{self.macros.get('{auth_authen}')} {self.helo_name} {id(self)}")
            # A handler may keep what it likes on its object.
            assert not hasattr(self, "kept")
            self.kept = sender

        async def act(self, stage: str) -> Status | None:
            # libmilter takes QUIT_NC behind the end of a message, but not behind ACCEPT.
            return Status.CONTINUE if stage == "eom" else None

    milter = recorder(Keeping)
    async with session(milter) as mta:
        auth = macros(b"M", b"{auth_authen}", b"joe")
        assert await mta.converse(CONNECT, HELO, auth + MAIL, *MESSAGE[1:-1]) == b"c" * 8
        mta.send(EOM, QUIT_NC)
        assert await mta.replies(2) == [b"hX-Message\x001\0", b"c"]
        assert await mta.converse(CONNECT, MAIL) == b"cc"
    first, second = (entry for entry in milter.journal.entries if " " in entry)
    assert first.split()[:2] == ["joe", "mx.example"]
    assert second.split()[:2] == ["None", "None"]
    assert first.split()[-1] != second.split()[-1]
    assert milter.journal.entries.count("close") == 2


async def test_a24_the_last_piece_of_a_body_may_come_with_the_end_of_the_message() -> None:
    milter = recorder(Teller)
    async with session(milter) as mta:
        assert await mta.converse(*MESSAGE[:-1]) == b"c" * 6
        mta.send(packet(b"E", b"tail\r\n"))
        assert await mta.replies(2) == [b"hX-Message\x001\0", b"a"]
    assert milter.journal.entries[-4:-1] == [r"body b'hello\r\n'", r"body b'tail\r\n'", "eom None"]


async def test_a25_helo_may_be_said_again_and_messages_be_many() -> None:
    milter = recorder()
    async with session(milter) as mta:
        assert await mta.converse(CONNECT, HELO, HELO) == b"ccc"
        for number in range(1, 51):
            await serves_a_message(mta, number)
            if number == 25:
                assert await mta.converse(HELO) == b"c"
        mta.send(QUIT)
        assert await mta.rest() == b""
    await until_true(lambda: "close" in milter.journal.entries)
    assert milter.journal.entries.count("eom") == 50
    assert milter.journal.entries.count("abort") == 0
