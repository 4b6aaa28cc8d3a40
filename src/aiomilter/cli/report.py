"""What came of a question, for a person: negotiation, stages, verdict, edits, diff.

Rules of this file:

- Nothing of the wire goes to the terminal but through `printable`.
- Runs of headers and of pieces of the body to which the milter says nothing but CONTINUE are one
  line, unless everything is asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby

from rich.console import Console
from rich.text import Text

from aiomilter.app.mta.edits import (
    BodyReplaced,
    Edit,
    HeaderAdded,
    HeaderChanged,
    HeaderInserted,
    Quarantined,
    RecipientAdded,
    RecipientDeleted,
    SenderChanged,
)
from aiomilter.app.mta.outcome import Outcome, Step
from aiomilter.app.reply import Reply
from aiomilter.app.text import printable
from aiomilter.cli.console import stdout
from aiomilter.cli.diff import diff_lines, styled
from aiomilter.cli.inquiry import Failure, Inquiry
from aiomilter.cli.packets import readable
from aiomilter.session.status import Status
from aiomilter.spec import (
    ALL_ACTIONS,
    ALL_OPTIONS,
    COMMAND_BY_LETTER,
    Actions,
    CommandSpec,
    MacroStage,
    Options,
)
from aiomilter.wire.replies import Negotiated

__all__ = ["Report", "console_for", "flag_names", "macro_requests", "verdict_line"]

_ROWS: dict[str, CommandSpec] = {row.name: row for row in COMMAND_BY_LETTER.values()}
_FOLDED = ("header", "body")
_MOST_ARGUMENT = 44
_MOST_EDIT = 100
_LABEL_WIDTH = 10
_DIM = "dim"
_STYLES = {
    Status.ACCEPT: "green",
    Status.CONTINUE: "green",
    Status.SKIP: "green",
    Status.TEMPFAIL: "yellow",
    Status.REJECT: "red",
    Status.DISCARD: "red",
}


class Report:
    """Prints what came of a question."""

    def __init__(self, console: Console, *, is_verbose: bool = False) -> None:
        self._console = console
        self._is_verbose = is_verbose

    def print(self, inquiry: Inquiry) -> None:
        """Print all there is; the sentence of a failure is left to whoever ends the command."""
        if inquiry.agreed is not None:
            self._print_negotiation(inquiry, inquiry.agreed)
            for number, outcome in enumerate(inquiry.outcomes, 1):
                self._print_outcome(inquiry, inquiry.agreed, outcome, number)
        if inquiry.failure is not None and inquiry.agreed is not None:
            self._title("stages")
            self._print_steps(inquiry.open_steps, inquiry.agreed, inquiry.failure)

    # Negotiation

    def _print_negotiation(self, inquiry: Inquiry, agreed: Negotiated) -> None:
        offer = inquiry.question.offer
        self._title("negotiation")
        self._row("version", f"{agreed.version} (offered {offer.version})")
        self._row("actions", _joined(Actions, agreed.actions, ALL_ACTIONS))
        self._row("options", _joined(Options, agreed.options, ALL_OPTIONS))
        for stage, names in macro_requests(agreed).items():
            self._row("macros", f"{stage}: {' '.join(names) or 'none'}")

    # Stages

    def _print_outcome(
        self, inquiry: Inquiry, agreed: Negotiated, outcome: Outcome, number: int
    ) -> None:
        if number > 1 and _is_same(outcome, inquiry.outcomes[0]):
            self._title(f"message {number}")
            self._print_verdict(outcome)
            self._row("", "the same edits as for message 1" if outcome.edits else "no edits", _DIM)
            return
        self._title("stages" if number == 1 else f"stages of message {number}")
        self._print_steps(outcome.steps, agreed, None)
        self._title("verdict")
        self._print_verdict(outcome)
        if outcome.edits:
            self._title("edits")
            for name, text in map(_edit_line, outcome.edits):
                shown = self._shorten(printable(text), _MOST_EDIT)
                self._console.print(Text.assemble("  ", (f"{name:<17} ", "cyan"), shown))
        self._print_diff(inquiry, outcome)

    def _print_steps(
        self, steps: Iterable[Step], agreed: Negotiated, failure: Failure | None
    ) -> None:
        lines = [line for _, run in groupby(steps, _run_key) for line in self._lines(run, agreed)]
        if failure is not None and failure.stage is not None:
            argument = self._shorten(printable(failure.argument), _MOST_ARGUMENT)
            lines.append((failure.stage, argument, "no valid answer", "bold red"))
        # What is longer, as it may be if everything is asked for, moves its own answer alone.
        width = min(max((len(argument) for _, argument, _, _ in lines), default=0), _MOST_ARGUMENT)
        for stage, argument, answer, style in lines:
            self._console.print(
                Text.assemble(
                    (f"  {stage:<{_LABEL_WIDTH}}", _DIM if style == _DIM else "bold"),
                    (f"{argument:<{width}}  ", _DIM if style == _DIM else ""),
                    (answer, style),
                )
            )

    def _lines(
        self, run: Iterable[Step], agreed: Negotiated
    ) -> Iterator[tuple[str, str, str, str]]:
        steps = list(run)
        first = steps[0]
        if first.stage in _FOLDED and len(steps) > 1 and not self._is_verbose:
            what = "headers" if first.stage == "header" else "pieces"
            yield first.stage, f"{len(steps):,} {what}", *_answer(first, agreed)
            return
        for step in steps:
            argument = self._shorten(printable(step.argument), _MOST_ARGUMENT)
            yield step.stage, argument, *_answer(step, agreed)

    # Verdict and diff

    def _print_verdict(self, outcome: Outcome) -> None:
        status, text = verdict_line(outcome)
        self._console.print(
            Text.assemble("  ", (status.name, f"bold {_STYLES[status]}"), f" {printable(text)}")
        )

    def _print_diff(self, inquiry: Inquiry, outcome: Outcome) -> None:
        delivery = outcome.apply()
        if delivery is None:
            return
        lines = diff_lines(inquiry.question.envelope, inquiry.question.content, delivery)
        self._title("as it is held" if delivery.quarantine is not None else "as it is delivered")
        if not lines:
            self._row("", "unchanged", _DIM)
        for line in lines:
            self._console.print(Text("  ") + styled(line))

    # Below

    def _shorten(self, text: str, most: int) -> str:
        """Return text, or its beginning; the diff shows all of what is delivered."""
        return text if self._is_verbose or len(text) <= most else f"{text[: most - 3]}..."

    def _title(self, text: str) -> None:
        self._console.print(Text(text, style="bold underline"))

    def _row(self, label: str, text: str, style: str = "") -> None:
        start = f"{label:<{_LABEL_WIDTH}}" if label else ""
        self._console.print(Text.assemble((f"  {start}", "bold"), (printable(text), style)))


def console_for(*, no_color: bool, own: Console = stdout) -> Console:
    """Return a console of the commands, or one like it that has no colours."""
    if not no_color:
        return own
    return type(own)(stderr=own.stderr, highlight=False, soft_wrap=True, no_color=True)


def verdict_line(outcome: Outcome) -> tuple[Status, str]:
    """Return a verdict, and what it means for the message."""
    parts = [f"at {outcome.stage}"]
    refused, asked = outcome.refused_recipients, outcome.recipients
    if outcome.reply is not None:
        parts.append(_words(outcome.reply))
    elif outcome.is_refused:
        parts.append("in the MTA's own words")
    if outcome.is_discarded:
        parts.append("the client hears that all is well, and nothing is delivered")
    elif outcome.is_refused and refused and len(refused) == len(asked):
        parts.append("all recipients are refused")
    elif outcome.is_accepted:
        if refused:
            parts.append(f"{len(refused)} of {len(asked)} recipients are refused")
        if outcome.quarantine is not None:
            parts.append(f"quarantined, so held and not delivered: {outcome.quarantine}")
    return outcome.status, ": ".join((parts[0], "; ".join(parts[1:]))) if parts[1:] else parts[0]


def _edit_line(edit: Edit) -> tuple[str, str]:
    """Return the name of an edit, and what is to be done."""
    match edit:
        case HeaderAdded(name, value):
            return "add header", f"{name}: {value.strip()}"
        case HeaderInserted(index, name, value):
            return "insert header", f"at {index}: {name}: {value.strip()}"
        case HeaderChanged(name, index, None):
            return "delete header", f"no. {index} of {name}"
        case HeaderChanged(name, index, value):
            return "change header", f"no. {index} of {name}: {(value or '').strip()}"
        case SenderChanged(address, params):
            return "change sender", f"{address} {params or ''}".rstrip()
        case RecipientAdded(address, params):
            return "add recipient", f"{address} {params or ''}".rstrip()
        case RecipientDeleted(address):
            return "delete recipient", address
        case BodyReplaced(body):
            return "replace body", f"{len(body):,} bytes"
        case Quarantined(reason):
            return "quarantine", reason


def macro_requests(agreed: Negotiated) -> dict[str, list[str]]:
    """Return the names of the macros that a milter asks for, by stage."""
    known = {stage.value: stage.name.lower() for stage in MacroStage}
    return {
        known.get(number, str(number)): readable(names).split()
        for number, names in sorted(agreed.macros.items())
    }


def flag_names(kind: type[Actions | Options], value: int) -> list[str]:
    """Return the names of bits; what has none as a number."""
    names = [flag.name or "" for flag in kind if flag & value]
    rest = value & ~sum(int(flag) for flag in kind)
    return [*names, hex(rest)] if rest else names


def _joined(kind: type[Actions | Options], value: int, everything: int) -> str:
    return "all" if value == everything else ", ".join(flag_names(kind, value)) or "none"


def _run_key(step: Step) -> object:
    """Return what steps of one line have in common."""
    is_plain = step.answer.status is Status.CONTINUE and not step.answer.progress
    if step.stage in _FOLDED and is_plain:
        return step.stage, step.was_sent, step.is_answered
    return id(step)


def _answer(step: Step, agreed: Negotiated) -> tuple[str, str]:
    """Return what a milter says to a command, and the style of it."""
    if not step.was_sent:
        row = _ROWS[step.stage]
        is_unwanted = row.no_option is not None and agreed.options & row.no_option
        return ("not sent: not wanted" if is_unwanted else "not sent: skipped"), _DIM
    if not step.is_answered:
        return "no answer, as agreed", _DIM
    answer = step.answer
    text = answer.status.name
    if answer.reply is not None:
        text += f" {_words(answer.reply)}"
    if answer.edits:
        text += f", {len(answer.edits)} edit{'' if len(answer.edits) == 1 else 's'}"
    if answer.progress:
        text += f", {answer.progress} × PROGRESS"
    return text, _STYLES[answer.status]


def _words(reply: Reply) -> str:
    """Return an SMTP reply in one line."""
    code = str(reply.code) if reply.enhanced_code is None else f"{reply.code} {reply.enhanced_code}"
    return printable(f"{code} {' / '.join(reply.lines)}".strip())


def _is_same(one: Outcome, other: Outcome) -> bool:
    return (one.status, one.stage, one.reply, one.edits, one.recipients) == (
        other.status,
        other.stage,
        other.reply,
        other.edits,
        other.recipients,
    )
