"""What a `Dispatcher` does with results: gives them to the session, or says what is dropped."""

from __future__ import annotations

import logging

from aiomilter.app.facts import Facts
from aiomilter.app.handlers import Handler, HandlerKind
from aiomilter.app.host import FaultPolicy, Host
from aiomilter.app.negotiating import Negotiator
from aiomilter.app.results import read_result
from aiomilter.app.text import show_value
from aiomilter.session.events import Ignored
from aiomilter.session.filter import FilterSession
from aiomilter.session.status import Status

__all__ = ["Answerer"]

_CONTINUE, _NOREPLY, _SKIP = Status.CONTINUE, Status.NOREPLY, Status.SKIP
_EOM = HandlerKind.EOM


class Answerer(Negotiator):
    """What a `Dispatcher` knows and does to answer."""

    __slots__ = ("_has_dropped", "_has_warned")

    def __init__(
        self, host: Host, policy: FaultPolicy, facts: Facts, session: FilterSession
    ) -> None:
        super().__init__(host, policy, facts, session)
        self._has_dropped = False
        self._has_warned = False

    def _answer(self, handler: Handler, result: object, edits: bytes = b"") -> Status:
        """Give a handler's result to the session; return what the MTA makes of it.

        Raises:
            FaultError: It is none that this handler may have.
        """
        known = read_result(result)
        if known is None:
            raise self._wrong_result(handler, result)
        session = self._session
        status, text = known
        if status is _NOREPLY:
            if session.may_answer() and not handler.no_reply:
                raise self._wrong_result(handler, result)
            status = _CONTINUE
        given = status
        if status not in (_CONTINUE, _SKIP) and not session.may_answer():
            self._note_dropped(handler, result, "the stage was negotiated without replies")
            given = _CONTINUE
        elif handler.name == "on_unknown" and not session.takes_verdict_at_unknown(status):
            self._note_dropped(handler, result, "there is no message that it could be meant for")
            given = _CONTINUE
        elif self.watch is not None:
            # At the end of a message there is nothing left to skip.
            is_end = handler.kind is _EOM
            noted = _CONTINUE if is_end and status is _SKIP else status
            stage = "eom" if is_end else handler.name[3:]
            self.watch.note_answer(stage, noted, result, edits)
        session.respond(status, text, edits)
        return given

    def _note_dropped(self, handler: Handler, result: object, reason: str) -> None:
        """Log a verdict without effect: once a connection, as there may be very many headers."""
        level = logging.DEBUG if self._has_dropped else logging.WARNING
        self._has_dropped = True
        if self.watch is not None:
            self.watch.note_dropped(handler.name)
        what = show_value(result)
        self.log.log(level, "%s returned %s, which is dropped: %s", handler.name, what, reason)

    def _note_ignored(self, event: Ignored) -> None:
        """Log what was ignored: once a connection, so that nobody can fill the log with it."""
        level = logging.DEBUG if self._has_warned else logging.WARNING
        self._has_warned = True
        self.log.log(
            level,
            "ignored a %s command after %s without an answer, as libmilter does: %s",
            event.command,
            event.state.name,
            event.reason,
        )
