"""The macros that an MTA sends: which, where, and with what values."""

from __future__ import annotations

import pytest

from aiomilter.app.mta.envelope import Client, Envelope, Path
from aiomilter.app.mta.kind import Mta
from aiomilter.app.mta.macros import MacroSource, normalise_name
from aiomilter.errors import LocalProtocolError
from aiomilter.wire.replies import Negotiated
from tests.app.mta.scripted import CLIENT, CONTENT, Talk, agreement

BOTH = [Mta.POSTFIX, Mta.SENDMAIL]
NOTHING_ASKED = Negotiated(6, 0x1FF, 0)


def stages(talk: Talk) -> str:
    """The commands that macros have been sent for."""
    return "".join(chr(one[0]) for one in talk.macros)


def macros_of(talk: Talk, letter: str) -> list[dict[bytes, bytes]]:
    """The macros that went with each command of a kind."""
    found: list[dict[bytes, bytes]] = []
    for one in talk.macros:
        if one[:1] == letter.encode():
            strings = one[1:].split(b"\0")[:-1]
            found.append(dict(zip(strings[::2], strings[1::2], strict=True)))
    return found


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("i", "i"),
        ("{i}", "i"),
        ("_", "_"),
        ("{_}", "_"),
        ("auth_authen", "{auth_authen}"),
        ("{auth_authen}", "{auth_authen}"),
    ],
)
def test_a_name_has_braces_if_it_is_long(name: str, expected: str) -> None:
    assert normalise_name(name) == expected


# Stages


def test_postfix_sends_macros_ahead_of_every_command() -> None:
    talk = Talk()
    talk.run(talk.conversation.unknown("XYZZY"))
    talk.send()
    assert talk.all_letters == "DU" + "".join(f"D{one}" for one in "CHMRRTLLNBE") + "A"
    assert (talk.macros[0], talk.macros[2]) == (b"U", b"H")


def test_sendmail_sends_macros_ahead_of_some_commands() -> None:
    talk = Talk(mta=Mta.SENDMAIL)
    talk.run(talk.conversation.unknown("XYZZY"))
    talk.send()
    assert talk.all_letters == "UDCDHDMDRDRTLLNBDE"


def test_in_postfix_the_queue_id_is_there_from_the_first_accepted_recipient_on() -> None:
    talk = Talk()
    talk.send()
    talk.send()
    with_id = [b"i" in values for letter in "MRTLNBE" for values in macros_of(talk, letter)]
    # M M, R R R R, T T, L L L L, N N, B B, E E
    assert with_id == [False, False, False, True, False, True, *[True] * 12]


def test_in_sendmail_the_queue_id_is_there_from_mail_on() -> None:
    talk = Talk(mta=Mta.SENDMAIL, agreed=agreement(requests={3: b"i", 5: b"i"}))
    talk.send()
    for letter in "MRE":
        assert all(values[b"i"] == b"4aio00000001" for values in macros_of(talk, letter))


@pytest.mark.parametrize("mta", BOTH)
def test_the_recipient_is_no_longer_there_after_the_last_one(mta: Mta) -> None:
    talk = Talk(mta=mta, agreed=agreement(requests={4: b"i {rcpt_addr}"}))
    talk.send()
    assert macros_of(talk, "T") == [{b"i": b"4aio00000001"}]


# What a milter asks for


@pytest.mark.parametrize("mta", BOTH)
def test_a_milter_has_the_macros_that_it_asks_for(mta: Mta) -> None:
    requests = {
        0: b"j {client_addr} {client_port} {client_name} {nosuch}",
        1: b"j",
        2: b"{mail_addr} {i}",
        3: b"{rcpt_addr}",
        4: b"i",
        5: b"i {msg_id}",
        6: b"i j",
    }
    talk = Talk(mta=mta, agreed=agreement(requests=requests))
    talk.send()
    assert macros_of(talk, "C") == [
        {
            b"j": b"mx.example.org",
            b"{client_addr}": b"192.0.2.1",
            b"{client_port}": b"12345",
            b"{client_name}": b"client.example",
        }
    ]
    assert macros_of(talk, "H") == [{b"j": b"mx.example.org"}]
    assert [set(values) for values in macros_of(talk, "R")] == [{b"{rcpt_addr}"}] * 2
    assert macros_of(talk, "T") == [{b"i": b"4aio00000001"}]
    assert macros_of(talk, "N") == [{b"i": b"4aio00000001", b"j": b"mx.example.org"}]
    at_end = {b"i": b"4aio00000001", b"{msg_id}": b"<4aio00000001@mx.example.org>"}
    assert macros_of(talk, "E") == [at_end]
    # Postfix has one list for the body and its end, and none for the headers.
    assert macros_of(talk, "B") == ([at_end] if mta is Mta.POSTFIX else [])
    assert macros_of(talk, "L") == [{b"i": b"4aio00000001"}] * (2 if mta is Mta.POSTFIX else 0)


def test_a_name_comes_back_as_it_was_asked_for() -> None:
    talk = Talk(mta=Mta.SENDMAIL, agreed=agreement(requests={2: b"{i} mail_addr"}))
    talk.send()
    assert b"M{i}\x004aio00000001\0mail_addr\0a@example.com\0" in talk.macros


def test_to_ask_for_no_macros_means_the_default_ones_to_postfix() -> None:
    plain, asking = Talk(), Talk(agreed=agreement(requests=dict.fromkeys(range(7), b"")))
    plain.send()
    asking.send()
    assert asking.sent == plain.sent


def test_to_ask_for_no_macros_means_none_to_sendmail_but_at_the_end_of_the_message() -> None:
    talk = Talk(mta=Mta.SENDMAIL, agreed=agreement(requests=dict.fromkeys(range(7), b" ")))
    talk.send()
    assert talk.macros == [b"E{msg_id}\0<4aio00000001@mx.example.org>\0"]


@pytest.mark.parametrize("mta", BOTH)
def test_macros_that_have_no_value_make_an_empty_packet(mta: Mta) -> None:
    talk = Talk(mta=mta, agreed=agreement(requests={2: b"{nosuch}", 6: b"{nosuch}"}))
    talk.send()
    assert macros_of(talk, "M") == [{}]
    assert macros_of(talk, "N") == [{}]


@pytest.mark.parametrize("mta", BOTH)
def test_a_request_for_an_unknown_stage_is_nothing(mta: Mta) -> None:
    plain, asking = Talk(mta=mta), Talk(mta=mta, agreed=agreement(requests={7: b"i", 99: b"j"}))
    plain.send()
    asking.send()
    assert asking.sent == plain.sent


# Values


@pytest.mark.parametrize("mta", BOTH)
@pytest.mark.parametrize("name", ["auth_authen", "{auth_authen}"])
def test_a_given_value_goes_where_its_macro_does(mta: Mta, name: str) -> None:
    talk = Talk(mta=mta, macros={name: "jo\u00e9"})
    talk.send()
    for letter in "CHRTNBE":
        assert all(b"{auth_authen}" not in values for values in macros_of(talk, letter))
    assert [values[b"{auth_authen}"] for values in macros_of(talk, "M")] == [b"jo\xc3\xa9"]


@pytest.mark.parametrize("mta", BOTH)
def test_a_given_value_comes_ahead_of_a_made_up_one(mta: Mta) -> None:
    talk = Talk(mta=mta, macros={"j": "own.example", "{i}": "OWN", "daemon_name": ""})
    talk.send()
    assert macros_of(talk, "C")[0][b"j"] == b"own.example"
    assert macros_of(talk, "C")[0][b"{daemon_name}"] == b""
    assert macros_of(talk, "M")[0][b"i"] == b"OWN"


@pytest.mark.parametrize("mta", BOTH)
def test_a_given_value_that_no_list_names_goes_with_connect_and_mail(mta: Mta) -> None:
    talk = Talk(mta=mta, macros={"own": "x"})
    talk.send()
    having = [one[:1] for one in talk.macros if b"{own}\0x\0" in one]
    assert having == [b"C", b"M"]


@pytest.mark.parametrize("mta", BOTH)
def test_values_for_one_message_are_for_that_one(mta: Mta) -> None:
    talk = Talk(mta=mta, macros={"auth_authen": "joe"})
    talk.send(macros={"{auth_authen}": "eve", "auth_type": "plain"})
    talk.send()
    talk.run(talk.conversation.mail("a@b"))
    found = [
        (values.get(b"{auth_authen}"), values.get(b"{auth_type}"))
        for values in macros_of(talk, "M")
    ]
    assert found == [(b"eve", b"plain"), (b"joe", None), (b"joe", None)]


def test_a_value_with_nul_is_refused() -> None:
    talk = Talk(macros={"j": "a\0b"})
    with pytest.raises(LocalProtocolError, match="NUL"):
        talk.send()
    assert talk.letters == ""


def test_another_session_has_its_own_values() -> None:
    talk = Talk(mta=Mta.SENDMAIL)
    talk.send()
    talk.send(client=Client("other.example", "192.0.2.2"))
    shown = [values[b"_"] for values in macros_of(talk, "C")]
    assert shown == [b"client.example [192.0.2.1]", b"other.example [192.0.2.2]"]


@pytest.mark.parametrize(
    ("client", "postfix", "sendmail"),
    [
        (Client("[192.0.2.1]", "192.0.2.1"), b"unknown [192.0.2.1]", b"[192.0.2.1] [192.0.2.1]"),
        (Client("h", "2001:db8::1"), b"h [2001:db8::1]", b"h [IPv6:2001:db8:0:0:0:0:0:1]"),
        (Client("localhost", None), b"localhost [unknown]", b"localhost [unknown]"),
        (Client("localhost", "/run/x"), b"localhost [/run/x]", b"localhost [/run/x]"),
    ],
)
def test_the_client_as_a_macro(client: Client, postfix: bytes, sendmail: bytes) -> None:
    for mta, expected in ((Mta.POSTFIX, postfix), (Mta.SENDMAIL, sendmail)):
        talk = Talk(mta=mta)
        talk.run(talk.conversation.connect(client))
        assert macros_of(talk, "C")[0][b"_"] == expected


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("<>", {b"{mail_addr}": b"", b"{mail_host}": b"", b"{mail_mailer}": b"local"}),
        ("joe", {b"{mail_addr}": b"joe", b"{mail_host}": b"", b"{mail_mailer}": b"local"}),
        (
            '"a@b"@c.example',
            {
                b"{mail_addr}": b'"a@b"@c.example',
                b"{mail_host}": b"c.example",
                b"{mail_mailer}": b"smtp",
            },
        ),
    ],
)
def test_an_address_as_macros(address: str, expected: dict[bytes, bytes]) -> None:
    talk = Talk()
    talk.send(CONTENT, envelope=Envelope(address, "b@example.org"), client=CLIENT)
    assert macros_of(talk, "M") == [expected]


def test_macros_before_a_client_is_known_have_no_values() -> None:
    packet = MacroSource(Mta.POSTFIX).packet(b"C", NOTHING_ASKED)
    assert packet is not None
    assert packet.encode() == b"\0\0\0\x02DC"


def test_parameters_are_no_part_of_the_address() -> None:
    talk = Talk()
    talk.run(talk.conversation.mail(Path("a@b", "SIZE=1")))
    assert macros_of(talk, "M")[0][b"{mail_addr}"] == b"a@b"
