"""The crash ledger: notes that outlive a process, and messages that are refused."""

from __future__ import annotations

import os
import signal

from aiomilter.aio.ledger import CrashLedger, Identity, Refusal, WorkerNotes, WorkerState, digest

HOUR_S, DAY_S = 3_600.0, 86_400.0


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
    assert ledger.blame([guilty]) == [Refusal("guilty", 3, HOUR_S)]
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


def test_one_more_crash_counts_for_those_that_are_refused_but_is_not_said_again() -> None:
    ledger = CrashLedger(1)
    assert len(ledger.blame([identity("one")])) == 1
    assert ledger.blame([identity("one")]) == []
    assert ledger.is_refused(identity("one"))


def test_a_message_is_let_in_again_after_an_hour_and_then_refused_for_twice_as_long() -> None:
    clock = Clock()
    ledger = CrashLedger(3, clock)
    guilty = identity("guilty")
    for _ in range(3):
        ledger.blame([guilty])
    periods: list[float] = []
    for _ in range(6):
        clock.now += HOUR_S - 1 if not periods else periods[-1] - 1
        ledger.look_at_clock()
        assert ledger.is_refused(guilty)
        clock.now += 1
        ledger.look_at_clock()
        assert not ledger.is_refused(guilty)
        (refusal,) = ledger.blame([guilty])
        periods.append(refusal.seconds)
        assert refusal.crashes == 3 + len(periods)
    assert periods == [hours * HOUR_S for hours in (2, 4, 8, 16, 24, 24)]


def test_a_suspect_is_forgotten_a_day_after_its_last_crash() -> None:
    clock = Clock()
    ledger = CrashLedger(2, clock)
    ledger.blame([identity("one")])
    clock.now = DAY_S - 1
    ledger.look_at_clock()
    assert ledger.is_suspect(identity("one"))
    clock.now = DAY_S
    ledger.look_at_clock()
    assert not ledger.is_suspect(identity("one"))
    assert ledger.blame([identity("one")]) == []


def test_one_that_was_refused_is_remembered_for_a_day_longer() -> None:
    clock = Clock()
    ledger = CrashLedger(1, clock)
    ledger.blame([identity("one")])
    clock.now = HOUR_S + DAY_S - 1
    ledger.look_at_clock()
    (refusal,) = ledger.blame([identity("one")])
    assert refusal.seconds == 2 * HOUR_S


def test_a_suspect_that_is_served_well_is_none_any_more() -> None:
    ledger, notes = CrashLedger(2), WorkerNotes()
    ledger.blame([identity("innocent"), identity("guilty")])
    assert ledger.is_suspect(identity("innocent"))
    assert not ledger.is_refused(identity("innocent"))
    notes.clear(identity("innocent"))
    ledger.clear(notes.cleared())
    assert not ledger.is_suspect(identity("innocent"))
    assert [one.label for one in ledger.blame([identity("innocent"), identity("guilty")])] == [
        "guilty"
    ]
    notes.close()


def test_one_that_is_refused_cannot_be_cleared() -> None:
    clock = Clock()
    ledger = CrashLedger(1, clock)
    ledger.blame([identity("one")])
    ledger.clear(identity("one").keys)
    assert ledger.is_refused(identity("one"))
    clock.now = HOUR_S
    ledger.clear(identity("one").keys)
    assert not ledger.is_suspect(identity("one"))
    (refusal,) = ledger.blame([identity("one")])
    assert refusal.seconds == HOUR_S


def test_nobody_is_cleared_by_who_is_not_known() -> None:
    ledger = CrashLedger(2)
    ledger.blame([identity("one")])
    ledger.clear(identity("another").keys)
    assert ledger.is_suspect(identity("one"))


def test_what_was_cleared_is_told_once_and_both_digests_of_it() -> None:
    notes = WorkerNotes()
    notes.clear(identity("one", "Q1"))
    notes.clear(identity("two"))
    assert notes.cleared() == [*identity("one", "Q1").keys, *identity("two").keys]
    assert notes.cleared() == []
    notes.clear(identity("three"))
    assert notes.cleared() == [*identity("three").keys]
    notes.close()


def test_of_more_than_there_is_room_for_the_last_are_told() -> None:
    notes = WorkerNotes()
    for number in range(300):
        notes.clear(identity(str(number)))
    assert notes.cleared() == [identity(str(number)).envelope for number in range(44, 300)]
    notes.close()


def test_notes_tell_signs_of_life_and_why_there_can_be_no_start() -> None:
    notes = WorkerNotes()
    assert (notes.beat, notes.problem) == (0.0, "")
    notes.beat = 12.5
    notes.problem = "no such module"
    assert (notes.beat, notes.problem) == (12.5, "no such module")
    notes.problem = "ä" * 5000
    assert notes.problem == "ä" * 500
    assert notes.cleared() == []
    notes.close()


def test_a_table_that_is_being_written_is_not_read() -> None:
    ledger = CrashLedger(1)
    ledger.blame([identity("one")])
    assert ledger.is_refused(identity("one"))
    whole = ledger._memory[:]
    ledger.blame([identity("two")])
    rows = ledger._memory[:]
    # The head of the new one, with the rows of the one before.
    ledger._memory[28:] = whole[28:]
    assert not ledger.is_refused(identity("two"))
    assert ledger.is_refused(identity("one"))
    ledger._memory[:] = rows
    assert ledger.is_refused(identity("two"))


def test_it_does_not_grow_without_end() -> None:
    ledger = CrashLedger(1)
    ledger.blame([identity(str(number)) for number in range(4100)])
    assert ledger.is_refused(identity("4099"))
    assert not ledger.is_suspect(identity("3"))


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
