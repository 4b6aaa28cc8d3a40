"""The content of a message as an MTA holds it: headers and a body.

Rules of this file:

- Nothing is interpreted, and nothing is lost but the kind of line ends and blanks in front of a
  colon, as in Postfix: each LF ends a line, with any CR in front of it; a CR elsewhere stays.
- The value of a header is all that stands behind its colon, the blank in front included, folded
  lines parted by LF; that is how a milter gets it, but for the blank.
- As in Postfix, the body begins at the first line that is neither a header nor a folded one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from email.message import Message as EmailMessage
from email.policy import EmailPolicy
from pathlib import Path
from typing import Any, Self

from aiomilter.app.text import decode_text, encode_text, shorten

__all__ = ["Content"]

_LINE_END = re.compile(rb"(?<!\r)(?:\r*\n|\r+\Z)")
_HEADER = re.compile(rb"([!-9;-~]+)[ \t]*:([^\n]*(?:\n[ \t][^\n]*)*)(?:\n|\Z)")


@dataclass(frozen=True, slots=True, init=False)
class Content:
    """Headers and body of a message.

    Attributes:
        headers: Name and value of each; see above.
        body: With CRLF at the end of its lines; may be empty.
    """

    headers: tuple[tuple[str, str], ...]
    body: bytes

    def __init__(self, headers: Iterable[tuple[str, str]], body: bytes = b"") -> None:
        object.__setattr__(self, "headers", tuple(headers))
        object.__setattr__(self, "body", body)

    @classmethod
    def parse(cls, source: bytes | str | EmailMessage | Path | Content) -> Content:
        """Take a message apart.

        Args:
            source: The message as bytes or text, as a message of `email`, or the path of a file
                that holds one. Lines may end in CRLF or LF. A first line as in mailbox files
                (``From sender date``) is left out.

        Raises:
            OSError: The file cannot be read.
            ValueError: The message of `email` cannot be made into bytes.
        """
        match source:
            case Content():
                return source
            case Path():
                return cls._parse(source.read_bytes())
            case EmailMessage():
                return cls._parse(_flatten(source))
            case str():
                return cls._parse(encode_text(source, "a message"))
            case _:
                return cls._parse(source)

    @classmethod
    def _parse(cls, data: bytes) -> Self:
        text = _LINE_END.sub(b"\n", data)
        is_mailbox = text.startswith(b"From ") and not _HEADER.match(text)
        at = text.find(b"\n") + 1 if is_mailbox else 0
        headers: list[tuple[str, str]] = []
        while found := _HEADER.match(text, at):
            name, value = found.groups()
            headers.append((decode_text(name), decode_text(value)))
            at = found.end()
        body = text[at + 1 :] if text[at : at + 1] == b"\n" else text[at:]
        if body and not body.endswith(b"\n"):
            body += b"\n"
        return cls(headers, body.replace(b"\n", b"\r\n"))

    def __repr__(self) -> str:
        return f"Content({list(self.headers)!r}, {shorten(self.body)})"

    def get_all(self, name: str) -> list[str]:
        """Return the values of all headers of a name, without blanks around them."""
        wanted = name.lower()
        return [value.strip() for own, value in self.headers if own.lower() == wanted]

    def get(self, name: str) -> str | None:
        """Return the value of the first header of a name, or None if there is none."""
        found = self.get_all(name)
        return found[0] if found else None

    def as_bytes(self) -> bytes:
        """Return the message as it goes over the wire."""
        head = b"".join(
            encode_text(f"{name}:{value}\n", "a header").replace(b"\n", b"\r\n")
            for name, value in self.headers
        )
        return head + b"\r\n" + self.body

    def __str__(self) -> str:
        return self.as_bytes().decode("utf-8", "replace").replace("\r\n", "\n")


def _flatten(message: EmailMessage) -> bytes:
    """Return a message of `email` as bytes, its headers as they are.

    Raises:
        ValueError: It cannot be made into bytes.
    """
    policy: Any = message.policy
    as_they_are: dict[str, Any] = (
        {"refold_source": "none"}
        if isinstance(message.policy, EmailPolicy)
        else {"max_line_length": None}
    )
    policy = policy.clone(linesep="\n", **as_they_are)
    try:
        return message.as_bytes(policy=policy)
    except (UnicodeError, AttributeError, TypeError, LookupError) as error:
        raise ValueError(f"the message of email cannot be made into bytes: {error}") from error
