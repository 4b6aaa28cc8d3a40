"""The headers of a message: ordered, with duplicates, found by name in any case.

Rules of this file:

- Headers stand in places, numbered from 0 and chained in both directions by those numbers, all of
  them and once more those of each name. So every edit and every look-up takes time that does not
  grow with the number of headers, and nothing refers to its owner in a circle, which only the
  garbage collector could free.
- The first places hold the headers that came with the message, in their order, and a place is
  never given to another one: a header that replaces another takes its place. That is what the
  edits for the MTA are computed from (`aiomilter.app.message.diff`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple, overload

from aiomilter.app.message.header import Header

__all__ = ["Headers"]

_NONE = -1


class _Same(NamedTuple):
    """The first and the last place of a name."""

    first: int
    last: int


class Headers:
    """The headers of a message, in order; names are compared without regard to case.

    Iterating yields each `Header` from the top, ``len`` counts them, ``"subject" in headers`` asks
    for a name. Headers may be removed and added while iterating over ``list(headers)``.

    What is added is encoded and folded as needed; what came with the message stays byte for byte.
    Wherever a name and a value are expected, a `Header` is taken too, and stays as it is.
    """

    __slots__ = (
        "_after",
        "_after_same",
        "_before",
        "_before_same",
        "_count",
        "_first",
        "_headers",
        "_last",
        "_original",
        "_same",
    )

    def __init__(self, headers: Iterable[Header | tuple[str, str]] = ()) -> None:
        """Take the headers of a message; those are what edits are computed against."""
        taken = [
            (header if header.place == _NONE else _made(header))
            if isinstance(header, Header)
            else Header.made(*header)
            for header in headers
        ]
        count = self._count = len(taken)
        # Hot path: what `_append` of each would come to, at a third of its price.
        self._headers: list[Header | None] = [*taken]
        self._before = list(range(_NONE, count - 1))
        self._after = [*range(1, count), _NONE] if count else []
        self._before_same = [_NONE] * count
        self._after_same = [_NONE] * count
        self._first, self._last = (0, count - 1) if count else (_NONE, _NONE)
        self._same: dict[bytes, _Same] = {}
        for place, header in enumerate(taken):
            header.place = place
            key = header.key
            same = self._same.get(key)
            if same is None:
                self._same[key] = _Same(place, place)
            else:
                self._before_same[place] = same.last
                self._after_same[same.last] = place
                self._same[key] = _Same(same.first, place)
        self._original = tuple(taken)

    @property
    def original(self) -> tuple[Header, ...]:
        """The headers as they came with the message."""
        return self._original

    @property
    def is_changed(self) -> bool:
        """Whether they are not what came with the message."""
        return len(self) != len(self._original) or any(
            now is not then and now != then for now, then in zip(self, self._original, strict=True)
        )

    def copy(self) -> Headers:
        """Return the same headers with the same originals, for changes of their own."""
        copies: dict[int, Header] = {
            id(header): Header(header.raw_name, header.raw_value)
            for header in (*self._original, *self)
        }
        new = Headers()
        for header in self:
            new._append(copies[id(header)])
        new._original = tuple(copies[id(header)] for header in self._original)
        return new

    # Looking

    def get(self, name: str) -> Header | None:
        """Return the first header of a name, or None."""
        same = self._same.get(_key(name))
        return None if same is None else self._headers[same.first]

    def get_all(self, name: str) -> list[Header]:
        """Return all headers of a name, in order; an empty list if there is none."""
        found: list[Header] = []
        same = self._same.get(_key(name))
        place = _NONE if same is None else same.first
        while place != _NONE:
            found.append(self._at(place))
            place = self._after_same[place]
        return found

    def get_text(self, name: str, default: str = "") -> str:
        """Return the first header of a name as people read it (`Header.text`), or ``default``."""
        header = self.get(name)
        return default if header is None else header.text

    def __contains__(self, name: object) -> bool:
        if isinstance(name, Header):
            return self._holds(name)
        return isinstance(name, str) and _key(name) in self._same

    def __iter__(self) -> Iterator[Header]:
        place = self._first
        while place != _NONE:
            # Looked up ahead: the one that is yielded may be taken out.
            following = self._after[place]
            header = self._headers[place]
            if header is not None:
                yield header
            place = following

    def __len__(self) -> int:
        return self._count

    def __repr__(self) -> str:
        return f"<Headers: {self._count}>"

    # Editing

    @overload
    def add(self, name: Header) -> Header: ...
    @overload
    def add(self, name: str, value: str) -> Header: ...
    def add(self, name: str | Header, value: str | None = None) -> Header:
        """Put a header behind all others, and return it.

        Args:
            name: The name: printable ASCII characters without colon and blank. Or a header.
            value: Any text; encoded and folded as needed. An LF with a blank behind it is a fold.

        Raises:
            ValueError: The name or the value is none that a header can have: a line break that
                would begin another header, or a NUL. Nothing has changed then.
        """
        return self._append(_made(name, value))

    @overload
    def prepend(self, name: Header) -> Header: ...
    @overload
    def prepend(self, name: str, value: str) -> Header: ...
    def prepend(self, name: str | Header, value: str | None = None) -> Header:
        """Put a header in front of all others (the MTA's own Received excepted), and return it.

        Args:
            name: As for `add`.
            value: As for `add`.

        Raises:
            ValueError: As for `add`.
        """
        header = _made(name, value)
        return self._link(header, _NONE, self._first)

    @overload
    def insert_before(self, where: str | Header, name: Header) -> Header: ...
    @overload
    def insert_before(self, where: str | Header, name: str, value: str) -> Header: ...
    def insert_before(
        self, where: str | Header, name: str | Header, value: str | None = None
    ) -> Header:
        """Put a header in front of another, and return it.

        Args:
            where: One of these headers, or a name for the first of that name.
            name: As for `add`.
            value: As for `add`.

        Raises:
            ValueError: As for `add`.
            LookupError: There is no such header as ``where``.
        """
        place = self._place(where)
        header = _made(name, value)
        return self._link(header, self._before[place], place)

    @overload
    def insert_after(self, where: str | Header, name: Header) -> Header: ...
    @overload
    def insert_after(self, where: str | Header, name: str, value: str) -> Header: ...
    def insert_after(
        self, where: str | Header, name: str | Header, value: str | None = None
    ) -> Header:
        """Put a header behind another, and return it.

        Args:
            where: One of these headers, or a name for the first of that name.
            name: As for `add`.
            value: As for `add`.

        Raises:
            ValueError: As for `add`.
            LookupError: There is no such header as ``where``.
        """
        place = self._place(where)
        header = _made(name, value)
        return self._link(header, place, self._after[place])

    def replace(self, which: str | Header, value: str | Header) -> Header:
        """Put another value in the place of one, and return the new header.

        Args:
            which: One of these headers; or a name, for the first one of that name, which is added
                behind all others if there is none.
            value: As for `add`. Or a whole header, whose name may be another.

        Raises:
            ValueError: As for `add`.
            LookupError: The header is not one of these.
        """
        if isinstance(which, str):
            found = self.get(which)
            if found is None:
                return self.add(value) if isinstance(value, Header) else self.add(which, value)
            which = found
        place = self._place(which)
        new = _made(value) if isinstance(value, Header) else _made(which.name, value)
        if new.key != which.key:
            self._unlink_same(place)
            self._link_same(new, place)
        new.place = place
        which.place = _NONE
        self._headers[place] = new
        return new

    def remove(self, which: str | Header) -> int:
        """Take a header out, or all headers of a name; return how many.

        A name that is not there is no error.

        Raises:
            LookupError: The header is not one of these.
        """
        headers = self.get_all(which) if isinstance(which, str) else [which]
        for header in headers:
            self._unlink(self._place(header))
        return len(headers)

    # Places

    def _at(self, place: int) -> Header:
        header = self._headers[place]
        assert header is not None, "the chains lead to headers alone"
        return header

    def _holds(self, header: Header) -> bool:
        place = header.place
        return 0 <= place < len(self._headers) and self._headers[place] is header

    def _place(self, which: str | Header) -> int:
        if isinstance(which, str):
            same = self._same.get(_key(which))
            if same is None:
                raise LookupError(f"there is no header {ascii(which)[:80]}")
            return same.first
        if not self._holds(which):
            raise LookupError(f"the header is not one of these: {which!r}")
        return which.place

    def _append(self, header: Header) -> Header:
        return self._link(header, self._last, _NONE)

    def _link(self, header: Header, before: int, after: int) -> Header:
        """Give a header a new place between two, either of which may be none."""
        place = header.place = len(self._headers)
        self._headers.append(header)
        self._before.append(before)
        self._after.append(after)
        self._before_same.append(_NONE)
        self._after_same.append(_NONE)
        if before == _NONE:
            self._first = place
        else:
            self._after[before] = place
        if after == _NONE:
            self._last = place
        else:
            self._before[after] = place
        self._count += 1
        self._link_same(header, place)
        return header

    def _link_same(self, header: Header, place: int) -> None:
        """Chain a place, which is among all others already, with those of the same name."""
        key = header.key
        same = self._same.get(key)
        if same is None:
            before = after = _NONE
        elif self._after[place] == _NONE:
            before, after = same.last, _NONE
        elif self._before[place] == _NONE:
            before, after = _NONE, same.first
        else:
            before, after = self._neighbours(key, place, same)
        self._chain_same(key, place, before, after)

    def _neighbours(self, key: bytes, place: int, same: _Same) -> tuple[int, int]:
        """Return the places of the same name before and behind a place.

        It looks to both sides at once, so that the nearer one decides how long that takes.
        """
        up, down = self._before[place], self._after[place]
        while True:
            if up == _NONE:
                return _NONE, same.first
            if self._at(up).key == key:
                return up, self._after_same[up]
            if down == _NONE:
                return same.last, _NONE
            if self._at(down).key == key:
                return self._before_same[down], down
            up, down = self._before[up], self._after[down]

    def _chain_same(self, key: bytes, place: int, before: int, after: int) -> None:
        self._before_same[place], self._after_same[place] = before, after
        if before != _NONE:
            self._after_same[before] = place
        if after != _NONE:
            self._before_same[after] = place
        same = self._same.get(key)
        first = place if before == _NONE or same is None else same.first
        last = place if after == _NONE or same is None else same.last
        self._same[key] = _Same(first, last)

    def _unlink(self, place: int) -> None:
        before, after = self._before[place], self._after[place]
        if before == _NONE:
            self._first = after
        else:
            self._after[before] = after
        if after == _NONE:
            self._last = before
        else:
            self._before[after] = before
        self._unlink_same(place)
        self._at(place).place = _NONE
        self._headers[place] = None
        self._count -= 1

    def _unlink_same(self, place: int) -> None:
        key = self._at(place).key
        before, after = self._before_same[place], self._after_same[place]
        first, last = self._same[key]
        if before != _NONE:
            self._after_same[before] = after
        else:
            first = after
        if after != _NONE:
            self._before_same[after] = before
        else:
            last = before
        if first == _NONE:
            del self._same[key]
        else:
            self._same[key] = _Same(first, last)


def _key(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape").lower()


def _made(header: str | Header, value: str | None = None) -> Header:
    """Return a header that is in no place yet."""
    if isinstance(header, Header):
        return header if header.place == _NONE else Header(header.raw_name, header.raw_value)
    if value is None:
        raise TypeError(f"the header {ascii(header)[:80]} has no value")
    return Header.made(header, value)
