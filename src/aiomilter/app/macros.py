"""Macros as a handler sees them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from aiomilter.app.text import decode_text
from aiomilter.session.macros import MacroStore

__all__ = ["Macros", "decode_macros"]


class Macros(Mapping[str, str]):
    """What the MTA has told about session and message, by the name of the macro.

    A read-only mapping that is always up to date. ``i`` and ``{i}`` are the same; longer names
    stand in their braces (``{auth_authen}``), exactly as the MTA sends them. Where a macro came
    at several stages, the latest stage wins. Macros of one message are gone in the next.

    A macro that the MTA has not sent is not there: ``macros.get("{auth_authen}")`` is None for a
    client that has not logged in. Which ones are sent is set up in the MTA, or asked for with
    `macros`.
    """

    __slots__ = ("_store", "_version", "_view")

    def __init__(self, store: MacroStore) -> None:
        self._store = store
        self._version = -1
        self._view: dict[str, str] = {}

    def _current(self) -> dict[str, str]:
        if self._version != self._store.version:
            self._version = self._store.version
            self._view = decode_macros(self._store.visible())
        return self._view

    def __getitem__(self, name: str) -> str:
        view = self._current()
        value = view.get(name)
        if value is None and len(name) == 3 and name[0] == "{" and name[2] == "}":
            # One byte in braces, as libmilter counts: other characters are long names.
            is_one_byte = name[1].isascii() or "\udc80" <= name[1] <= "\udcff"
            value = view.get(name[1]) if is_one_byte else None
        if value is None:
            raise KeyError(name)
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self._current())

    def __len__(self) -> int:
        return len(self._current())

    def __repr__(self) -> str:
        return f"Macros({self._current()!r})"


def decode_macros(macros: Mapping[bytes, bytes]) -> dict[str, str]:
    """Return macros as text."""
    return {decode_text(name): decode_text(value) for name, value in macros.items()}
