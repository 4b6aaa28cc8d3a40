"""Which of the old headers become which of the new ones, at the least cost.

Rules of this file:

- A header that is deleted, added or changed costs one; so does a change alone if the two have the
  same name. The least sum is what no sequence of edits can do better: each of them deletes, adds
  or changes one header.
- Both searches walk along diagonals and keep, for each cost, the furthest point of each diagonal
  (Ukkonen; Landau and Vishkin). That takes steps of the square of the cost, and comparisons of the
  number of headers: a few edits of 100,000 headers are quick. Why a point that is further is never
  worse: a path to a point becomes one to the point before it on its diagonal, at no more cost, if
  what it does with the last two headers is left out or made a deletion.
- Beyond `MAX_COST`, or where many equal headers make it long, the search ends, and the headers that
  stand in their old places are taken for each other: right, and in linear time, but perhaps not the
  least.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from aiomilter.app.message.header import Header

__all__ = ["MAX_COST", "Pairs", "align", "align_block"]

MAX_COST = 200
"""Beyond it an author has made the headers anew, and 40,000 steps take some 20 ms."""

_STEPS_PER_HEADER = 10
_STEPS_AT_LEAST = 100_000
"""How often headers are compared at most: that many diagonals may run through all of them."""

Pairs = list[tuple[int, int]]
"""Positions of old headers and of the new ones that they become, ascending in both."""

_CanChange = Callable[[Header, Header], bool]
_NOWHERE = -1


def align(old: Sequence[Header], new: Sequence[Header], can_change: _CanChange) -> Pairs:
    """Return the pairs whose cost is least.

    Args:
        old: The headers as they are.
        new: The headers as they are to be.
        can_change: Whether one may become the other by a change, which costs one.
    """
    search = _Search(old, new, can_change, may_insert=True)
    for cost in range(min(len(old) + len(new), MAX_COST) + 1):
        search.step(cost)
        if search.is_too_long:
            break
        if search.reached(len(new) - len(old)) == len(old):
            return search.path(cost, len(new) - len(old))
    return _in_place(old, new, can_change)


def align_block(old: Sequence[Header], new: Sequence[Header], can_change: _CanChange) -> Pairs:
    """Return the pairs whose cost is least among those that stand side by side in the new ones.

    So what is added stands in front of or behind all that stays, never between.

    Args:
        old: The headers as they are.
        new: The headers as they are to be.
        can_change: Whether one may become the other by a change, which costs one.
    """
    search = _Search(old, new, can_change, may_insert=False)
    best_total, best_cost, best_diagonal = len(old) + len(new) + 1, 0, 0
    cost = 0
    # All that is left behind the block is deleted or added, one by one.
    while cost < best_total:
        search.step(cost)
        if cost > MAX_COST or search.is_too_long:
            return _longest_run(_in_place(old, new, can_change))
        for diagonal, row in search.current.items():
            total = cost + len(old) - row + len(new) - (row + diagonal)
            if total < best_total:
                best_total, best_cost, best_diagonal = total, cost, diagonal
        cost += 1
    return search.path(best_cost, best_diagonal)


class _Search:
    """The furthest points of all diagonals, cost by cost.

    A point is a number of old and a number of new headers that are done with; the diagonal is how
    many more new than old ones.
    """

    __slots__ = ("_can_change", "_left", "_may_insert", "_new", "_old", "_steps")

    def __init__(
        self,
        old: Sequence[Header],
        new: Sequence[Header],
        can_change: _CanChange,
        *,
        may_insert: bool,
    ) -> None:
        """Begin.

        Args:
            old: The headers as they are.
            new: The headers as they are to be.
            can_change: Whether one may become the other by a change.
            may_insert: Whether new ones may come in anywhere; else in front of all others alone.
        """
        self._old = old
        self._new = new
        self._can_change = can_change
        self._may_insert = may_insert
        self._steps: list[dict[int, int]] = []
        self._left = _STEPS_AT_LEAST + _STEPS_PER_HEADER * (len(old) + len(new))

    @property
    def current(self) -> dict[int, int]:
        """The furthest number of old headers on each diagonal, at the cost of the last step."""
        return self._steps[-1]

    @property
    def is_too_long(self) -> bool:
        """Whether headers were compared too often."""
        return self._left < 0

    def reached(self, diagonal: int) -> int:
        """Return the furthest number of old headers on a diagonal; -1 for none."""
        return self._steps[-1].get(diagonal, _NOWHERE)

    def step(self, cost: int) -> None:
        """Find the furthest points that cost so much."""
        points: dict[int, int] = {}
        for diagonal in range(-cost, cost + 1):
            row = max(row for _, row in self._ways(cost, diagonal))
            if row != _NOWHERE and not self.is_too_long:
                points[diagonal] = self._slide(row, diagonal)
        self._steps.append(points)

    def path(self, cost: int, diagonal: int) -> Pairs:
        """Return the pairs on the way to the furthest point of a diagonal at a cost."""
        pairs: Pairs = []
        row = self._steps[cost][diagonal]
        while True:
            kind, start = max(self._ways(cost, diagonal), key=lambda way: way[1])
            pairs += ((at, at + diagonal) for at in range(row - 1, start - 1, -1))
            if kind == "change":
                pairs.append((start - 1, start - 1 + diagonal))
            elif kind == "delete":
                diagonal += 1
            elif kind == "insert":
                diagonal -= 1
            else:
                break
            cost -= 1
            row = self._steps[cost][diagonal]
        return pairs[::-1]

    def _ways(self, cost: int, diagonal: int) -> list[tuple[str, int]]:
        """Return what leads to a diagonal at a cost, and how far, before what is equal."""
        if self._may_insert:
            ways = [("begin", 0 if cost == diagonal == 0 else _NOWHERE)]
        else:
            is_top = cost == diagonal <= len(self._new)
            ways = [("begin", 0 if is_top else _NOWHERE)]
        if not cost:
            return ways
        before = self._steps[cost - 1]
        row = before.get(diagonal, _NOWHERE)
        if self._is_inside(row, diagonal) and self._can_change(
            self._old[row], self._new[row + diagonal]
        ):
            ways.append(("change", row + 1))
        row = before.get(diagonal + 1, _NOWHERE)
        if 0 <= row < len(self._old):
            ways.append(("delete", row + 1))
        if self._may_insert:
            row = before.get(diagonal - 1, _NOWHERE)
            if row != _NOWHERE and row + diagonal <= len(self._new):
                ways.append(("insert", row))
        return ways

    def _is_inside(self, row: int, diagonal: int) -> bool:
        return 0 <= row < len(self._old) and 0 <= row + diagonal < len(self._new)

    def _slide(self, row: int, diagonal: int) -> int:
        """Go on as long as the headers are equal."""
        old, new = self._old, self._new
        start = row
        end = min(len(old), len(new) - diagonal)
        while row < end and (old[row] is new[row + diagonal] or old[row] == new[row + diagonal]):
            row += 1
        self._left -= row - start + 1
        return row


def _in_place(old: Sequence[Header], new: Sequence[Header], can_change: _CanChange) -> Pairs:
    """Return the pairs of those whose place is still the old one, and which can stay there."""
    return [
        (header.place, at)
        for at, header in enumerate(new)
        if 0 <= header.place < len(old)
        and (header == old[header.place] or can_change(old[header.place], header))
    ]


def _longest_run(pairs: Pairs) -> Pairs:
    """Return the longest part of the pairs whose new ones stand side by side."""
    best_start = best_end = start = 0
    for at in range(1, len(pairs) + 1):
        if at == len(pairs) or pairs[at][1] != pairs[at - 1][1] + 1:
            if at - start > best_end - best_start:
                best_start, best_end = start, at
            start = at
    return pairs[best_start:best_end]
