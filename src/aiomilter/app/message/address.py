"""An address of the envelope, taken apart.

Rules of this file:

- What came from a client never raises, whatever it is; what an author gives is checked.
- The text in the brackets stays as it came: an MTA finds a recipient by exactly that.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Self

from aiomilter.app.message.domain import ascii_domain, unicode_domain
from aiomilter.app.message.params import Params
from aiomilter.app.mta.envelope import Path

__all__ = ["EnvelopeAddress"]

_ROUTE = re.compile(r"@[^:<>\"]*:")
_QUOTED_PAIR = re.compile(r"\\(.)", re.DOTALL)


class EnvelopeAddress(Path):
    """An address of the envelope with its ESMTP parameters.

    ``str()`` is the address alone, in its brackets. Two are equal if address and parameters are
    the same text.

    Attributes:
        address: As in SMTP, in angle brackets: ``<user@example.org>``; ``<>`` is the null sender.
        params: As in SMTP, for example ``SIZE=1000``.
    """

    __slots__ = ()

    def __init__(self, address: str, *params: str) -> None:
        """Take an address, with or without its brackets, and its parameters.

        Raises:
            ValueError: Something has a CR, LF or NUL in it, or is not text that can be sent; or
                a parameter has a blank.
        """
        super().__init__(address.strip(), *params)
        for param in params:
            if not param or not param.isprintable() or " " in param:
                raise ValueError(f"an ESMTP parameter is one word: {ascii(param)[:80]}")

    @classmethod
    def received(cls, address: str, params: Sequence[str] = ()) -> Self:
        """Return what came from an MTA; unlike an author's address it is not checked."""
        self = cls.__new__(cls)
        bracketed = address if address.startswith("<") else f"<{address}>"
        object.__setattr__(self, "address", bracketed)
        object.__setattr__(self, "params", tuple(params))
        return self

    def __str__(self) -> str:
        return self.address

    def __repr__(self) -> str:
        return f"EnvelopeAddress({', '.join(map(ascii, (self.address, *self.params)))})"

    @property
    def parameters(self) -> Params:
        """The parameters, read."""
        return Params(self.params)

    @property
    def is_null(self) -> bool:
        """Whether it is the null sender ``<>``, that of bounces."""
        return not self.mailbox

    @property
    def mailbox(self) -> str:
        """The address without brackets and without a source route (RFC 5321, appendix C)."""
        text = self.address[1:].removesuffix(">")
        if text.startswith("@") and (route := _ROUTE.match(text)):
            return text[route.end() :]
        return text

    @property
    def local_part(self) -> str:
        """What stands in front of the last ``@``, without quotes; its case may matter."""
        return _unquoted(self._split()[0])

    @property
    def domain(self) -> str:
        """What stands behind the last ``@``, as it came; empty if there is none.

        It may be an address in square brackets.
        """
        return self._split()[1]

    @property
    def ascii_domain(self) -> str | None:
        """The domain in lower case and ASCII (A-labels), or None if there is no such form."""
        return ascii_domain(self.domain)

    @property
    def unicode_domain(self) -> str:
        """The domain in lower case as people read it (U-labels)."""
        return unicode_domain(self.domain)

    @property
    def key(self) -> tuple[str, str]:
        """By what addresses are told from each other: local part, and domain in any case."""
        local, domain = self._split()
        local = _unquoted(local)
        # RFC 5321, 4.5.1: the one local part that is the same in any case.
        if local.lower() == "postmaster":
            local = local.lower()
        return local, ascii_domain(domain) or domain.lower()

    def _split(self) -> tuple[str, str]:
        mailbox = self.mailbox
        if mailbox.startswith('"') and mailbox.endswith('"'):
            return mailbox, ""
        local, at, domain = mailbox.rpartition("@")
        return (local, domain) if at else (domain, "")


def _unquoted(local: str) -> str:
    if len(local) >= 2 and local[0] == local[-1] == '"':
        return _QUOTED_PAIR.sub(r"\1", local[1:-1])
    return local
