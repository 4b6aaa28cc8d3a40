"""The negotiation as `on_negotiate` sees it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from aiomilter.app.text import encode_text
from aiomilter.session.negotiation import NegotiationOffer, Request
from aiomilter.spec import MAX_PAYLOAD_BYTES, NO_REPLY_OPTIONS, Actions, MacroStage, Options

__all__ = ["Negotiation", "encode_macro_requests"]

_BYTES_BESIDE_NAMES = 5
"""The number of the stage, and NUL."""
_MAX_MACRO_REQUEST_BYTES = MAX_PAYLOAD_BYTES - 12
"""Version, actions and options stand in front."""


class Negotiation:
    """What the MTA offers and what the milter requests; `on_negotiate` may change the latter.

    Attributes:
        version: The protocol version that both ends speak, from 2 to 6.
        offered_actions: What the MTA offers to have done.
        offered_options: What the MTA can leave out or do otherwise. All ``NO_REPLY_*`` are
            among them, since the library answers on the milter's behalf where the MTA has to
            wait.
        actions: What is requested. At first what the class attribute ``actions`` says, else all
            that is offered. An MTA that does not offer all of it is refused.
        options: What is requested. At first: no events without a handler, what the handlers'
            decorators say, and SKIP if it is offered. An option that is not offered makes the
            library refuse the MTA, except for ``NO_REPLY_*``, NO_DATA and NO_UNKNOWN.
        macros: By stage, the names of the macros that are requested; at first what the
            handlers' decorators say. An empty list asks for none, which Postfix takes for its
            default.
    """

    __slots__ = (
        "actions",
        "macros",
        "offered_actions",
        "offered_options",
        "options",
        "version",
    )

    def __init__(
        self,
        offer: NegotiationOffer,
        actions: int,
        options: int,
        macros: dict[MacroStage, list[str]],
    ) -> None:
        self.version = offer.version
        self.offered_actions = Actions(offer.actions)
        self.offered_options = Options(offer.options | NO_REPLY_OPTIONS)
        self.actions = Actions(actions)
        self.options = Options(options)
        self.macros = macros

    def request_macros(self, stage: MacroStage, *names: str) -> None:
        """Ask for these macros at ``stage``, instead of what was asked for there before.

        Args:
            stage: Where the MTA is to send them.
            *names: As ``i`` or ``{auth_authen}``; none at all asks for no macro.
        """
        self.macros[stage] = list(names)

    def request(self) -> Request:
        """Return what is requested, for the session; called by the library.

        Raises:
            ValueError: The name of a macro is empty, or has a blank or control character; or all
                names together are more than a packet takes.
        """
        return Request(int(self.actions), int(self.options), encode_macro_requests(self.macros))

    def __repr__(self) -> str:
        return (
            f"Negotiation(version={self.version}, offered_actions={self.offered_actions!r}, "
            f"offered_options={self.offered_options!r}, actions={self.actions!r}, "
            f"options={self.options!r}, macros={self.macros!r})"
        )


def encode_macro_requests(macros: Mapping[MacroStage, Sequence[str]]) -> dict[int, bytes]:
    """Return the names of each stage as they go to the MTA, separated by blanks.

    Raises:
        ValueError: As of `Negotiation.request`.
    """
    encoded = {
        int(MacroStage(stage)): b" ".join(_macro_name(name) for name in names)
        for stage, names in macros.items()
    }
    size = sum(len(names) + _BYTES_BESIDE_NAMES for names in encoded.values())
    if size > _MAX_MACRO_REQUEST_BYTES:
        raise ValueError(
            f"the names of all macros together take {size} bytes of a packet, which has room for "
            f"{_MAX_MACRO_REQUEST_BYTES}; ask for fewer"
        )
    return encoded


def _macro_name(name: str) -> bytes:
    data = encode_text(name, "the name of a macro")
    if not data or any(byte <= 0x20 for byte in data):
        raise ValueError(f"the name of a macro has no blank and is not empty: {name!a}")
    return data
