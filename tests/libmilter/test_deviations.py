"""Where aiomilter leaves libmilter: the same session on both, D1 to D9 of docs/deviations.md.

What each side does is written out; a side that no longer does it fails here, not in the
comparison of random sessions, which knows these as rules. Rows about time, addresses and signals,
D8 among them, have tests elsewhere, which the document names.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.libmilter.aiomilter_side import run_aiomilter
from tests.libmilter.libmilter import LibmilterHost
from tests.libmilter.plan import (
    ACCEPT,
    CONTINUE,
    DISCARD,
    REJECT,
    SKIP,
    TEMPFAIL,
    Call,
    Closing,
    Event,
    Plan,
    Script,
    Send,
    Step,
)
from tests.packets import (
    ABORT,
    BODY,
    CONNECT,
    ENVELOPE,
    EOH,
    EOM,
    EOM_WITH_TAIL,
    HEADER,
    HELO,
    MAIL,
    MESSAGE,
    OFFER,
    QUIT_NC,
    UNKNOWN,
)

__all__ = [
    "ANSWER",
    "CONTINUED",
    "OPENED",
    "OPENING",
    "REJECTED",
    "SKIPPED",
    "TEMPFAILED",
    "Side",
    "run_both",
]

OPENING = OFFER + CONNECT + HELO
ANSWER = b"\0\0\0\x0dO\0\0\0\x06\0\0\x01\xff\0\0\0\0"
CONTINUED = b"\0\0\0\x01c"
REJECTED = b"\0\0\0\x01r"
TEMPFAILED = b"\0\0\0\x01t"
SKIPPED = b"\0\0\0\x01s"
OPENED = ANSWER + 2 * CONTINUED
"""The answers to `OPENING` of a filter with all callbacks."""
SPAM = Call.of("setreply", b"550", b"5.7.1", b"spam")
SPAM_REPLY = b"\0\0\0\x10y550 5.7.1 spam\0"


@dataclass(frozen=True)
class Side:
    """What came of a session on one of the two."""

    output: bytes
    closed: bool
    events: tuple[Event, ...]

    @property
    def callbacks(self) -> str:
        """The names of the callbacks that have run, in turn."""
        return " ".join(event.callback for event in self.events)


def run_both(
    host: LibmilterHost, plan: Plan, *data: bytes, ends: bool = False, paced: bool = False
) -> tuple[Side, Side]:
    """Run a session on libmilter and on aiomilter; with ``ends`` the MTA then closes its half."""
    sends = [Send(part) for part in data] + [Send(b"", end=True)] * ends
    outcome = host.run(plan, data, half_close=ends, paced=paced)
    steps = run_aiomilter(plan, sends)
    return (
        Side(outcome.output, outcome.closing is not Closing.OPEN, outcome.events),
        Side(
            b"".join(step.output for step in steps),
            steps[-1].closed,
            tuple(event for step in steps for event in step.events),
        ),
    )


@pytest.fixture(scope="module")
def host() -> Iterator[LibmilterHost]:
    with LibmilterHost() as running:
        yield running


def test_d01_a_failed_end_of_message_leaves_no_edit(host: LibmilterHost) -> None:
    # 5 is no result that exists: it stands for a filter that fails after its first edit.
    plan = Plan.of(eom=Script.always(5, Call.of("addheader", b"X-A", b"v")))
    libmilter, aiomilter = run_both(host, plan, OPENING + MESSAGE)
    assert libmilter.output == OPENED + 6 * CONTINUED + b"\0\0\0\x07hX-A\0v\0"
    assert aiomilter.output == OPENED + 6 * CONTINUED + TEMPFAILED


def test_d02_a_finished_message_is_not_aborted(host: LibmilterHost) -> None:
    plan = Plan.of(("eom", "abort", "close"))
    libmilter, aiomilter = run_both(host, plan, OFFER + MAIL + EOM + ABORT, ends=True)
    assert libmilter.callbacks == "eom abort close"
    assert aiomilter.callbacks == "eom close"
    assert libmilter.output == aiomilter.output


@pytest.mark.parametrize(
    ("data", "on_libmilter", "on_aiomilter"),
    [
        # A second MAIL, malformed: libmilter aborts for its place and again for its form.
        pytest.param(
            MAIL + b"\0\0\0\x01M", "envfrom abort abort close", "envfrom abort close", id="twice"
        ),
        # The first MAIL is malformed: no message has begun.
        pytest.param(b"\0\0\0\x04M<a>", "abort close", "close", id="no message"),
        # After an unknown command libmilter has forgotten that there is a message.
        pytest.param(
            MAIL + UNKNOWN, "envfrom unknown close", "envfrom unknown abort close", id="forgotten"
        ),
    ],
)
def test_d02_a_message_is_aborted_once(
    host: LibmilterHost, data: bytes, on_libmilter: str, on_aiomilter: str
) -> None:
    libmilter, aiomilter = run_both(host, Plan.of(), OPENING + data, ends=True)
    assert libmilter.callbacks == f"connect helo {on_libmilter}"
    assert aiomilter.callbacks == f"connect helo {on_aiomilter}"


def test_d02_a_session_is_closed_once(host: LibmilterHost) -> None:
    plan = Plan.of(("eom", "close"))
    libmilter, aiomilter = run_both(host, plan, OFFER + MAIL + EOM + QUIT_NC, ends=True)
    assert libmilter.callbacks == "eom close close"
    assert aiomilter.callbacks == "eom close"


def without_replies_to_headers(result: int) -> tuple[Plan, bytes]:
    """Return a plan that has a result for headers, and the answers up to the headers."""
    negotiate = Script(further=Step(outputs=(0x1FF, 0x80)))
    answer = b"\0\0\0\x0dO\0\0\0\x06\0\0\x01\xff\0\0\0\x80"
    return (
        Plan.of(negotiate=negotiate, header=Script.always(result)),
        answer + 5 * CONTINUED,
    )


def test_d03_a_verdict_without_a_reply_does_not_silence_the_message(host: LibmilterHost) -> None:
    plan, answers = without_replies_to_headers(REJECT)
    libmilter, aiomilter = run_both(host, plan, OPENING + MESSAGE)
    assert libmilter.output == answers
    assert libmilter.callbacks == "negotiate connect helo envfrom envrcpt data header"
    assert aiomilter.output == answers + 3 * CONTINUED
    assert aiomilter.callbacks == libmilter.callbacks + " eoh body eom"


def test_d03_a_fault_without_a_reply_is_answered_later(host: LibmilterHost) -> None:
    plan, answers = without_replies_to_headers(5)
    libmilter, aiomilter = run_both(host, plan, OPENING + ENVELOPE + HEADER + EOH)
    assert libmilter.output == answers + CONTINUED
    assert aiomilter.output == answers + TEMPFAILED


@pytest.mark.parametrize(
    ("result", "verdict"),
    [
        (REJECT, REJECTED),
        (TEMPFAIL, TEMPFAILED),
        (ACCEPT, b"\0\0\0\x01a"),
        (DISCARD, b"\0\0\0\x01d"),
    ],
)
def test_d04_a_verdict_on_the_last_piece_is_sent_once(
    host: LibmilterHost, result: int, verdict: bytes
) -> None:
    plan = Plan.of(body=Script.always(result))
    libmilter, aiomilter = run_both(host, plan, OPENING + ENVELOPE + EOH + EOM_WITH_TAIL)
    assert libmilter.output == OPENED + 4 * CONTINUED + 2 * verdict
    assert aiomilter.output == OPENED + 4 * CONTINUED + verdict
    assert libmilter.callbacks == "connect helo envfrom envrcpt data eoh body"
    assert aiomilter.callbacks == libmilter.callbacks


def test_d04_skip_on_the_last_piece_leaves_the_end_of_the_message(host: LibmilterHost) -> None:
    plan = Plan.of(body=Script.always(SKIP))
    libmilter, aiomilter = run_both(host, plan, OPENING + ENVELOPE + EOH + EOM_WITH_TAIL)
    assert libmilter.output == OPENED + 4 * CONTINUED + 2 * SKIPPED
    assert aiomilter.output == OPENED + 4 * CONTINUED + CONTINUED
    assert libmilter.callbacks == "connect helo envfrom envrcpt data eoh body"
    assert aiomilter.callbacks == libmilter.callbacks + " eom"


def test_d05_what_one_connection_agrees_on_is_nothing_to_another(host: LibmilterHost) -> None:
    # The first MTA is asked for no end of headers. The second one, which was not, leaves it out.
    without_eoh, with_all = Step(outputs=(0, 0x40)), Step(outputs=(0, 0))
    sent = CONNECT + HELO + ENVELOPE + HEADER
    outcome = host.run_connections(
        Plan.of(negotiate=Script((without_eoh, with_all))),
        [
            Send(OFFER),
            *(Send(data, connection=1) for data in (OFFER, sent, BODY)),
        ],
    )
    assert outcome.steps[2].output == 6 * CONTINUED
    assert outcome.steps[3].output == CONTINUED
    assert [event.callback for event in outcome.steps[3].events] == ["body"]

    run_aiomilter(Plan.of(negotiate=Script((without_eoh,))), [Send(OFFER)])
    plan = Plan.of(negotiate=Script((with_all,)))
    steps = run_aiomilter(plan, [Send(OFFER), Send(sent), Send(BODY)])
    assert steps[1].output == 6 * CONTINUED
    assert steps[2].output == b""
    assert [event.callback for event in steps[2].events] == ["abort"]


@pytest.mark.parametrize(
    ("between", "answers"),
    [
        pytest.param(b"", 0, id="next message"),
        pytest.param(QUIT_NC + CONNECT + HELO, 2, id="next session"),
    ],
)
def test_d06_a_reply_belongs_to_one_event(
    host: LibmilterHost, between: bytes, answers: int
) -> None:
    # The words that a filter had for one sender, who then passed, become those for another.
    plan = Plan.of(envfrom=Script((Step((SPAM,), CONTINUE),), Step(result=REJECT)))
    libmilter, aiomilter = run_both(host, plan, OPENING + MESSAGE + between + MAIL)
    assert libmilter.output == OPENED + (7 + answers) * CONTINUED + SPAM_REPLY
    assert aiomilter.output == OPENED + (7 + answers) * CONTINUED + REJECTED


@pytest.mark.parametrize(
    ("result", "answer", "closed"),
    [
        pytest.param(5, b"", False, id="silence"),
        pytest.param(-1, b"", False, id="silence at -1"),
        pytest.param(10, b"", False, id="silence at ALL_OPTS"),
        pytest.param(21, b"", True, id="close"),
        pytest.param(22, ANSWER, False, id="second OPTNEG"),
    ],
)
def test_d07_an_undefined_result_is_a_fault(
    host: LibmilterHost, result: int, answer: bytes, closed: bool
) -> None:
    plan = Plan.of(envfrom=Script.always(result))
    libmilter, aiomilter = run_both(host, plan, OPENING + MAIL)
    assert (libmilter.output, libmilter.closed) == (OPENED + answer, closed)
    assert (aiomilter.output, aiomilter.closed) == (OPENED + TEMPFAILED, False)


def test_d07_a_fault_in_the_negotiation_is_answered_later(host: LibmilterHost) -> None:
    plan = Plan.of(negotiate=Script.always(5))
    libmilter, aiomilter = run_both(host, plan, OPENING)
    assert (libmilter.output, libmilter.closed) == (b"", True)
    assert (aiomilter.output, aiomilter.closed) == (ANSWER + TEMPFAILED + CONTINUED, False)


def test_d09_no_byte_behind_a_command_is_read(host: LibmilterHost) -> None:
    libmilter, aiomilter = run_both(host, Plan.of(), OPENING + b"\0\0\0\x05UXYZZ")
    assert libmilter.output == aiomilter.output == OPENED + CONTINUED
    # What else libmilter finds there is whatever its memory holds.
    found = libmilter.events[-1].args[0]
    assert isinstance(found, bytes)
    assert found.startswith(b"XYZZ")
    assert aiomilter.events[-1].args == (b"XYZZ",)


def test_d09_no_byte_behind_a_name_is_read(host: LibmilterHost) -> None:
    # libmilter looks one byte too far and then gives up all the same.
    for side in run_both(host, Plan.of(), OFFER + b"\0\0\0\x05Chost"):
        assert (side.output, side.callbacks, side.closed) == (ANSWER, "close", True)
