"""Addresses of the envelope, their parameters, and the set of recipients."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiomilter.app.message.address import EnvelopeAddress
from aiomilter.app.message.domain import ascii_domain, unicode_domain
from aiomilter.app.message.params import Params, decode_xtext
from aiomilter.app.message.recipients import Recipients


@pytest.mark.parametrize(
    ("text", "mailbox", "local", "domain"),
    [
        ("<a@Example.org>", "a@Example.org", "a", "Example.org"),
        ("a@example.org", "a@example.org", "a", "example.org"),
        ("<>", "", "", ""),
        ("<postmaster>", "postmaster", "postmaster", ""),
        ('<"a b\\"@c"@x>', '"a b\\"@c"@x', 'a b"@c', "x"),
        ('<"a@b">', '"a@b"', "a@b", ""),
        ("<@one,@two:a@x>", "a@x", "a", "x"),
        ("<a@[IPv6:::1]>", "a@[IPv6:::1]", "a", "[IPv6:::1]"),
        ("<jürg@bücher.example>", "jürg@bücher.example", "jürg", "bücher.example"),
        ("<a@b@c>", "a@b@c", "a@b", "c"),
        ("<", "", "", ""),
        ("<a@x> junk", "a@x> junk", "a", "x> junk"),
        ("<\udcff@x>", "\udcff@x", "\udcff", "x"),
    ],
)
def test_an_address_is_taken_apart(text: str, mailbox: str, local: str, domain: str) -> None:
    address = EnvelopeAddress.received(text)
    assert (address.mailbox, address.local_part, address.domain) == (mailbox, local, domain)
    assert address.is_null == (not mailbox)
    assert str(address).startswith("<")


@given(st.text())
def test_nothing_that_a_client_sends_raises(text: str) -> None:
    address = EnvelopeAddress.received(text, [text])
    assert address.key == address.key
    assert ascii(address)
    assert address.unicode_domain is not None
    params = address.parameters
    for name in ("size", "body", "smtputf8", "ret", "envid", "auth", "notify", "orcpt"):
        getattr(params, name)
    assert isinstance(decode_xtext(text.replace("\ud800", "")), str) or "\ud800" in text


@pytest.mark.parametrize(
    ("domain", "in_ascii", "readable"),
    [
        ("Example.ORG", "example.org", "example.org"),
        ("Bücher.example", "xn--bcher-kva.example", "bücher.example"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example", "bücher.example"),
        ("straße.example", "xn--strae-oqa.example", "straße.example"),
        ("日本。jp", "xn--wgv71a.jp", "日本.jp"),
        ("\uff21.example", "a.example", "\uff41.example"),
        ("[192.0.2.1]", "[192.0.2.1]", "[192.0.2.1]"),
        ("xn--a.example", "xn--a.example", "xn--a.example"),
        ("xn--99999999.example", "xn--99999999.example", "xn--99999999.example"),
        ("xn---.example", "xn---.example", "xn---.example"),
        ("ü☃.example", None, "ü☃.example"),
        ("ü" * 60 + ".example", None, "ü" * 60 + ".example"),
        ("ü" * 300, None, "ü" * 300),
        ("\udcff.example", None, "\udcff.example"),
        ("", "", ""),
    ],
)
def test_a_domain_has_two_forms(domain: str, in_ascii: str | None, readable: str) -> None:
    assert ascii_domain(domain) == in_ascii
    assert unicode_domain(domain) == readable


def test_a_long_domain_takes_no_time() -> None:
    began = time.process_time()
    assert ascii_domain("ü." * 100_000) is None
    assert unicode_domain("xn--a." * 100_000)
    EnvelopeAddress.received("<" + "@a," * 100_000 + ":b@c>").key  # noqa: B018
    assert time.process_time() - began < 2


def test_parameters_are_read() -> None:
    params = Params(
        [
            "size=1000",
            "BODY=8bitmime",
            "SMTPUTF8",
            "RET=hdrs",
            "ENVID=a+2Bb+3D",
            "AUTH=<>",
            "SIZE=7",
            "X-OTHER=1",
        ]
    )
    assert params.size == 1000
    assert params.body == "8BITMIME"
    assert params.smtputf8
    assert params.ret == "HDRS"
    assert params.envid == "a+b="
    assert params.auth == "<>"
    assert params.notify == frozenset()
    assert params.orcpt is None
    assert params.get("x-other") == "1"
    assert params.get("smtputf8") == ""
    assert params.get("none") is None
    assert "ret" in params
    assert 7 not in params
    recipient = Params(["NOTIFY=success,DELAY", "ORCPT=RFC822;a+2Bb@x"])
    assert recipient.notify == {"SUCCESS", "DELAY"}
    assert recipient.orcpt == ("rfc822", "a+b@x")


@pytest.mark.parametrize(
    "param",
    [
        "SIZE=x",
        "SIZE=",
        "SIZE=" + "9" * 5000,
        "SIZE=²",
        "RET=ALL",
        "NOTIFY=NEVER,DELAY",
        "NOTIFY=X",
        "ORCPT=x",
        "ORCPT=;x",
        "BODY=",
        "ENVID=",
        "AUTH",
    ],
)
def test_a_parameter_that_is_written_wrongly_is_not_there(param: str) -> None:
    params = Params([param])
    assert (params.size, params.body, params.ret, params.envid, params.auth) == (None,) * 5
    assert params.notify == frozenset()
    assert params.orcpt is None


@pytest.mark.parametrize(
    ("text", "decoded"),
    [("a", "a"), ("+C3+BC", "ü"), ("+FF", "\udcff"), ("+", "+"), ("+2b", "+2b")],
)
def test_xtext_is_decoded(text: str, decoded: str) -> None:
    assert decode_xtext(text) == decoded


@pytest.mark.parametrize("text", ["<a@b>\r\nRCPT TO:<c@d>", "a\0", "a\n@b"])
def test_an_authors_address_is_checked(text: str) -> None:
    with pytest.raises(ValueError, match="no CR, LF or NUL"):
        EnvelopeAddress(text)
    with pytest.raises(ValueError, match="no CR, LF or NUL"):
        Recipients().add(text)


@pytest.mark.parametrize("param", ["A B", "", "A\tB"])
def test_a_parameter_is_one_word(param: str) -> None:
    with pytest.raises(ValueError, match="one word"):
        EnvelopeAddress("a@b", param)


def received() -> Recipients:
    return Recipients(
        [
            EnvelopeAddress.received("<b@dst.example>", ["NOTIFY=NEVER"]),
            EnvelopeAddress.received("<c@DST.example>"),
            EnvelopeAddress.received("<b@Dst.example>"),
        ]
    )


def test_recipients_are_an_ordered_set() -> None:
    recipients = received()
    assert [str(one) for one in recipients] == ["<b@dst.example>", "<c@DST.example>"]
    assert len(recipients) == 2
    assert len(recipients.original) == 3
    assert "b@DST.EXAMPLE" in recipients
    assert "B@dst.example" not in recipients
    assert 7 not in recipients
    assert EnvelopeAddress("c@dst.example") in recipients
    assert recipients.add("<c@dst.example>").address == "<c@DST.example>"
    assert recipients.add("new@x").address == "<new@x>"
    assert recipients.discard("<B@dst.example>") is False
    assert recipients.discard(" b@dst.example ") is True
    assert [str(one) for one in recipients] == ["<c@DST.example>", "<new@x>"]
    for recipient in recipients:
        recipients.discard(recipient)
    assert not recipients
    assert repr(received()) == "Recipients('<b@dst.example>', '<c@DST.example>')"
    recipients = received()
    recipients.clear()
    assert list(recipients) == []


def test_the_postmaster_is_one_in_any_case() -> None:
    recipients = Recipients([EnvelopeAddress.received("<Postmaster>")])
    assert "postmaster" in recipients
    recipients.add("<POSTMASTER>")
    assert len(recipients) == 1


def test_a_recipient_may_get_other_parameters() -> None:
    recipients = received()
    assert recipients.add("b@dst.example").params == ("NOTIFY=NEVER",)
    assert recipients.add("b@dst.example", "NOTIFY=SUCCESS ORCPT=rfc822;x@y").params == (
        "NOTIFY=SUCCESS",
        "ORCPT=rfc822;x@y",
    )
    assert recipients.add("b@dst.example", []).params == ()
    assert recipients.add(EnvelopeAddress("n@x", "NOTIFY=NEVER")).params == ("NOTIFY=NEVER",)


@pytest.mark.parametrize("param", ["X=1", "NOTIFY=X", "ORCPT=x", "NOTIFY", "SIZE=1"])
def test_a_parameter_that_an_mta_stumbles_over_is_refused(param: str) -> None:
    recipients = received()
    with pytest.raises(ValueError, match="NOTIFY or ORCPT"):
        recipients.add("n@x", param)
    with pytest.raises(ValueError, match="has an address"):
        recipients.add("<>")
    assert len(recipients) == 2
