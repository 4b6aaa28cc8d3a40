"""Recorded sessions of libmilter, as files: what was sent, and what came of it.

A file holds the sessions of one theme as JSON::

    {"meta": {...}, "sessions": [
    {"title": "...", "deviation": "...", "plan": {...}, "steps": [{...}, ...]},
    ...]}

plan
    What the filter does (see ``plan.py`` beside the recorder). ``without`` lists the callbacks
    that it lacks; negotiate is there only if ``scripts`` has it. A script lists what the
    callback does at its first, second, … invocation; the last entry is for all further ones.
    ``flags`` are the actions it registers, if not all.
step
    ``send``: bytes from the MTA; ``end``: it closes its half of the connection. ``output``: all
    bytes that the filter answers before it waits for more. ``events``: the callbacks that ran.
    ``closed``: the filter has closed the connection. What is empty or false is left out.
    ``aiomilter``: what aiomilter does instead, in a step where the session's deviation (a row of
    ``docs/deviations.md``) shows.
event
    Name of the callback, its arguments, and, if there are any, what its calls returned and the
    macros that it saw.

Bytes are text: printable ASCII as it is, other bytes as hexadecimal numbers in brackets, and
``[78*65535]`` for many of the same. A JSON number is a number and null is NULL.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv6Address
from pathlib import Path
from typing import Any

from tests.libmilter.plan import (
    CALLBACKS,
    CONTINUE,
    Call,
    Event,
    Plan,
    Script,
    Send,
    Step,
    StepOutcome,
    Value,
)

__all__ = ["FOLDER", "Vector", "dump", "load", "same", "text_of"]

FOLDER = Path(__file__).resolve().parents[1] / "libmilter" / "vectors"
"""Where the recorded sessions are."""

_ALL_ACTIONS = 0x1FF
_RESULTS = {
    0: "CONTINUE",
    1: "REJECT",
    2: "DISCARD",
    3: "ACCEPT",
    4: "TEMPFAIL",
    7: "NOREPLY",
    8: "SKIP",
    10: "ALL_OPTS",
}
_RESULT_BY_NAME: dict[object, int] = {name: number for number, name in _RESULTS.items()}

_LONG = 16
"""So many equal bytes in a row are counted instead of written."""
_PIECES = re.compile(
    rb"(?P<run>(?P<byte>.)(?P=byte){%d,})|(?P<plain>[ -Z\\^-~])|." % (_LONG - 1), re.DOTALL
)
_BRACKETS = re.compile(r"\[([0-9a-f]+)(?:\*([0-9]+))?\]|([^\[\]]+)")


@dataclass(frozen=True, slots=True)
class Vector:
    """A session and what came of it."""

    title: str
    plan: Plan
    sends: tuple[Send, ...]
    outcomes: tuple[StepOutcome, ...]
    """What libmilter did, for each send."""
    deviation: str | None = None
    own_outcomes: tuple[StepOutcome, ...] | None = None
    """What aiomilter does instead; given if and only if there is a deviation."""


def same(left: StepOutcome, right: StepOutcome) -> bool:
    """Return whether two outcomes are the same, as far as both sides can tell.

    The results of callbacks are no outcome: they are in the plan. Of what negotiate is given,
    aiomilter's handler sees the two numbers that mean something.
    """
    return _comparable(left) == _comparable(right)


def _comparable(outcome: StepOutcome) -> StepOutcome:
    return replace(outcome, events=tuple(map(_comparable_event, outcome.events)))


def _comparable_event(event: Event) -> Event:
    args = event.args
    if event.callback == "negotiate":
        # Words of 32 bits, which libmilter extends by their sign.
        args = tuple(word & 0xFFFFFFFF for word in args[:2] if isinstance(word, int))
    elif event.callback == "connect" and isinstance(args[1], bytes):
        args = (args[0], _one_spelling(args[1]))
    return replace(event, args=args, result=CONTINUE, send=0)


def _one_spelling(address: bytes) -> bytes:
    """Return an address in the one spelling that C and all versions of Python agree on."""
    if not address.startswith(b"inet6:"):
        return address
    family, _, rest = address.decode("ascii").partition(":")
    ip, _, port = rest.rpartition(":")
    return f"{family}:{IPv6Address(ip).exploded}:{port}".encode()


# ---------------------------------------------------------------------------- writing


def text_of(data: bytes) -> str:
    """Return bytes in the form that the files have."""
    parts: list[str] = []
    pieces = ((match.lastgroup, match) for match in _PIECES.finditer(data))
    for kind, group in itertools.groupby(pieces, key=lambda piece: piece[0]):
        matches = [match for _, match in group]
        if kind == "run":
            parts += (f"[{m['byte'].hex()}*{len(m[0])}]" for m in matches)
        else:
            joined = b"".join(match[0] for match in matches)
            parts.append(joined.decode("ascii") if kind == "plain" else f"[{joined.hex()}]")
    return "".join(parts)


def dump(meta: Mapping[str, object], vectors: Iterable[Vector]) -> str:
    """Return the text of a file."""
    blocks = [_vector_to_text(vector) for vector in vectors]
    return f'{{"meta": {_json(meta)}, "sessions": [\n' + ",\n".join(blocks) + "\n]}\n"


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=True)


def _vector_to_text(vector: Vector) -> str:
    head: dict[str, object] = {"title": vector.title}
    if vector.deviation is not None:
        head["deviation"] = vector.deviation
    head["plan"] = _plan_to_json(vector.plan)
    owns = vector.own_outcomes or (None,) * len(vector.outcomes)
    steps = [
        _json(_step_to_json(*step))
        for step in zip(vector.sends, vector.outcomes, owns, strict=True)
    ]
    return _json(head)[:-1] + ', "steps": [\n  ' + ",\n  ".join(steps) + "]}"


def _plan_to_json(plan: Plan) -> dict[str, object]:
    found: dict[str, object] = {}
    without = [name for name in CALLBACKS[1:] if name not in plan.callbacks]
    if without:
        found["without"] = without
    if plan.flags != _ALL_ACTIONS:
        found["flags"] = plan.flags
    if plan.macros:
        found["macros"] = [text_of(name) for name in plan.macros]
    scripts = {
        name: [_plan_step_to_json(step) for step in (*script.steps, script.further)]
        for name, script in plan.callbacks.items()
        if name == "negotiate" or script != Script()
    }
    if scripts:
        found["scripts"] = scripts
    return found


def _plan_step_to_json(step: Step) -> dict[str, object]:
    found: dict[str, object] = {}
    if step.calls:
        found["calls"] = [[call.name, *map(_value_to_json, call.args)] for call in step.calls]
    if step.outputs is not None:
        found["outputs"] = list(step.outputs)
    found["result"] = _RESULTS.get(step.result, step.result)
    return found


def _value_to_json(value: Value) -> object:
    return text_of(value) if isinstance(value, bytes) else value


def _step_to_json(send: Send, outcome: StepOutcome, own: StepOutcome | None) -> dict[str, object]:
    found: dict[str, object] = {}
    if send.data:
        found["send"] = text_of(send.data)
    if send.end:
        found["end"] = True
    found |= _outcome_to_json(outcome)
    if own is not None and not same(outcome, own):
        found["aiomilter"] = _outcome_to_json(own)
    return found


def _outcome_to_json(outcome: StepOutcome) -> dict[str, object]:
    found: dict[str, object] = {}
    if outcome.output:
        found["output"] = text_of(outcome.output)
    if outcome.events:
        found["events"] = [_event_to_json(event) for event in outcome.events]
    if outcome.closed:
        found["closed"] = True
    return found


def _event_to_json(event: Event) -> list[object]:
    found: list[object] = [event.callback, [_value_to_json(value) for value in event.args]]
    more: dict[str, object] = {}
    if event.returns:
        more["returns"] = [_value_to_json(value) for value in event.returns]
    if event.macros:
        more["macros"] = {text_of(name): text_of(value) for name, value in event.macros.items()}
    return [*found, more] if more else found


# ---------------------------------------------------------------------------- reading


def load(path: Path) -> list[Vector]:
    """Return the sessions of a file."""
    content = json.loads(path.read_text(encoding="ascii"))
    return [_vector_from_json(found) for found in content["sessions"]]


def _vector_from_json(found: dict[str, Any]) -> Vector:
    sends: list[Send] = []
    outcomes: list[StepOutcome] = []
    owns: list[StepOutcome] = []
    for number, step in enumerate(found["steps"]):
        sends.append(Send(_bytes_of(step.get("send", "")), end=step.get("end", False)))
        outcomes.append(_outcome_from_json(step, number))
        owns.append(_outcome_from_json(step.get("aiomilter", step), number))
    deviation = found.get("deviation")
    return Vector(
        found["title"],
        _plan_from_json(found["plan"]),
        tuple(sends),
        tuple(outcomes),
        deviation,
        None if deviation is None else tuple(owns),
    )


def _bytes_of(text: str) -> bytes:
    parts: list[bytes] = []
    at = 0
    while at < len(text):
        match = _BRACKETS.match(text, at)
        if match is None:
            raise ValueError(f"no bytes: {text[at:]!r}")
        number, count, plain = match.groups()
        parts.append(bytes.fromhex(number) * int(count or 1) if number else plain.encode("ascii"))
        at = match.end()
    return b"".join(parts)


def _value_from_json(value: str | int | None) -> Value:
    return _bytes_of(value) if isinstance(value, str) else value


def _values_from_json(values: Sequence[str | int | None]) -> tuple[Value, ...]:
    return tuple(map(_value_from_json, values))


def _plan_from_json(found: dict[str, Any]) -> Plan:
    without = found.get("without", ())
    scripts = {name: _script_from_json(steps) for name, steps in found.get("scripts", {}).items()}
    return Plan.of(
        [name for name in CALLBACKS[1:] if name not in without],
        flags=found.get("flags", _ALL_ACTIONS),
        macros=tuple(map(_bytes_of, found.get("macros", ()))),
        **scripts,
    )


def _script_from_json(found: list[dict[str, Any]]) -> Script:
    *first, further = (
        Step(
            tuple(Call(name, _values_from_json(args)) for name, *args in step.get("calls", ())),
            _RESULT_BY_NAME.get(step["result"], step["result"]),
            tuple(step["outputs"]) if "outputs" in step else None,
        )
        for step in found
    )
    return Script(tuple(first), further)


def _outcome_from_json(found: dict[str, Any], send: int) -> StepOutcome:
    events = tuple(_event_from_json(event, send) for event in found.get("events", ()))
    return StepOutcome(_bytes_of(found.get("output", "")), events, found.get("closed", False))


def _event_from_json(found: list[Any], send: int) -> Event:
    callback, args, *rest = found
    more: dict[str, Any] = rest[0] if rest else {}
    macros = {_bytes_of(name): _bytes_of(value) for name, value in more.get("macros", {}).items()}
    returns = _values_from_json(more.get("returns", ()))
    return Event(callback, _values_from_json(args), CONTINUE, returns, macros, send)
