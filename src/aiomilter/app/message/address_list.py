"""Lists of addresses in headers (From, To, Cc and so on; RFC 5322, section 3.4).

Rules of this file:

- Nothing raises but the limit, and time is linear: there are mails with 20,000 addresses, and some
  whose comments never end.
- What is written wrongly is read as most programs do: what can be an address is one.
- Members of groups are addresses like others; the names of groups are left out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from aiomilter.app.message.decoding import decode_words
from aiomilter.errors import MessageLimitExceeded

__all__ = ["MAX_ADDRESSES", "MailAddress", "parse_addresses"]

MAX_ADDRESSES = 10_000
"""More than fit into the headers that Sendmail takes, and than anybody writes to by hand."""

# Possessive, and what is opened goes to the end if it is not closed: linear.
_TOKEN = re.compile(
    r'(?P<quoted>"(?:[^"\\]|\\.?)*+(?:"|\Z))|(?P<blank>[ \t\r\n]+)|(?P<literal>\[[^\[\]]*+\])'
    r'|(?P<sign>[<>,;:()])|(?P<atom>[^ \t\r\n"<>,;:()\[\]]++|.)',
    re.DOTALL,
)
_IN_COMMENT = re.compile(r"\\.?|[()]", re.DOTALL)
_QUOTED_PAIR = re.compile(r"\\(.)", re.DOTALL)
_ROUTE = re.compile(r"@[^:]*:")
_BLANKS = re.compile(r"[ \t\r\n]+")


@dataclass(frozen=True, slots=True)
class MailAddress:
    """An address of a header.

    Attributes:
        name: The name of the person, decoded; may be empty.
        address: The address without brackets, such as ``user@example.org``; never empty.
    """

    name: str
    address: str

    @property
    def domain(self) -> str:
        """What stands behind the last ``@``; empty if there is none."""
        _, at, domain = self.address.rpartition("@")
        return domain if at else ""


def parse_addresses(value: str, *, max_addresses: int = MAX_ADDRESSES) -> list[MailAddress]:
    """Return the addresses of a header, in order.

    Args:
        value: The header's value, unfolded (`Header.value`); any text.
        max_addresses: How many there may be.

    Raises:
        MessageLimitExceeded: There are more.
    """
    reader = _Reader()
    at = 0
    while at < len(value):
        found = _TOKEN.match(value, at)
        assert found is not None, "the last alternative takes any character"
        at = found.end()
        text = found.group()
        if text == "(":
            at = _end_of_comment(value, at)
            reader.comment = value[found.end() : at - 1] if not reader.comment else reader.comment
        else:
            reader.take(text, str(found.lastgroup))
        if len(reader.addresses) > max_addresses:
            raise MessageLimitExceeded(f"a header has more than {max_addresses} addresses")
    reader.flush()
    if len(reader.addresses) > max_addresses:
        raise MessageLimitExceeded(f"a header has more than {max_addresses} addresses")
    return reader.addresses


class _Reader:
    """Puts tokens together."""

    __slots__ = ("_angle", "_is_angle_open", "_words", "addresses", "comment")

    def __init__(self) -> None:
        self.addresses: list[MailAddress] = []
        self.comment = ""
        self._words: list[str] = []
        self._angle: list[str] | None = None
        self._is_angle_open = False

    def take(self, text: str, kind: str) -> None:
        """Take the next token."""
        if self._is_angle_open and self._angle is not None:
            if text == ">":
                self._is_angle_open = False
            elif text in (",", ";") and not (self._angle and self._angle[0][0] == "@"):
                self.flush()  # the bracket was never closed
            elif kind != "blank":
                self._angle.append(text)
        elif text == "<":
            self._angle = []
            self._is_angle_open = True
        elif text in (",", ";"):
            self.flush()
        elif text == ":":
            self._words = []  # the name of a group
            self.comment = ""
        elif text not in ("(", ")", ">"):
            self._words.append(text)

    def flush(self) -> None:
        """End an address."""
        words, angle = self._words, self._angle
        if angle is not None:
            address = "".join(angle)
            if address.startswith("@"):
                address = _ROUTE.sub("", address, count=1)
            name = "".join(_plain(word) for word in words).strip()
        else:
            address = "".join(word for word in words if not word.isspace())
            name = self.comment.strip()
        if address:
            self.addresses.append(MailAddress(decode_words(_BLANKS.sub(" ", name)), address))
        self._words = []
        self._angle = None
        self._is_angle_open = False
        self.comment = ""


def _plain(word: str) -> str:
    if word[0] != '"':
        return word
    return _QUOTED_PAIR.sub(r"\1", word[1:].removesuffix('"'))


def _end_of_comment(value: str, at: int) -> int:
    """Return where a comment ends; comments may be in comments."""
    depth = 1
    for found in _IN_COMMENT.finditer(value, at):
        if found.group() == "(":
            depth += 1
        elif found.group() == ")":
            depth -= 1
            if not depth:
                return found.end()
    # As if it were closed behind the end.
    return len(value) + 1
