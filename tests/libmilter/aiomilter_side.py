"""Runs sessions on aiomilter by the same plans as `libmilter.py` does on the C library.

No socket and no event loop: bytes go into a filter session, its events to a dispatcher, and what
the handlers of the planned milter see is recorded in the terms of libmilter's callbacks.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from aiomilter import Actions, EomActions, Milter, MilterError, Negotiation, Reply, Status
from aiomilter.app.dispatch import Dispatcher
from aiomilter.app.handlers import HandlerKind
from aiomilter.app.host import Clock, Cut, FaultPolicy
from aiomilter.errors import RemoteProtocolError
from aiomilter.session.events import ConnectionEnd, MessageStart, SessionEnd, SessionStart
from aiomilter.session.filter import FilterSession
from aiomilter.spec import COMMAND_BY_LETTER, MacroStage, State
from tests.libmilter.plan import Call, Event, Plan, Script, Send, Step, StepOutcome, Value

__all__ = ["HANDLERS", "Before", "Run", "run_aiomilter", "run_with_trace"]

HANDLERS = {
    "negotiate": "on_negotiate",
    "connect": "on_connect",
    "helo": "on_helo",
    "envfrom": "on_mail",
    "envrcpt": "on_rcpt",
    "data": "on_data",
    "unknown": "on_unknown",
    "header": "on_header",
    "eoh": "on_eoh",
    "body": "on_body",
    "eom": "on_eom",
    "abort": "on_abort",
    "close": "on_close",
}
"""The handler of each of libmilter's callbacks."""

_STATUSES: dict[int, Status] = {status.value: status for status in Status}
_FAILURE, _SUCCESS = -1, 0
_POLICY = FaultPolicy(Status.TEMPFAIL, handler_timeout_s=8, eom_timeout_s=240)


@dataclass(frozen=True, slots=True)
class Before:
    """How the session was ahead of a send."""

    state: State
    message_is_open: bool
    is_started: bool
    """A session has begun: there is somebody who is owed a close hook."""
    has_negotiated: bool
    options: int = 0
    """What was agreed on."""
    offered: int = 0

    def answers(self, letter: bytes) -> bool:
        """Whether a command of this letter has an answer."""
        bit = int(COMMAND_BY_LETTER[letter[0]].no_reply_option or 0)
        return not self.options & bit or not self.offered & bit


@dataclass(frozen=True, slots=True)
class Run:
    """What has become of a session, and how it got there."""

    outcomes: list[StepOutcome]
    before: list[Before]
    no_reply: list[frozenset[str]]
    """For each send the callbacks that ran in a stage without replies."""
    messages: list[int]
    """For each send how many messages have begun by its end."""


class _Recorder:
    """What happens in one session, by the send that brought it about."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.send = 0
        self.events: list[Event] = []
        self.no_reply: set[str] = set()
        self.may_answer: Callable[[], bool] = lambda: True
        self.counts = dict.fromkeys(plan.callbacks, 0)

    def next_step(self, callback: str) -> Step:
        script: Script = self.plan.callbacks[callback]
        count = self.counts[callback]
        self.counts[callback] += 1
        return script.steps[count] if count < len(script.steps) else script.further


class _Host:
    """Runs handlers at once: none of a planned milter waits for anything."""

    ticket = 0

    def __init__(self, session: FilterSession) -> None:
        self.time: Clock = lambda: 0.0
        self._session = session

    def start_clock(self, limit_s: float, kind: HandlerKind, began: float | None = None) -> int:
        return 0

    def stop_clock(self, ticket: int) -> Cut | None:
        return None

    def run_in_thread(self, function: Callable[[], object]) -> Awaitable[object]:
        raise AssertionError("a planned milter has no blocking handler")

    def keep(self, gathered_bytes: int) -> bool:
        return False

    def is_stray_at_work(self) -> bool:
        return False

    async def send_progress(self) -> None:
        self._session.send_progress()


def run_aiomilter(plan: Plan, sends: Sequence[Send], *, cut: int = 0) -> list[StepOutcome]:
    """Run one connection; return one outcome for each send. The rest is as in `run_with_trace`."""
    return run_with_trace(plan, sends, cut=cut).outcomes


def run_with_trace(plan: Plan, sends: Sequence[Send], *, cut: int = 0) -> Run:
    """Run one connection.

    Args:
        plan: What the milter does.
        sends: What the MTA sends.
        cut: Deliver the bytes in pieces of this size; 0 for one piece a send.
    """
    recorder = _Recorder(plan)
    session = FilterSession()
    recorder.may_answer = session.may_answer
    dispatcher = Dispatcher(
        _planned_milter(recorder), session, _Host(session), _POLICY, lambda: "session"
    )
    run = Run([], [], [], [])
    started = _Started()
    closed = False
    for number, send in enumerate(sends):
        run.before.append(
            Before(
                session.state,
                session.message_is_open,
                started.now,
                session.has_negotiated,
                session._options,
                session._offered_options,
            )
        )
        recorder.send = number
        recorder.events = []
        recorder.no_reply = set()
        step = cut or len(send.data) or 1
        for at in range(0, len(send.data), step):
            data = send.data[at : at + step]
            closed = _serve(session, dispatcher, started, data) or closed
        if send.end:
            session.receive_eof()
            closed = _serve(session, dispatcher, started) or closed
        outcome = StepOutcome(session.data_to_send(), tuple(recorder.events), closed)
        run.outcomes.append(outcome)
        run.no_reply.append(frozenset(recorder.no_reply))
        run.messages.append(started.messages)
    return run


class _Started:
    """Whether an SMTP session has begun and not ended, and how many messages have begun."""

    now = False
    messages = 0


def _serve(
    session: FilterSession, dispatcher: Dispatcher, started: _Started, data: bytes = b""
) -> bool:
    """Take in bytes and serve all events there are; return whether the connection is over."""
    while True:
        try:
            event = session.receive(data) if data else session.next_event()
            if event is None:
                return False
            if isinstance(event, ConnectionEnd):
                return True
            if isinstance(event, SessionStart | SessionEnd):
                started.now = isinstance(event, SessionStart)
            if isinstance(event, MessageStart):
                started.messages += 1
            left = dispatcher.handle_now(event)
            if left is not None:
                _finish(dispatcher.handle(left))
        except RemoteProtocolError:
            continue
        finally:
            data = b""
        if session.is_unanswered:
            session.close()


def _finish(coroutine: Coroutine[Any, Any, None]) -> None:
    try:
        coroutine.send(None)
    except StopIteration:
        return
    raise AssertionError("a planned milter waits for nothing")


def _planned_milter(recorder: _Recorder) -> type[Milter]:
    """Return a milter class with exactly the handlers of the plan."""
    namespace: dict[str, object] = {
        HANDLERS[callback]: _handler(recorder, callback) for callback in recorder.plan.callbacks
    }
    # Registered flags are overruled by what negotiate is preset with: all that is offered.
    asks = "negotiate" in recorder.plan.callbacks
    namespace["actions"] = None if asks else Actions(recorder.plan.flags)
    return type("PlannedMilter", (Milter,), namespace)


def _handler(recorder: _Recorder, callback: str) -> Callable[..., Awaitable[object]]:
    async def handler(milter: Milter, *arguments: Any) -> object:
        step = recorder.next_step(callback)
        macros = {
            name: milter.macros[_text(name)].encode("utf-8", "surrogateescape")
            for name in recorder.plan.macros
            if _text(name) in milter.macros
        }
        script = _Run(milter, callback, arguments)
        seen = _seen(callback, arguments)
        if not recorder.may_answer():
            recorder.no_reply.add(callback)
        returns = tuple(script.call(call) for call in step.calls)
        recorder.events.append(Event(callback, seen, step.result, returns, macros, recorder.send))
        if callback == "negotiate" and step.outputs is not None:
            negotiation: Negotiation = arguments[0]
            actions, options = step.outputs
            # Planned values need not be flags that exist.
            negotiation.actions = actions  # type: ignore[assignment]
            negotiation.options = options  # type: ignore[assignment]
        return script.result(step.result)

    return handler


class _Run:
    """The calls of one invocation of a handler, and the result that they lead to."""

    def __init__(self, milter: Milter, callback: str, arguments: tuple[Any, ...]) -> None:
        self._milter = milter
        self._callback = callback
        self._arguments = arguments
        self._reply: Reply | None = None
        self._stages_with_macros: set[Value] = set()

    def call(self, call: Call) -> Value:
        """Do what a call to libmilter would do; return what that would return."""
        match call.name:
            case "getsymval":
                found = self._milter.macros.get(_text(call.args[0]))
                return None if found is None else found.encode("utf-8", "surrogateescape")
            case "setreply" | "setmlreply":
                return self._set_reply(call)
            case "setsymlist":
                negotiation: Negotiation = self._arguments[0]
                stage, names = call.args
                # libmilter takes one list a stage; here the last one counts, as in any mapping.
                if stage not in set(MacroStage) or stage in self._stages_with_macros:
                    return _FAILURE
                self._stages_with_macros.add(stage)
                negotiation.request_macros(MacroStage(stage), *_text(names).split())
                return _SUCCESS
            case _:
                return self._edit(call)

    def result(self, number: int) -> object:
        """Return what the handler returns for a result of libmilter."""
        status = _STATUSES.get(number)
        reply = self._reply
        if reply is not None:
            wanted = Status.REJECT if reply.is_permanent else Status.TEMPFAIL
            if status is wanted:
                return reply
        return number if status is None else status

    def _set_reply(self, call: Call) -> int:
        code, enhanced, *lines = call.args
        try:
            texts = [_text(line) for line in lines if line is not None]
            xcode = None if enhanced is None else _text(enhanced)
            if call.name == "setmlreply" and xcode is None:
                xcode = f"{_text(code)[:1]}.0.0"
            self._reply = Reply(int(_text(code)), xcode, *texts)
        except ValueError:
            return _FAILURE
        return _SUCCESS

    def _edit(self, call: Call) -> int:
        if self._callback != "eom":
            return _FAILURE
        actions: EomActions = self._arguments[0]
        arguments = [_text(value) if isinstance(value, bytes) else value for value in call.args]
        try:
            match call.name:
                case "addheader":
                    actions.add_header(*arguments)  # type: ignore[arg-type]
                case "insheader":
                    actions.insert_header(*arguments)  # type: ignore[arg-type]
                case "chgheader":
                    actions.change_header(*arguments)  # type: ignore[arg-type]
                case "chgfrom":
                    actions.change_sender(*arguments)  # type: ignore[arg-type]
                case "addrcpt":
                    actions.add_recipient(*arguments)  # type: ignore[arg-type]
                case "addrcpt_par":
                    address, params = call.args
                    assert params is not None, "without parameters there is no such call here"
                    actions.add_recipient(_text(address), _text(params))
                case "delrcpt":
                    actions.delete_recipient(*arguments)  # type: ignore[arg-type]
                case "replacebody":
                    body = call.args[0]
                    assert isinstance(body, bytes)
                    actions.replace_body(body, line_endings="raw")
                case "quarantine":
                    actions.quarantine(*arguments)  # type: ignore[arg-type]
                case "progress":
                    _finish(actions.progress())
                case _:
                    raise AssertionError(f"a call without counterpart: {call.name}")
        except (MilterError, ValueError):
            return _FAILURE
        return _SUCCESS


def _seen(callback: str, arguments: tuple[Any, ...]) -> tuple[Value, ...]:
    """Return a handler's arguments as libmilter's callback has them."""
    match callback:
        case "negotiate":
            negotiation: Negotiation = arguments[0]
            return (int(negotiation.offered_actions), int(negotiation.offered_options))
        case "connect":
            hostname, client = arguments
            if client.family == "unix":
                return _bytes(hostname), b"unix:" + _bytes(client.path)
            if client.ip is None:
                return _bytes(hostname), None
            return _bytes(hostname), f"{client.family}:{client.ip}:{client.port}".encode()
        case "envfrom" | "envrcpt":
            address, params = arguments
            return tuple(map(_bytes, (address, *params)))
        case "eom":
            return ()
        case _:
            return tuple(_bytes(value) for value in arguments)


def _text(value: Value) -> str:
    assert isinstance(value, bytes)
    return value.decode("utf-8", "surrogateescape")


def _bytes(value: str | bytes) -> bytes:
    return value.encode("utf-8", "surrogateescape") if isinstance(value, str) else value
