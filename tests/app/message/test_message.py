"""Whole messages: their bytes, copies for reading, footers, and hostile mail."""

from __future__ import annotations

import time
from email import message_from_bytes
from email.policy import default

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiomilter.app.message import (
    Body,
    EmailLimits,
    EnvelopeAddress,
    Header,
    Headers,
    Message,
    Recipients,
    plan_edits,
)
from aiomilter.app.message.mime import MimeLimits, content_type_of, iter_parts
from aiomilter.app.socket_info import SocketInfo
from aiomilter.errors import MessageLimitExceeded, SpoolError


def message_of(source: bytes) -> Message:
    """Return a message of bytes whose lines end in LF."""
    head, _, body = source.partition(b"\n\n")
    fields = [] if not head else head.replace(b"\n ", b"\r ").replace(b"\n\t", b"\r\t").split(b"\n")
    headers = []
    for field in fields:
        name, _, value = field.partition(b":")
        headers.append(Header(name, value.replace(b"\r", b"\n")))
    return Message(
        EnvelopeAddress.received("<a@src.example>"),
        Recipients([EnvelopeAddress.received("<b@dst.example>")]),
        Headers(headers),
        Body(body.replace(b"\n", b"\r\n")),
        queue_id="4X",
        macros={"i": "4X"},
        hostname="client.example",
        helo_name="helo.example",
    )


def test_the_bytes_are_those_that_the_mta_has_received() -> None:
    message = message_of(b"Subject:no blank\nTo: a,\n\tb  \nX-\xff: \xff\n\n.\n\xff\n")
    received = b"Subject:no blank\r\nTo: a,\r\n\tb  \r\nX-\xff: \xff\r\n\r\n.\r\n\xff\r\n"
    assert message.as_bytes() == message.as_bytes(edited=True) == received
    message.headers.replace("Subject", "new")
    message.headers.remove("To")
    message.body.replace(b"other")
    assert message.as_bytes() == received
    assert message.as_bytes(edited=True) == b"Subject: new\r\nX-\xff: \xff\r\n\r\nother\r\n"
    assert list(message.iter_bytes(size=2))[1:] == [b".\r", b"\n\xff", b"\r\n"]


def test_a_message_knows_where_it_comes_from() -> None:
    message = message_of(b"Subject: x\n\n\n")
    assert (message.queue_id, message.hostname, message.helo_name) == (
        "4X",
        "client.example",
        "helo.example",
    )
    assert message.client == SocketInfo("unknown")
    assert message.macros["i"] == "4X"
    assert repr(message) == (
        "<Message 4X: from '<a@src.example>', 1 recipients, 1 headers, 2 bytes of body>"
    )
    message.sender = EnvelopeAddress("<n@x>", "RET=HDRS")
    assert message.sender.params == ("RET=HDRS",)
    assert str(message.original_sender) == "<a@src.example>"


def test_a_quarantine_has_a_reason() -> None:
    message = message_of(b"\n\n")
    assert message.quarantine_reason is None
    for reason in ("", "a\nb"):
        with pytest.raises(ValueError, match="reason of a quarantine"):
            message.quarantine(reason)
    assert message.quarantine_reason is None
    message.quarantine("why")
    assert message.quarantine_reason == "why"


def test_a_message_that_is_over_is_an_error() -> None:
    message = message_of(b"Subject: x\n\nbody\n")
    message.close()
    with pytest.raises(SpoolError, match="the message is over"):
        message.as_bytes()


def test_the_example_tags_adds_and_appends() -> None:
    message = message_of(b"Subject: =?utf-8?q?gr=C3=BC=C3=9Fe?=\n\nhello\n")
    subject = message.headers.get_text("Subject")
    message.headers.replace("Subject", f"[external] {subject}")
    message.recipients.add("<archive@example.org>")
    assert message.append_footer("Checked by example.org.")
    assert message.as_bytes(edited=True) == (
        b"Subject: [external] =?utf-8?q?gr=C3=BC=C3=9Fe?=\r\n\r\n"
        b"hello\r\nChecked by example.org.\r\n"
    )
    assert len(plan_edits(message).edits) == 2


# Copies for reading

MULTIPART = b"""\
From: "A, B" <a@x>
Subject: =?utf-8?q?gr=C3=BC=C3=9Fe?=
MIME-Version: 1.0
Content-Type: multipart/mixed; boundary="b1"

preamble
--b1
Content-Type: text/plain; charset=utf-8
Content-Transfer-Encoding: base64

Z3LDvMOfZQ==
--b1
Content-Type: application/x
Content-Disposition: attachment; filename="x.bin"

data
--b1--
epilogue
"""


def test_a_copy_is_what_email_makes_of_it() -> None:
    message = message_of(MULTIPART)
    copy = message.to_email()
    assert copy["Subject"] == "grüße"
    assert copy["From"].addresses[0].display_name == "A, B"
    text = copy.get_body()
    assert text is not None
    assert text.get_content() == "grüße"
    (attachment,) = copy.iter_attachments()
    assert attachment.get_filename() == "x.bin"
    del copy["Subject"]
    assert "Subject" in message.headers


def test_headers_that_email_stumbles_over_are_text() -> None:
    message = message_of(
        b"To: "
        + b"a@b," * 5000
        + b"\nCc: "
        + b"(" * 1500
        + b"\nSubject: "
        + b"=?utf-8?q?a?=" * 300
        + b"\nContent-Type: text/plain;"
        + b" a=b;" * 5000
        + b"\nContent-Disposition: inline;"
        + b" a=b;" * 5000
        + b"\n\nx\n"
    )
    began = time.process_time()
    copy = message.to_email()
    assert copy["To"].startswith("a@b,a@b,")
    assert copy["Cc"].startswith("((")
    assert copy["Subject"] == "a" * 300
    assert copy.get_content_type() == "application/octet-stream"
    assert copy.is_attachment()
    assert time.process_time() - began < 3


def test_long_headers_are_parsed_until_there_were_many() -> None:
    message = message_of(b"To: " + b"a@b, " * 390 + b"\n\nx\n")
    copy = message.to_email()
    assert len(copy["To"].addresses) == 390
    assert any(not hasattr(copy["To"], "addresses") for _ in range(11))


@pytest.mark.parametrize(
    ("source", "limits", "rule"),
    [
        (b"X: 1\nY: 2\n\n", EmailLimits(max_headers=1), "more than 1 headers"),
        (b"X: 1\n\nbody\n", EmailLimits(max_bytes=10), "more than 10 bytes"),
        (b"X: 1\n\n\n\n\n", EmailLimits(max_lines=2), "more than 2 lines"),
        (MULTIPART, EmailLimits(max_parts=1), "more than 1 parts"),
        (MULTIPART, EmailLimits(max_depth=0), "more than 0 multiparts"),
    ],
)
def test_a_message_beyond_the_limits_is_an_error(
    source: bytes, limits: EmailLimits, rule: str
) -> None:
    message = message_of(source)
    with pytest.raises(MessageLimitExceeded, match=rule):
        message.to_email(limits=limits)
    assert message.as_bytes()


def nested(depth: int) -> bytes:
    return b"Content-Type: multipart/mixed; boundary=b0\n\n" + b"".join(
        b"--b%d\nContent-Type: multipart/mixed; boundary=b%d\n\n" % (level, level + 1)
        for level in range(depth)
    )


HOSTILE = {
    "nested": nested(5000),
    "many parts": b"Content-Type: multipart/mixed; boundary=b\n\n" + b"--b\n\n" * 200_000,
    "many delimiters": b"Content-Type: multipart/mixed; boundary=b\n\n" + b"--c\n" * 400_000,
    "many lines": b"Subject: x\n\n" + b"\n" * 2_000_000,
    "endless part headers": b"Content-Type: multipart/mixed; boundary=b\n\n--b\n"
    + b"X: 1\n" * 99_999,
    "one long part header": b"Content-Type: multipart/mixed; boundary=b\n\n--b\nX:"
    + b"\n " * 99_999,
    "endless parameters": b"Content-Type: text/plain" + b"; a=b" * 100_000 + b"\n\nx\n",
    "a long type": b"Content-Type: " + b"a/" * 100_000 + b"\n\nx\n",
    "an open quote": b'Content-Type: text/plain; a="' + b"\\" * 100_000 + b"\n\nx\n",
    "messages in messages": b"Content-Type: message/rfc822\n\n"
    + b"Content-Type: message/rfc822\n\n" * 3000,
    "a huge list": b"To: " + b"a@b, " * 100_000 + b"\n\nx\n",
    "comments": b"To: " + b"(" * 100_000 + b"\n\nx\n",
}


@pytest.mark.parametrize("source", HOSTILE.values(), ids=HOSTILE)
def test_hostile_messages_cost_little_time(source: bytes) -> None:
    message = message_of(source)
    began = time.process_time()
    try:
        for part in message.to_email().walk():
            for value in part.values():
                str(value)
            part.get_filename()
    except MessageLimitExceeded:
        pass
    message.append_footer("footer")
    message.close()
    assert time.process_time() - began < 5


def test_a_parser_out_of_its_depth_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def too_deep(*_: object, **__: object) -> None:
        raise RecursionError

    monkeypatch.setattr("aiomilter.app.message.email_copy.message_from_bytes", too_deep)
    with pytest.raises(MessageLimitExceeded, match="too deep"):
        message_of(MULTIPART).to_email()


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            [
                b"--a\n",
                b"--a--\n",
                b"--b\n",
                b"--b--\n",
                b"\n",
                b"text\n",
                b"--a",
                b"X: 1\n",
                b" f\n",
                b"Content-Type: multipart/mixed; boundary=b\n",
                b"Content-Type: text/plain\n",
            ]
        ),
        max_size=20,
    ).map(b"".join)
)
def test_any_parts_are_found_without_harm(body: bytes) -> None:
    message = message_of(b"Content-Type: multipart/mixed; boundary=a\n\n" + body)
    raw = message.body.read()
    found = list(iter_parts(list(message.headers), raw, MimeLimits()))
    ends = [(part.start, part.content, part.end) for part in found if part.end is not None]
    for start, content, end in ends:
        assert 0 <= start <= content <= end <= len(raw)
    message.append_footer("FOOT")
    new = message.as_bytes(edited=True)
    assert new.count(b"FOOT") <= 1
    # email finds as many parts as before.
    count = sum(1 for _ in message_from_bytes(message.as_bytes(), policy=default).walk())
    if message.body.is_changed():
        assert sum(1 for _ in message_from_bytes(new, policy=default).walk()) == count


@pytest.mark.parametrize(
    ("value", "kind", "params"),
    [
        ("text/plain", "text/plain", {}),
        ("Text/HTML ; Charset=UTF-8", "text/html", {"charset": "UTF-8"}),
        ('a/b; x="a\\"b; c"; y=2', "a/b", {"x": 'a"b; c', "y": "2"}),
        ("a/b; x=1; x=2", "a/b", {"x": "1"}),
        ("text", "", {}),
        ("", "", {}),
        ("a/b/c", "", {}),
    ],
)
def test_a_content_type_is_read(value: str, kind: str, params: dict[str, str]) -> None:
    assert content_type_of(value) == (kind, params)


def test_of_many_parameters_the_first_count() -> None:
    assert len(content_type_of("a/b" + "".join(f"; {n}=1" for n in range(500)))[1]) == 64
