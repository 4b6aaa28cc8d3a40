"""What the library keeps about a session and its current message."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, MutableMapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from aiomilter.app.context import MessageContext
from aiomilter.app.macros import Macros, decode_macros
from aiomilter.app.socket_info import SocketInfo
from aiomilter.app.text import decode_text
from aiomilter.errors import escape
from aiomilter.session.macros import MacroStore
from aiomilter.wire.commands import Connect

if TYPE_CHECKING:
    from aiomilter.app.milter import Milter

__all__ = ["Facts", "SessionLog", "fact"]

_Value = TypeVar("_Value")


class Facts:
    """The facts of one SMTP session; those of a message are renewed with each message.

    Attributes:
        context: The ids that log lines have now.
    """

    __slots__ = (
        "_client",
        "_macros",
        "_of_message",
        "connect",
        "context",
        "helo_name",
        "listener",
        "log",
        "macro_store",
        "recipients",
        "sender",
        "session_id",
    )

    def __init__(self, session_id: str, macro_store: MacroStore, listener: str = "") -> None:
        self.session_id = session_id
        self.listener = listener
        self.macro_store = macro_store
        self.connect: Connect | None = None
        self.helo_name: str | None = None
        self.sender: str | None = None
        self.recipients: Sequence[str] = ()
        self.log: SessionLog | None = None
        self.context = MessageContext(session_id, self)
        # Of the message in hand, or the last one.
        self._of_message: MessageContext | None = None
        self._client: SocketInfo | None = None
        self._macros: Macros | None = None

    def begin_message(self) -> None:
        """Forget the message before."""
        self.sender = None
        self.recipients = ()
        (self._of_message or self.context).end()
        self.context = self._of_message = MessageContext(self.session_id, self)
        self.context.enter()

    def add_recipient(self, recipient: str) -> None:
        """Note one more recipient of the message."""
        if isinstance(self.recipients, list):
            self.recipients.append(recipient)
        else:
            # Nothing is kept for the many sessions that wait and have no message.
            self.recipients = [recipient]

    def follow(self, leader: Facts, without: Collection[str] = ()) -> None:
        """Know what the facts of another milter of the same session know.

        Args:
            leader: Those.
            without: Recipients that are of no account here.
        """
        if self.connect is not leader.connect:
            self.connect, self._client = leader.connect, None
        self.helo_name, self.sender = leader.helo_name, leader.sender
        self.context = leader.context
        self.recipients = [one for one in leader.recipients if one not in without]

    def end_message(self) -> None:
        """Note that there is no message: log lines have no queue id until the next one begins.

        What a message has left at work keeps its own.
        """
        if self.context is self._of_message:
            self.context = MessageContext(self.session_id, None)

    def macros_of_aborted(self) -> dict[str, str]:
        """Return the macros of a message that is given up, without those that came for the next.

        The queue id of log lines is then the one among them.
        """
        found = decode_macros(self.macro_store.visible_in_ended_message())
        self.context.keep_queue_id(found.get("i"))
        return found

    @property
    def hostname(self) -> str | None:
        """The client's name, or None before CONNECT."""
        return None if self.connect is None else decode_text(self.connect.hostname)

    @property
    def client(self) -> SocketInfo:
        """The client's address; unknown before CONNECT. Parsed when it is first asked for."""
        if self._client is None:
            if self.connect is None:
                return SocketInfo("unknown")
            self._client = SocketInfo.from_connect(self.connect)
        return self._client

    @property
    def macros(self) -> Macros:
        """The view of the macros; made when it is first asked for."""
        if self._macros is None:
            self._macros = Macros(self.macro_store)
        return self._macros

    @property
    def queue_id(self) -> str | None:
        """The macro ``i``, or None as long as the MTA has not told it."""
        return self.macros.get("i")


class SessionLog(logging.LoggerAdapter[logging.Logger]):
    """A logger that puts session and queue id in front of each line.

    They are also attributes of the record, ``session_id`` and ``queue_id``, for formatters.
    """

    def __init__(self, logger: logging.Logger, facts: Facts) -> None:
        super().__init__(logger, {})
        self._facts = facts

    def process(
        self, msg: object, kwargs: MutableMapping[str, Any]
    ) -> tuple[str, MutableMapping[str, Any]]:
        """Add the ids to a line."""
        facts = self._facts
        queue_id = facts.context.queue_id
        kwargs["extra"] = {
            **(kwargs.get("extra") or {}),
            "session_id": facts.session_id,
            "queue_id": queue_id,
        }
        # The queue id comes over the wire: made harmless, and never a format of its own.
        shown = "-" if queue_id is None else escape(queue_id[:32])[1:-1].replace("%", "?")
        return f"[{facts.session_id} {shown}] {msg}", kwargs


class fact(Generic[_Value]):  # noqa: N801  (a decorator, like property)
    """A read-only attribute that a subclass may take for itself.

    Not a property: assigning to it in a subclass simply hides it in that object, so that a
    milter may keep, say, a counter of its own in ``self.recipients``.
    """

    def __init__(self, getter: Callable[[Any], _Value]) -> None:
        self._getter = getter
        self.__doc__ = getter.__doc__

    @overload
    def __get__(self, milter: None, owner: type[Milter]) -> fact[_Value]: ...

    @overload
    def __get__(self, milter: Milter, owner: type[Milter]) -> _Value: ...

    def __get__(self, milter: Milter | None, owner: type[Milter]) -> _Value | fact[_Value]:
        return self if milter is None else self._getter(milter)
