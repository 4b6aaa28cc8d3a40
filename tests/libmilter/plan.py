"""What a filter on libmilter is to do in a session, what it is sent, and what came of it.

A plan goes to ``planned_milter.c`` as text, and a result comes back as bytes; the forms are
described in ``plan.h`` and ``session.h``.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

__all__ = [
    "ACCEPT",
    "ALL_OPTS",
    "CALLBACKS",
    "CONTINUE",
    "DISCARD",
    "NOREPLY",
    "REJECT",
    "SKIP",
    "TEMPFAIL",
    "Call",
    "Closing",
    "Connection",
    "Event",
    "LibmilterError",
    "Outcome",
    "Plan",
    "Script",
    "Send",
    "Step",
    "StepOutcome",
    "Value",
    "parse_result",
    "session_text",
]

CONTINUE = 0
REJECT = 1
DISCARD = 2
ACCEPT = 3
TEMPFAIL = 4
NOREPLY = 7
SKIP = 8
ALL_OPTS = 10

CALLBACKS = (
    "negotiate",
    "connect",
    "helo",
    "envfrom",
    "envrcpt",
    "data",
    "unknown",
    "header",
    "eoh",
    "body",
    "eom",
    "abort",
    "close",
)
"""Names of libmilter's callbacks without their ``xxfi_``, by the numbers that results have."""

_MAX_ARGUMENTS = 42
_MAX_CONNECTIONS = 8

Value = bytes | int | None
"""An argument or a result: a string, a number, or NULL."""


class LibmilterError(Exception):
    """There is no libmilter to compare with, or it (or the harness) has failed."""


# ---------------------------------------------------------------------------- plans


@dataclass(frozen=True, slots=True)
class Call:
    """A call that a callback makes: an ``smfi_`` function by its name without that.

    Known are addheader, addrcpt, addrcpt_par, chgfrom, chgheader, delrcpt, getpriv, getsymval,
    insheader, progress, quarantine, replacebody, setmlreply, setpriv, setreply, setsymlist and
    version; and sleep, in milliseconds, which is not libmilter's. Arguments are those of C
    without the context. Strings end at their first NUL, as they do in C, except the body in
    replacebody, which has its own length (or one that is given as a second argument). Lines of
    setmlreply end at the first that is None.
    """

    name: str
    args: tuple[Value, ...] = ()

    @classmethod
    def of(cls, name: str, *args: Value) -> Call:
        """Return a call, its arguments written as in C."""
        return cls(name, args)


@dataclass(frozen=True, slots=True)
class Step:
    """What one invocation of a callback does: calls, then a result."""

    calls: tuple[Call, ...] = ()
    result: int = CONTINUE
    outputs: tuple[int, int] | None = None
    """In negotiate only: actions and options to store; None leaves them as libmilter set them."""


@dataclass(frozen=True, slots=True)
class Script:
    """What a callback does: a step for each of its first invocations, then another for the rest.

    Invocations are counted for all connections of a plan together.
    """

    steps: tuple[Step, ...] = ()
    further: Step = Step()

    @classmethod
    def always(cls, result: int, *calls: Call) -> Script:
        """Return a script that does the same every time."""
        return cls(further=Step(calls, result))


@dataclass(frozen=True, slots=True)
class Plan:
    """A filter: which callbacks it registers, and what they do."""

    callbacks: Mapping[str, Script]
    flags: int = 0x1FF
    version: int = 0x01000001
    macros: tuple[bytes, ...] = ()
    """Names of macros that every callback looks up first, for the record.

    A macro packet with an odd number of strings makes libmilter read past an array when it does
    not find the name.
    """
    max_data_size: int | None = None

    @classmethod
    def of(
        cls,
        callbacks: Iterable[str] = CALLBACKS[1:],
        /,
        *,
        flags: int = 0x1FF,
        macros: tuple[bytes, ...] = (),
        **scripts: Script,
    ) -> Plan:
        """Return a filter with these callbacks (all but negotiate) and those that have a script."""
        every = {name: Script() for name in callbacks} | scripts
        return cls(every, flags=flags, macros=macros)

    def to_text(self) -> str:
        """Return the plan as lines of text."""
        lines = [f"version {_signed(self.version, 32)}", f"flags {_signed(self.flags, 64)}"]
        if self.max_data_size is not None:
            lines.append(f"maxdatasize {_signed(self.max_data_size, 64)}")
        lines += (f"macro {name.hex()}" for name in self.macros)
        for name, script in self.callbacks.items():
            if name not in CALLBACKS:
                raise ValueError(f"no such callback: {name}")
            lines.append(f"callback {name}")
            for step in script.steps:
                _add_step(lines, "step", step)
            _add_step(lines, "further", script.further)
        return "\n".join(lines) + "\n"


@dataclass(frozen=True, slots=True)
class Send:
    """Bytes from the MTA; with ``end`` it closes its half of the connection after them.

    A connection is opened at its first send.
    """

    data: bytes
    connection: int = 0
    end: bool = False


def session_text(plan: Plan, sends: Sequence[Send], *, paced: bool, limit_s: float) -> str:
    """Return the text of a session: the plan, and what is sent.

    Raises:
        ValueError: the sends cannot go out in this order.
    """
    opened = 0
    ended: set[int] = set()
    for send in sends:
        if not 0 <= send.connection <= min(opened, _MAX_CONNECTIONS - 1):
            raise ValueError(f"connections are opened in turn, {_MAX_CONNECTIONS} at most")
        if send.connection in ended:
            raise ValueError("nothing can be sent after the end")
        if send.connection and not paced:
            raise ValueError("several connections need a pace: they have an order")
        opened = max(opened, send.connection + 1)
        if send.end:
            ended.add(send.connection)
    if not sends:
        raise ValueError("nothing is sent")
    head = f"{plan.to_text()}limit {int(limit_s * 1000)}\n" + ("paced\n" if paced else "")
    return head + "".join(
        f"send {send.connection} {int(send.end)} {send.data.hex()}\n" for send in sends
    )


def _add_step(lines: list[str], word: str, step: Step) -> None:
    lines.append(f"{word} {_signed(step.result, 32)}")
    if step.outputs is not None:
        actions, options = step.outputs
        lines.append(f"store {_signed(actions, 64)} {_signed(options, 64)}")
    for call in step.calls:
        if len(call.args) > _MAX_ARGUMENTS:
            raise ValueError(f"{call.name} has {len(call.args)} arguments")
        lines.append(" ".join(["call", call.name, *map(_value_to_text, call.args)]))


def _value_to_text(value: Value) -> str:
    if value is None:
        return "-"
    return f"#{_signed(value, 64)}" if isinstance(value, int) else f"={value.hex()}"


def _signed(number: int, bits: int) -> int:
    """Return what C makes of a number when it is stored in a signed type of so many bits."""
    if not -(1 << bits - 1) <= number < 1 << bits:
        raise ValueError(f"{number} has more than {bits} bits")
    return number - (1 << bits) if number >= 1 << bits - 1 else number


# ---------------------------------------------------------------------------- results


class Closing(enum.Enum):
    """How a connection is, once libmilter has dealt with all it was sent."""

    OPEN = 0
    AFTER_END = 1
    """Closed by libmilter after it had seen the end of the input."""
    BY_FILTER = 2
    """Closed by libmilter of its own accord; there may be input that it has not read."""


@dataclass(frozen=True, slots=True)
class Event:
    """A callback that has run."""

    callback: str
    args: tuple[Value, ...]
    """As in C without the context; an address is ``inet:192.0.2.1:25``, ``inet6:::1:25``,
    ``unix:/path`` or None, and negotiate has its four numbers and what was preset for four."""
    result: int
    returns: tuple[Value, ...] = ()
    """What the calls returned, in turn."""
    macros: dict[bytes, bytes] = field(default_factory=dict)
    """Of the plan's macros those that had a value."""
    send: int = 0
    """The number of the send that brought it about."""


@dataclass(frozen=True, slots=True)
class StepOutcome:
    """What one send has brought about."""

    output: bytes
    events: tuple[Event, ...]
    closed: bool
    """libmilter has closed the connection, now or earlier."""


@dataclass(frozen=True, slots=True)
class Connection:
    """What has become of one connection."""

    output: bytes
    closing: Closing
    bytes_read: int
    """How much of its input libmilter has read: up to the packet that made it close."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What has become of a session."""

    connections: tuple[Connection, ...]
    events: tuple[Event, ...]
    steps: tuple[StepOutcome, ...]
    """One for each send, and one more for the end of the input if that is added to them."""
    log: tuple[str, ...]
    """What libmilter wrote to syslog."""

    @property
    def output(self) -> bytes:
        """All that the first connection has answered."""
        return self.connections[0].output

    @property
    def closing(self) -> Closing:
        """How the first connection is in the end."""
        return self.connections[0].closing


_DONE, _STALLED, _FAILED = range(3)
_CONNECTION = struct.Struct("=BII")
_SEND = struct.Struct("=IB")
_EVENT = struct.Struct("=BIiH")
_U16 = struct.Struct("=H")
_U32 = struct.Struct("=I")
_I64 = struct.Struct("=q")
_U64 = struct.Struct("=Q")


def _parse_values(data: bytes, at: int, count: int) -> tuple[tuple[Value, ...], int]:
    values: list[Value] = []
    for _ in range(count):
        tag = data[at]
        at += 1
        if tag == 3:
            (length,) = _U32.unpack_from(data, at)
            at += 4
            values.append(data[at : at + length])
            at += length
        elif tag == 0:
            values.append(None)
        else:
            values += (_I64 if tag == 1 else _U64).unpack_from(data, at)
            at += 8
    return tuple(values), at


def _parse_event(data: bytes, at: int, macros: tuple[bytes, ...]) -> tuple[Event, int]:
    callback, send, result, count = _EVENT.unpack_from(data, at)
    args, at = _parse_values(data, at + _EVENT.size, count)
    (count,) = _U16.unpack_from(data, at)
    returns, at = _parse_values(data, at + 2, count)
    (count,) = _U16.unpack_from(data, at)
    values, at = _parse_values(data, at + 2, count)
    found = {
        name: value for name, value in zip(macros, values, strict=True) if isinstance(value, bytes)
    }
    return Event(CALLBACKS[callback], args, result, returns, found, send), at


def _parse_connections(data: bytes, at: int) -> tuple[tuple[Connection, ...], int]:
    (count,) = _U32.unpack_from(data, at)
    at += 4
    found: list[Connection] = []
    for _ in range(count):
        closing, bytes_read, length = _CONNECTION.unpack_from(data, at)
        at += _CONNECTION.size
        found.append(Connection(data[at : at + length], Closing(closing), bytes_read))
        at += length
    return tuple(found), at


def parse_result(data: bytes, plan: Plan, sends: Sequence[Send]) -> Outcome:
    """Return the outcome of a session.

    Raises:
        LibmilterError: there is none, or only half of one.
    """
    status = data[0]
    if status == _FAILED:
        raise LibmilterError(f"libmilter's session has failed: {data[1:].decode(errors='replace')}")
    connections, at = _parse_connections(data, 1)
    (count,) = _U32.unpack_from(data, at)
    shares = list(_SEND.iter_unpack(data[at + 4 : at + 4 + count * _SEND.size]))
    at += 4 + count * _SEND.size
    (count,) = _U32.unpack_from(data, at)
    at += 4
    events: list[Event] = []
    for _ in range(count):
        event, at = _parse_event(data, at, plan.macros)
        events.append(event)
    log = data[at + 4 :].decode(errors="replace").splitlines()
    steps = _split(connections, events, sends, shares)
    outcome = Outcome(connections, tuple(events), steps, tuple(log))
    if status == _STALLED:
        raise LibmilterError(f"libmilter's session has not come to its end: {outcome}")
    return outcome


def _split(
    connections: Sequence[Connection],
    events: Sequence[Event],
    sends: Sequence[Send],
    shares: Sequence[tuple[int, int]],
) -> tuple[StepOutcome, ...]:
    """Return for each send what belongs to it."""
    by_send: list[list[Event]] = [[] for _ in sends]
    for event in events:
        by_send[event.send].append(event)
    at = [0] * _MAX_CONNECTIONS
    closed = [False] * _MAX_CONNECTIONS
    steps: list[StepOutcome] = []
    for send, own_events, (length, closes) in zip(sends, by_send, shares, strict=True):
        number = send.connection
        # A session that has stalled may not have opened all of them.
        output = connections[number].output if number < len(connections) else b""
        start = at[number]
        at[number] += length
        closed[number] = closed[number] or bool(closes)
        steps.append(StepOutcome(output[start : at[number]], tuple(own_events), closed[number]))
    return tuple(steps)
