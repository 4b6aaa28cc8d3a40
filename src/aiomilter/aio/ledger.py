"""A ledger of what ends worker processes: the messages that were in a handler when one died.

Rules of this file:

- What a worker notes is in memory that it shares with the process above it: it is there after a
  death by any signal. Nothing is locked: each part of it has one writer.
- Only messages with a handler at work are noted, and only for that long. An ``async`` handler
  that waits counts as at work, so several may be noted at a time, and all of them are suspects. The
  guilty one comes back and is there each time; the others hardly are.
- A suspect is known by two digests, see `Identity`.
"""

from __future__ import annotations

import enum
import mmap
import struct
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from hashlib import blake2b

from aiomilter.app.text import printable

__all__ = ["CrashLedger", "Identity", "WorkerNotes", "WorkerState", "digest"]

_DIGEST_BYTES = 16
_UNKNOWN = bytes(_DIGEST_BYTES)
_LABEL_BYTES = 31

_NOTE = struct.Struct(f"B{_DIGEST_BYTES}s{_DIGEST_BYTES}s{_LABEL_BYTES}s")
_NOTES_AT = 64
_MOST_NOTES = 1024
"""Handlers at work in one process; what is above goes without a note."""

_TABLE_HEAD = struct.Struct("=II")
_MOST_REFUSED = 1024
_MOST_SUSPECTS = 8192
_FORGOTTEN_AFTER_S = 86_400.0
"""A day: MTAs try for five, and a message may be let in again once the milter is mended."""


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

    @property
    def state(self) -> WorkerState:
        """How far the worker has come."""
        return WorkerState(self._memory[0])

    @state.setter
    def state(self, state: WorkerState) -> None:
        self._memory[0] = state

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


class CrashLedger:
    """Counts by message how many workers it has ended; made before any worker is.

    The process that made it calls `blame`, the workers ask `is_refused`.
    """

    def __init__(self, limit: int, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin with an empty one.

        Args:
            limit: How many workers a message may end; at least 1.
            clock: The time in seconds.
        """
        self._limit = limit
        self._clock = clock
        self._crashes: dict[bytes, tuple[int, float]] = {}
        self._memory = mmap.mmap(-1, _TABLE_HEAD.size + _MOST_REFUSED * _DIGEST_BYTES)
        self._version = 0
        self._refused: frozenset[bytes] = frozenset()

    def blame(self, suspects: Iterable[Identity]) -> list[str]:
        """Count a crash; return the labels of the messages that are refused from now on."""
        now = self._clock()
        counted: set[bytes] = set()
        refused: list[str] = []
        for suspect in suspects:
            crashes = 0
            for key in suspect.keys:
                if key not in counted:
                    counted.add(key)
                    # Removed first, so that the dictionary is in the order of the last crash.
                    before, _when = self._crashes.pop(key, (0, now))
                    self._crashes[key] = (before + 1, now)
                crashes = max(crashes, self._crashes[key][0])
            if crashes == self._limit:
                refused.append(printable(suspect.label.decode("utf-8", "replace")) or "unknown")
        self._forget(now)
        self._publish()
        return refused

    def forget_old(self) -> None:
        """Let messages in again whose last crash is long ago."""
        if self._forget(self._clock()):
            self._publish()

    def is_refused(self, identity: Identity) -> bool:
        """Return whether a message has ended too many workers."""
        version, count = _TABLE_HEAD.unpack_from(self._memory)
        if version != self._version:
            rows = self._memory[_TABLE_HEAD.size : _TABLE_HEAD.size + count * _DIGEST_BYTES]
            starts = range(0, len(rows), _DIGEST_BYTES)
            self._refused = frozenset(rows[at : at + _DIGEST_BYTES] for at in starts)
            self._version = version
        return bool(self._refused) and not self._refused.isdisjoint(identity.keys)

    def _forget(self, now: float) -> bool:
        size = len(self._crashes)
        while self._crashes:
            oldest = next(iter(self._crashes))
            is_recent = now - self._crashes[oldest][1] < _FORGOTTEN_AFTER_S
            if is_recent and len(self._crashes) <= _MOST_SUSPECTS:
                break
            del self._crashes[oldest]
        return len(self._crashes) != size

    def _publish(self) -> None:
        refused = [key for key, (count, _) in self._crashes.items() if count >= self._limit]
        rows = b"".join(refused[-_MOST_REFUSED:])
        self._memory[_TABLE_HEAD.size : _TABLE_HEAD.size + len(rows)] = rows
        version, _count = _TABLE_HEAD.unpack_from(self._memory)
        # Last, as it is what makes workers look.
        _TABLE_HEAD.pack_into(
            self._memory, 0, (version + 1) & 0xFFFFFFFF, len(rows) // _DIGEST_BYTES
        )
