"""Drives a `FilterSession` as its owner does: takes events, gives scripted answers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from aiomilter.errors import RemoteProtocolError
from aiomilter.session.events import (
    ConnectionEnd,
    Event,
    Ignored,
    MessageAborted,
    MessageStart,
    SessionEnd,
    SessionStart,
)
from aiomilter.session.filter import FilterSession
from aiomilter.session.negotiation import NegotiationOffer, Request
from aiomilter.session.status import Status
from aiomilter.spec import State
from tests.packets import OFFER, split_packets

# The bit by which a milter asks not to be sent a stage, and the one by which it does not reply.
NO_OPTION = {
    State.CONNECT: 0x1,
    State.HELO: 0x2,
    State.MAIL: 0x4,
    State.RCPT: 0x8,
    State.BODY: 0x10,
    State.HEADER: 0x20,
    State.EOH: 0x40,
    State.UNKNOWN: 0x100,
    State.DATA: 0x200,
}
NO_REPLY_OPTION = {
    State.HEADER: 0x80,
    State.CONNECT: 0x1000,
    State.HELO: 0x2000,
    State.MAIL: 0x4000,
    State.RCPT: 0x8000,
    State.DATA: 0x10000,
    State.UNKNOWN: 0x20000,
    State.EOH: 0x40000,
    State.BODY: 0x80000,
}
SKIP_OPTION = 0x400
ALL_STAGES = frozenset((*NO_OPTION, State.EOM))

NOT_ANSWERED = (
    SessionStart
    | NegotiationOffer
    | MessageStart
    | MessageAborted
    | SessionEnd
    | ConnectionEnd
    | Ignored
)


class Answer(NamedTuple):
    """What a scripted milter says to one event."""

    status: Status
    text: bytes | None = None
    edits: bytes = b""


CONTINUE = Answer(Status.CONTINUE)

Answers = Mapping[type[Event], Answer | list[Answer]]
"""By the kind of event, the answer to all of them or to one after the other."""


def mask(stages: Iterable[State]) -> int:
    return sum(1 << stage for stage in stages)


def options_for(stages: Iterable[State]) -> int:
    """What libmilter asks for when these stages have a callback."""
    return sum(bit for stage, bit in NO_OPTION.items() if stage not in set(stages))


class Driver:
    """The owner of a session, with handlers for some stages and answers by a script.

    Attributes:
        events: What the session has reported since the last `take_events`.
    """

    def __init__(
        self,
        stages: Iterable[State] = ALL_STAGES,
        answers: Answers | None = None,
        *,
        options: int = 0,
        actions: int = 0x1FF,
        max_payload_bytes: int = 65_535,
    ) -> None:
        self.stages = frozenset(stages)
        self.answers = answers or {}
        self.request = Request(actions, options_for(self.stages) | options)
        self.session = FilterSession(max_payload_bytes)
        self.events: list[Event] = []

    def feed(self, data: bytes) -> list[bytes]:
        """Receive bytes and serve all events; return letter and payload of each packet sent.

        Raises:
            RemoteProtocolError: From the session; what follows is still there for `run`.
        """
        self.session.receive_data(data)
        return self.run()

    def run(self) -> list[bytes]:
        """Serve all events that are there; return letter and payload of each packet sent."""
        while (event := self.session.next_event()) is not None:
            self.events.append(event)
            if isinstance(event, ConnectionEnd):
                break
            self.serve(event)
        return split_packets(self.session.data_to_send())

    def serve(self, event: Event) -> None:
        session = self.session
        if isinstance(event, SessionStart):
            session.start(mask(self.stages))
        elif isinstance(event, NegotiationOffer):
            session.agree(self.request)
        elif not isinstance(event, NOT_ANSWERED):
            answer = self.answers.get(type(event), CONTINUE)
            if isinstance(answer, list):
                answer = answer.pop(0)
            session.respond(*answer)

    def feed_until_open(self, data: bytes) -> Event:
        """Serve events until one that expects an answer, and return it without an answer."""
        self.session.receive_data(data)
        while True:
            event = self.session.next_event()
            assert event is not None, "no event was left open"
            self.events.append(event)
            if not isinstance(event, NOT_ANSWERED):
                return event
            self.serve(event)

    def end(self) -> list[Event]:
        """Let the stream end; return the events of it."""
        self.take_events()
        self.session.receive_eof()
        assert self.run() == []
        return self.take_events()

    def fail(self, data: bytes) -> str:
        """Receive bytes that break a rule; return the rule.

        What follows the error is in `events`: nothing is sent any more.
        """
        try:
            self.feed(data)
        except RemoteProtocolError as error:
            self.session.data_to_send()
            assert self.run() == []
            return error.rule
        raise AssertionError("no rule was broken")

    def take_events(self) -> list[Event]:
        taken, self.events = self.events, []
        return taken


def negotiated(
    stages: Iterable[State] = ALL_STAGES,
    answers: Answers | None = None,
    *,
    options: int = 0,
    offered: bytes = OFFER,
    then: bytes = b"",
) -> Driver:
    """A driver that has negotiated and has been fed some more, with no event left."""
    driver = Driver(stages, answers, options=options)
    driver.feed(offered + then)
    driver.take_events()
    return driver


def kinds(events: Iterable[Event]) -> list[str]:
    """The events by name, for what the order alone matters."""
    return [type(event).__name__ for event in events]
