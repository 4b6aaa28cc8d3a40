"""The recipients of a message: an ordered set of addresses."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from aiomilter.app.message.address import EnvelopeAddress
from aiomilter.app.mta.esmtp import is_recipient_param

__all__ = ["Recipients"]


class Recipients:
    """The recipients of a message, in the order in which they came.

    Two addresses are the same if their local parts are, and their domains but for the case.
    Wherever an address is expected, text is taken too, with or without angle brackets.

    A client may name a recipient twice, and with other parameters; here it is in once, with the
    parameters of the first.
    """

    __slots__ = ("_known", "_original")

    def __init__(self, recipients: Iterable[EnvelopeAddress] = ()) -> None:
        """Take the recipients that came with the message; edits are computed against those."""
        self._original = tuple(recipients)
        self._known: dict[tuple[str, str], EnvelopeAddress] | None = None

    @property
    def _recipients(self) -> dict[tuple[str, str], EnvelopeAddress]:
        """The recipients by what they are told from each other; made when they are looked at."""
        if self._known is None:
            self._known = {}
            for recipient in self._original:
                self._known.setdefault(recipient.key, recipient)
        return self._known

    @property
    def is_untouched(self) -> bool:
        """Whether nobody has looked at them, let alone changed them."""
        return self._known is None

    @property
    def original(self) -> tuple[EnvelopeAddress, ...]:
        """All recipients that came with the message, those that were named twice included."""
        return self._original

    def copy(self) -> Recipients:
        """Return the same recipients with the same originals, for changes of their own."""
        new = Recipients(self._original)
        new._known = dict(self._recipients)
        return new

    def since(self, before: Recipients) -> Recipients:
        """Return the same recipients, as if those of another message had come with it."""
        new = Recipients(before)
        new._known = dict(self._recipients)
        return new

    def __contains__(self, address: object) -> bool:
        return isinstance(address, (str, EnvelopeAddress)) and _key(address) in self._recipients

    def __iter__(self) -> Iterator[EnvelopeAddress]:
        return iter(tuple(self._recipients.values()))

    def __len__(self) -> int:
        return len(self._recipients)

    def __repr__(self) -> str:
        return f"Recipients({', '.join(ascii(str(one)) for one in self)})"

    def get(self, address: str | EnvelopeAddress) -> EnvelopeAddress | None:
        """Return the recipient of an address, with its parameters, or None."""
        return self._recipients.get(_key(address))

    def add(
        self, address: str | EnvelopeAddress, params: str | Sequence[str] | None = None
    ) -> EnvelopeAddress:
        """Add a recipient, and return it; nothing is done if it is there already.

        Args:
            address: The address.
            params: ESMTP parameters, as one string or several: NOTIFY and ORCPT alone, which is
                what both Postfix and Sendmail take from a milter. Given for a recipient that is
                there, they replace its own (Sendmail keeps those that it has).

        Raises:
            ValueError: The address is empty, has a CR, LF or NUL in it, or a parameter is another
                one or written wrongly: Sendmail would leave the recipient out, and could even end
                the SMTP session.
        """
        new = _made(address, params)
        here = self._recipients.get(new.key)
        if here is not None:
            if params is None or here.params == new.params:
                return here
            new = EnvelopeAddress.received(here.address, new.params)
        self._recipients[new.key] = new
        return new

    def discard(self, address: str | EnvelopeAddress) -> bool:
        """Take a recipient out; return whether it was there."""
        return self._recipients.pop(_key(address), None) is not None

    def clear(self) -> None:
        """Take all out: the message is delivered to nobody."""
        self._recipients.clear()


def _key(address: str | EnvelopeAddress) -> tuple[str, str]:
    if isinstance(address, str):
        address = EnvelopeAddress.received(address.strip())
    return address.key


def _made(address: str | EnvelopeAddress, params: str | Sequence[str] | None) -> EnvelopeAddress:
    text = address if isinstance(address, str) else address.address
    if isinstance(params, str):
        params = params.split()
    elif params is None:
        params = () if isinstance(address, str) else tuple(address.params)
    new = EnvelopeAddress(text, *params)
    if new.is_null:
        raise ValueError("a recipient has an address")
    for param in new.params:
        if not is_recipient_param(param):
            raise ValueError(
                f"a recipient's parameter is NOTIFY or ORCPT, rightly written: {ascii(param)[:80]}"
            )
    return new
