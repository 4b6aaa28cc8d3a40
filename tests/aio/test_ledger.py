"""The crash ledger: notes that outlive a process, and messages that are refused."""

from __future__ import annotations

import os
import signal

from aiomilter.aio.ledger import CrashLedger, Identity, WorkerNotes, WorkerState, digest


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def identity(name: str, queue_id: str = "") -> Identity:
    of_queue = digest(queue_id.encode()) if queue_id else bytes(16)
    return Identity(digest(name.encode()), of_queue, (queue_id or name).encode())


def test_a_digest_knows_where_its_parts_end() -> None:
    assert digest(b"ab", b"c") != digest(b"a", b"bc") != digest(b"abc")
    assert digest(b"ab") == digest(b"ab")


def test_notes_of_what_runs_outlive_the_process_that_wrote_them() -> None:
    notes = WorkerNotes()
    child = os.fork()
    if child == 0:
        notes.state = WorkerState.SERVING
        notes.leave(notes.enter(identity("done").note()))
        notes.enter(identity("first", "Q1").note())
        notes.enter(identity("second").note())
        os.kill(os.getpid(), signal.SIGKILL)
    _pid, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    assert notes.state is WorkerState.SERVING
    assert set(notes.suspects()) == {identity("first", "Q1"), identity("second")}
    notes.close()


def test_what_does_not_fit_goes_without_a_note() -> None:
    notes = WorkerNotes()
    note = identity("one").note()
    places = [notes.enter(note) for _ in range(1100)]
    assert places.count(0) == 76
    for place in places:
        notes.leave(place)
    assert notes.suspects() == []
    assert notes.enter(note) != 0
    notes.close()


def test_a_long_label_is_cut() -> None:
    notes = WorkerNotes()
    notes.enter(Identity(label=b"x" * 100).note())
    assert notes.suspects()[0].label == b"x" * 31
    notes.close()


def test_a_message_is_refused_after_so_many_crashes() -> None:
    ledger = CrashLedger(3)
    guilty, innocent = identity("guilty"), identity("innocent")
    assert ledger.blame([guilty, innocent]) == []
    assert ledger.blame([guilty]) == []
    assert not ledger.is_refused(guilty)
    assert ledger.blame([guilty]) == ["guilty"]
    assert ledger.is_refused(guilty)
    assert not ledger.is_refused(innocent)
    # It is said once.
    assert ledger.blame([guilty]) == []


def test_either_digest_is_enough() -> None:
    ledger = CrashLedger(1)
    ledger.blame([identity("envelope", "Q1")])
    assert ledger.is_refused(identity("envelope", "Q2"))
    assert ledger.is_refused(identity("another", "Q1"))
    assert not ledger.is_refused(identity("another", "Q2"))


def test_one_crash_counts_once_for_a_message_with_several_handlers_at_work() -> None:
    ledger = CrashLedger(2)
    assert ledger.blame([identity("twice"), identity("twice")]) == []
    assert not ledger.is_refused(identity("twice"))


def test_what_is_not_known_is_never_refused() -> None:
    ledger = CrashLedger(1)
    assert ledger.blame([Identity()]) == []
    assert not ledger.is_refused(Identity())


def test_a_message_is_let_in_again_a_day_after_its_last_crash() -> None:
    clock = Clock()
    ledger = CrashLedger(1, clock)
    ledger.blame([identity("one")])
    clock.now = 80_000
    ledger.blame([identity("two")])
    clock.now = 86_400
    assert ledger.is_refused(identity("one"))
    ledger.forget_old()
    assert not ledger.is_refused(identity("one"))
    assert ledger.is_refused(identity("two"))


def test_it_does_not_grow_without_end() -> None:
    ledger = CrashLedger(1)
    for number in range(8200):
        ledger.blame([identity(str(number))])
    assert ledger.is_refused(identity("8199"))
    assert not ledger.is_refused(identity("0"))


def test_another_process_sees_what_is_refused() -> None:
    ledger = CrashLedger(1)
    reading, writing = os.pipe()
    ready, go = os.pipe()
    child = os.fork()
    if child == 0:
        first = ledger.is_refused(identity("one"))
        os.read(ready, 1)
        os.write(writing, bytes([first, ledger.is_refused(identity("one"))]))
        os._exit(0)
    ledger.blame([identity("one")])
    os.write(go, b"!")
    assert os.read(reading, 2)[-1] == 1
    os.waitpid(child, 0)
    for number in (reading, writing, ready, go):
        os.close(number)
