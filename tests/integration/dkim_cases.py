"""Messages for DKIM: what mail servers might touch on the way to a milter."""

from __future__ import annotations

import base64
from functools import cache

import dkim  # type: ignore[import-untyped]  # it has no types
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from aiomilter.testing import Mta

__all__ = ["ALTERED", "CANONICALIZATIONS", "CASES", "is_signed", "signed"]

HEADERS = (
    b"From: Anna <anna@src.example>\r\nTo: b@dst.example\r\n"
    b"Date: Thu, 1 Jan 1970 00:00:00 +0000\r\nMessage-ID: <1@src.example>\r\n"
)
CANONICALIZATIONS = ("simple/simple", "relaxed/relaxed", "simple/relaxed", "relaxed/simple")
CASES: dict[str, bytes] = {
    "plain": HEADERS + b"Subject: hello\r\n\r\nHello\r\n",
    "empty body": HEADERS + b"Subject: hello\r\n\r\n",
    "folded": HEADERS + b"Subject: one\r\n two\r\n\tthree\r\n   four\r\n\r\nHello\r\n",
    "folded at once": HEADERS + b"Subject:\r\n hello\r\n\r\nHello\r\n",
    "tabs": HEADERS + b"Subject:\thello\tto\t\tyou\r\n\r\nHello\tto\t\tyou\r\n",
    "no blank": HEADERS + b"Subject:hello\r\nX-A:b\r\n\r\nHello\r\n",
    "many blanks": HEADERS + b"Subject:   hello    to   you\r\n\r\nHello   to  you\r\n",
    "trailing blanks in the body": HEADERS + b"Subject: hello\r\n\r\nHello \t \r\n \r\nyou  \r\n",
    "trailing blanks in a header": HEADERS + b"Subject: hello \t \r\nX-A: b  \r\n\r\nHello\r\n",
    "trailing blanks in a fold": HEADERS + b"Subject: one  \r\n two\t\r\n\tthree\r\n\r\nHello\r\n",
    "empty header": HEADERS + b"Subject: hello\r\nX-Empty:\r\nX-Blank: \r\n\r\nHello\r\n",
    "eight bits": HEADERS + "Subject: häl\xa0lo\r\n\r\nGrüße\r\n".encode(),
    "latin-1": HEADERS + "Subject: häl\xa0lo\r\n\r\nGrüße\r\n".encode("latin-1"),
    "empty lines at the end": HEADERS + b"Subject: hello\r\n\r\nHello\r\n\r\n\r\n",
    "dots": HEADERS + b"Subject: hello\r\n\r\n.\r\n..\r\n.x\r\n",
    "several of a name": HEADERS + b"Subject: a\r\nX-A: 1\r\nx-a: 2\r\nX-A: 3\r\n\r\nHello\r\n",
    "long line": HEADERS + b"Subject: hello\r\n\r\n" + b"x" * 990 + b"\r\n",
    "long header": HEADERS + b"Subject: " + b"hello " * 150 + b"end\r\n\r\nHello\r\n",
    "from line": HEADERS + b"Subject: hello\r\n\r\nFrom here on\r\n>From there\r\n",
    "long body line": HEADERS + b"Subject: hello\r\n\r\n" + b"x" * 3000 + b"\r\n",
    "NUL": HEADERS + b"Subject: hello\r\n\r\nHel\0lo\r\n",
}
"""What both servers hand to a milter as it came."""
ALTERED: dict[str, tuple[bytes, dict[Mta, bytes | None]]] = {
    # By both: nobody can sign that.
    "blank in front of the colon": (
        HEADERS + b"Subject : hello\r\n\r\nHello\r\n",
        dict.fromkeys(Mta, HEADERS + b"Subject: hello\r\n\r\nHello\r\n"),
    ),
    "no end of headers": (
        HEADERS + b"Subject: hello\r\nHello to you\r\n",
        dict.fromkeys(Mta, HEADERS + b"Subject: hello\r\n\r\nHello to you\r\n"),
    ),
    # Postfix takes these out of all mail, ahead of milters.
    "return path": (
        b"Return-Path: <x@src.example>\r\n" + HEADERS + b"Subject: a\r\n\r\nHello\r\n",
        {Mta.POSTFIX: HEADERS + b"Subject: a\r\n\r\nHello\r\n"},
    ),
    "bcc": (
        HEADERS + b"Bcc: c@dst.example\r\nSubject: a\r\n\r\nHello\r\n",
        {Mta.POSTFIX: HEADERS + b"Subject: a\r\n\r\nHello\r\n"},
    ),
    # Sendmail refuses these.
    "bare LF": (
        HEADERS + b"Subject: hello\r\n\r\nHello\nto you\r\n",
        {
            Mta.POSTFIX: HEADERS + b"Subject: hello\r\n\r\nHello\r\nto you\r\n",
            Mta.SENDMAIL: None,
        },
    ),
    "bare CR": (
        HEADERS + b"Subject: hello\r\n\r\nHello\rto you\r\n",
        {
            Mta.POSTFIX: HEADERS + b"Subject: hello\r\n\r\nHello to you\r\n",
            Mta.SENDMAIL: None,
        },
    ),
}
"""What comes to a milter altered, and how: a message, and what becomes of it; None: refused. A
server that is not named hands it on as it came."""


@cache
def _key() -> tuple[bytes, bytes]:
    key = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    private = key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return private, b"v=DKIM1; k=rsa; p=" + base64.b64encode(public)


def signed(content: bytes, canonicalization: str) -> bytes:
    """Return a message with a signature in front."""
    header, body = (part.encode() for part in canonicalization.split("/"))
    signature: bytes = dkim.sign(
        content, b"s", b"src.example", _key()[0], canonicalize=(header, body)
    )
    return signature + content


def is_signed(content: bytes) -> bool:
    """Return whether the signature of a message is right."""
    return bool(dkim.verify(content, minkey=1024, dnsfunc=lambda name, timeout=5: _key()[1]))
