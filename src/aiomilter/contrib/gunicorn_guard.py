"""Milters whose handlers leave a note while they run, and do not run for a message that kills.

Rules of this file:

- A milter keeps its class but for a subclass in between, made at run time, that has the same
  handlers and no others: the MTA is asked for the same events as ever.
- Known is a message by what stays the same when its client tries again. At MAIL and RCPT that is
  client, sender and recipient; later sender and all recipients, with the client up to the header
  Message-ID and with that header afterwards, since large senders try again from other hosts.
  The stage is part of it: a recipient that a handler dies of says nothing of the message.
- Handlers of the session (`on_connect`, `on_helo`, `on_unknown`) are not watched: they have no
  message.
"""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable
from typing import Any, cast

from aiomilter.aio.ledger import CrashLedger, Identity, WorkerNotes, digest
from aiomilter.aio.server import MilterFactory
from aiomilter.app.facts import Facts
from aiomilter.app.milter import Milter
from aiomilter.app.options import options_of
from aiomilter.session.status import Status

__all__ = ["guard"]

_ENVELOPE = {"on_mail": b"mail", "on_rcpt": b"rcpt"}
_CONTENT = ("on_data", "on_header", "on_eoh", "on_body", "on_eom")
_HOOKS = ("on_abort",)
_WATCH = "_aiomilter_watch"

# Handlers differ in their parameters; `dispatch` knows those of each.
_Handler = Callable[..., Any]


def guard(
    factory: MilterFactory, notes: WorkerNotes, ledger: CrashLedger, verdict: Status
) -> MilterFactory:
    """Return a factory of the same milters, whose handlers are watched.

    Args:
        factory: Makes the milter of one session.
        notes: Where this process notes what its handlers are at.
        ledger: Says which messages have ended too many workers.
        verdict: What such a message gets in place of its handlers.
    """
    classes: dict[type[Milter], type[Milter]] = {}

    def make() -> Milter:
        milter = factory()
        kind = cast("type", type(milter))
        if issubclass(kind, Milter):
            if kind not in classes:
                classes[kind] = _watched_class(kind, verdict)
            # Also on a class that lets nobody else set attributes, such as a frozen dataclass.
            object.__setattr__(milter, "__class__", classes[kind])
            object.__setattr__(milter, _WATCH, _Watch(notes, ledger))
        return milter

    return make


class _Watch:
    """What is known of the message that a session is at."""

    __slots__ = ("_identity", "_is_refused", "_ledger", "_message_id", "_notes", "_stage", "note")

    def __init__(self, notes: WorkerNotes, ledger: CrashLedger) -> None:
        self._notes = notes
        self._ledger = ledger
        self.begin_message()

    def begin_message(self) -> None:
        self._stage = b""
        self._message_id = b""
        self._is_refused = False
        self.note = Identity().note()

    def enter(self) -> int:
        return self._notes.enter(self.note)

    def leave(self, place: int) -> None:
        self._notes.leave(place)

    def refuses(self, milter: Milter, name: str, arguments: tuple[object, ...]) -> bool:
        """Return whether a handler must not run; see what message this is if that has changed."""
        stage = _ENVELOPE.get(name, b"content")
        is_known = stage == self._stage and stage != b"rcpt"
        if name == "on_header" and not self._message_id:
            header, value = cast("tuple[str, str]", arguments)
            if header.lower() == "message-id":
                self._message_id = _encoded(value.strip())
                is_known = False
        if not is_known:
            self._stage = stage
            self._look(milter, _encoded(str(arguments[0])) if stage == b"rcpt" else None)
        return self._is_refused

    def _look(self, milter: Milter, recipient: bytes | None) -> None:
        facts = cast("Facts", vars(milter)["_facts"])
        identity = self._identify(facts, recipient)
        was_refused = self._is_refused
        self.note = identity.note()
        self._is_refused = self._ledger.is_refused(identity)
        if self._is_refused and not was_refused:
            milter.log.warning(
                "this message has ended too many workers; it gets its verdict without %s",
                type(milter).__qualname__,
            )

    def _identify(self, facts: Facts, recipient: bytes | None) -> Identity:
        macros = facts.macros
        client = facts.client
        host = str(client.ip) if client.ip else macros.get("{client_addr}", "")
        sender = facts.sender
        if sender is None:
            sender = macros.get("{mail_addr}", "")
        recipients = [_encoded(one) for one in facts.recipients]
        if recipient is not None:
            recipients = [recipient]
        elif not recipients and self._stage == b"content":
            recipients = [_encoded(macros.get("{rcpt_addr}", ""))]
        queue_id = facts.queue_id
        parts = [_encoded(sender), *recipients, self._message_id]
        if not self._message_id:
            parts.append(_encoded(host))
        known: dict[str, bytes] = {}
        if any(parts):
            known["envelope"] = digest(self._stage, *parts)
        if queue_id:
            # Without the stage: the id is that of one message, and of one attempt.
            known["queue_id"] = digest(b"queue id", _encoded(queue_id))
        label = _encoded(queue_id) if queue_id else self._message_id or _encoded(sender)
        return Identity(**known, label=label)


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _watched_class(base: type[Milter], verdict: Status) -> type[Milter]:
    """Return a subclass that has the same handlers, all of them watched."""
    members: dict[str, object] = {
        "__slots__": (),
        "__module__": base.__module__,
        "__qualname__": base.__qualname__,
        "__doc__": base.__doc__,
        "begin_message": _beginning(base.begin_message),
    }
    for name in (*_ENVELOPE, *_CONTENT, *_HOOKS):
        function = cast("_Handler", getattr(base, name))
        if function is not getattr(Milter, name):
            members[name] = _watched(name, function, verdict)
    return types.new_class(base.__name__, (base,), exec_body=lambda names: names.update(members))


def _beginning(begin_message: Callable[[Milter], None]) -> _Handler:
    @functools.wraps(begin_message)
    def watched(self: Milter) -> None:
        cast("_Watch", getattr(self, _WATCH)).begin_message()
        begin_message(self)

    return watched


def _watched(name: str, function: _Handler, verdict: Status) -> _Handler:
    is_hook = name in _HOOKS
    # One that the MTA does not wait for has no verdict to give.
    answer = None if options_of(function).no_reply else verdict

    @functools.wraps(function)
    async def watched_coroutine(self: Milter, *arguments: object) -> object:
        watch = cast("_Watch", getattr(self, _WATCH))
        if not is_hook and watch.refuses(self, name, arguments):
            return answer
        place = watch.enter()
        try:
            return cast("object", await function(self, *arguments))
        finally:
            watch.leave(place)

    @functools.wraps(function)
    def watched_call(self: Milter, *arguments: object) -> object:
        watch = cast("_Watch", getattr(self, _WATCH))
        if not is_hook and watch.refuses(self, name, arguments):
            return answer
        place = watch.enter()
        try:
            return cast("object", function(self, *arguments))
        finally:
            watch.leave(place)

    return watched_coroutine if inspect.iscoroutinefunction(function) else watched_call
