"""Observers: who is told what happens, for metrics and traces.

Rules of this file:

- An observer is told, never asked: nothing that it does or raises has an effect on mail.
- All methods are called in the event loop and must return at once.
- What may come from outside and without bound (addresses, names, queue ids) is only in a
  `MessageRecord` and in ``peer``; all other arguments are from small fixed sets, fit for labels.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from aiomilter.app.record import MessageRecord
from aiomilter.app.text import describe_error

__all__ = ["Observer", "Observers"]

_logger = logging.getLogger("aiomilter")


class Observer:
    """Is told what happens; all methods do nothing, so that a subclass has those it needs.

    Later versions may add methods. An exception is logged once for each method and then ignored.

    Example::

        class Slow(Observer):
            def message_finished(self, record: MessageRecord) -> None:
                if record.seconds > 5:
                    print(f"{record.queue_id} took {record.seconds:.1f} s")

        server = Server(MyMilter, "inet:8890", observers=[Slow()])
    """

    __slots__ = ()

    def connection_opened(self, listener: str, peer: str) -> None:
        """A connection was accepted; it may be a port probe.

        Args:
            listener: The label of the address that was connected to.
            peer: The other end.
        """

    def connection_closed(self, listener: str, peer: str, seconds: float) -> None:
        """A connection is over, and all hooks have run.

        Args:
            listener: As for `connection_opened`.
            peer: As for `connection_opened`.
            seconds: How long it was open.
        """

    def turned_away(self, reason: str) -> None:
        """A connection was refused by a limit or by the list of networks.

        Args:
            reason: Such as ``connections``, ``peer`` or ``network``.
        """

    def session_started(self, session_id: str, listener: str) -> None:
        """An SMTP session has begun: something was told about a client or a message.

        A connection that is closed at once, or after the negotiation, as health checks do, has
        none. A session without messages of a milter that is not shown its connect is noticed at
        its end.

        Args:
            session_id: The session's id in the log.
            listener: As for `connection_opened`.
        """

    def message_finished(self, record: MessageRecord) -> None:
        """A message has its verdict, or was given up; exactly once for each message.

        Args:
            record: What is known about it.
        """

    def handler_finished(self, handler: str, seconds: float, result: str) -> None:
        """A handler has returned, or was cut short.

        Args:
            handler: Its name, such as ``on_rcpt``.
            seconds: How long it took, waiting for a thread included.
            result: The name of its status in small letters; ``reject`` or ``tempfail`` for a
                `Reply`, ``fault`` for a handler that failed.
        """

    def handler_failed(self, handler: str, kind: str) -> None:
        """A fault in the milter; the log has the details.

        Args:
            handler: The name of the handler; also ``begin_message`` and ``factory``.
            kind: ``exception``, ``wrong_result``, ``wrong_edit`` (a new body that ends in a CR),
                ``not_called`` (an earlier handler that was cut short is still at work) or why it
                was cut short: ``time_limit``, ``blocked_loop``, ``no_thread``, ``stopping``,
                ``from_outside``, ``abandoned``.
        """

    def verdict_dropped(self, handler: str) -> None:
        """A handler returned a verdict in a stage that was negotiated without replies.

        Args:
            handler: Its name.
        """

    def timed_out(self, kind: str) -> None:
        """A connection was closed because the MTA took too long.

        Args:
            kind: ``negotiation``, ``packet``, ``idle`` or ``write``.
        """

    def protocol_broken(self, listener: str) -> None:
        """A connection was closed because the other end does not keep to the protocol.

        Args:
            listener: As for `connection_opened`.
        """

    def loop_lagged(self, seconds: float) -> None:
        """The event loop was asked to do something at a time; told several times a second.

        Args:
            seconds: By how much it came later; not negative.
        """


class Observers(Observer):
    """Several observers as one: tells each of them, and lets none of them do harm.

    Attributes:
        is_empty: Whether there is none.
        hears_handlers: Whether `handler_finished` reaches anybody; for that a clock is read.
    """

    __slots__ = ("_complained", "_methods", "hears_handlers", "is_empty")

    def __init__(self, observers: Sequence[Observer] = ()) -> None:
        """Prepare the lists of those who listen to each method."""
        self._methods: dict[str, list[Callable[..., None]]] = {
            name: [
                getattr(observer, name)
                for observer in observers
                if getattr(type(observer), name, None) is not function
            ]
            for name, function in vars(Observer).items()
            if not name.startswith("_")
        }
        self._complained: set[tuple[int, str]] = set()
        self.is_empty = not observers
        self.hears_handlers = bool(self._methods["handler_finished"])

    def _tell(self, name: str, *arguments: object) -> None:
        for method in self._methods[name]:
            try:
                method(*arguments)
            except BaseException as error:  # noqa: BLE001  (an observer may raise anything)
                self._complain(name, method, error)

    def _complain(self, name: str, method: Callable[..., None], error: BaseException) -> None:
        key = id(method), name
        if key in self._complained:
            return
        self._complained.add(key)
        owner = type(getattr(method, "__self__", method)).__name__
        _logger.error(
            "the observer %s failed in %s; further failures there are not logged: %s",
            owner,
            name,
            describe_error(error),
            exc_info=error,
        )

    def connection_opened(self, listener: str, peer: str) -> None:
        """Tell all."""
        self._tell("connection_opened", listener, peer)

    def connection_closed(self, listener: str, peer: str, seconds: float) -> None:
        """Tell all."""
        self._tell("connection_closed", listener, peer, seconds)

    def turned_away(self, reason: str) -> None:
        """Tell all."""
        self._tell("turned_away", reason)

    def session_started(self, session_id: str, listener: str) -> None:
        """Tell all."""
        self._tell("session_started", session_id, listener)

    def message_finished(self, record: MessageRecord) -> None:
        """Tell all."""
        self._tell("message_finished", record)

    def handler_finished(self, handler: str, seconds: float, result: str) -> None:
        """Tell all."""
        self._tell("handler_finished", handler, seconds, result)

    def handler_failed(self, handler: str, kind: str) -> None:
        """Tell all."""
        self._tell("handler_failed", handler, kind)

    def verdict_dropped(self, handler: str) -> None:
        """Tell all."""
        self._tell("verdict_dropped", handler)

    def timed_out(self, kind: str) -> None:
        """Tell all."""
        self._tell("timed_out", kind)

    def protocol_broken(self, listener: str) -> None:
        """Tell all."""
        self._tell("protocol_broken", listener)

    def loop_lagged(self, seconds: float) -> None:
        """Tell all."""
        self._tell("loop_lagged", seconds)
