"""The edits that make new headers of old ones, right on Postfix, on Sendmail, or on both.

Rules of this file; what each MTA makes of an edit is in `aiomilter.app.mta`:

- Changes come first, with the numbers that the headers have. Then deletions, from the bottom up:
  Postfix counts anew after each, Sendmail goes on counting those that are gone. Then what stands
  behind all others, in its order; then what stands between, from the bottom up; then what stands
  in front, the last one first. So no edit moves what another one counts.
- A number of insertion means the same to both MTAs in two places: 1 is just below the MTA's own
  Received header, and a very large one behind all others. Everywhere between, Postfix counts what
  is there (own Received header included), Sendmail also what is not: nine headers that it could
  make itself, and those that are deleted. Where the MTA is not known, nothing is added between:
  the headers above or below are taken out and put in again instead.
- Sendmail keeps the spelling of a name that is changed, so another spelling is another header; but
  not for Postfix.
- Neither can change a value to nothing (it deletes); such a header is deleted and added.
- Date, From, Message-Id and their like Sendmail makes itself if the client has sent none, unless
  the milter adds one, which then stands where Sendmail's would; one that is inserted stands beside
  it. So one of those is added, not inserted, except for Postfix. On Sendmail its place among the
  others is not kept. (With a mailer that adds none, F= without D, F and M, it is not delivered at
  all; those of the standard sendmail.cf have them.)
"""

from __future__ import annotations

from collections.abc import Sequence

from aiomilter.app.message.alignment import Pairs, align, align_block
from aiomilter.app.message.header import Header
from aiomilter.app.mta.edits import Edit, HeaderAdded, HeaderChanged, HeaderInserted
from aiomilter.app.mta.kind import Mta
from aiomilter.app.text import decode_text
from aiomilter.spec import MAX_HEADER_INDEX

__all__ = ["SENDMAIL_OWN", "header_edits"]

SENDMAIL_OWN = frozenset(
    {
        b"date",
        b"from",
        b"full-name",
        b"message-id",
        b"resent-date",
        b"resent-from",
        b"resent-message-id",
        b"return-path",
    }
)
"""What Sendmail makes itself if the client has sent none, by the standard sendmail.cf."""

_OWN_RECEIVED = b"received"
_TOP = 1
_POSTFIX_FIRST = 2
"""The number behind the client's first header: behind Postfix' own Received header and that one."""
_SENDMAIL_FIRST = 9
"""The same for Sendmail, which counts the headers that it could make."""
_FEW = 2


def header_edits(
    old: Sequence[Header], new: Sequence[Header], mta: Mta | None, *, leading_space: bool
) -> list[Edit]:
    """Return the smallest number of edits that make ``new`` of ``old``, in the order to make them.

    Args:
        old: The headers that the MTA has shown, in their order.
        new: The headers that the message is to have.
        mta: Which MTA it is. None: not known, and the edits are right on both; then there may be
            more of them.
        leading_space: Whether the blank behind the colon is part of values (the option
            LEADING_SPACE). If not, the MTA puts one in front of every value.
    """
    writer = _Writer(old, new, mta, leading_space=leading_space)
    if len(old) == len(new) and (edits := writer.few_changes()) is not None:
        return edits
    pairs = align_block(old, new, writer.can_change)
    if mta is not None:
        closest = align(old, new, writer.can_change)
        # Of two that are equally short, the one that is right on both.
        if writer.cost(closest) < writer.cost(pairs):
            pairs = closest
    return writer.edits(pairs)


class _Writer:
    """Writes edits for pairs of old and new headers."""

    __slots__ = ("_leading_space", "_mta", "_new", "_old")

    def __init__(
        self,
        old: Sequence[Header],
        new: Sequence[Header],
        mta: Mta | None,
        *,
        leading_space: bool,
    ) -> None:
        self._old = old
        self._new = new
        self._mta = mta
        self._leading_space = leading_space

    def can_change(self, old: Header, new: Header) -> bool:
        """Whether the one becomes the other by a change."""
        is_same = old.key == new.key if self._mta is Mta.POSTFIX else old.raw_name == new.raw_name
        return is_same and self._value(new) != ""

    def few_changes(self) -> list[Edit] | None:
        """Return the edits if two headers at most have other values, and all else is the same.

        Hot path: that is most of what milters do. Nothing can be shorter: one edit alone leaves
        the number of headers as it is only if it is one of these.
        """
        pairs = zip(self._old, self._new, strict=True)
        changed = [at for at, (old, new) in enumerate(pairs) if old is not new and old != new]
        if len(changed) > _FEW:
            return None
        if not all(self.can_change(self._old[at], self._new[at]) for at in changed):
            return None
        return [self._change(at) for at in changed]

    def _change(self, at: int) -> Edit:
        new, key = self._new[at], self._old[at].key
        number = sum(header.key == key for header in self._old[: at + 1])
        return HeaderChanged(new.name, number, self._value(new))

    def cost(self, pairs: Pairs) -> int:
        """Return how many edits there are."""
        changes = sum(self._old[at] != self._new[to] for at, to in pairs)
        return len(self._old) + len(self._new) - 2 * len(pairs) + changes

    def edits(self, pairs: Pairs) -> list[Edit]:
        """Return the edits, in the order to make them."""
        return [*self._changes_and_deletions(pairs), *self._additions(pairs)]

    def _changes_and_deletions(self, pairs: Pairs) -> list[Edit]:
        becomes = dict(pairs)
        numbers: dict[bytes, int] = {}
        changes: list[Edit] = []
        deletions: list[Edit] = []
        for at, header in enumerate(self._old):
            number = numbers[header.key] = numbers.get(header.key, 0) + 1
            to = becomes.get(at)
            if to is None:
                deletions.append(HeaderChanged(header.name, number, None))
            elif self._new[to] != header:
                new = self._new[to]
                changes.append(HeaderChanged(new.name, number, self._value(new)))
        return changes + deletions[::-1]

    def _additions(self, pairs: Pairs) -> list[Edit]:
        stays = {to for _, to in pairs}
        first = pairs[0][1] if pairs else 0
        last = pairs[-1][1] if pairs else -1
        # Postfix counts what has stayed, Sendmail the old headers.
        kept_above = -1
        old_above = -1
        old_of = {to: at for at, to in pairs}
        bottom: list[Edit] = []
        between: list[Edit] = []
        top: list[Edit] = []
        known = {header.key for header in self._old}
        for to, header in enumerate(self._new):
            if to in stays:
                kept_above += 1
                old_above = old_of[to]
            elif self._is_sendmails_own(header, known):
                bottom.append(HeaderAdded(header.name, self._value(header)))
                known.add(header.key)
            elif to > last:
                bottom.append(self._at_end(header, known))
                known.add(header.key)
            elif to < first:
                top.append(self._at(_TOP, header))
            elif self._mta is Mta.POSTFIX:
                between.append(self._at(_POSTFIX_FIRST + kept_above, header))
            else:
                between.append(self._at(_SENDMAIL_FIRST + old_above, header))
        return bottom + between[::-1] + top[::-1]

    def _is_sendmails_own(self, header: Header, known: set[bytes]) -> bool:
        return (
            self._mta is not Mta.POSTFIX
            and header.key in SENDMAIL_OWN
            and header.key not in known
            and self._value(header) != ""
        )

    def _at_end(self, header: Header, known: set[bytes]) -> Edit:
        # Sendmail puts what is added in front of others of its name, its own included.
        if header.key in known or header.key in SENDMAIL_OWN or header.key == _OWN_RECEIVED:
            return self._at(MAX_HEADER_INDEX, header)
        return HeaderAdded(header.name, self._value(header))

    def _at(self, index: int, header: Header) -> Edit:
        return HeaderInserted(index, header.name, self._value(header))

    def _value(self, header: Header) -> str:
        value = decode_text(header.raw_value)
        return value if self._leading_space else value.removeprefix(" ")
