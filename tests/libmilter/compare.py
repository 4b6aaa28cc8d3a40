"""Compares what libmilter and aiomilter have made of the same session, step by step.

Rules of this file:

- Output, callbacks with arguments, results and what their calls returned, the macros they saw,
  and whether the connection was closed must be the same after every send.
- The only exceptions are the deviations of `docs/deviations.md`, which are in `deviations.py`.
- After most of them the two sessions are in different states. There the comparison ends: what
  comes later is compared in sessions without that situation.
- A send is one packet, or the end of the stream.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from tests.libmilter.aiomilter_side import Run
from tests.libmilter.deviations import OTHER_WORDS, RULES, Step, hooks, without_hooks
from tests.libmilter.plan import DISCARD, Event, Plan, Send, StepOutcome
from tests.packets import split_packets

__all__ = ["Comparison", "DifferenceError", "compare", "compare_in_all"]


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

    @property
    def is_plain(self) -> bool:
        """Whether both sides did the same to the end, apart from hooks too many (D2)."""
        return set(self.deviations) <= {"D2"}


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
    refusal_of_data = b""
    is_discarded = mail_is_told = False
    for number, (send, reference) in enumerate(zip(sends, theirs, strict=True)):
        step = Step(
            plan,
            send,
            run.before[number],
            run.no_reply[number],
            run.outcomes[number],
            reference,
            earlier_macros,
            counts,
            refusal_of_data,
            is_discarded and run.before[number].message_is_open,
            mail_is_told,
        )
        mail_is_told |= step.letter == b"D" and step.payload[:1] == b"M" and step.leaves_out_mail
        is_discarded = _is_discarded_after(step)
        refusal_of_data = _refusal_after(step)
        comparison.steps += 1
        begins = run.messages[number] > (run.messages[number - 1] if number else 0)
        if send.data[4:5] == b"E" and not run.before[number].message_is_open:
            # A message of which nobody wants to see anything, begun and ended by one command.
            begins = begins or bool(step.ours.output)
        if run.before[number].message_is_open:
            sent_in_message |= sent_macros
        if begins:
            # What was sent for the message before, if there was one.
            earlier_macros |= sent_in_message
        step = _forgive(step, comparison)
        for name, rule in RULES.items():
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


def _refusal_after(step: Step) -> bytes:
    """Return with what DATA was refused, after a step; empty if it was not, or no longer counts."""
    begins_another = step.letter == b"D" and step.payload[:1] == b"M" and step.leaves_out_mail
    if step.letter in (b"M", b"A") or begins_another:
        return b""
    if step.letter != b"T" or not step.ours.output:
        return step.refusal_of_data
    is_told = step.mail_is_told or not step.leaves_out_mail
    verdict = split_packets(step.ours.output)[-1]
    return step.ours.output if verdict[:1] in (b"r", b"t", b"y") and is_told else b""


def _is_discarded_after(step: Step) -> bool:
    event = step.decisive
    is_discard = event is not None and (event.callback, event.result) == ("envrcpt", DISCARD)
    return step.is_discarded or (is_discard and "envrcpt" not in step.no_reply)


def compare_in_all(ours: Sequence[StepOutcome], theirs: Sequence[StepOutcome]) -> None:
    """Compare all of a session at once, where its sends are no packets.

    That is for sessions that are plain when they are compared packet by packet.

    Raises:
        DifferenceError: They disagree.
    """
    mine, reference = (
        (
            b"".join(step.output for step in steps),
            without_hooks(event for step in steps for event in step.events),
            steps[-1].closed,
        )
        for steps in (ours, theirs)
    )
    if mine != reference:
        raise DifferenceError(f"in all:\n  aiomilter {mine}\n  libmilter {reference}")


def _forgive(step: Step, comparison: Comparison) -> Step:
    """Take out the differences after which both sides are in the same state."""
    if hooks(step.ours.events) != hooks(step.theirs.events) and step.hooks_agree():
        comparison.deviations.append("D2")
    for name, rewrite in OTHER_WORDS.items():
        output = rewrite(step)
        if output != step.theirs.output:
            comparison.deviations.append(name)
            step.theirs = replace(step.theirs, output=output)
    events = [_with_macros_of(step, mine) for mine in step.theirs.events]
    if any(new is not old for new, old in zip(events, step.theirs.events, strict=True)):
        comparison.deviations.append("D15")
        step.theirs = replace(step.theirs, events=tuple(events))
    return step


def _with_macros_of(step: Step, reference: Event) -> Event:
    """D15: take what an earlier message has left out of libmilter's macros."""
    mine = next((event for event in step.ours.events if event.callback == reference.callback), None)
    if mine is None or mine.macros == reference.macros:
        return reference
    left_over = reference.macros.items() - mine.macros.items()
    if mine.macros.keys() - reference.macros.keys() or not left_over <= step.earlier_macros:
        return reference
    return replace(reference, macros=mine.macros)


def _macros_in(data: bytes) -> set[tuple[bytes, bytes]]:
    """Return the macros of a packet, if it is one of macros, by both names of a short one."""
    if data[4:5] != b"D":
        return set()
    strings = data[6:].split(b"\0")[:-1]
    found = set(zip(strings[::2], strings[1::2], strict=False))
    found |= {(b"{%b}" % name, value) for name, value in found if len(name) == 1}
    return found | {(name[1:2], value) for name, value in found if len(name) == 3}
