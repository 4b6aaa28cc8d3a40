"""A footer behind the first text that people read."""

from __future__ import annotations

import pytest

from aiomilter.app.message import Body, EnvelopeAddress, Headers, Message, Recipients
from tests.app.message.test_message import message_of, nested

CT = b"Content-Type: "


def part(head: bytes, content: bytes) -> bytes:
    return (
        b"Content-Type: multipart/alternative; boundary=b\n\n--b\n"
        + head
        + b"\n"
        + content
        + b"\n--b--\n"
    )


SEVERAL = b"""\
Content-Type: multipart/mixed; boundary=o

--o
Content-Type: message/rfc822

X: 1

in
--o
Content-Disposition: attachment

in
--o
Content-Type: text/html

in
--o
Content-Disposition: inline

%b
--o--
"""
AS_UTF8 = b"""\
X: 1
MIME-Version: 1.0
Content-Type: text/plain; charset=utf-8
Content-Transfer-Encoding: quoted-printable

hello
=C3=BC
"""


@pytest.mark.parametrize(
    ("source", "footer", "result"),
    [
        (b"X: 1\n\nhello\n", "foot\nnote\n", b"X: 1\n\nhello\nfoot\nnote\n"),
        (b"X: 1\n\n", "foot", b"X: 1\n\nfoot\n"),
        (
            CT + b"text/plain; charset=iso-8859-1\nContent-Transfer-Encoding: 8bit\n\n\xe9\n",
            "ü",
            CT + b"text/plain; charset=iso-8859-1\nContent-Transfer-Encoding: 8bit\n\n\xe9\n\xfc\n",
        ),
        # Seven bits do not hold it.
        (
            CT + b"text/plain; charset=iso-8859-1\n\na=b\n",
            "ü",
            CT + b"text/plain; charset=iso-8859-1\nMIME-Version: 1.0\n"
            b"Content-Transfer-Encoding: quoted-printable\n\na=3Db\n=FC\n",
        ),
        # Neither does the charset.
        (
            b"X: 1\n\nhello\n",
            "ü",
            AS_UTF8,
        ),
        (
            b"MIME-Version: 1.0\n" + CT + b'text/plain; charset="iso-8859-1"; format=flowed\n'
            b"Content-Transfer-Encoding: quoted-printable\n\n=E9\n",
            "日",
            b"MIME-Version: 1.0\n" + CT + b"text/plain; charset=utf-8; format=flowed\n"
            b"Content-Transfer-Encoding: quoted-printable\n\n=C3=A9\n=E6=97=A5\n",
        ),
        (
            b"MIME-Version: 1.0\n" + CT + b"text/plain; charset=iso-8859-1\n"
            b"Content-Transfer-Encoding: 8bit\n\n\xe9\n",
            "日",
            b"MIME-Version: 1.0\n" + CT + b"text/plain; charset=utf-8\n"
            b"Content-Transfer-Encoding: 8bit\n\n\xc3\xa9\n\xe6\x97\xa5\n",
        ),
        (
            b"MIME-Version: 1.0\n"
            + CT
            + b"text/plain\nContent-Transfer-Encoding: base64\n\naGk=\n",
            "ü",
            b"MIME-Version: 1.0\n" + CT + b"text/plain; charset=utf-8\n"
            b"Content-Transfer-Encoding: base64\n\naGkNCsO8DQo=\n",
        ),
        # The last line of a quoted-printable part may go on.
        (
            CT + b"text/plain\nContent-Transfer-Encoding: Quoted-Printable\n\na=\n",
            "b=c",
            CT + b"text/plain\nContent-Transfer-Encoding: Quoted-Printable\n\na=\n\nb=3Dc\n",
        ),
        (part(CT + b"text/plain\n", b"hello"), "foot", part(CT + b"text/plain\n", b"hello\nfoot")),
        (part(b"", b""), "foot", part(b"", b"foot")),
        (
            part(CT + b"text/plain; charset=utf-8\nContent-Transfer-Encoding: base64\n", b"aGk="),
            "ü",
            part(
                CT + b"text/plain; charset=utf-8\nContent-Transfer-Encoding: base64\n", b"aGkNCsO8"
            ),
        ),
        (
            part(CT + b"text/plain\nX: 1\n", b"hello"),
            "ü",
            part(
                CT
                + b"text/plain; charset=utf-8\nX: 1\nContent-Transfer-Encoding: quoted-printable\n",
                b"hello\n=C3=BC",
            ),
        ),
        # What is attached, or HTML, is not what people read as text.
        (SEVERAL % b"this", "foot", SEVERAL % b"this\nfoot"),
    ],
)
def test_a_footer_is_appended(source: bytes, footer: str, result: bytes) -> None:
    message = message_of(source)
    assert message.append_footer(footer)
    assert message.as_bytes(edited=True).replace(b"\r\n", b"\n") == result


SIGNED = b'multipart/signed; boundary=s; protocol="application/pgp-signature"'


@pytest.mark.parametrize(
    "source",
    [
        CT
        + SIGNED
        + b"\n\n--s\n\ntext\n--s\nContent-Type: application/pgp-signature\n\nsig\n--s--\n",
        CT
        + b"multipart/mixed; boundary=o\n\n--o\n"
        + CT
        + SIGNED
        + b"\n\n--s\n"
        + CT
        + b"multipart/mixed; boundary=i\n\n--i\n\ntext\n--i--\n--s--\n--o--\n",
        CT + b"multipart/encrypted; boundary=s\n\n--s\n\ntext\n--s--\n",
        CT + b"application/pkcs7-mime\n\ntext\n",
        b"X: 1\n\n-----BEGIN PGP SIGNED MESSAGE-----\n\ntext\n",
        CT + b"text/html\n\ntext\n",
        CT + b"text/plain\n" + CT + b"text/html\n\ntext\n",
        CT + b"nothing\n\ntext\n",
        CT + b"multipart/mixed\n\n--b\n\ntext\n--b--\n",
        CT + b"multipart/mixed; boundary=b\n\n--b\n\nit never ends\n",
        CT + b"multipart/digest; boundary=b\n\n--b\n\nX: 1\n\ntext\n--b--\n",
        CT + b"text/plain; charset=x-none\n\ntext\n",
        CT + b"text/plain; charset=utf-16\n\ntext\n",
        CT + b"text/plain; charset=utf-7\n\ntext\n",
        CT + b"text/plain\nContent-Transfer-Encoding: x-none\n\ntext\n",
        b"Content-Transfer-Encoding: 7bit\nContent-Transfer-Encoding: base64\n\ntext\n",
        CT + b"text/plain\nContent-Transfer-Encoding: base64\n\nA\n",
        CT + b"text/plain\nContent-Disposition: attachment\n\ntext\n",
        nested(30) + b"--b30\n\ntext\n",
    ],
)
def test_what_cannot_have_a_footer_is_left_alone(source: bytes) -> None:
    message = message_of(source)
    assert not message.append_footer("foot")
    assert not message.body.is_changed()
    assert not message.headers.is_changed


@pytest.mark.parametrize(
    "source",
    [
        CT + b"text/plain; charset=us-ascii\n\n\xff\n",
        CT + b"text/plain\nContent-Transfer-Encoding: x-none\n\ntext\n",
        CT + b"text/plain\nContent-Transfer-Encoding: base64\n\nA\n",
    ],
)
def test_text_that_cannot_become_utf8_is_left_alone(source: bytes) -> None:
    message = message_of(source)
    assert not message.append_footer("ü")
    assert not message.headers.is_changed


def test_a_text_in_front_of_a_large_attachment_gets_its_footer() -> None:
    head = b"--b\r\n\r\nhello\r\n--b\r\nContent-Type: application/x\r\n\r\n"
    body = Body(head + b"x" * 70 + b"\r\n", spool_threshold=1000)
    for _ in range(3 * 1024):
        body.write(b"y" * 1022 + b"\r\n")
    body.write(b"--b--\r\n")
    message = Message(
        EnvelopeAddress("<>"),
        Recipients(),
        Headers([("Content-Type", "multipart/mixed; boundary=b")]),
        body,
    )
    size = body.size
    assert message.append_footer("foot")
    assert body.size == size + len(b"\r\nfoot")
    assert body.slice(0, 21) == b"--b\r\n\r\nhello\r\nfoot\r\n-"
    message.close()
    large = Message(EnvelopeAddress("<>"), Recipients(), Headers(), Body(b"x\r\n" * 400_000))
    assert not large.append_footer("foot")
    large.close()
