"""The examples of a few lines, driven over a real socket."""

from __future__ import annotations

import pytest

from examples.ipmilter import IpMilter
from examples.readme_milter import Gatekeeper
from examples.recipient_counter import RecipientCounter
from examples.subject_tag import SubjectTag
from tests.examples.peer import connect_from, header, packet, served, strings

REFUSED_INFO = (b"y", b"550 5.1.1 this mailbox is closed\0")


async def test_ipmilter_prints_where_a_client_comes_from(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async with served(IpMilter) as peer:
        await peer.go_on(connect_from("192.0.2.7"))
    assert capsys.readouterr().out == "connect from 192.0.2.7:40000\n"


async def test_ipmilter_prints_no_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    async with served(IpMilter) as peer:
        await peer.go_on(packet(b"C", b"a\x004\x00\x19a\x1b[2J\nb\x00"))
    assert capsys.readouterr().out == "connect from unknown ('a\\x1b[2J\\nb')\n"


async def test_recipient_counter_counts_whom_it_does_not_refuse() -> None:
    async with served(RecipientCounter) as peer:
        for _ in range(2):  # the second message is counted from 0 again
            await peer.go_on(strings(b"R", "<a@example.org>"))
            answer = await peer.ask(strings(b"R", "<nobody@example.org>"))
            assert answer == (b"y", b"550 5.1.1 no such user\0")
            await peer.go_on(strings(b"R", "<b@example.org>", "NOTIFY=NEVER"))
            assert await peer.end() == [(b"h", b"X-Recipient-Count\x002\0"), (b"a", b"")]


@pytest.mark.parametrize(
    ("values", "edits"),
    [
        pytest.param(["Hello"], [b"\0\0\0\x01Subject\0[external] Hello\0"], id="one"),
        pytest.param([""], [b"\0\0\0\x01Subject\0[external]\0"], id="empty"),
        pytest.param(["Re: [external] Hello"], [], id="tagged"),
        pytest.param(
            ["=?utf-8?B?UmU6IFtleHRlcm5hbF0gSGVsbMO2?="], [], id="tagged in an encoded word"
        ),
        pytest.param(
            ["=?utf-8?B?SGVsbMO2?="],
            [b"\0\0\0\x01Subject\0[external] =?utf-8?B?SGVsbMO2?=\0"],
            id="encoded word",
        ),
        pytest.param(
            ["=?no-such?B?*?= =?utf-8?B?a?="],
            [b"\0\0\0\x01Subject\0[external] =?no-such?B?*?= =?utf-8?B?a?=\0"],
            id="broken encoded word",
        ),
        pytest.param(
            ["a\n long one"], [b"\0\0\0\x01Subject\0[external] a\n long one\0"], id="folded"
        ),
        pytest.param(
            ["\n on the next line"],
            [b"\0\0\0\x01Subject\0[external] on the next line\0"],
            id="folded at once",
        ),
        pytest.param(
            ["¿Café?"],
            [b"\0\0\0\x01Subject\0[external] \xc2\xbfCaf\xc3\xa9?\0"],
            id="utf-8",
        ),
        pytest.param(["a\rb"], [b"\0\0\0\x01Subject\0[external] a b\0"], id="bare CR"),
        pytest.param(
            ["Hello", "[external] again", "Bye"],
            [
                b"\0\0\0\x01Subject\0[external] Hello\0",
                b"\0\0\0\x03Subject\0[external] Bye\0",
            ],
            id="several",
        ),
    ],
)
async def test_subject_tag_changes_each_subject_once(values: list[str], edits: list[bytes]) -> None:
    async with served(SubjectTag) as peer:
        await peer.go_on(header("From", "ben@example.net"))
        await peer.go_on(*(header("subject", value) for value in values))
        assert await peer.end() == [*((b"m", edit) for edit in edits), (b"c", b"")]


async def test_subject_tag_adds_a_subject_where_there_is_none() -> None:
    async with served(SubjectTag) as peer:
        await peer.go_on(header("Subject", "of the first message"))
        await peer.end()
        await peer.go_on(header("From", "ben@example.net"))
        assert await peer.end() == [(b"h", b"Subject\0[external]\0"), (b"c", b"")]


async def test_readme_milter_refuses_a_recipient_and_marks_the_subject() -> None:
    async with served(Gatekeeper) as peer:
        await peer.go_on(strings(b"R", "<anna@example.org>"))
        assert await peer.ask(strings(b"R", "<Info@example.org>")) == REFUSED_INFO
        await peer.go_on(header("Subject", "Hello"), packet(b"B", b"text\r\n"))
        edit = (b"m", b"\0\0\0\x01Subject\0[external] Hello\0")
        assert await peer.end() == [edit, (b"c", b"")]


async def test_readme_milter_holds_a_large_message() -> None:
    async with served(Gatekeeper) as peer:
        await peer.go_on(strings(b"R", "<anna@example.org>"), header("Subject", "Hello"))
        await peer.go_on(*[packet(b"B", b"x" * 65_535)] * 16)
        _, held, verdict = await peer.end()
        assert held == (b"q", b"a body of 1,048,560 bytes\0")
        assert verdict == (b"c", b"")
