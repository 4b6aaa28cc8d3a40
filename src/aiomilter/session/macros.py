"""Macros by stage: how long the MTA's words are kept, and which of them wins.

Rules of this file (``mi_clr_macros`` and ``smfi_getsymval`` in libmilter):

- There are seven slots, one for each command that macros may precede. A packet replaces all
  macros of its slot. One without any NUL, or for another letter, is ignored.
- CONNECT, HELO, MAIL and RCPT, when processed, clear the slots behind their own; an offer of
  options and the end of a session clear all.
- A name is looked up from the last slot to the first and inside a slot from its beginning; the
  first hit wins. ``i`` and ``{i}`` are the same name; longer names must match to the letter.
- A name without value hides the same name of earlier slots.
- Other than in libmilter, what was sent for one message is gone when the next one begins: there
  ``{auth_authen}`` of one message can be seen in the next, if the MTA sends no new set.
"""

from __future__ import annotations

from aiomilter.spec import MACRO_SLOTS
from aiomilter.wire.fields import NUL, split_strings

__all__ = ["MacroStore"]

_FIRST_SLOT_OF_MESSAGE = MACRO_SLOTS[ord("M")]

_NO_SETS: tuple[bytes | None, ...] = (None,) * len(MACRO_SLOTS)


def _plain_name(name: bytes) -> bytes:
    """Return ``i`` for ``{i}``, and any longer name as it is."""
    if len(name) == 3 and name.startswith(b"{") and name.endswith(b"}"):
        return name[1:2]
    return name


class MacroStore:
    """The macros of one connection.

    Attributes:
        version: Changes whenever the macros do, so that a view may be kept until then.
    """

    __slots__ = ("_ended_sets", "_overwritten", "_recent", "_sets", "_stale_sets", "version")

    def __init__(self) -> None:
        # Hot path: Postfix sends a set ahead of every command and few are ever looked at, so
        # that a set is kept as it came and taken apart on demand.
        # Many connections wait and have none: nothing is kept for them.
        self._sets: list[bytes | None] | None = None
        self._stale_sets: list[bytes | None] | None = None
        # The slots that were sent ahead of the command that is being processed, as bits; and what
        # these have taken the place of.
        self._recent = 0
        self._overwritten: list[bytes | None] | None = None
        # Those of a message that was over only when the next one's were there.
        self._ended_sets: list[bytes | None] | None = None
        self.version = 0

    def store(self, payload: bytes, follows_macros: bool = False) -> bool:
        """Keep the macros of one packet.

        Args:
            payload: Of a packet ``D``: the letter of a command and the strings; not empty.
            follows_macros: Whether the packet before it was one of macros, too, so that both
                belong to the same command.

        Returns:
            Whether they were kept; not so for an unknown letter or a payload without NUL.
        """
        if not follows_macros:
            self._recent = 0
        slot = MACRO_SLOTS.get(payload[0])
        if slot is None or payload.find(NUL, 1) < 0:
            return False
        sets = self._sets
        if sets is None:
            sets = self._sets = list(_NO_SETS)
        if not self._recent >> slot & 1:
            self._recent |= 1 << slot
            before, overwritten = sets[slot], self._overwritten
            if overwritten is not None:
                overwritten[slot] = before
            elif before is not None:
                overwritten = self._overwritten = list(_NO_SETS)
                overwritten[slot] = before
        sets[slot] = payload
        self.version += 1
        return True

    def clear_from(self, slot: int) -> None:
        """Forget the macros of ``slot`` and of all behind it."""
        sets = self._sets
        if sets is None:
            return
        for behind in range(slot, len(sets)):
            if sets[behind] is not None:
                sets[behind] = None
                self.version += 1

    def end_message(self, by_next_command: bool = False) -> None:
        """Note that what has been sent up to now belongs to the message that is over.

        Args:
            by_next_command: The message is over because another command came in its place; what
                was sent ahead of that is its own.
        """
        self._ended_sets = None
        if self._sets is None:
            return
        stale = self._stale_sets = self._sets.copy()
        if by_next_command:
            ended = self._ended_sets = self._sets.copy()
            for slot, before in enumerate(self._overwritten or _NO_SETS):
                if self._recent >> slot & 1:
                    stale[slot] = None
                    ended[slot] = before

    def begin_message(self) -> None:
        """Forget what belongs to the message before this one."""
        sets, stale = self._sets, self._stale_sets
        if sets is None or stale is None:
            return
        self._stale_sets = None
        for slot in range(_FIRST_SLOT_OF_MESSAGE, len(sets)):
            # The same object, not an equal one: a set that was sent again is a new one.
            if sets[slot] is stale[slot] and stale[slot] is not None:
                sets[slot] = None
                self.version += 1

    def visible(self) -> dict[bytes, bytes]:
        """Return the macros that a handler sees now, by name; ``i`` for ``{i}``."""
        return _visible(self._sets)

    def visible_in_ended_message(self) -> dict[bytes, bytes]:
        """Return the macros of the message that has just ended, by name.

        They are those of `visible`, but for what the command has brought that came in its place.
        """
        return _visible(self._sets if self._ended_sets is None else self._ended_sets)


def _visible(sets: list[bytes | None] | None) -> dict[bytes, bytes]:
    found: dict[bytes, bytes | None] = {}
    for payload in reversed(sets or ()):
        if payload is None:
            continue
        strings: list[bytes | None] = list(split_strings(payload[1:]))
        if len(strings) % 2:
            strings.append(None)
        for name, value in zip(strings[::2], strings[1::2], strict=True):
            if name:
                found.setdefault(_plain_name(name), value)
    return {name: value for name, value in found.items() if value is not None}
