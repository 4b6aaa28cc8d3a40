"""Events that are served at once: the first step of a handler, and what becomes of the rest.

Rules of this file:

- Hot path: nearly all handlers wait for nothing. Their one step is taken here, in the callback that
  has brought their command; a task that is woken for it, and waits again, costs a third of all that
  the library does for a command.
- To a handler there is no difference. Whoever calls `Stepper.handle_now` does so in the context and
  in the name of the connection's task.
- A handler that waits has yielded what it waits for. It goes to the task as a `Waiting`, which
  yields that once more and then goes on as if it had been the task's from the beginning.
- Beside plain handlers, the beginning of a session and of a message are served here, which await
  nothing. Whatever is more than a plain handler of one milter is left to the task: threads, the end
  of a message, whole messages, several milters as one.
"""

from __future__ import annotations

from collections.abc import Coroutine, Generator
from dataclasses import dataclass
from typing import Any

from aiomilter.app.answerer import Answerer
from aiomilter.app.arguments import CALLS
from aiomilter.app.facts import Facts
from aiomilter.app.handlers import Handler
from aiomilter.app.host import FaultPolicy, Host
from aiomilter.app.results import FAILED
from aiomilter.app.running import LONG_S, FaultError, GoneError
from aiomilter.app.text import describe_error
from aiomilter.app.watch import Watch
from aiomilter.session.events import Event
from aiomilter.session.filter import FilterSession
from aiomilter.session.status import Status

__all__ = ["Stepper", "Waiting"]

_CONTINUE, _DISCARD = Status.CONTINUE, Status.DISCARD


@dataclass(slots=True)
class Waiting:
    """A handler that has begun, and waits; to be awaited for its result.

    Attributes:
        handler: The handler.
        event: What it was called for.
        ticket: That of the host when it was called.
        coroutine: Its coroutine, suspended.
        awaited: What that has yielded: a future, or None for a turn of the loop.
    """

    handler: Handler
    event: Event
    ticket: int
    coroutine: Coroutine[Any, Any, object]
    awaited: object

    def __await__(self) -> Generator[Any, Any, object]:
        coroutine, awaited = self.coroutine, self.awaited
        while True:
            thrown: BaseException | None = None
            try:
                yield awaited
            except GeneratorExit:
                coroutine.close()
                raise
            except BaseException as error:  # noqa: BLE001  (whatever it is, it is the handler's)
                trace = error.__traceback__
                # The place of this function would stand for that of the handler.
                thrown = error.with_traceback(trace.tb_next if trace is not None else None)
            if thrown is None:
                return (yield from coroutine.__await__())
            try:
                awaited = coroutine.throw(thrown)
            except StopIteration as stop:
                return stop.value
            finally:
                del thrown  # which holds this frame


class Stepper(Answerer):
    """What a `Dispatcher` knows and does to serve events without waiting."""

    __slots__ = ("_event", "_handlers", "_is_discarded")

    def __init__(
        self, host: Host, policy: FaultPolicy, facts: Facts, session: FilterSession
    ) -> None:
        super().__init__(host, policy, facts, session)
        self._handlers: dict[type[Event], Handler] = {}
        self._event: Event | None = None
        self._is_discarded = False

    def handle_now(self, event: Event) -> Event | Waiting | None:
        """Serve one event as far as nothing needs to be waited for.

        Returns:
            What is left for `Dispatcher.handle`: the event as it came, or the handler, which waits
            and whose clock `start_late_clock` has to start; None if the event is served.

        Raises:
            Abandoned: The handler has given up the connection; nothing is left to be done.
        """
        kind = type(event)
        handler = self._handlers.get(kind)
        if handler is None:
            return self._handle_other_now(event)
        if not handler.is_plain or self._has_stray or self._message_answer is not None:
            return event
        watch = self.watch
        if watch is not None:
            watch.see(event)
        host = self._host
        # Nothing of the handler runs yet.
        coroutine = CALLS[kind](handler.function, self._milter, self._facts, event)
        self._event = event
        self._running = handler
        ticket, time = host.ticket, host.time
        self._began = began = time()
        result: object = FAILED
        failure: BaseException | None = None
        try:
            awaited = coroutine.send(None)
        except StopIteration as stop:
            result = stop.value
        except BaseException as error:  # noqa: BLE001  (a milter may raise anything)
            failure = error
        else:
            return Waiting(handler, event, ticket, coroutine, awaited)
        is_gone = False
        try:
            if host.ticket != ticket or failure is not None or time() - began > LONG_S:
                returned, result = result, FAILED
                self._end_late(handler, ticket)
                result = returned
            self._running = None
            if failure is not None:
                raise self._fault(handler.name, describe_error(failure), failure)
            if result is None:
                # Hot path: `_take_result` for nearly all of them.
                self._session.go_on()
                if handler.is_of_envelope:
                    self._note_envelope(handler, event, _CONTINUE)
            else:
                self._take_result(handler, event, result)
        except FaultError as fault:
            self._take_fault(handler, event, fault)
        except GoneError:
            is_gone = True
        finally:
            del failure  # which holds this frame
            if not self._session.message_is_open or (watch is not None and watch.hears_handlers):
                self._end_event(handler, result, watch)
        if is_gone:
            # Nobody is left to take an answer.
            self._session.close()
        return None

    def _handle_other_now(self, event: Event) -> Event | None:
        """Serve an event without a handler, or return it."""
        raise NotImplementedError

    def _take_result(self, handler: Handler, event: Event, result: object) -> None:
        """Give the result of a handler of one event to the session.

        Raises:
            FaultError: It is none that this handler may have.
        """
        if result is None or result is _CONTINUE:
            self._session.go_on()
            given = _CONTINUE
        else:
            given = self._answer(handler, result)
            # MTAs send an abort for a message that was discarded ahead of its end.
            self._is_discarded |= given is _DISCARD
        if handler.is_of_envelope:
            self._note_envelope(handler, event, given)

    def _take_fault(self, handler: Handler, event: Event, fault: FaultError) -> None:
        """Answer in place of a handler that has failed."""
        self._give_fault_answer(fault.answer)
        if handler.is_of_envelope:
            self._note_envelope(handler, event, fault.answer)

    def _end_event(self, handler: Handler, result: object, watch: Watch | None) -> None:
        """Note that an event has been served, which may have been the last of its message."""
        raise NotImplementedError
