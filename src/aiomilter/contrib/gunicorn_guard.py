"""Milters whose handlers leave a note while they run, and do not run for a message that kills.

Rules of this file:

- A milter keeps its class but for a subclass in between, made at run time, that has the same
  handlers and no others: the MTA is asked for the same events as ever.
- Known is a message by what stays the same when its client tries again. At MAIL that is the client,
  its HELO name, the sender and its parameters, of which the size sets apart what a relay sends in
  one name, as bounces. At RCPT it is the recipient as well, later all recipients, and from the
  header Message-ID on sender, recipients and that header, since large senders try again from other
  hosts. The stage is part of it: a recipient that a handler dies of says nothing of the message.
- A suspect's name is cleared at MAIL and RCPT when the handler has returned, later when the message
  has its verdict. One that is given up clears nothing.
- Handlers of the session (`on_connect`, `on_helo`, `on_unknown`) are not watched: they have no
  message.
"""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable
from typing import Any, cast
from weakref import WeakValueDictionary

from aiomilter.aio.ledger import CrashLedger, Identity, WorkerNotes, digest
from aiomilter.aio.server import MilterFactory
from aiomilter.app.facts import Facts
from aiomilter.app.message.message import Message
from aiomilter.app.milter import Milter
from aiomilter.app.observer import Observer
from aiomilter.app.options import options_of
from aiomilter.app.record import MessageRecord
from aiomilter.session.status import Status

__all__ = ["Guard"]

_ENVELOPE = {"on_mail": b"mail", "on_rcpt": b"rcpt"}
_CONTENT = ("on_data", "on_header", "on_eoh", "on_body", "on_eom", "on_message")
_HOOKS = ("on_abort",)
_WATCH = "_aiomilter_watch"

# Handlers differ in their parameters; `dispatch` knows those of each.
_Handler = Callable[..., Any]


class Guard(Observer):
    """Watches the milters of one process; an observer of its server, too."""

    def __init__(self, notes: WorkerNotes, ledger: CrashLedger, verdict: Status) -> None:
        """Begin.

        Args:
            notes: Where this process notes what its handlers are at.
            ledger: Says which messages have ended too many workers.
            verdict: What such a message gets in place of its handlers.
        """
        self.notes = notes
        self.ledger = ledger
        self._verdict = verdict
        self._classes: dict[type[Milter], type[Milter]] = {}
        self.sessions_with_suspects: WeakValueDictionary[str, _Watch] = WeakValueDictionary()

    def watched(self, factory: MilterFactory) -> MilterFactory:
        """Return a factory of the same milters, whose handlers are watched."""

        def make() -> Milter:
            milter = factory()
            kind = cast("type", type(milter))
            if issubclass(kind, Milter):
                if kind not in self._classes:
                    self._classes[kind] = _watched_class(kind, self._verdict)
                # Also on a class that lets nobody else set attributes, as a frozen dataclass.
                object.__setattr__(milter, "__class__", self._classes[kind])
                object.__setattr__(milter, _WATCH, _Watch(self))
            return milter

        return make

    def message_finished(self, record: MessageRecord) -> None:
        """Clear the name of a message that was served."""
        watch = self.sessions_with_suspects.pop(record.session_id, None)
        is_lost = record.verdict == "abort" or (
            record.verdict == "continue" and record.stage != "eom"
        )
        if watch is not None and not is_lost:
            watch.clear_content()


class _Watch:
    """What is known of the message that a session is at."""

    __slots__ = (
        "__weakref__",
        "_content_suspects",
        "_guard",
        "_identity",
        "_is_refused",
        "_message_id",
        "_of_mail",
        "_stage",
        "note",
    )

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self.begin_message()

    def begin_message(self) -> None:
        self._stage = b""
        self._message_id = b""
        self._of_mail: tuple[bytes, ...] = ()
        self._is_refused = False
        self._identity = Identity()
        self._content_suspects: list[Identity] = []
        self.note = self._identity.note()

    def enter(self) -> int:
        return self._guard.notes.enter(self.note)

    def leave(self, place: int) -> None:
        self._guard.notes.leave(place)

    def leave_envelope(self, place: int, identity: Identity) -> None:
        """Note the end of a handler with which a stage is over, and nobody has died of it."""
        self._guard.notes.leave(place)
        if self._guard.ledger.is_suspect(identity):
            self._guard.notes.clear(identity)

    def clear_content(self) -> None:
        for identity in self._content_suspects:
            self._guard.notes.clear(identity)
        self._content_suspects.clear()

    @property
    def identity(self) -> Identity:
        return self._identity

    def refuses(self, milter: Milter, name: str, arguments: tuple[object, ...]) -> bool:
        """Return whether a handler must not run; see what message this is if that has changed."""
        stage = _ENVELOPE.get(name, b"content")
        is_known = stage == self._stage and stage != b"rcpt"
        if not self._message_id:
            self._message_id = _message_id(name, arguments)
            is_known = is_known and not self._message_id
        if not is_known:
            self._stage = stage
            of_stage: tuple[bytes, ...] = ()
            if stage != b"content":
                address, parameters = cast("tuple[str, list[str]]", arguments)
                of_stage = (_encoded(address), *map(_encoded, parameters))
            if stage == b"mail":
                self._of_mail = of_stage[1:]
            self._look(milter, of_stage)
        return self._is_refused

    def _look(self, milter: Milter, of_stage: tuple[bytes, ...]) -> None:
        facts = cast("Facts", vars(milter)["_facts"])
        self._identity = identity = self._identify(facts, of_stage)
        was_refused = self._is_refused
        self.note = identity.note()
        guard = self._guard
        self._is_refused = guard.ledger.is_refused(identity)
        if self._is_refused:
            if not was_refused:
                milter.log.warning(
                    "this message has ended too many workers; it gets its verdict without %s",
                    type(milter).__qualname__,
                )
        elif self._stage == b"content" and guard.ledger.is_suspect(identity):
            self._content_suspects.append(identity)
            guard.sessions_with_suspects[facts.session_id] = self

    def _identify(self, facts: Facts, of_stage: tuple[bytes, ...]) -> Identity:
        macros = facts.macros
        sender = facts.sender
        if sender is None:
            sender = macros.get("{mail_addr}", "")
        recipients: list[bytes] = []
        if self._stage == b"content":
            recipients += map(_encoded, facts.recipients or [macros.get("{rcpt_addr}", "")])
        parts = [_encoded(sender), *recipients]
        if self._stage == b"rcpt":
            parts += of_stage
        if self._message_id:
            parts.append(self._message_id)
        else:
            client = facts.client
            host = str(client.ip) if client.ip else macros.get("{client_addr}", "")
            parts += (_encoded(host), _encoded(facts.helo_name or ""), *self._of_mail)
        known: dict[str, bytes] = {}
        if any(parts):
            # The number of recipients tells them apart from what follows.
            count = len(recipients).to_bytes(4, "big")
            known["envelope"] = digest(self._stage, count, *parts)
        queue_id = facts.queue_id
        if queue_id:
            # Without the stage: the id is that of one message, and of one attempt.
            known["queue_id"] = digest(b"queue id", _encoded(queue_id))
        label = _encoded(queue_id) if queue_id else self._message_id or _encoded(sender)
        return Identity(**known, label=label)


def _message_id(name: str, arguments: tuple[object, ...]) -> bytes:
    """Return the header Message-ID if a handler is called with it; else empty."""
    value = ""
    if name == "on_header":
        header, text = cast("tuple[str, str]", arguments)
        value = text if header.lower() == "message-id" else ""
    elif name == "on_message":
        (message,) = cast("tuple[Message]", arguments)
        found = message.headers.get("Message-ID")
        value = "" if found is None else found.value
    return _encoded(value.strip())


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
    is_envelope = name in _ENVELOPE
    # One that the MTA does not wait for has no verdict to give.
    answer = None if options_of(function).no_reply else verdict

    @functools.wraps(function)
    async def watched_coroutine(self: Milter, *arguments: object) -> object:
        watch = cast("_Watch", getattr(self, _WATCH))
        if not is_hook and watch.refuses(self, name, arguments):
            return answer
        # Kept, as a handler that is cut short in a thread may end when another message is here.
        identity, place = watch.identity, watch.enter()
        try:
            return cast("object", await function(self, *arguments))
        finally:
            watch.leave_envelope(place, identity) if is_envelope else watch.leave(place)

    @functools.wraps(function)
    def watched_call(self: Milter, *arguments: object) -> object:
        watch = cast("_Watch", getattr(self, _WATCH))
        if not is_hook and watch.refuses(self, name, arguments):
            return answer
        identity, place = watch.identity, watch.enter()
        try:
            return cast("object", function(self, *arguments))
        finally:
            watch.leave_envelope(place, identity) if is_envelope else watch.leave(place)

    return watched_coroutine if inspect.iscoroutinefunction(function) else watched_call
