"""A milter that answers from a script, and the bytes that an MTA's conversation sends to it.

Packets are written and cut apart by hand: nothing here uses the codecs under test.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import TypeVar

from aiomilter.app.mta.content import Content
from aiomilter.app.mta.conversation import Conversation, Steps
from aiomilter.app.mta.envelope import Client, Envelope
from aiomilter.app.mta.kind import Mta
from aiomilter.app.mta.outcome import Outcome
from aiomilter.session.mta import Offer
from tests.packets import packet, split_packets

__all__ = [
    "CLIENT",
    "CONTENT",
    "ENVELOPE",
    "Talk",
    "agreement",
]

_T = TypeVar("_T")

CLIENT = Client("client.example", "192.0.2.1", 12345, helo="helo.example")
ENVELOPE = Envelope("a@example.com", ["b@example.org", "c@example.org"])
CONTENT = Content([("From", " a@example.com"), ("Subject", " test")], b"hello\r\n")


def agreement(
    options: int = 0, actions: int = 0x1FF, version: int = 6, requests: Mapping[int, bytes] = {}
) -> bytes:
    """What a milter answers to an offer; ``requests`` are names of macros by stage."""
    lists = b"".join(struct.pack(">I", stage) + names + b"\0" for stage, names in requests.items())
    return packet("O", struct.pack(">III", version, actions, options) + lists)


class Talk:
    """A conversation with a scripted milter.

    Attributes:
        conversation: What is under test.
        sent: Letter and payload of all packets that came from it, the offer left out.
        waits: How often it waited for an answer.
    """

    def __init__(
        self,
        replies: Mapping[str, bytes | Sequence[bytes]] = {},
        *,
        agreed: bytes | None = None,
        mta: Mta = Mta.POSTFIX,
        offer: Offer | None = None,
        macros: Mapping[str, str] | None = None,
    ) -> None:
        """Negotiate.

        Args:
            replies: By the letter of a command, what is answered to it, or to the first, second…
                of its kind; to all else CONTINUE.
            agreed: The answer to the offer.
            mta: Of the conversation, as the two below.
            offer: See there.
            macros: See there.
        """
        self.conversation = Conversation(offer, mta=mta, macros=macros)
        self.sent: list[bytes] = []
        self.waits = 0
        self._replies = {
            letter: [reply] if isinstance(reply, bytes) else list(reply)
            for letter, reply in replies.items()
        }
        self._replies["O"] = [agreement() if agreed is None else agreed]
        self.run(self.conversation.negotiate())
        self.offered = self.sent.pop(0)
        self.waits = 0

    @property
    def letters(self) -> str:
        """The commands so far, without macros."""
        return self.all_letters.replace("D", "")

    @property
    def all_letters(self) -> str:
        """The packets so far."""
        return "".join(chr(one[0]) for one in self.sent)

    @property
    def macros(self) -> list[bytes]:
        """The packets of macros so far, without their letter."""
        return [one[1:] for one in self.sent if one[:1] == b"D"]

    def run(self, steps: Steps[_T]) -> _T:
        """Do what a driver does, until the conversation has its result."""
        session = self.conversation.session
        try:
            while True:
                must_read = next(steps)
                self._take()
                if must_read:
                    self.waits += 1
                    session.receive_data(self._reply())
        except StopIteration as end:
            result: _T = end.value
            return result
        finally:
            self._take()

    def send(
        self,
        content: Content = CONTENT,
        *,
        envelope: Envelope = ENVELOPE,
        client: Client | None = CLIENT,
        macros: Mapping[str, str] | None = None,
    ) -> Outcome:
        """Consult the milter about a message."""
        return self.run(self.conversation.send(envelope, content, client, macros))

    def _take(self) -> None:
        self.sent += split_packets(self.conversation.session.data_to_send())

    def _reply(self) -> bytes:
        script = self._replies.get(chr(self.sent[-1][0]))
        return script.pop(0) if script else packet("c")
