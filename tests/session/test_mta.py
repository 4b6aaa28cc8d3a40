"""The MTA's end of a connection: what is sent, what is awaited, what a milter may not do."""

from __future__ import annotations

import struct

import pytest

from aiomilter.errors import LocalProtocolError, RemoteProtocolError
from aiomilter.session.mta import MtaSession, Offer
from aiomilter.spec import Actions, Options
from aiomilter.wire import commands, replies
from tests.packets import OFFER, offer, packet
from tests.session.mta_driver import (
    COMMANDS,
    EOM,
    NO_OPTION,
    NO_REPLY_OPTION,
    VERDICTS,
    agreed,
    answer,
    asked,
)

# Offers


def test_by_default_all_is_offered() -> None:
    session = MtaSession()
    session.send_offer()
    assert session.data_to_send() == OFFER
    assert session.awaited == "negotiate"


@pytest.mark.parametrize("version", [0, 1, 2, 7, 2**31, 2**32 - 1])
def test_any_version_can_be_offered(version: int) -> None:
    session = MtaSession(Offer(version))
    session.send_offer()
    assert session.data_to_send() == offer(version)


@pytest.mark.parametrize(
    "numbers",
    [(-1, 0, 0), (2**32, 0, 0), (6, -1, 0), (6, 0, 2**32)],
)
def test_an_offer_has_numbers_of_32_bits(numbers: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="an offer has numbers of 32 bits, not"):
        Offer(numbers[0], numbers[1], numbers[2])  # type: ignore[arg-type]  # plain numbers do


def test_an_offer_of_nothing_means_that_of_version_1() -> None:
    nothing = Offer(2, Actions(0), Options(0))
    session = MtaSession(nothing)
    session.send_offer()
    assert session.data_to_send() == offer(2, 0, 0)
    session.receive_data(answer(2, 0x0F, 0x3F))
    session.next_reply()
    assert (session.actions, session.options) == (0x0F, 0x3F)
    for numbers, word in (((2, 0x1F, 0), "actions"), ((2, 0, 0x7F), "options")):
        session = MtaSession(nothing, is_strict=True)
        session.send_offer()
        session.receive_data(answer(*numbers))
        with pytest.raises(RemoteProtocolError, match=f"{word} that were not offered"):
            session.next_reply()


@pytest.mark.parametrize(
    ("version", "of_postfix", "of_sendmail"),
    [(0, False, False), (1, True, False), (2, True, True), (6, True, True), (7, False, False)],
)
def test_the_versions_that_may_answer_an_offer_of_6(
    version: int, of_postfix: bool, of_sendmail: bool
) -> None:
    for is_strict, is_taken in ((False, of_postfix), (True, of_sendmail)):
        session = asked("negotiate", is_strict=is_strict)
        session.receive_data(answer(version))
        if is_taken:
            session.next_reply()
            assert session.agreed.version == version
            continue
        with pytest.raises(RemoteProtocolError) as caught:
            session.next_reply()
        assert caught.value.rule == (f"the milter answers with version {version} to an offer of 6")


def test_postfix_takes_options_that_were_not_offered_for_not_asked() -> None:
    session = agreed(0x20000001)
    assert session.options == Options.NO_CONNECT
    assert session.max_payload_bytes == 65_535


def test_an_answer_may_ask_for_macros_at_any_stage() -> None:
    session = MtaSession()
    session.send_offer()
    lists = b"\0\0\0\0j i\0" + b"\0\0\0\x09x\0" + b"\0\0\0\x02\0"
    session.receive_data(answer(rest=lists))
    session.next_reply()
    assert session.agreed.macros == {0: b"j i", 9: b"x", 2: b""}


@pytest.mark.parametrize(
    ("bits", "size"),
    [(0, 65_535), (0x10000000, 262_143), (0x20000000, 1_048_575), (0x30000000, 1_048_575)],
)
def test_the_largest_payload_is_agreed_on_for_both_directions(bits: int, size: int) -> None:
    session = MtaSession(Offer(options=Options(0x301FFFFF)))
    session.send_offer()
    session.receive_data(answer(options=bits))
    session.next_reply()
    assert session.max_payload_bytes == size
    with pytest.raises(LocalProtocolError, match=f"body: {size + 1} bytes do not fit"):
        session.send(commands.Body(b"x" * (size + 1)))
    assert session.send(EOM)
    session.receive_data(struct.pack(">I", size + 2) + b"b")
    with pytest.raises(RemoteProtocolError, match=f"above the limit of {size}$|limit of {size}:"):
        session.next_reply()


# Commands


@pytest.mark.parametrize("name", NO_OPTION)
def test_what_is_not_wanted_is_not_sent(name: str) -> None:
    session = agreed(NO_OPTION[name])
    assert not session.send(COMMANDS[name])
    assert session.data_to_send() == b""
    assert not session.is_awaiting
    for other in NO_OPTION.keys() - {name}:
        assert session.is_wanted(COMMANDS[other].LETTER)


@pytest.mark.parametrize("name", NO_REPLY_OPTION)
def test_what_is_not_answered_is_not_awaited(name: str) -> None:
    session = agreed(NO_REPLY_OPTION[name])
    assert session.send(COMMANDS[name])
    assert not session.is_awaiting
    assert session.awaited is None
    for other in NO_REPLY_OPTION.keys() - {name}:
        assert session.is_answered(COMMANDS[other].LETTER)


@pytest.mark.parametrize(
    "command",
    [commands.Macro(b"C", []), commands.Abort(), commands.Quit(), commands.QuitNewConnection()],
)
def test_these_never_have_an_answer(command: commands.Command) -> None:
    session = agreed()
    assert session.send(command)
    assert not session.is_awaiting


@pytest.mark.parametrize(
    ("version", "unknown_to_it"), [(1, "UTK"), (2, "UTK"), (3, "TK"), (4, "K"), (5, "K"), (6, "")]
)
def test_what_a_version_does_not_have_is_not_sent(version: int, unknown_to_it: str) -> None:
    session = agreed(version=version)
    assert "".join(one for one in "UTKCHMRLNBEADQ" if not session.is_known(one.encode())) == (
        unknown_to_it
    )
    assert session.send(COMMANDS["data"]) == ("T" not in unknown_to_it)


def test_macros_are_sent_also_for_what_is_not_wanted() -> None:
    session = agreed(0x1)
    assert session.send(commands.Macro(b"C", [b"j", b"mx"]))
    assert session.unsent_bytes == 11
    assert session.data_to_send() == b"\0\0\0\x07DCj\0mx\0"
    assert session.unsent_bytes == 0


def test_nothing_is_sent_while_an_answer_is_awaited() -> None:
    session = asked("mail")
    session.data_to_send()
    with pytest.raises(LocalProtocolError, match=r"^mail still waits for its reply$"):
        session.send(EOM)
    assert session.data_to_send() == b""


def test_nothing_is_read_while_nothing_is_awaited() -> None:
    with pytest.raises(LocalProtocolError, match="no command waits for a reply"):
        agreed().next_reply()


# Replies


@pytest.mark.parametrize("letter", VERDICTS)
@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("is_strict", [False, True])
def test_every_verdict_answers_every_command(name: str, letter: bytes, is_strict: bool) -> None:
    session = asked(name, is_strict=is_strict)
    session.receive_data(b"\0\0\0\x01" + letter)
    assert isinstance(session.next_reply(), VERDICTS[letter])
    assert not session.is_awaiting


@pytest.mark.parametrize("name", COMMANDS)
def test_words_answer_every_command(name: str) -> None:
    session = asked(name)
    session.receive_data(packet("y", b"550 5.7.1 no\0"))
    assert session.next_reply() == replies.ReplyCode(b"550 5.7.1 no")


@pytest.mark.parametrize("is_strict", [False, True])
def test_edits_and_progress_come_ahead_of_the_verdict(is_strict: bool) -> None:
    session = asked("eom", is_strict=is_strict)
    session.receive_data(packet("p") + packet("q", b"why\0") + packet("b", b"x") + packet("b"))
    session.receive_data(packet("a"))
    found: list[replies.MilterReply | None] = []
    while session.is_awaiting:
        found.append(session.next_reply())
    assert found == [
        replies.Progress(),
        replies.Quarantine(b"why"),
        replies.ReplaceBody(b"x"),
        replies.ReplaceBody(b""),
        replies.Accept(),
    ]
    assert session.packets_received == 6


def test_postfix_takes_progress_and_shutdown_anywhere() -> None:
    session = asked("mail")
    session.receive_data(packet("p") + packet("4"))
    assert isinstance(session.next_reply(), replies.Progress)
    assert session.is_awaiting
    assert isinstance(session.next_reply(), replies.Shutdown)
    assert not session.is_awaiting


def test_sendmail_takes_another_edit_between_two_pieces_of_a_body() -> None:
    session = asked("eom", is_strict=True)
    session.receive_data(packet("b", b"1") + packet("q", b"\0") + packet("b", b"2") + packet("c"))
    while session.is_awaiting:
        assert session.next_reply() is not None


def test_half_a_packet_is_waited_for() -> None:
    session = asked("mail")
    for byte in b"\0\0\0\x01":
        session.receive_data(bytes((byte,)))
        assert session.next_reply() is None
    session.receive_data(b"c")
    assert isinstance(session.next_reply(), replies.Continue)


def test_an_end_between_packets_is_none() -> None:
    session = asked("mail")
    assert not session.has_eof
    session.receive_eof()
    assert session.next_reply() is None
    assert session.has_eof
