"""A ledger of what ends worker processes: the messages that were in a handler when one died.

Rules of this file:

- What a worker notes is in memory that it shares with the process above it: it is there after a
  death by any signal. Nothing is locked: each part of it has one writer.
- Only messages with a handler at work are noted, and only for that long. An ``async`` handler
  that waits counts as at work, so several may be noted at a time, and all of them are suspects. The
  guilty one comes back and is there each time; the others hardly are.
- A suspect is known by two digests, see `Identity`. One that is served without a crash is a suspect
  no longer: whoever was there by chance has its name cleared.
- Nobody is refused for good: after an hour the next attempt is let through. If it is one more
  crash, the time doubles, up to a day.
"""

from __future__ import annotations

import enum
import math
import mmap
import struct
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b

from aiomilter.app.text import printable

__all__ = ["CrashLedger", "Identity", "Refusal", "WorkerNotes", "WorkerState", "digest"]

_DIGEST_BYTES = 16
_UNKNOWN = bytes(_DIGEST_BYTES)
_LABEL_BYTES = 31

# The memory of a worker's notes. Values are written as slices, in one step, so that a reader in
# another process sees the one before or the one after; `pack_into` would write zeros in between.
_BEAT = struct.Struct("d")
_COUNT = struct.Struct("I")
_BEAT_AT, _CLEARED_COUNT_AT, _PROBLEM_AT = 8, 16, 24
_CLEARED_AT = 1024
_MOST_CLEARED = 256
"""Keys on their way to the process above; if it is slower than that, the oldest are lost, and stay
suspects."""
_NOTES_AT = _CLEARED_AT + _MOST_CLEARED * _DIGEST_BYTES
_MOST_PROBLEM_BYTES = _CLEARED_AT - _PROBLEM_AT

_NOTE = struct.Struct(f"B{_DIGEST_BYTES}s{_DIGEST_BYTES}s{_LABEL_BYTES}s")
_MOST_NOTES = 1024
"""Handlers at work in one process; what is above goes without a note."""

_TABLE_HEAD = struct.Struct(f"=III{_DIGEST_BYTES}s")
_MOST_SUSPECTS = 4096
_FORGOTTEN_AFTER_S = 86_400.0
"""A day: MTAs try for five."""
_FIRST_REFUSAL_S, _LONGEST_REFUSAL_S = 3_600.0, 86_400.0
"""From an hour: long beside the crash that a guilty message costs then, short beside the days for
which an MTA keeps an innocent one. 1, 2, 4, 8 and 16 hours, then a day."""


def digest(*parts: bytes) -> bytes:
    """Return a digest of parts, in which it matters where one ends and the next begins."""
    state = blake2b(digest_size=_DIGEST_BYTES)
    for part in parts:
        state.update(len(part).to_bytes(4, "big"))
        state.update(part)
    return state.digest()


class WorkerState(enum.IntEnum):
    """How far a worker has come, as it says itself."""

    STARTING = 0
    SERVING = 1
    ENDED = 2


@dataclass(frozen=True, slots=True)
class Identity:
    """What a message is known by.

    Attributes:
        envelope: A digest of what stays the same when the client tries again; nothing but zeros
            if nothing is known.
        queue_id: A digest of the MTA's queue id, which is a new one with each attempt by SMTP;
            nothing but zeros if there is none.
        label: What an administrator finds the message by, such as the queue id.
    """

    envelope: bytes = _UNKNOWN
    queue_id: bytes = _UNKNOWN
    label: bytes = b""

    @property
    def keys(self) -> tuple[bytes, ...]:
        """The digests that are known."""
        return tuple(key for key in (self.envelope, self.queue_id) if key != _UNKNOWN)

    def note(self) -> bytes:
        """Return it as a note has it."""
        return _NOTE.pack(1, self.envelope, self.queue_id, self.label[:_LABEL_BYTES])


class WorkerNotes:
    """The notes of one worker: made before the fork, written by the worker, read after its end."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _NOTES_AT + _MOST_NOTES * _NOTE.size)
        self._free = [_NOTES_AT + number * _NOTE.size for number in reversed(range(_MOST_NOTES))]
        self._clearing = threading.Lock()
        self._cleared_read = 0

    @property
    def state(self) -> WorkerState:
        """How far the worker has come."""
        return WorkerState(self._memory[0])

    @state.setter
    def state(self, state: WorkerState) -> None:
        self._memory[0] = state

    @property
    def beat(self) -> float:
        """When the event loop last gave a sign of life, of the monotonic clock; 0 for never."""
        beat: float = _BEAT.unpack_from(self._memory, _BEAT_AT)[0]
        return beat

    @beat.setter
    def beat(self, now: float) -> None:
        self._memory[_BEAT_AT : _BEAT_AT + _BEAT.size] = _BEAT.pack(now)

    @property
    def problem(self) -> str:
        """Why the worker cannot start, if no further attempt can mend that; else empty."""
        end = _PROBLEM_AT + _MOST_PROBLEM_BYTES
        return self._memory[_PROBLEM_AT:end].rstrip(b"\0").decode("utf-8", "replace")

    @problem.setter
    def problem(self, text: str) -> None:
        encoded = text.encode("utf-8", "replace")[:_MOST_PROBLEM_BYTES]
        self._memory[_PROBLEM_AT : _PROBLEM_AT + len(encoded)] = encoded

    def enter(self, note: bytes) -> int:
        """Note that a handler begins; return where, for `leave`.

        Args:
            note: From `Identity.note`.
        """
        # A list's pop and append are each one step, so that handlers in threads need no lock.
        try:
            place = self._free.pop()
        except IndexError:
            return 0
        self._memory[place : place + _NOTE.size] = note
        return place

    def leave(self, place: int) -> None:
        """Remove a note: the handler has ended."""
        if place:
            self._memory[place] = 0
            self._free.append(place)

    def clear(self, identity: Identity) -> None:
        """Tell that a suspect was served without a crash; in any thread."""
        with self._clearing:
            (count,) = _COUNT.unpack_from(self._memory, _CLEARED_COUNT_AT)
            for key in identity.keys:
                place = _CLEARED_AT + count % _MOST_CLEARED * _DIGEST_BYTES
                self._memory[place : place + _DIGEST_BYTES] = key
                count = (count + 1) & 0xFFFFFFFF
            # Last, as it is what the process above looks at.
            end = _CLEARED_COUNT_AT + _COUNT.size
            self._memory[_CLEARED_COUNT_AT:end] = _COUNT.pack(count)

    def cleared(self) -> list[bytes]:
        """Return the keys that were cleared since the last call; for the process above."""
        (count,) = _COUNT.unpack_from(self._memory, _CLEARED_COUNT_AT)
        new = min((count - self._cleared_read) & 0xFFFFFFFF, _MOST_CLEARED)
        self._cleared_read = count
        places = [
            _CLEARED_AT + number % _MOST_CLEARED * _DIGEST_BYTES
            for number in range(count - new, count)
        ]
        return [self._memory[place : place + _DIGEST_BYTES] for place in places]

    def suspects(self) -> list[Identity]:
        """Return what had a handler at work."""
        found: list[Identity] = []
        for place in range(_NOTES_AT, len(self._memory), _NOTE.size):
            if self._memory[place]:
                _flag, envelope, queue_id, label = _NOTE.unpack_from(self._memory, place)
                found.append(Identity(envelope, queue_id, label.rstrip(b"\0")))
        return found

    def close(self) -> None:
        """Give the memory back."""
        self._memory.close()


@dataclass(frozen=True, slots=True)
class Refusal:
    """A message that is refused from now on.

    Attributes:
        label: What an administrator finds it by.
        crashes: How many workers it has ended.
        seconds: For how long it is refused.
    """

    label: str
    crashes: int
    seconds: float


@dataclass(slots=True)
class _Record:
    """What is known of one key."""

    crashes: int = 0
    last_crash: float = 0.0
    refused_for: float = 0.0
    refused_until: float = -math.inf

    @property
    def forgotten_at(self) -> float:
        return max(self.last_crash, self.refused_until) + _FORGOTTEN_AFTER_S


class CrashLedger:
    """Counts by message how many workers it has ended; made before any worker is.

    The process that made it calls `blame`, `clear` and `look_at_clock`, the workers ask the rest.
    """

    def __init__(self, limit: int, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin with an empty one.

        Args:
            limit: How many workers a message may end; at least 1.
            clock: The time in seconds.
        """
        self._limit = limit
        self._clock = clock
        self._records: dict[bytes, _Record] = {}
        self._next_change = math.inf
        self._memory = mmap.mmap(-1, _TABLE_HEAD.size + _MOST_SUSPECTS * _DIGEST_BYTES)
        self._version = 0
        self._refused: frozenset[bytes] = frozenset()
        self._suspects: frozenset[bytes] = frozenset()

    def blame(self, suspects: Iterable[Identity]) -> list[Refusal]:
        """Count a crash; return the messages that are refused from now on."""
        now = self._clock()
        counted: set[bytes] = set()
        refused: list[Refusal] = []
        for suspect in suspects:
            worst: _Record | None = None
            for key in suspect.keys:
                if key in counted:
                    continue
                counted.add(key)
                # Put in anew, so that the dictionary is in the order of the last crash.
                record = self._records[key] = self._records.pop(key, _Record())
                if self._count(record, now) and (worst is None or record.crashes > worst.crashes):
                    worst = record
            if worst is not None:
                label = printable(suspect.label.decode("utf-8", "replace")) or "unknown"
                refused.append(Refusal(label, worst.crashes, worst.refused_for))
        if counted:
            self._settle(now)
        return refused

    def _count(self, record: _Record, now: float) -> bool:
        """Count a crash; return whether it makes a refusal begin."""
        record.crashes += 1
        record.last_crash = now
        if record.crashes < self._limit or now < record.refused_until:
            return False
        record.refused_for = min(2 * record.refused_for or _FIRST_REFUSAL_S, _LONGEST_REFUSAL_S)
        record.refused_until = now + record.refused_for
        return True

    def clear(self, keys: Sequence[bytes]) -> None:
        """Strike out who was served without a crash; who is refused now stays so."""
        now = self._clock()
        has_changed = False
        for key in keys:
            record = self._records.get(key)
            # It may have been let in when a crash that it has part in was not counted yet.
            if record is not None and now >= record.refused_until:
                del self._records[key]
                has_changed = True
        if has_changed:
            self._settle(now)

    def look_at_clock(self) -> None:
        """Let messages in again whose time is up, and forget those of long ago."""
        now = self._clock()
        if now >= self._next_change:
            self._settle(now)

    def is_refused(self, identity: Identity) -> bool:
        """Return whether a message has ended too many workers."""
        self._read()
        return bool(self._refused) and not self._refused.isdisjoint(identity.keys)

    def is_suspect(self, identity: Identity) -> bool:
        """Return whether a message was at work when a worker died."""
        self._read()
        return bool(self._suspects) and not self._suspects.isdisjoint(identity.keys)

    def _read(self) -> None:
        version, refused, count, check = _TABLE_HEAD.unpack_from(self._memory)
        if version == self._version:
            return
        rows = self._memory[_TABLE_HEAD.size : _TABLE_HEAD.size + count * _DIGEST_BYTES]
        if digest(rows, _COUNT.pack(refused)) != check:
            # It is being written; with the next message.
            return
        keys = [rows[at : at + _DIGEST_BYTES] for at in range(0, len(rows), _DIGEST_BYTES)]
        self._refused = frozenset(keys[:refused])
        self._suspects = frozenset(keys)
        self._version = version

    def _settle(self, now: float) -> None:
        """Forget what is old or too much, and show the workers what is left."""
        records = self._records
        for key in [key for key, record in records.items() if now >= record.forgotten_at]:
            del records[key]
        for key in list(records)[: max(0, len(records) - _MOST_SUSPECTS)]:
            del records[key]
        refused = [key for key, record in records.items() if now < record.refused_until]
        others = [key for key, record in records.items() if now >= record.refused_until]
        changes = [records[key].refused_until for key in refused]
        changes += [records[key].forgotten_at for key in others]
        self._next_change = min(changes, default=math.inf)
        rows = b"".join((*refused, *others))
        version = (_COUNT.unpack_from(self._memory)[0] + 1) & 0xFFFFFFFF
        check = digest(rows, _COUNT.pack(len(refused)))
        self._memory[_TABLE_HEAD.size : _TABLE_HEAD.size + len(rows)] = rows
        _TABLE_HEAD.pack_into(self._memory, 0, version, len(refused), len(records), check)
