"""The reference itself: what it tells of libmilter is true, and it leaves no trace."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.libmilter import libmilter
from tests.libmilter.libmilter import LibmilterHost
from tests.libmilter.plan import (
    ACCEPT,
    CALLBACKS,
    CONTINUE,
    DISCARD,
    NOREPLY,
    REJECT,
    SKIP,
    TEMPFAIL,
    Call,
    Closing,
    Event,
    LibmilterError,
    Outcome,
    Plan,
    Script,
    Send,
    Step,
)
from tests.packets import (
    ABORT,
    BODY,
    CONNECT,
    DATA,
    ENVELOPE,
    EOH,
    EOM,
    EOM_WITH_TAIL,
    HEADER,
    HELO,
    MAIL,
    MESSAGE,
    OFFER,
    QUIT,
    QUIT_NC,
    RCPT,
    UNKNOWN,
    macros,
    offer,
    packet,
)

ROOT = Path(__file__).resolve().parents[2]
OPENING = OFFER + CONNECT + HELO
ANSWER = b"\0\0\0\x0dO\0\0\0\x06\0\0\x01\xff\0\0\0\0"
CONTINUED = b"\0\0\0\x01c"
REJECTED = b"\0\0\0\x01r"
PATIENCE_S = 10.0


@pytest.fixture(scope="module")
def host() -> Iterator[LibmilterHost]:
    with LibmilterHost() as running:
        yield running


def names(events: tuple[Event, ...]) -> list[str]:
    return [event.callback for event in events]


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for something that another process does by itself, and soon."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


# ---------------------------------------------------------------------------- facts of libmilter

ANSWERS = [
    ("all callbacks", Plan.of(), OFFER, ANSWER),
    ("no callbacks", Plan.of(()), OFFER, b"\0\0\0\x0dO\0\0\0\x06\0\0\x01\xff\0\0\x03\x7f"),
    (
        "reply",
        Plan.of(envfrom=Script.always(REJECT, Call.of("setreply", b"550", b"5.7.1", b"no thanks"))),
        OPENING + MAIL,
        ANSWER + 2 * CONTINUED + b"\0\0\0\x15y550 5.7.1 no thanks\0",
    ),
    (
        "added header",
        Plan.of(eom=Script.always(CONTINUE, Call.of("addheader", b"X-A", b"v"))),
        OPENING + ENVELOPE + EOH + EOM,
        ANSWER + 6 * CONTINUED + b"\0\0\0\x07hX-A\0v\0" + CONTINUED,
    ),
    (
        "deleted header",
        Plan.of(eom=Script.always(CONTINUE, Call.of("chgheader", b"Subject", 1, None))),
        OPENING + ENVELOPE + EOH + EOM,
        ANSWER + 6 * CONTINUED + b"\0\0\0\x0em\0\0\0\x01Subject\0\0" + CONTINUED,
    ),
    (
        "verdict on the last chunk, sent twice",
        Plan.of(body=Script.always(REJECT)),
        OPENING + ENVELOPE + EOH + EOM_WITH_TAIL,
        ANSWER + 6 * CONTINUED + 2 * REJECTED,
    ),
    ("HELO without NUL", Plan.of(), OPENING + b"\0\0\0\x04Habc", ANSWER + 2 * CONTINUED),
    (
        "BODY without payload",
        Plan.of(),
        OPENING + ENVELOPE + EOH + b"\0\0\0\x01B",
        ANSWER + 6 * CONTINUED,
    ),
]


@pytest.mark.parametrize("paced", [False, True], ids=["at once", "paced"])
@pytest.mark.parametrize(
    ("plan", "sent", "output"), [row[1:] for row in ANSWERS], ids=[row[0] for row in ANSWERS]
)
def test_answers_are_those_of_libmilter(
    host: LibmilterHost, plan: Plan, sent: bytes, output: bytes, paced: bool
) -> None:
    assert host.run(plan, [sent], paced=paced).output == output


def test_callbacks_are_recorded_with_arguments_results_and_macros(host: LibmilterHost) -> None:
    plan = Plan.of(
        macros=(b"i", b"{auth}", b"none"),
        envrcpt=Script(
            (Step((Call.of("getsymval", b"i"), Call.of("getsymval", b"none")), TEMPFAIL),)
        ),
    )
    rcpt = macros("R", b"i", b"42", b"{auth}", b"me") + packet(
        "R", b"<b@b.example>\0NOTIFY=NEVER\0"
    )
    outcome = host.run(plan, [OPENING + MAIL, rcpt, rcpt + BODY])
    seen = {b"i": b"42", b"{auth}": b"me"}
    args = (b"<b@b.example>", b"NOTIFY=NEVER")
    assert outcome.steps[1].events == (
        Event("envrcpt", args, TEMPFAIL, (b"42", None), seen, send=1),
    )
    # The second invocation has no step of its own.
    assert outcome.steps[2].events == (
        Event("envrcpt", args, CONTINUE, (), seen, send=2),
        Event("body", (b"body\r\n",), CONTINUE, (), seen, send=2),
    )
    assert outcome.events[0] == Event(
        "connect", (b"host.example", b"inet:192.0.2.1:25"), CONTINUE, macros={}, send=0
    )


def test_negotiate_stores_its_outputs_and_symbol_lists(host: LibmilterHost) -> None:
    step = Step((Call.of("setsymlist", 2, b"i j"),), CONTINUE, outputs=(0x01, 0x400))
    outcome = host.run(Plan.of(negotiate=Script((step,))), [OFFER])
    assert outcome.output == packet("O", b"\0\0\0\x06\0\0\0\x01\0\0\x04\0\0\0\0\x02i j\0")
    assert outcome.events[0] == Event(
        "negotiate", (0x1FF, 0x1FFFFF, 0, 0, 0x1FF, 0x400, 0, 0), CONTINUE, (0,)
    )


def test_process_wide_facts_do_not_reach_the_next_session(host: LibmilterHost) -> None:
    # Without an eoh callback HEADER may be followed by BODY, for ever in that process.
    sent = OPENING + ENVELOPE + HEADER + BODY
    all_but_eoh = [name for name in CALLBACKS if name not in ("negotiate", "eoh")]
    assert "body" in names(host.run(Plan.of(all_but_eoh), [sent]).events)
    assert "body" not in names(host.run(Plan.of(), [sent]).events)


def test_process_wide_facts_reach_another_connection_of_the_session(host: LibmilterHost) -> None:
    steps = (Step(outputs=(0, 0)), Step(outputs=(0, 0x40)))
    outcome = host.run_connections(
        Plan.of(negotiate=Script(steps)),
        [
            Send(OFFER),
            Send(CONNECT + HELO + ENVELOPE + HEADER),
            Send(OFFER, connection=1),
            Send(BODY),
            Send(b"", connection=1, end=True),
        ],
    )
    assert outcome.steps[3].output == CONTINUED
    assert names(outcome.steps[4].events) == ["close"]
    assert [one.closing for one in outcome.connections] == [Closing.OPEN, Closing.AFTER_END]


# ---------------------------------------------------------------------------- closing


@pytest.mark.parametrize("paced", [False, True], ids=["at once", "paced"])
@pytest.mark.parametrize(
    ("sends", "closing", "unread"),
    [
        pytest.param([OPENING, MAIL], Closing.AFTER_END, 0, id="end of input"),
        pytest.param([OPENING, MAIL[:7]], Closing.AFTER_END, 0, id="end in mid-packet"),
        pytest.param([OPENING, QUIT], Closing.BY_FILTER, 0, id="QUIT"),
        pytest.param([OPENING, QUIT + HELO], Closing.BY_FILTER, len(HELO), id="more after QUIT"),
        pytest.param(
            [OPENING, b"\0\1\0\1B" + 65536 * b"x"], Closing.BY_FILTER, 65536, id="too long"
        ),
        pytest.param([OPENING, b"\0\0\0\x01z"], Closing.BY_FILTER, 0, id="unknown letter"),
    ],
)
def test_who_closed_is_told_without_a_clock(
    host: LibmilterHost, sends: list[bytes], closing: Closing, unread: int, paced: bool
) -> None:
    outcome = host.run(Plan.of(), sends, paced=paced)
    assert outcome.closing is closing
    assert outcome.connections[0].bytes_read == sum(map(len, sends)) - unread
    assert [step.closed for step in outcome.steps] == [
        False,
        closing is Closing.BY_FILTER,
        True,
    ]
    ending = outcome.steps[1 if closing is Closing.BY_FILTER else 2]
    assert names(ending.events)[-1] == "close"


@pytest.mark.parametrize("paced", [False, True], ids=["at once", "paced"])
def test_without_an_end_of_the_input_nothing_runs_because_of_one(
    host: LibmilterHost, paced: bool
) -> None:
    outcome = host.run(Plan.of(), [OPENING, MAIL], half_close=False, paced=paced)
    assert outcome.closing is Closing.OPEN
    assert names(outcome.events) == ["connect", "helo", "envfrom"]
    assert len(outcome.steps) == 2


@pytest.mark.parametrize("paced", [False, True], ids=["at once", "paced"])
def test_silence_is_seen(host: LibmilterHost, paced: bool) -> None:
    # A verdict at a stage that has no replies: the rest of the message is swallowed.
    plan = Plan.of(negotiate=Script((Step(outputs=(0, 0x80)),)), header=Script.always(REJECT))
    outcome = host.run(plan, [OPENING + ENVELOPE, HEADER, EOH, BODY, EOM, MAIL], paced=paced)
    assert [step.output for step in outcome.steps[1:]] == [b"", b"", b"", b"", CONTINUED, b""]
    assert [names(step.events) for step in outcome.steps[1:]] == [
        ["header"],
        [],
        [],
        [],
        ["envfrom"],
        ["abort", "close"],
    ]
    assert any("claimed not to reply" in line for line in outcome.log)


def test_pace_decides_whether_macros_ahead_of_all_commands_are_lost(host: LibmilterHost) -> None:
    plan = Plan.of(macros=(b"j",))
    sends = [macros("H", b"j", b"mx"), HELO]
    assert host.run(plan, sends).events[0].macros == {b"j": b"mx"}
    assert host.run(plan, sends, paced=True).events[0].macros == {}


def test_data_that_no_buffer_holds_flows_in_both_directions(host: LibmilterHost) -> None:
    chunk = packet("B", 65535 * b"x")
    replacement = 40 * 65535 * b"y"
    plan = Plan.of(eom=Script.always(ACCEPT, Call.of("replacebody", replacement)))
    for paced in (False, True):
        outcome = host.run(plan, [OPENING + ENVELOPE + EOH, 40 * chunk, EOM, ABORT], paced=paced)
        assert outcome.steps[1].output == 40 * CONTINUED
        assert outcome.steps[2].output == 40 * packet("b", 65535 * b"y") + b"\0\0\0\x01a"


# ---------------------------------------------------------------------------- many sessions

PACKETS = (
    *(CONNECT, HELO, MAIL, RCPT, DATA, HEADER, EOH, BODY, EOM, EOM_WITH_TAIL),
    *(MAIL + RCPT, MESSAGE, ABORT, UNKNOWN, QUIT_NC, QUIT),
    *(macros("R", b"i", b"1"), macros("E", b"i", b"2", b"j", b"x")),
    *(b"\0\0\0\x01B", b"\0\0\0\x04Habc", b"\0\0\0\0A", b"\0\0\0\x03R<b"),
)
RESULTS = (*[CONTINUE] * 12, REJECT, DISCARD, ACCEPT, TEMPFAIL, NOREPLY, SKIP, 5, 21)


def random_session(chance: random.Random) -> tuple[Plan, list[bytes]]:
    """Return a session that is about as likely to be ordinary as to be odd."""
    scripts = {
        name: Script(
            tuple(
                Step((Call.of("addheader", b"X", b"y"),), chance.choice(RESULTS)) for _ in range(3)
            )
        )
        for name in CALLBACKS[1:]
        if chance.random() < 0.9
    }
    options = chance.choice((0x1FFFFF, 0x1FFFFF, 0x7F))
    sends = [offer(options=options), CONNECT, HELO, MESSAGE]
    sends += (chance.choice(PACKETS) for _ in range(chance.randrange(12)))
    if chance.random() < 0.2:
        cut = chance.randrange(1, 12)
        sends = [data for whole in sends for data in (whole[:cut], whole[cut:])]
    return Plan(scripts, macros=(b"i",)), sends


def test_hundreds_of_sessions_have_the_same_outcome_at_any_pace(host: LibmilterHost) -> None:
    chance = random.Random(20)
    sessions = [random_session(chance) for _ in range(200)]
    at_once: list[Outcome] = []
    for paced in (False, True):
        started = time.perf_counter()
        outcomes = [host.run(plan, sends, paced=paced) for plan, sends in sessions]
        took_ms = (time.perf_counter() - started) * 1000 / len(sessions)
        sys.stdout.write(f"{'paced' if paced else 'at once'}: {took_ms:.2f} ms a session\n")
        at_once = at_once or outcomes
        assert outcomes == at_once
    assert {outcome.closing for outcome in at_once} == {Closing.AFTER_END, Closing.BY_FILTER}


def test_two_hosts_run_side_by_side(host: LibmilterHost) -> None:
    slow = Plan.of(helo=Script.always(CONTINUE, Call.of("sleep", 300)))
    with LibmilterHost() as other:
        pending = host.submit(slow, [OPENING])
        wait_until(lambda: len(children(host.pid)) == 1)
        outcomes = [other.run(Plan.of(), [OFFER]) for _ in range(5)]
        assert all(outcome.output == ANSWER for outcome in outcomes)
        assert pending.outcome().output == ANSWER + 2 * CONTINUED


def test_outcomes_may_be_asked_for_in_any_order(host: LibmilterHost) -> None:
    pending = [host.submit(Plan.of(), sends) for sends in ([OFFER], [OPENING], [QUIT])]
    assert pending[2].outcome().output == b""
    assert pending[1].outcome().output == ANSWER + 2 * CONTINUED
    assert pending[0].outcome().output == ANSWER


# ---------------------------------------------------------------------------- faults


def test_a_session_without_end_is_an_error_and_the_next_one_is_fine() -> None:
    with LibmilterHost(limit_s=1) as host:
        stuck = Plan.of(helo=Script.always(CONTINUE, Call.of("sleep", 60_000)))
        with pytest.raises(LibmilterError, match="not come to its end"):
            host.run(stuck, [OPENING])
        assert host.run(Plan.of(), [OFFER]).output == ANSWER


def test_a_session_that_dies_is_an_error_and_the_next_one_is_fine(host: LibmilterHost) -> None:
    pending = host.submit(
        Plan.of(helo=Script.always(CONTINUE, Call.of("sleep", 60_000))), [OPENING]
    )
    wait_until(lambda: len(children(host.pid)) == 1)
    os.kill(children(host.pid)[0], signal.SIGSEGV)
    with pytest.raises(LibmilterError, match="killed by signal 11"):
        pending.outcome()
    assert host.run(Plan.of(), [OFFER]).output == ANSWER


@pytest.mark.parametrize(
    ("plan", "reason"),
    [
        (Plan.of(helo=Script.always(CONTINUE, Call.of("stop"))), "no such call: stop"),
        (Plan({}, version=0x02000000), "smfi_register"),
    ],
)
def test_a_plan_that_cannot_be_followed_is_an_error(
    host: LibmilterHost, plan: Plan, reason: str
) -> None:
    with pytest.raises(LibmilterError, match=reason):
        host.run(plan, [OFFER])


@pytest.mark.parametrize(
    "sends",
    [
        [],
        [Send(b"", connection=1)],
        [Send(b"", end=True), Send(b"x")],
    ],
)
def test_sends_that_cannot_go_out_are_refused(host: LibmilterHost, sends: list[Send]) -> None:
    with pytest.raises(ValueError, match=r"sent|connections"):
        host.run_connections(Plan.of(), sends)


def test_a_missing_compiler_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LibmilterError, match="install gcc"):
        libmilter._program.__wrapped__()


def test_a_missing_libmilter_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    compiler = tmp_path / "gcc"
    compiler.write_text("#!/bin/sh\necho 'libmilter/mfapi.h: No such file' >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(LibmilterError, match="apt-get install libmilter-dev"):
        libmilter._program.__wrapped__()


def test_the_c_sources_compile_without_a_warning() -> None:
    compiler = shutil.which("gcc")
    assert compiler is not None
    sources = [str(path) for path in Path(__file__).parent.glob("*.c")]
    flags = ["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-fsyntax-only"]
    done = subprocess.run(
        [compiler, *flags, *sources], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


# ---------------------------------------------------------------------------- no trace


def test_nothing_is_left_after_close(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with LibmilterHost():
        pass
    monkeypatch.chdir(tmp_path)
    before = set(os.listdir("/proc/self/fd"))
    with LibmilterHost() as host:
        host.run(Plan.of(), [OPENING])
        # One is still at work when the host is closed.
        host.submit(Plan.of(helo=Script.always(CONTINUE, Call.of("sleep", 60_000))), [OPENING])
        wait_until(lambda: len(children(host.pid)) == 1)
        session = children(host.pid)[0]
    assert not is_running(host.pid)
    assert not is_running(session)
    assert set(os.listdir("/proc/self/fd")) == before
    assert list(tmp_path.iterdir()) == []


ORPHANING = """
import time
from tests.libmilter.libmilter import LibmilterHost
from tests.libmilter.plan import Call, Plan, Script
from tests.packets import HELO
host = LibmilterHost(limit_s=60)
host.submit(Plan.of(helo=Script.always(0, Call.of("sleep", 60_000))), [HELO])
print(host.pid, flush=True)
time.sleep(60)
"""


def test_nothing_is_left_when_the_test_process_is_killed(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", ORPHANING],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            host = int(process.stdout.readline())
            wait_until(lambda: len(children(host)) == 1)
            session = children(host)[0]
            assert is_running(session)
        finally:
            process.kill()
    wait_until(lambda: not is_running(host) and not is_running(session))
    assert list(tmp_path.iterdir()) == []
