"""Compares what libmilter and aiomilter have made of the same session, step by step.

Rules of this file:

- Output, callbacks with arguments, results and what their calls returned, the macros they saw,
  and whether the connection was closed must be the same after every send.
- The only exceptions are the deviations of `docs/deviations.md`. Each is a rule with a situation
  (what must have happened for it to count) and a difference (what each side then has to show).
- After most of them the two sessions are in different states. There the comparison ends: what
  comes later is compared in sessions without that situation.
- A send is one packet, or the end of the stream.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from aiomilter.spec import MAX_PAYLOAD_BYTES_BEFORE_NEGOTIATION
from tests.libmilter.aiomilter_side import Before, Run
from tests.libmilter.plan import (
    ACCEPT,
    ALL_OPTS,
    CONTINUE,
    DISCARD,
    NOREPLY,
    REJECT,
    SKIP,
    TEMPFAIL,
    Call,
    Event,
    Plan,
    Send,
    StepOutcome,
    Value,
)
from tests.packets import split_packets

__all__ = ["Comparison", "DifferenceError", "compare"]

_VERDICTS = (REJECT, DISCARD, ACCEPT, TEMPFAIL)
_DEFINED = (CONTINUE, *_VERDICTS, NOREPLY, SKIP)
_HOOKS = ("abort", "close")
_TEMPFAIL_PACKET = b"\0\0\0\x01t"
_EDITS = {
    "addheader": b"h",
    "insheader": b"i",
    "chgheader": b"m",
    "chgfrom": b"e",
    "addrcpt": b"+",
    "addrcpt_par": b"2",
    "delrcpt": b"-",
    "quarantine": b"q",
}
"""The packet of each edit that is made of numbers and strings."""


class DifferenceError(AssertionError):
    """The two disagree, and no deviation explains it."""


@dataclass(slots=True)
class Comparison:
    """What a comparison has come to.

    Attributes:
        steps: How many steps were compared.
        deviations: The deviations that were met, by their numbers, in turn.
    """

    steps: int = 0
    deviations: list[str] = field(default_factory=list[str])


@dataclass(slots=True)
class _Step:
    """One send, what both sides have made of it, and what went before."""

    plan: Plan
    send: Send
    before: Before
    no_reply: frozenset[str]
    ours: StepOutcome
    theirs: StepOutcome
    earlier_macros: set[tuple[bytes, bytes]]
    counts: dict[str, int]

    @property
    def letter(self) -> bytes:
        return self.send.data[4:5]

    @property
    def payload(self) -> bytes:
        return self.send.data[5:]

    @property
    def decisive(self) -> Event | None:
        """The event of this step that is no hook.

        With a last piece of a body there may be two; then the first one that does not go on.
        """
        events = [event for event in self.ours.events if event.callback not in _HOOKS]
        return next((event for event in events if event.result != CONTINUE), None) or (
            events[-1] if events else None
        )

    def calls(self) -> list[tuple[Call, Value, Value]]:
        """Return the calls of this step with what they returned, here and there."""
        found: list[tuple[Call, Value, Value]] = []
        counts = dict(self.counts)
        theirs = [event for event in self.theirs.events if event.callback not in _HOOKS]
        ours = [event for event in self.ours.events if event.callback not in _HOOKS]
        for mine, reference in zip(ours, theirs, strict=False):
            script = self.plan.callbacks[mine.callback]
            count = counts.get(mine.callback, 0)
            counts[mine.callback] = count + 1
            step = script.steps[count] if count < len(script.steps) else script.further
            found += zip(step.calls, mine.returns, reference.returns, strict=True)
        return found

    def is_same(self, theirs: bytes | None = None) -> bool:
        """Return whether both sides show the same, with ``theirs`` for libmilter's output."""
        return (
            self.ours.output == (self.theirs.output if theirs is None else theirs)
            and self.ours.closed == self.theirs.closed
            and _without_hooks(self.ours.events) == _without_hooks(self.theirs.events)
            and self.hooks_agree()
        )

    def hooks_agree(self) -> bool:
        """D2: libmilter's hooks are ours, or ours and those that are called too often."""
        ours, theirs = _hooks(self.ours.events), _hooks(self.theirs.events)
        extra = list(theirs)
        for hook in ours:
            if hook not in extra:
                return False
            extra.remove(hook)
        for hook in extra:
            # An abort without a message, or the second one for the same message.
            if hook == "abort" and self.before.message_is_open and "abort" not in ours:
                return False
            # A close of a session that has not begun.
            if hook == "close" and self.before.is_started:
                return False
        return True


def compare(
    plan: Plan, sends: Sequence[Send], run: Run, theirs: Sequence[StepOutcome]
) -> Comparison:
    """Compare a session, up to the first deviation after which the two go different ways.

    Raises:
        DifferenceError: They disagree without a deviation.
    """
    comparison = Comparison()
    earlier_macros: set[tuple[bytes, bytes]] = set()
    sent_macros: set[tuple[bytes, bytes]] = set()
    sent_in_message: set[tuple[bytes, bytes]] = set()
    counts: dict[str, int] = {}
    for number, (send, reference) in enumerate(zip(sends, theirs, strict=True)):
        step = _Step(
            plan,
            send,
            run.before[number],
            run.no_reply[number],
            run.outcomes[number],
            reference,
            earlier_macros,
            counts,
        )
        comparison.steps += 1
        begins = run.messages[number] > (run.messages[number - 1] if number else 0)
        if run.before[number].message_is_open:
            sent_in_message |= sent_macros
        if begins:
            # What was sent for the message before, if there was one.
            earlier_macros |= sent_in_message
        step = _forgive(step, comparison)
        for name, rule in _RULES.items():
            if rule(step):
                comparison.deviations.append(name)
                return comparison
        if not step.is_same():
            raise DifferenceError(
                f"step {number}, {send.data[:60]!r} after {step.before}:\n"
                f"  aiomilter {step.ours}\n  libmilter {step.theirs}"
            )
        if step.ours.closed:
            return comparison
        for event in reference.events:
            counts[event.callback] = counts.get(event.callback, 0) + 1
        if begins:
            sent_in_message |= sent_macros
        sent_macros |= _macros_in(send.data)
    return comparison


def _forgive(step: _Step, comparison: Comparison) -> _Step:
    """Take out the differences after which both sides are in the same state."""
    if _hooks(step.ours.events) != _hooks(step.theirs.events) and step.hooks_agree():
        comparison.deviations.append("D2")
    if b"%" in step.theirs.output and step.ours.output == _with_percent_doubled(step.theirs.output):
        comparison.deviations.append("D18")
        step.theirs = replace(step.theirs, output=step.ours.output)
    events = [_with_macros_of(step, mine) for mine in step.theirs.events]
    if any(new is not old for new, old in zip(events, step.theirs.events, strict=True)):
        comparison.deviations.append("D15")
        step.theirs = replace(step.theirs, events=tuple(events))
    return step


def _with_macros_of(step: _Step, reference: Event) -> Event:
    """D15: take what an earlier message has left out of libmilter's macros."""
    mine = next((event for event in step.ours.events if event.callback == reference.callback), None)
    if mine is None or mine.macros == reference.macros:
        return reference
    left_over = reference.macros.items() - mine.macros.items()
    if mine.macros.keys() - reference.macros.keys() or not left_over <= step.earlier_macros:
        return reference
    return replace(reference, macros=mine.macros)


# ---------------------------------------------------------------- rules: after them both part


def _unknown_in_message(step: _Step) -> bool:
    """D10: an unknown command in a message; the difference is in what may follow."""
    if step.letter != b"U" or not step.before.message_is_open:
        return False
    if not step.payload:
        return False
    return step.ours.output == step.theirs.output and step.ours.closed == step.theirs.closed


def _verdict_without_reply(step: _Step) -> bool:
    """D3: a verdict in a stage without replies; what follows is swallowed there."""
    event = step.decisive
    if event is None or event.callback not in step.no_reply or event.result not in _VERDICTS:
        return False
    return step.is_same()


def _verdict_on_last_piece(step: _Step) -> bool:
    """D4: a verdict on a piece of the body in the end of a message: sent twice there."""
    event = step.decisive
    if step.letter != b"E" or event is None or event.callback != "body":
        return False
    if event.result == CONTINUE:
        return False
    if event.result not in _VERDICTS:
        # Silence, or SKIP twice, and no end of the message; here it goes on to that.
        return step.theirs.output in (b"", b"\0\0\0\x01s" * 2)
    plain = {REJECT: b"r", DISCARD: b"d", ACCEPT: b"a", TEMPFAIL: b"t"}[event.result]
    # Where the reply has a percent sign, D18 comes along.
    theirs = _with_percent_doubled(step.theirs.output)
    return theirs == step.ours.output + b"\0\0\0\x01" + plain


def _stored_reply(step: _Step) -> bool:
    """D6: a reply that its own event does not use; it is kept there for a later one."""
    return (
        step.is_same()
        and any(
            call.name in ("setreply", "setmlreply") and mine == 0 for call, mine, _ in step.calls()
        )
        and b"y" not in [packet[:1] for packet in split_packets(step.theirs.output)]
    )


def _undefined_result(step: _Step) -> bool:
    """D7: a result that means nothing is a fault; silence, a close or worse there."""
    event = step.decisive
    if event is None or event.result in _DEFINED:
        return False
    if event.callback == "negotiate":
        return event.result != ALL_OPTS and step.theirs.closed and not step.theirs.output
    if event.callback in step.no_reply:
        return not step.theirs.output
    return step.ours.output == _TEMPFAIL_PACKET and not step.ours.closed


def _silence_where_an_answer_is_due(step: _Step) -> bool:
    """D16: NOREPLY where the MTA waits is a fault; silence there."""
    event = step.decisive
    if event is None or event.callback == "negotiate" or event.result != NOREPLY:
        return False
    if event.callback in step.no_reply:
        return False
    verdicts = [packet for packet in split_packets(step.theirs.output) if packet[:1] in b"crdat"]
    return step.ours.output == _TEMPFAIL_PACKET and not verdicts


def _skip(step: _Step) -> bool:
    """D11: SKIP goes out at the body and where it was agreed; here it also stops the calls."""
    event = step.decisive
    if event is None or event.callback == "negotiate" or event.result != SKIP:
        return False
    if event.callback in step.no_reply:
        return step.is_same()
    edits, skip = step.theirs.output[:-5], step.theirs.output[-5:]
    answers = (b"\0\0\0\x01c", b"\0\0\0\x01s") if event.callback == "body" else (b"\0\0\0\x01c",)
    return skip == b"\0\0\0\x01s" and any(step.ours.output == edits + word for word in answers)


def _address(step: _Step) -> bool:
    """D14: an address that cannot be read is an unknown client; a close there."""
    event = step.decisive
    if step.letter != b"C" or event is None or event.callback != "connect":
        return False
    return event.args[1] is None and step.theirs.closed and not step.theirs.output


def _refused_value(step: _Step) -> bool:
    """D17: an edit or reply that could become something else is refused; it is sent there."""
    refused = [call for call, mine, theirs in step.calls() if (mine, theirs) == (-1, 0)]
    if not refused:
        return False
    output = step.theirs.output
    for call in refused:
        if call.name in ("setreply", "setmlreply"):
            # The MTA's own words instead of these.
            return True
        packet = _packet_of(call)
        if packet not in output:
            return False
        output = output.replace(packet, b"", 1)
    # Where the verdict beside them has a percent sign, D18 comes along.
    return step.ours.output in (output, _with_percent_doubled(output))


def _too_early(step: _Step) -> bool:
    """D20: nobody sends much ahead of the negotiation; it ends the connection."""
    if step.before.has_negotiated or len(step.payload) <= MAX_PAYLOAD_BYTES_BEFORE_NEGOTIATION:
        return False
    return step.ours.closed and not step.ours.output


_RULES: dict[str, Callable[[_Step], bool]] = {
    "D10": _unknown_in_message,
    "D4": _verdict_on_last_piece,
    "D3": _verdict_without_reply,
    "D7": _undefined_result,
    "D16": _silence_where_an_answer_is_due,
    "D11": _skip,
    "D14": _address,
    "D17": _refused_value,
    "D6": _stored_reply,
    "D20": _too_early,
}


# ---------------------------------------------------------------- helpers


def _hooks(events: Iterable[Event]) -> list[str]:
    return [event.callback for event in events if event.callback in _HOOKS]


def _without_hooks(events: Iterable[Event]) -> list[tuple[object, ...]]:
    """Return the other events as they are compared."""
    return [
        (event.callback, _arguments(event), event.result, event.returns, event.macros)
        for event in events
        if event.callback not in _HOOKS
    ]


def _arguments(event: Event) -> tuple[Value, ...]:
    if event.callback != "negotiate":
        return event.args
    # The first two of libmilter's numbers; C extends the sign of the upper bit.
    return tuple(value & 0xFFFFFFFF for value in event.args[:2] if isinstance(value, int))


def _macros_in(data: bytes) -> set[tuple[bytes, bytes]]:
    """Return the macros of a packet, if it is one of macros, by both names of a short one."""
    if data[4:5] != b"D":
        return set()
    strings = data[6:].split(b"\0")[:-1]
    found = set(zip(strings[::2], strings[1::2], strict=False))
    found |= {(b"{%b}" % name, value) for name, value in found if len(name) == 1}
    return found | {(name[1:2], value) for name, value in found if len(name) == 3}


def _with_percent_doubled(output: bytes) -> bytes:
    packets = [
        packet.replace(b"%", b"%%") if packet[:1] == b"y" else packet
        for packet in split_packets(output)
    ]
    return b"".join(struct.pack(">I", len(packet)) + packet for packet in packets)


def _packet_of(call: Call) -> bytes:
    """Return the packet that libmilter makes of a call, written by hand."""
    parts = [
        struct.pack(">I", value) if isinstance(value, int) else (value or b"") + b"\0"
        for value in (call.args if call.name != "chgheader" else _index_first(call.args))
    ]
    payload = _EDITS[call.name] + b"".join(parts)
    return struct.pack(">I", len(payload)) + payload


def _index_first(args: tuple[Value, ...]) -> tuple[Value, ...]:
    name, index, value = args
    return index, name, value
