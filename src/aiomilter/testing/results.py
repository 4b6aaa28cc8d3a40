"""What a milter has answered, with assertions that say what they expected and what there was.

Rules of this file:

- A failed assertion is a plain `AssertionError`; its text has all that was answered, and, of a
  whole message, the difference between what was sent and what is delivered.
- Names of headers are compared without regard to case, addresses with or without their brackets.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import NoReturn

from aiomilter.app.mta.content import Content
from aiomilter.app.mta.delivery import Delivery
from aiomilter.app.mta.edits import (
    BodyReplaced,
    Edit,
    HeaderAdded,
    HeaderChanged,
    HeaderInserted,
    RecipientAdded,
    RecipientDeleted,
    SenderChanged,
)
from aiomilter.app.mta.envelope import Envelope, Path
from aiomilter.app.mta.outcome import Outcome, RecipientResult, Step
from aiomilter.app.reply import Reply
from aiomilter.session.status import Status

__all__ = ["Result", "StageResult"]

_MOST_LINES = 60
"""Of a difference in a failure; the whole of it is `Result.diff`."""


@dataclass(frozen=True)
class StageResult:
    """What a milter has answered to one command.

    Attributes:
        stage: The command that decided, by its name: ``connect``, ``helo``, ``mail``, ``rcpt``,
            ``data``, ``header``, ``eoh``, ``body``, ``eom`` or ``unknown``. An earlier one than
            the one asked about, if there was a verdict already: the milter is then not asked.
        status: CONTINUE also where the milter does not want the command, or does not answer.
        reply: The words of a REJECT or TEMPFAIL, or None for the MTA's own.
    """

    stage: str
    status: Status
    reply: Reply | None = None

    def assert_continued(self) -> None:
        """The milter has no verdict yet."""
        __tracebackhide__ = True
        self._expect(self.status is Status.CONTINUE, "CONTINUE")

    def assert_accepted(self) -> None:
        """The milter lets the message pass (or the session, or the recipient)."""
        __tracebackhide__ = True
        self._expect(self.status is Status.ACCEPT, "ACCEPT")

    def assert_discarded(self) -> None:
        """The client hears that all is well, and nothing is delivered."""
        __tracebackhide__ = True
        self._expect(self.status is Status.DISCARD, "DISCARD")

    def assert_rejected(self, code: int | None = None, text: str | None = None) -> None:
        """The milter refuses for good.

        Args:
            code: That of its reply, for example 550.
            text: A part of the reply.
        """
        __tracebackhide__ = True
        self._expect_refusal(Status.REJECT, code, text)

    def assert_tempfailed(self, code: int | None = None, text: str | None = None) -> None:
        """The milter refuses for now.

        Args:
            code: That of its reply, for example 451.
            text: A part of the reply.
        """
        __tracebackhide__ = True
        self._expect_refusal(Status.TEMPFAIL, code, text)

    def _expect_refusal(self, status: Status, code: int | None, text: str | None) -> None:
        __tracebackhide__ = True
        self._expect(
            self.status is status and _is_reply(self.reply, code, text),
            f"{status.name}{_describe_reply(code, text)}",
        )

    def _expect(self, holds: bool, expected: str) -> None:
        __tracebackhide__ = True
        if not holds:
            self._fail(expected)

    def _fail(self, expected: str) -> NoReturn:
        __tracebackhide__ = True
        lines = [f"expected: {expected}", f"     got: {self._verdict()}", *self._details()]
        raise AssertionError("\n".join(lines))

    def _verdict(self) -> str:
        words = "" if self.reply is None else f" {self.reply}"
        return f"{self.status.name}{words} at {self.stage}"

    def _details(self) -> Sequence[str]:
        return ()


@dataclass(frozen=True)
class Result(StageResult):
    """What a milter has made of a message.

    Attributes:
        outcome: All of it, as the MTA's side reports it.
    """

    outcome: Outcome = field(kw_only=True)

    @classmethod
    def of(cls, outcome: Outcome) -> Result:
        """Return the view on an outcome."""
        return cls(outcome.stage, outcome.status, outcome.reply, outcome=outcome)

    def __repr__(self) -> str:
        parts = [self._verdict(), *map(repr, self.edits), *_refusals(self.recipients)]
        return f"<Result: {'; '.join(parts)}>"

    # What there is

    @property
    def edits(self) -> tuple[Edit, ...]:
        """What is to be changed, in the order in which the milter has asked for it."""
        return self.outcome.edits

    @property
    def recipients(self) -> tuple[RecipientResult, ...]:
        """What was said to each recipient that the milter was asked about."""
        return self.outcome.recipients

    @property
    def refused_recipients(self) -> tuple[str, ...]:
        """The addresses of the recipients that were refused."""
        return self.outcome.refused_recipients

    @property
    def steps(self) -> tuple[Step, ...]:
        """All that was asked, in turn."""
        return self.outcome.steps

    @property
    def quarantine(self) -> str | None:
        """The reason for which the message is held, or None."""
        return self.outcome.quarantine

    @property
    def is_accepted(self) -> bool:
        """Whether the message is delivered, or held."""
        return self.outcome.is_accepted

    @property
    def delivery(self) -> Delivery | None:
        """What the MTA delivers, or holds; None if it delivers nothing."""
        return self.outcome.apply()

    @property
    def message(self) -> Content:
        """The message as the MTA delivers it.

        Raises:
            AssertionError: It delivers nothing.
        """
        __tracebackhide__ = True
        return self._delivered("a message that is delivered").content

    @property
    def envelope(self) -> Envelope:
        """The envelope with which the MTA delivers the message.

        Raises:
            AssertionError: It delivers nothing.
        """
        __tracebackhide__ = True
        return self._delivered("a message that is delivered").envelope

    def diff(self) -> str:
        """Return what is delivered against what was sent, as a unified diff; may be empty."""
        outcome = self.outcome
        paths = [result.recipient for result in outcome.recipients] or outcome.envelope.recipients
        before = _show(Envelope(outcome.envelope.sender, paths), outcome.content)
        delivery = self.delivery
        after = [] if delivery is None else _show(delivery.envelope, delivery.content)
        return "\n".join(difflib.unified_diff(before, after, "sent", "delivered", lineterm="", n=2))

    # Assertions

    def assert_unchanged(self) -> None:
        """What is delivered is what would be without the milter; refused recipients apart."""
        __tracebackhide__ = True
        delivery = self._delivered("the message as it was sent")
        # Not simply what was sent: an MTA itself leaves out a recipient that was named twice.
        untouched = replace(self.outcome, edits=()).apply()
        self._expect(delivery == untouched, "the message as it was sent")

    def assert_no_edits(self) -> None:
        """The milter has not asked for any change."""
        __tracebackhide__ = True
        self._expect(not self.edits, "no edits")

    def assert_quarantined(self, reason: str | None = None) -> None:
        """The message is held; for this very reason, if one is given."""
        __tracebackhide__ = True
        found = self.quarantine
        holds = self.is_accepted and found is not None and reason in (None, found)
        self._expect(holds, f"a quarantine{_for(reason)}")

    def assert_header_added(self, name: str, value: str | None = None) -> None:
        """A header is added behind all others; with this value, if one is given."""
        __tracebackhide__ = True
        self._expect_edit(
            f"add_header({_arguments(name, value)})",
            lambda edit: isinstance(edit, HeaderAdded) and self._is_header(edit, name, value),
        )

    def assert_header_inserted(
        self, name: str, value: str | None = None, *, index: int | None = None
    ) -> None:
        """A header is inserted; with this value and at this position, if they are given."""
        __tracebackhide__ = True
        self._expect_edit(
            f"insert_header({'...' if index is None else index}, {_arguments(name, value)})",
            lambda edit: (
                isinstance(edit, HeaderInserted)
                and self._is_header(edit, name, value)
                and index in (None, edit.index)
            ),
        )

    def assert_header_changed(
        self, name: str, value: str | None = None, *, index: int | None = None
    ) -> None:
        """A header gets another value; this one, and the one of this index, if they are given.

        Args:
            name: Of the header.
            value: The new one.
            index: Which of the headers of that name; the first one is 1.
        """
        __tracebackhide__ = True
        self._expect_edit(
            f"change_header({name!r}, {'...' if index is None else index}, {_any(value)})",
            lambda edit: (
                isinstance(edit, HeaderChanged)
                and edit.value is not None
                and self._is_header(edit, name, value)
                and index in (None, edit.index)
            ),
        )

    def assert_header_deleted(self, name: str, *, index: int | None = None) -> None:
        """A header is deleted; the one of this index, if one is given."""
        __tracebackhide__ = True
        self._expect_edit(
            f"change_header({name!r}, {'...' if index is None else index}, None)",
            lambda edit: (
                isinstance(edit, HeaderChanged)
                and edit.value is None
                and self._is_header(edit, name, None)
                and index in (None, edit.index)
            ),
        )

    def assert_body_replaced(self, body: bytes | None = None) -> None:
        """The message gets another body; this one, if one is given."""
        __tracebackhide__ = True
        self._expect_edit(
            f"replace_body({'...' if body is None else BodyReplaced(body)})",
            lambda edit: isinstance(edit, BodyReplaced) and body in (None, edit.body),
        )

    def assert_recipient_added(self, address: str, params: str | None = None) -> None:
        """A recipient is added; with these ESMTP parameters, if any are given."""
        __tracebackhide__ = True
        self._expect_edit(
            f"add_recipient({_arguments(address, params)})",
            lambda edit: (
                isinstance(edit, RecipientAdded)
                and _is_same_address(edit.address, address)
                and params in (None, edit.params)
            ),
        )

    def assert_recipient_deleted(self, address: str) -> None:
        """A recipient is deleted."""
        __tracebackhide__ = True
        self._expect_edit(
            f"delete_recipient({address!r})",
            lambda edit: (
                isinstance(edit, RecipientDeleted) and _is_same_address(edit.address, address)
            ),
        )

    def assert_sender_changed(self, address: str, params: str | None = None) -> None:
        """The envelope has another sender; with these ESMTP parameters, if any are given."""
        __tracebackhide__ = True
        self._expect_edit(
            f"change_sender({_arguments(address, params)})",
            lambda edit: (
                isinstance(edit, SenderChanged)
                and _is_same_address(edit.address, address)
                and params in (None, edit.params)
            ),
        )

    def assert_recipient_refused(
        self, address: str, code: int | None = None, text: str | None = None
    ) -> None:
        """A recipient is refused, for now or for good.

        Args:
            address: Of the recipient.
            code: That of the reply, for example 550.
            text: A part of the reply.
        """
        __tracebackhide__ = True
        answers = [
            result.answer
            for result in self.recipients
            if _is_same_address(result.recipient.address, address)
        ]
        refused = any(
            answer.is_refusal and _is_reply(answer.reply, code, text) for answer in answers
        )
        self._expect(refused, f"recipient {address!r} refused{_describe_reply(code, text)}")

    # Below

    def _delivered(self, expected: str) -> Delivery:
        __tracebackhide__ = True
        delivery = self.delivery
        if delivery is None:
            self._fail(expected)
        return delivery

    def _is_header(
        self, edit: HeaderAdded | HeaderInserted | HeaderChanged, name: str, value: str | None
    ) -> bool:
        found = edit.value or ""
        if self.outcome.leading_space:
            found = found.removeprefix(" ")
        return edit.name.lower() == name.lower() and value in (None, found)

    def _expect_edit(self, expected: str, is_wanted: Callable[[Edit], bool]) -> None:
        __tracebackhide__ = True
        if not any(map(is_wanted, self.edits)):
            self._fail(expected)

    def _details(self) -> Sequence[str]:
        lines = [f"   edits: {'' if self.edits else 'none'}".rstrip()]
        lines += [f"          {edit!r}" for edit in self.edits]
        lines += [f" refused: {line}" for line in _refusals(self.recipients)]
        if self.is_accepted:
            diff = self.diff().splitlines()
            lines += diff[:_MOST_LINES]
            if len(diff) > _MOST_LINES:
                lines.append(f"... ({len(diff) - _MOST_LINES} lines more)")
        return lines


def _is_reply(reply: Reply | None, code: int | None, text: str | None) -> bool:
    if code is not None and (reply is None or reply.code != code):
        return False
    return text is None or (reply is not None and text in str(reply))


def _describe_reply(code: int | None, text: str | None) -> str:
    wanted = [] if code is None else [f"code {code}"]
    if text is not None:
        wanted.append(f"the text {text!r}")
    return f" with {' and '.join(wanted)}" if wanted else ""


def _for(reason: str | None) -> str:
    return "" if reason is None else f" for {reason!r}"


def _any(value: str | None) -> str:
    return "..." if value is None else repr(value)


def _arguments(name: str, value: str | None) -> str:
    return f"{name!r}, {_any(value)}"


def _refusals(recipients: Sequence[RecipientResult]) -> list[str]:
    return [
        f"{result.recipient.address}: {result.answer}"
        for result in recipients
        if result.answer.is_refusal
    ]


def _is_same_address(found: str, wanted: str) -> bool:
    return Path(found).address == Path(wanted).address


def _show(envelope: Envelope, content: Content) -> list[str]:
    """Return envelope and message line by line."""
    return [
        f"MAIL FROM:{envelope.sender}",
        *(f"RCPT TO:{recipient}" for recipient in envelope.recipients),
        "",
        *content.as_bytes().decode("utf-8", "backslashreplace").splitlines(),
    ]
