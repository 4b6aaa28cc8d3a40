"""What an MTA says to a milter, and in which order."""

from __future__ import annotations

import pytest

from aiomilter import Options, Status
from aiomilter.app.mta.content import Content
from aiomilter.app.mta.conversation import Conversation
from aiomilter.app.mta.envelope import Client, Envelope, Path
from aiomilter.app.mta.kind import Mta
from aiomilter.errors import LocalProtocolError
from aiomilter.session.mta import Offer
from tests.app.mta.scripted import CLIENT, Talk, agreement
from tests.packets import packet

BOTH = [Mta.POSTFIX, Mta.SENDMAIL]
NO_REPLY = 0x0FF080
ALL_OFF = 0x37F


# The packets of a message


def test_postfix_sends_these_packets() -> None:
    talk = Talk()
    client = Client("[192.0.2.1]", "192.0.2.1", 12345, helo="helo.example")
    assert talk.send(client=client).status is Status.ACCEPT
    assert talk.offered == b"O\0\0\0\x06\0\0\x01\xff\0\x1f\xff\xff"
    assert talk.sent == [
        (
            b"DCj\0mx.example.org\0{daemon_name}\0mx.example.org\0{daemon_addr}\x00127.0.0.1\0"
            b"v\0Postfix 3.7.11\0_\0unknown [192.0.2.1]\0"
        ),
        b"C[192.0.2.1]\x004\x30\x39192.0.2.1\0",
        b"DH",
        b"Hhelo.example\0",
        b"DM{mail_addr}\0a@example.com\0{mail_host}\0example.com\0{mail_mailer}\0smtp\0",
        b"M<a@example.com>\0",
        b"DR{rcpt_addr}\0b@example.org\0{rcpt_host}\0example.org\0{rcpt_mailer}\0smtp\0",
        b"R<b@example.org>\0",
        (
            b"DRi\x004aio00000001\0{rcpt_addr}\0c@example.org\0{rcpt_host}\0example.org\0"
            b"{rcpt_mailer}\0smtp\0"
        ),
        b"R<c@example.org>\0",
        b"DTi\x004aio00000001\0",
        b"T",
        b"DLi\x004aio00000001\0",
        b"LFrom\0a@example.com\0",
        b"DLi\x004aio00000001\0",
        b"LSubject\0test\0",
        b"DNi\x004aio00000001\0",
        b"N",
        b"DBi\x004aio00000001\0",
        b"Bhello\r\n",
        b"DEi\x004aio00000001\0",
        b"E",
        b"A",
    ]


def test_sendmail_sends_these_packets() -> None:
    talk = Talk(mta=Mta.SENDMAIL)
    assert talk.send().status is Status.ACCEPT
    assert talk.offered == b"O\0\0\0\x06\0\0\x01\xff\0\x1f\xff\xff"
    assert talk.sent == [
        (
            b"DCj\0mx.example.org\0_\0client.example [192.0.2.1]\0{daemon_name}\0MTA\0"
            b"{if_name}\0mx.example.org\0"
        ),
        b"Cclient.example\x004\x30\x39192.0.2.1\0",
        b"DH",
        b"Hhelo.example\0",
        (
            b"DMi\x004aio00000001\0{mail_mailer}\0smtp\0{mail_host}\0example.com\0"
            b"{mail_addr}\0a@example.com\0"
        ),
        b"M<a@example.com>\0",
        b"DR{rcpt_mailer}\0smtp\0{rcpt_host}\0example.org\0{rcpt_addr}\0b@example.org\0",
        b"R<b@example.org>\0",
        b"DR{rcpt_mailer}\0smtp\0{rcpt_host}\0example.org\0{rcpt_addr}\0c@example.org\0",
        b"R<c@example.org>\0",
        b"T",
        b"LFrom\0a@example.com\0",
        b"LSubject\0test\0",
        b"N",
        b"Bhello\r\n",
        b"DE{msg_id}\0<4aio00000001@mx.example.org>\0",
        b"E",
    ]


@pytest.mark.parametrize(
    ("value", "without", "with_blank"),
    [
        (" v", b"v", b" v"),
        ("v", b"v", b"v"),
        ("  v ", b" v ", b"  v "),
        ("\tv", b"\tv", b"\tv"),
        ("", b"", b""),
        (" ", b"", b" "),
        (" one\n\ttwo\n   three", b"one\n\ttwo\n   three", b" one\n\ttwo\n   three"),
        (" \n folded at once", b"\n folded at once", b" \n folded at once"),
        (" \u00e9\udce9", b"\xc3\xa9\xe9", b" \xc3\xa9\xe9"),
    ],
)
@pytest.mark.parametrize("mta", BOTH)
def test_one_blank_is_taken_off_a_header_unless_agreed_otherwise(
    mta: Mta, value: str, without: bytes, with_blank: bytes
) -> None:
    for options, expected in ((0, without), (0x100000, with_blank)):
        talk = Talk(mta=mta, agreed=agreement(options))
        talk.run(talk.conversation.header("X", value))
        assert talk.sent[-1] == b"LX\0" + expected + b"\0"


@pytest.mark.parametrize(
    ("client", "postfix", "sendmail"),
    [
        (
            Client("h", "2001:db8::25", 1),
            b"Ch\x006\0\x012001:db8::25\0",
            b"Ch\x006\0\x01IPv6:2001:db8:0:0:0:0:0:25\0",
        ),
        (
            Client("h", "fe80::1%eth0", 1),
            b"Ch\x006\0\x01fe80::1%eth0\0",
            b"Ch\x006\0\x01IPv6:fe80:0:0:0:0:0:0:1%eth0\0",
        ),
        (Client("h", "/run/x", 5), b"Ch\0L\0\0/run/x\0", b"Ch\0L\0\0/run/x\0"),
        (Client("localhost", None), b"Clocalhost\0U", b"Clocalhost\0U"),
    ],
)
def test_a_client_of_another_kind(client: Client, postfix: bytes, sendmail: bytes) -> None:
    for mta, expected in ((Mta.POSTFIX, postfix), (Mta.SENDMAIL, sendmail)):
        talk = Talk(mta=mta)
        talk.run(talk.conversation.connect(client))
        assert talk.sent[-1] == expected


def test_parameters_go_with_the_envelope() -> None:
    talk = Talk()
    envelope = Envelope(Path("a@b", "SIZE=10", "BODY=8BITMIME"), Path("<c@d>", "NOTIFY=NEVER"))
    talk.send(envelope=envelope)
    assert b"M<a@b>\0SIZE=10\0BODY=8BITMIME\0" in talk.sent
    assert b"R<c@d>\0NOTIFY=NEVER\0" in talk.sent


# The body


@pytest.mark.parametrize(
    ("bits", "size"), [(0, 65_535), (0x10000000, 262_143), (0x20000000, 1_048_575)]
)
@pytest.mark.parametrize("mta", BOTH)
def test_a_body_is_cut_at_the_agreed_size(mta: Mta, bits: int, size: int) -> None:
    offer = Offer(options=Options(0x1FFFFF | bits))
    talk = Talk(mta=mta, offer=offer, agreed=agreement(bits))
    body = bytes(range(256)) * (size // 128 + 1)
    talk.run(talk.conversation.body(body))
    pieces = [one[1:] for one in talk.sent if one[:1] == b"B"]
    assert [len(piece) for piece in pieces] == [size, size, len(body) - 2 * size]
    assert b"".join(pieces) == body


def test_a_size_that_was_not_offered_is_not_used() -> None:
    talk = Talk(agreed=agreement(0x20000000))
    talk.run(talk.conversation.body(b"x" * 65_536))
    assert [len(one) for one in talk.sent if one[:1] == b"B"] == [65_536, 2]


def test_an_empty_body_is_no_packet() -> None:
    talk = Talk(mta=Mta.SENDMAIL)
    talk.send(Content([], b""))
    assert talk.letters == "CHMRRTNE"


# What was agreed


@pytest.mark.parametrize("mta", BOTH)
def test_a_stage_without_reply_is_not_waited_for(mta: Mta) -> None:
    talk = Talk(mta=mta, agreed=agreement(NO_REPLY))
    outcome = talk.send()
    assert talk.letters.startswith("CHMRRTLLNBE")
    assert talk.waits == 1
    assert [step.stage for step in outcome.steps if step.is_answered] == ["eom"]
    assert all(step.was_sent for step in outcome.steps)


@pytest.mark.parametrize(
    ("bit", "letters"),
    [
        (0x1000, "HMRRTLLNBE"),
        (0x2000, "CMRRTLLNBE"),
        (0x4000, "CHRRTLLNBE"),
        (0x8000, "CHMTLLNBE"),
        (0x10000, "CHMRRLLNBE"),
        (0x80, "CHMRRTNBE"),
        (0x40000, "CHMRRTLLBE"),
        (0x80000, "CHMRRTLLNE"),
    ],
)
def test_each_no_reply_option_is_about_one_stage(bit: int, letters: str) -> None:
    talk = Talk(agreed=agreement(bit))
    outcome = talk.send()
    named = {"connect": "C", "helo": "H", "mail": "M", "rcpt": "R", "data": "T", "header": "L"}
    named |= {"eoh": "N", "body": "B", "eom": "E"}
    answered = [named[step.stage] for step in outcome.steps if step.is_answered]
    assert "".join(answered) == letters
    assert talk.letters == "CHMRRTLLNBEA"


def test_much_that_is_not_answered_is_written_in_between() -> None:
    talk = Talk(agreed=agreement(NO_REPLY))
    steps = talk.conversation.body(b"x" * 1_000_000)
    sizes = [len(talk.conversation.session.data_to_send()) for _ in steps]
    assert len(sizes) == 15
    assert max(sizes) < 2 * 65_536


@pytest.mark.parametrize(
    ("bit", "letters"),
    [
        (0x1, "HMRRTLLNBEA"),
        (0x2, "CMRRTLLNBEA"),
        (0x4, "CHRRTLLNBEA"),
        (0x8, "CHMTLLNBEA"),
        (0x200, "CHMRRLLNBEA"),
        (0x20, "CHMRRTNBEA"),
        (0x40, "CHMRRTLLBEA"),
        (0x10, "CHMRRTLLNEA"),
        (ALL_OFF, "EA"),
    ],
)
def test_a_stage_that_is_not_wanted_is_not_sent(bit: int, letters: str) -> None:
    talk = Talk(agreed=agreement(bit))
    outcome = talk.send()
    assert talk.letters == letters
    assert talk.waits == len(letters) - 1
    assert len([step for step in outcome.steps if not step.was_sent]) == 12 - len(letters)


def test_postfix_sends_macros_of_the_envelope_also_where_the_command_is_not_wanted() -> None:
    talk = Talk(agreed=agreement(ALL_OFF))
    talk.send()
    assert "".join(chr(one[0]) for one in talk.macros) == "CHMRRTE"


def test_sendmail_sends_macros_also_where_the_command_is_not_wanted() -> None:
    talk = Talk(agreed=agreement(ALL_OFF), mta=Mta.SENDMAIL)
    talk.send()
    assert "".join(chr(one[0]) for one in talk.macros) == "CHMRRE"


@pytest.mark.parametrize("mta", BOTH)
@pytest.mark.parametrize(
    ("version", "letters"),
    [(2, "CHMRRLLNBE"), (3, "CHUMRRLLNBE"), (4, "CHUMRRTLLNBE"), (5, "CHUMRRTLLNBE")],
)
def test_an_old_milter_is_not_sent_what_it_does_not_know(
    mta: Mta, version: int, letters: str
) -> None:
    talk = Talk(mta=mta, agreed=agreement(version=version))
    talk.run(talk.conversation.connect(CLIENT))
    talk.run(talk.conversation.helo())
    talk.run(talk.conversation.unknown("XYZZY"))
    talk.send()
    assert talk.letters.removesuffix("A") == letters
    assert (b"T" in [one[:1] for one in talk.macros]) == (mta is Mta.POSTFIX and version > 3)


# Sessions


def test_another_client_begins_another_session_where_the_milter_heeds_that() -> None:
    talk = Talk(mta=Mta.SENDMAIL)
    talk.send()
    outcome = talk.send(client=Client("other.example", "192.0.2.2"))
    assert (outcome.status, outcome.stage) == (Status.ACCEPT, "eom")
    assert talk.letters == "CHMRRTLLNBEKCHMRRTLLNBE"


@pytest.mark.parametrize("answers", [{"C": packet("r")}, {"E": packet("a")}, {"M": packet("t")}])
def test_another_client_needs_another_connection_elsewhere(answers: dict[str, bytes]) -> None:
    talk = Talk(answers, mta=Mta.SENDMAIL)
    talk.send()
    before = talk.letters
    with pytest.raises(LocalProtocolError, match="open another connection"):
        talk.send(client=Client("other.example", "192.0.2.2"))
    assert talk.letters == before


def test_without_a_client_one_is_made_up_and_kept() -> None:
    talk = Talk()
    talk.send(client=None)
    talk.send(client=Client())
    talk.send(client=None)
    assert talk.letters.count("C") == 1


@pytest.mark.parametrize("version", [2, 3, 4, 5])
def test_an_old_milter_has_one_session_a_connection(version: int) -> None:
    talk = Talk(mta=Mta.SENDMAIL, agreed=agreement(version=version))
    talk.send()
    before = list(talk.sent)
    with pytest.raises(LocalProtocolError, match=r"version 6.*open another connection"):
        talk.send(client=Client("other.example", "192.0.2.2"))
    assert talk.sent == before
    assert talk.send().status is Status.ACCEPT


@pytest.mark.parametrize(("mta", "letters"), [(Mta.POSTFIX, "CHAQ"), (Mta.SENDMAIL, "CHQ")])
def test_goodbye(mta: Mta, letters: str) -> None:
    """Postfix gives up a message that has never begun, too, once the client has said HELO."""
    talk = Talk(mta=mta)
    talk.run(talk.conversation.connect(CLIENT))
    talk.run(talk.conversation.helo())
    talk.run(talk.conversation.quit())
    assert talk.letters == letters


def test_goodbye_without_a_session() -> None:
    talk = Talk()
    talk.run(talk.conversation.quit())
    assert talk.sent == [b"Q"]


def test_a_session_begun_by_hand_is_gone_on_with() -> None:
    talk = Talk()
    talk.run(talk.conversation.connect(CLIENT))
    assert talk.send(client=None).status is Status.ACCEPT
    assert talk.letters == "CHMRRTLLNBEA"


def test_helo_before_a_client_is_empty() -> None:
    talk = Talk()
    talk.run(talk.conversation.helo())
    talk.run(talk.conversation.helo("x"))
    assert [one for one in talk.sent if one[:1] == b"H"] == [b"H\0", b"Hx\0"]


# What cannot be said


@pytest.mark.parametrize(
    ("headers", "error"),
    [
        ([("X", "x" * 65_536)], "header: 65539 bytes do not fit into a packet of 65535"),
        ([("X", "a\0b")], "NUL"),
        ([("X", "\ud800")], "no text that can be sent"),
    ],
)
@pytest.mark.parametrize("mta", BOTH)
def test_a_message_that_cannot_be_sent_is_given_up(
    mta: Mta, headers: list[tuple[str, str]], error: str
) -> None:
    talk = Talk(mta=mta)
    with pytest.raises((LocalProtocolError, ValueError), match=error):
        talk.send(Content([("From", "a"), *headers]))
    assert talk.letters == "CHMRRTLA"
    assert talk.send().status is Status.ACCEPT


def test_a_command_waits_until_the_one_before_is_answered() -> None:
    conversation = Conversation()
    next(conversation.negotiate())
    with pytest.raises(LocalProtocolError, match="negotiate still waits for its reply"):
        next(conversation.connect())


# Steps


def test_steps_tell_all_that_was_asked() -> None:
    talk = Talk({"E": packet("y", b"550 5.7.1 no\0")}, agreed=agreement(0x1 | 0x80000))
    lines = [
        f"{step.stage} {step.argument} {step.was_sent:d}{step.is_answered:d} {step.answer}"
        for step in talk.send().steps
    ]
    assert lines == [
        "connect client.example [192.0.2.1]:12345 00 CONTINUE",
        "helo helo.example 11 CONTINUE",
        "mail <a@example.com> 11 CONTINUE",
        "rcpt <b@example.org> 11 CONTINUE",
        "rcpt <c@example.org> 11 CONTINUE",
        "data  11 CONTINUE",
        "header From: a@example.com 11 CONTINUE",
        "header Subject: test 11 CONTINUE",
        "eoh  11 CONTINUE",
        "body 7 bytes 10 CONTINUE",
        "eom  11 REJECT 550 5.7.1 no",
    ]


def test_a_step_is_one_line() -> None:
    talk = Talk()
    talk.run(talk.conversation.header("X", " a\n\tb\x1b"))
    assert talk.conversation.steps[-1].argument == r"X: a\n\tb\x1b"


def test_the_steps_of_messages_by_hand_do_not_pile_up() -> None:
    talk = Talk()
    talk.run(talk.conversation.connect(CLIENT))
    for _ in range(3):
        talk.run(talk.conversation.mail("a@b"))
        talk.run(talk.conversation.rcpt("c@d"))
        talk.run(talk.conversation.end_of_message())
        talk.run(talk.conversation.abort())
    assert [step.stage for step in talk.conversation.steps] == ["mail", "rcpt", "eom"]
