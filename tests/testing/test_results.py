from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from aiomilter import EomActions, Milter, Reply, Status, leading_space
from aiomilter.mta import HeaderAdded
from aiomilter.testing import MilterTester, Result


class Editor(Milter):
    async def on_eom(self, actions: EomActions) -> Status:
        actions.add_header("X-Added", "1")
        actions.insert_header(0, "X-Top", "2")
        actions.change_header("Subject", 1, "3")
        actions.change_header("Date", 1, None)
        actions.replace_body(b"new\r\n")
        actions.replace_body(b"body\r\n")
        actions.add_recipient("<c@example.org>", "NOTIFY=NEVER")
        actions.delete_recipient("<recipient@example.org>")
        actions.change_sender("<s@example.com>")
        actions.quarantine("why")
        return Status.ACCEPT


class Fixed(Milter):
    def __init__(self, answer: Status | Reply) -> None:
        self.answer = answer

    async def on_eom(self, actions: EomActions) -> Status | Reply:
        return self.answer


HOLDS: list[Callable[[Result], None]] = [
    lambda r: r.assert_accepted(),
    lambda r: r.assert_quarantined(),
    lambda r: r.assert_quarantined("why"),
    lambda r: r.assert_header_added("x-added"),
    lambda r: r.assert_header_added("X-Added", "1"),
    lambda r: r.assert_header_inserted("X-Top", "2", index=0),
    lambda r: r.assert_header_changed("Subject", "3", index=1),
    lambda r: r.assert_header_deleted("Date", index=1),
    lambda r: r.assert_body_replaced(b"new\r\nbody\r\n"),
    lambda r: r.assert_recipient_added("c@example.org", "NOTIFY=NEVER"),
    lambda r: r.assert_recipient_deleted("<recipient@example.org>"),
    lambda r: r.assert_sender_changed("s@example.com"),
]
FAILS: list[tuple[Callable[[Result], None], str]] = [
    (lambda r: r.assert_rejected(550), "expected: REJECT with code 550\n     got: ACCEPT at eom"),
    (lambda r: r.assert_tempfailed(text="x"), "expected: TEMPFAIL with the text 'x'"),
    (lambda r: r.assert_discarded(), "expected: DISCARD"),
    (lambda r: r.assert_continued(), "expected: CONTINUE"),
    (lambda r: r.assert_no_edits(), "expected: no edits"),
    (lambda r: r.assert_unchanged(), "expected: the message as it was sent"),
    (lambda r: r.assert_quarantined("no"), "expected: a quarantine for 'no'"),
    (lambda r: r.assert_header_added("X-Added", "2"), "expected: add_header('X-Added', '2')"),
    (lambda r: r.assert_header_added("X-Top"), "expected: add_header('X-Top', ...)"),
    (lambda r: r.assert_header_inserted("X-Top", index=1), "insert_header(1, 'X-Top', ...)"),
    (lambda r: r.assert_header_changed("Date"), "change_header('Date', ..., ...)"),
    (lambda r: r.assert_header_deleted("Subject"), "change_header('Subject', ..., None)"),
    (lambda r: r.assert_body_replaced(b"other"), "replace_body("),
    (lambda r: r.assert_recipient_added("x@y"), "add_recipient('x@y', ...)"),
    (lambda r: r.assert_recipient_deleted("x@y"), "delete_recipient('x@y')"),
    (lambda r: r.assert_sender_changed("x@y", "A=B"), "change_sender('x@y', 'A=B')"),
    (lambda r: r.assert_recipient_refused("x@y", 550), "recipient 'x@y' refused with code 550"),
]


@pytest.mark.parametrize("check", HOLDS)
def test_assertions_that_hold(check: Callable[[Result], None]) -> None:
    with MilterTester(Editor) as tester:
        check(tester.send())
        check(tester.end_of_message())


@pytest.mark.parametrize(("check", "text"), FAILS)
def test_assertions_that_fail_say_what_there_was(
    check: Callable[[Result], None], text: str
) -> None:
    with MilterTester(Editor) as tester:
        result = tester.send()
    with pytest.raises(AssertionError) as caught:
        check(result)
    shown = str(caught.value)
    assert text in shown
    assert "HeaderAdded(name='X-Added', value='1')" in shown
    # The message before and after, its headers in their order.
    assert "\n-Subject: A message\n" in shown
    assert "\n+Subject: 3\n" in shown
    assert "-MAIL FROM:<sender@example.com>\n" in shown
    # The frames that a test's author sees are his own.
    assert all(entry.frame.f_locals.get("__tracebackhide__") for entry in caught.traceback[2:])


@pytest.mark.parametrize(
    ("answer", "holds"),
    [
        (Status.REJECT, lambda r: r.assert_rejected()),
        (Reply(550, None, "a", "b"), lambda r: r.assert_rejected(550, "a")),
        (Status.TEMPFAIL, lambda r: r.assert_tempfailed()),
        (Reply(451), lambda r: r.assert_tempfailed(451)),
        (Status.DISCARD, lambda r: r.assert_discarded()),
        (Status.ACCEPT, lambda r: r.assert_unchanged()),
        (Status.CONTINUE, lambda r: r.assert_no_edits()),
    ],
)
def test_verdicts(answer: Status | Reply, holds: Callable[[Result], None]) -> None:
    with MilterTester(partial(Fixed, answer)) as tester:
        result = tester.send()
        holds(result)
        holds(tester.end_of_message())
    if not result.is_accepted:
        assert result.delivery is None
        with pytest.raises(AssertionError, match="expected: a message that is delivered"):
            _ = result.message
    else:
        assert result.diff() == ""


def test_a_refusal_without_words_of_its_own_has_no_code() -> None:
    with MilterTester(partial(Fixed, Status.REJECT)) as tester:
        result = tester.send()
    with pytest.raises(AssertionError, match="got: REJECT at eom"):
        result.assert_rejected(550)


def test_values_are_compared_without_the_blank_that_was_asked_for() -> None:
    class Blank(Milter):
        @leading_space
        async def on_header(self, name: str, value: str) -> None:
            pass

        async def on_eom(self, actions: EomActions) -> None:
            actions.add_header("X-Added", " 1")

    with MilterTester(Blank) as tester:
        result = tester.send()
    result.assert_header_added("X-Added", "1")
    assert result.edits == (HeaderAdded("X-Added", " 1"),)
    assert result.message.get("X-Added") == "1"


def test_a_result_in_one_line() -> None:
    with MilterTester(partial(Fixed, Reply(550, "5.7.1", "no"))) as tester:
        assert repr(tester.send()) == "<Result: REJECT 550 5.7.1 no at eom>"
