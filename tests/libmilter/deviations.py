"""What a step of a session may differ in, by the rules of `docs/deviations.md`.

Rules of this file:

- Each rule has a situation (what must have happened for it to count) and a difference (what each
  side then has to show). One that holds in other situations as well is a defect.
- `OTHER_WORDS` are the deviations after which both sides are in the same state: what libmilter has
  answered, as aiomilter says it. `RULES` are those after which they part.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from aiomilter.spec import MAX_PAYLOAD_BYTES_BEFORE_NEGOTIATION, Options, State
from tests.libmilter.aiomilter_side import Before
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
from tests.libmilter.plan import Step as PlanStep
from tests.packets import split_packets

__all__ = ["OTHER_WORDS", "RULES", "Step", "hooks", "without_hooks"]

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
_PLAIN = {REJECT: b"r", DISCARD: b"d", ACCEPT: b"a", TEMPFAIL: b"t"}
"""The packet of each verdict without a reply."""
_NO_LAST_LINE = re.compile(rb"(y[45][0-9]{2})-([45]\.[0-9]{1,3}\.[0-9]{1,3}\0)")
"""The packet of a reply of several lines without any line."""
_HEADER_NAME = re.compile(rb"[!-9;-~]+")
_NEXT_HEADER = re.compile(rb"\r(?!\n)|\n(?![ \t])")


@dataclass(slots=True)
class Step:
    """One send, what both sides have made of it, and what went before."""

    plan: Plan
    send: Send
    before: Before
    no_reply: frozenset[str]
    ours: StepOutcome
    theirs: StepOutcome
    earlier_macros: set[tuple[bytes, bytes]]
    counts: dict[str, int]
    refusal_of_data: bytes
    """The packet with which DATA was refused, if the message has not ended otherwise since."""
    is_discarded: bool
    """DISCARD was answered at RCPT of the message that is open."""
    mail_is_told: bool
    """Macros of MAIL have come though MAIL is not wanted."""

    @property
    def letter(self) -> bytes:
        return self.send.data[4:5]

    @property
    def payload(self) -> bytes:
        return self.send.data[5:]

    @property
    def leaves_out_mail(self) -> bool:
        return bool(self.before.options & Options.NO_MAIL)

    @property
    def refusal_is_due(self) -> bool:
        """The client goes on with a message that was refused at DATA."""
        is_more = self.letter in (b"R", b"T")
        return is_more and bool(self.refusal_of_data) and not self.before.message_is_open

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

    def is_same(self) -> bool:
        """Return whether both sides show the same."""
        return (
            self.ours.output == self.theirs.output
            and self.ours.closed == self.theirs.closed
            and without_hooks(self.ours.events) == without_hooks(self.theirs.events)
            and self.hooks_agree()
            and all(
                mine == theirs or _is_refused(call, mine, theirs)
                for call, mine, theirs in self.calls()
            )
        )

    def hooks_agree(self) -> bool:
        """D2: libmilter's hooks are ours, or ours and those that are called too often."""
        ours, theirs = hooks(self.ours.events), hooks(self.theirs.events)
        extra = list(theirs)
        for hook in ours:
            if hook not in extra:
                return False
            extra.remove(hook)
        for hook in extra:
            # An abort without a message, or the second one for the same message.
            is_due = self.before.message_is_open and not self.is_discarded
            if hook == "abort" and is_due and "abort" not in ours:
                return False
            # A close of a session that has not begun.
            if hook == "close" and self.before.is_started:
                return False
        return True


# ---------------------------------------------------------------- the same in other words


def _is_refused(call: Call, mine: Value, theirs: Value) -> bool:
    """D17: return whether a call was refused here, not there, and for what its values are."""
    if (mine, theirs) != (-1, 0):
        return False
    texts = [value for value in call.args if isinstance(value, bytes)]
    if call.name in ("setreply", "setmlreply"):
        return len(texts) > 1 and texts[1][:1] != texts[0][:1]
    if call.name in ("addheader", "insheader", "chgheader"):
        name, *value = texts
        return not _HEADER_NAME.fullmatch(name) or any(map(_NEXT_HEADER.search, value))
    return any(b"\r" in text or b"\n" in text for text in texts)


def _without_refused(step: Step) -> bytes:
    """D17: what could become something else is refused: no such edit, and a plain verdict."""
    packets = split_packets(step.theirs.output)
    event = step.decisive
    for call, mine, theirs in step.calls():
        if not _is_refused(call, mine, theirs):
            continue
        if call.name in _EDITS:
            if _packet_of(call) in packets:
                packets.remove(_packet_of(call))
        elif event is not None and event.result in (REJECT, TEMPFAIL):
            plain = _PLAIN[event.result]
            packets = [plain if packet[:1] == b"y" else packet for packet in packets]
    return _join(packets)


def _percent_doubled(step: Step) -> bytes:
    """D18: a percent sign in the text of a reply is doubled."""
    return _join(
        packet.replace(b"%", b"%%") if packet[:1] == b"y" else packet
        for packet in split_packets(step.theirs.output)
    )


def _last_line_ended(step: Step) -> bytes:
    """D24: a reply of several lines that has none of them is one without text."""
    return _join(
        b"%b %b" % (found[1], found[2]) if (found := _NO_LAST_LINE.fullmatch(packet)) else packet
        for packet in split_packets(step.theirs.output)
    )


def _body_in_one_place(step: Step) -> bytes:
    """D22: all pieces of a new body stand where the first one is."""
    packets = split_packets(step.theirs.output)
    body = [packet for packet in packets if packet[:1] == b"b"]
    if len(body) < 2:
        return step.theirs.output
    at = packets.index(body[0])
    behind = [packet for packet in packets[at:] if packet[:1] != b"b"]
    return _join([*packets[:at], *body, *behind])


def _progress_first(step: Step) -> bytes:
    """D1: edits are held until the handler has returned, which progress is not."""
    packets = split_packets(step.theirs.output)
    progress = [packet for packet in packets if packet == b"p"]
    if step.letter != b"E" or not progress:
        return step.theirs.output
    return _join([*progress, *(packet for packet in packets if packet != b"p")])


def _no_verdict_on_a_message(step: Step) -> bytes:
    """D35: ACCEPT and DISCARD of an unknown command are none where no message can be meant."""
    knows_of_messages = not step.leaves_out_mail
    if step.letter != b"U" or (step.before.message_is_open and knows_of_messages):
        return step.theirs.output
    event = step.decisive
    if event is None or event.callback != "unknown" or event.result not in (ACCEPT, DISCARD):
        return step.theirs.output
    verdict = _join([_PLAIN[event.result]])
    return b"\0\0\0\x01c" if step.theirs.output == verdict else step.theirs.output


def _refused_again(step: Step) -> bytes:
    """D34: RCPT and DATA after a refusal at DATA are refused as well; swallowed there."""
    is_swallowed = not step.theirs.output and not step.theirs.events and not step.theirs.closed
    if not step.refusal_is_due or not is_swallowed:
        return step.theirs.output
    return step.refusal_of_data if step.before.answers(step.letter) else b""


OTHER_WORDS: dict[str, Callable[[Step], bytes]] = {
    "D35": _no_verdict_on_a_message,
    "D17": _without_refused,
    "D18": _percent_doubled,
    "D24": _last_line_ended,
    "D22": _body_in_one_place,
    "D1": _progress_first,
    # Last: it puts in what aiomilter has said before, to which no other word is to be applied.
    "D34": _refused_again,
}
"""What libmilter has answered as aiomilter says it. It then has to say just that."""


# ---------------------------------------------------------------- rules: after them both part


def _unknown_in_message(step: Step) -> bool:
    """D10: an unknown command in a message; the difference is in what may follow."""
    if step.letter != b"U" or not step.before.message_is_open:
        return False
    if not step.payload:
        return False
    return step.ours.output == step.theirs.output and step.ours.closed == step.theirs.closed


def _verdict_without_reply(step: Step) -> bool:
    """D3: a verdict in a stage without replies; what follows is swallowed there."""
    event = step.decisive
    if event is None or event.callback not in step.no_reply or event.result not in _VERDICTS:
        return False
    return step.is_same()


def _verdict_on_last_piece(step: Step) -> bool:
    """D4: a verdict on a piece of the body in the end of a message: sent twice there."""
    event = step.decisive
    if step.letter != b"E" or event is None or event.callback != "body":
        return False
    if event.result == CONTINUE:
        return False
    if event.result not in _VERDICTS:
        # Silence, or SKIP twice, and no end of the message; here it goes on to that.
        return step.theirs.output in (b"", b"\0\0\0\x01s" * 2)
    return step.theirs.output == step.ours.output + _join([_PLAIN[event.result]])


def _stored_reply(step: Step) -> bool:
    """D6: a reply that its own event does not use; it is kept there for a later one."""
    return (
        step.is_same()
        and any(
            call.name in ("setreply", "setmlreply") and theirs == 0
            for call, _, theirs in step.calls()
        )
        and b"y" not in [packet[:1] for packet in split_packets(step.theirs.output)]
    )


def _undefined_result(step: Step) -> bool:
    """D7: a result that means nothing is a fault; silence, a close or worse there."""
    event = step.decisive
    if event is None or event.result in _DEFINED:
        return False
    if event.callback == "negotiate":
        return event.result != ALL_OPTS and step.theirs.closed and not step.theirs.output
    if event.callback in step.no_reply:
        return not step.theirs.output
    return step.ours.output == _progress(step) + _TEMPFAIL_PACKET and not step.ours.closed


def _silence_where_an_answer_is_due(step: Step) -> bool:
    """D16: NOREPLY where the MTA waits is a fault; silence there."""
    event = step.decisive
    if event is None or event.callback == "negotiate" or event.result != NOREPLY:
        return False
    if event.callback in step.no_reply:
        return False
    verdicts = [packet for packet in split_packets(step.theirs.output) if packet[:1] in b"crdat"]
    return step.ours.output == _progress(step) + _TEMPFAIL_PACKET and not verdicts


def _skip(step: Step) -> bool:
    """D11: SKIP goes out at the body and where it was agreed; here it also stops the calls."""
    event = step.decisive
    if event is None or event.callback == "negotiate" or event.result != SKIP:
        return False
    if event.callback in step.no_reply:
        return step.is_same()
    edits, skip = step.theirs.output[:-5], step.theirs.output[-5:]
    answers = (b"\0\0\0\x01c", b"\0\0\0\x01s") if event.callback == "body" else (b"\0\0\0\x01c",)
    return skip == b"\0\0\0\x01s" and any(step.ours.output == edits + word for word in answers)


def _address(step: Step) -> bool:
    """D14: an address that cannot be read is an unknown client; a close there."""
    event = step.decisive
    if step.letter != b"C" or event is None or event.callback != "connect":
        return False
    return event.args[1] is None and step.theirs.closed and not step.theirs.output


def _too_early(step: Step) -> bool:
    """D20: nobody sends much ahead of the negotiation; it ends the connection."""
    if step.before.has_negotiated or len(step.payload) <= MAX_PAYLOAD_BYTES_BEFORE_NEGOTIATION:
        return False
    return step.ours.closed and not step.ours.output


def _without_headers(step: Step) -> bool:
    """D33: a message without headers, the end of which nobody wants: swallowed there."""
    if step.letter not in (b"B", b"E") or step.before.state is not State.DATA:
        return False
    if not _leaves_out(step.plan, "eoh", Options.NO_EOH):
        return False
    is_swallowed = not step.theirs.output and not without_hooks(step.theirs.events)
    # What is not swallowed is looked at: a piece of the body without a byte ends the connection.
    is_malformed = step.letter == b"B" and not step.payload
    return is_swallowed and not step.theirs.closed and step.ours.closed == is_malformed


def _macros_of_the_next_message(step: Step) -> bool:
    """D36: macros of a MAIL that is not wanted, in a message: it was given up; nothing there."""
    if step.letter != b"D" or step.payload[:1] != b"M" or not step.before.message_is_open:
        return False
    if not step.leaves_out_mail:
        return False
    is_silent = not step.theirs.output and not step.theirs.events and not step.theirs.closed
    aborts = hooks(step.ours.events)
    if len(aborts) != len(step.ours.events) or aborts not in ([], ["abort"]):
        return False
    return is_silent and not step.ours.output and not step.ours.closed


def _refused_instead_of_begun(step: Step) -> bool:
    """D34: the same without a callback for MAIL; there it is the beginning of another message."""
    if not step.refusal_is_due:
        return False
    due = step.refusal_of_data if step.before.answers(step.letter) else b""
    return step.ours.output == due and not step.ours.events and not step.ours.closed


RULES: dict[str, Callable[[Step], bool]] = {
    "D10": _unknown_in_message,
    "D4": _verdict_on_last_piece,
    "D3": _verdict_without_reply,
    "D7": _undefined_result,
    "D16": _silence_where_an_answer_is_due,
    "D11": _skip,
    "D14": _address,
    "D6": _stored_reply,
    "D20": _too_early,
    "D33": _without_headers,
    "D34": _refused_instead_of_begun,
    "D36": _macros_of_the_next_message,
}


# ---------------------------------------------------------------- helpers


def hooks(events: Iterable[Event]) -> list[str]:
    return [event.callback for event in events if event.callback in _HOOKS]


def without_hooks(events: Iterable[Event]) -> list[tuple[object, ...]]:
    """Return the other events as they are compared; what their calls returned is not part of it."""
    return [
        (event.callback, _arguments(event), event.result, event.macros)
        for event in events
        if event.callback not in _HOOKS
    ]


def _arguments(event: Event) -> tuple[Value, ...]:
    if event.callback != "negotiate":
        return event.args
    # The first two of libmilter's numbers; C extends the sign of the upper bit.
    return tuple(value & 0xFFFFFFFF for value in event.args[:2] if isinstance(value, int))


def _leaves_out(plan: Plan, callback: str, option: Options) -> bool:
    """Return whether a milter does not want a stage, for lack of a callback or as negotiated."""
    asked = [step.outputs[1] for step in _negotiations(plan) if step.outputs is not None]
    return callback not in plan.callbacks or any(options & option for options in asked)


def _negotiations(plan: Plan) -> list[PlanStep]:
    script = plan.callbacks.get("negotiate")
    return [] if script is None else [*script.steps, script.further]


def _join(packets: Iterable[bytes]) -> bytes:
    return b"".join(struct.pack(">I", len(packet)) + packet for packet in packets)


def _progress(step: Step) -> bytes:
    """Return what libmilter has told of progress in a step: a fault takes none of it back."""
    return _join(packet for packet in split_packets(step.theirs.output) if packet == b"p")


def _packet_of(call: Call) -> bytes:
    """Return the packet that libmilter makes of a call, written by hand."""
    parts = [
        struct.pack(">I", value) if isinstance(value, int) else (value or b"") + b"\0"
        for value in (call.args if call.name != "chgheader" else _index_first(call.args))
    ]
    return _EDITS[call.name] + b"".join(parts)


def _index_first(args: tuple[Value, ...]) -> tuple[Value, ...]:
    name, index, value = args
    return index, name, value
