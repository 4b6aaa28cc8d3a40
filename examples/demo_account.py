"""What the demo prints: a readable account of a conversation with a milter."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TextIO

from aiomilter import Status
from aiomilter.mta import (
    BodyReplaced,
    Edit,
    Envelope,
    HeaderAdded,
    HeaderChanged,
    HeaderInserted,
    Outcome,
    Quarantined,
    RecipientAdded,
    RecipientDeleted,
    SenderChanged,
    Step,
)
from aiomilter.spec import COMMANDS
from aiomilter.wire.replies import Negotiated

__all__ = ["Account", "count", "size"]

STAGE_WIDTH = 10
WHAT_WIDTH = 50
ANSWER_WIDTH = 36
LINE_WIDTH = 100
NOT_SENT = "not asked"
NOT_AWAITED = "no answer awaited"

BOLD, DIM, RED, GREEN, YELLOW = "1", "2", "31", "32", "33"


def count(number: int, noun: str) -> str:
    """Return ``1 edit`` or ``2 edits``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def size(number: int) -> str:
    """Return a number of bytes in short."""
    if number < 1_000:
        return f"{number} B"
    return f"{number / 1_000:.1f} kB" if number < 1_000_000 else f"{number / 1_000_000:.1f} MB"


def shorten(text: str, width: int) -> str:
    """Return one line of at most ``width`` characters without control characters."""
    text = "".join(char if char.isprintable() else " " for char in text)
    text = " ".join(text.split())
    return text if len(text) <= width else f"{text[: width - 1]}…"


def in_words(edit: Edit) -> str:
    """Return what an edit does."""
    match edit:
        case HeaderAdded(name, value):
            return f"add header {name}: {value}"
        case HeaderInserted(index, name, value):
            return f"insert header {name} ({index}): {value}"
        case HeaderChanged(name, index, None):
            return f"delete header {name} ({index})"
        case HeaderChanged(name, index, value):
            return f"change header {name} ({index}): {value}"
        case SenderChanged(address):
            return f"change sender {address}"
        case RecipientAdded(address):
            return f"add recipient {address}"
        case RecipientDeleted(address):
            return f"delete recipient {address}"
        case BodyReplaced(body):
            return f"replace body {len(body):,} bytes"
        case Quarantined(reason):
            return f"quarantine {reason}"


@dataclass(slots=True)
class _Run:
    """Steps in a row that are told as one: of the same stage, with the same answer."""

    stage: str
    what: list[str]
    answer: str
    colour: str
    edits: tuple[Edit, ...]

    def summary(self) -> str:
        if len(self.what) == 1:
            return self.what[0]
        if self.stage == "header":
            names = ", ".join(header.partition(":")[0] for header in self.what)
            return f"{len(self.what)}: {names}"
        return f"{len(self.what)} pieces, the first of {self.what[0]}"


class Account:
    """Prints the conversation as it happens.

    Attributes:
        statuses: What has become of each message.
    """

    def __init__(self, out: TextIO) -> None:
        self._out = out
        # As of https://no-color.org: any value but the empty one counts.
        self._has_colour = out.isatty() and not os.environ.get("NO_COLOR")
        self._run: _Run | None = None
        self._rows: list[tuple[str, str, str]] = []
        self.statuses: list[Status] = []

    def line(self, text: str = "", end: str = "\n") -> None:
        """Print a line as it is."""
        print(text, end=end, file=self._out)

    def title(self, text: str) -> None:
        """Begin a section."""
        self.line(f"\n{self._paint(text, BOLD)}")

    def negotiation(self, agreed: Negotiated) -> None:
        """Say what was agreed."""
        rows = [row for row in COMMANDS if row.no_option is not None]
        unwanted = [row.name for row in rows if (row.no_option or 0) & agreed.options]
        silent = [row.name for row in rows if (row.no_reply_option or 0) & agreed.options]
        self.title(f"Agreed, in version {agreed.version} of the protocol")
        self._row("not asked", ", ".join(unwanted) or "-", "there are no such handlers", DIM)
        self._row("no answer", ", ".join(silent) or "-", "handlers declared no_reply", DIM)

    def outcome(self, name: str, envelope: Envelope, outcome: Outcome) -> None:
        """Tell what was said about a message, and what has become of it."""
        for step in outcome.steps:
            self._step(step)
        self._end_run()
        asked, refused = len(envelope.recipients), len(outcome.refused_recipients)
        held = outcome.quarantine is not None
        changes = count(len(outcome.edits) - held, "change")
        if asked == refused:
            text, colour = "refused: no recipient is left", RED
        elif outcome.is_refused:
            text, colour = f"refused: {outcome.reply or outcome.status.name}", RED
        elif outcome.is_discarded:
            text, colour = "thrown away", RED
        elif held:
            text, colour = f"held for the administrator, {changes}", YELLOW
        else:
            text, colour = f"accepted, {changes}", GREEN
        passed = f"{asked - refused} of {asked}"
        self.statuses.append(outcome.status)
        self._rows.append((f"  {name:<24}{passed:<12}", text, colour))
        left = "" if outcome.is_refused else f", for {passed}"
        self.line(f"  = {self._paint(text, colour)}{left}")

    def summary(self) -> None:
        """Print a line for each message."""
        self.title(f"  {'Message':<24}{'Recipients':<12}Outcome")
        for start, text, colour in self._rows:
            self.line(f"{start}{self._paint(text, colour)}")

    def _step(self, step: Step) -> None:
        """Tell one command and its answer, together with others like it."""
        if not step.was_sent:
            answer, colour = NOT_SENT, DIM
        elif not step.is_answered:
            answer, colour = NOT_AWAITED, DIM
        else:
            words = step.answer.reply
            answer = step.answer.status.name.lower() if words is None else str(words)
            colour = RED if step.answer.is_refusal else GREEN
        run = self._run
        can_run = step.stage in ("header", "body")
        if run and can_run and (run.stage, run.answer) == (step.stage, answer):
            run.what.append(step.argument)
            return
        self._end_run()
        self._run = _Run(step.stage, [step.argument], answer, colour, step.answer.edits)

    def _end_run(self) -> None:
        run, self._run = self._run, None
        if run is None:
            return
        self._row(run.stage, run.summary(), run.answer, run.colour)
        for edit in run.edits:
            margin = " " * (2 + STAGE_WIDTH)
            text = shorten(f"+ {in_words(edit)}", LINE_WIDTH - len(margin))
            self.line(f"{margin}{self._paint(text, YELLOW)}")

    def _row(self, stage: str, what: str, answer: str, colour: str) -> None:
        shown = self._paint(shorten(answer, ANSWER_WIDTH), colour)
        self.line(f"  {stage:<{STAGE_WIDTH}}{shorten(what, WHAT_WIDTH):<{WHAT_WIDTH}}  {shown}")

    def _paint(self, text: str, colour: str) -> str:
        return f"\033[{colour}m{text}\033[0m" if self._has_colour else text
