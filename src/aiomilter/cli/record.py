"""Records of milter connections: JSON lines, written as things happen and read back.

The format is described in ``docs/reference/records.md``.

Rules of this file:

- Each line is flushed when it is written: a process that is killed loses its last line at most.
- ``data`` is the truth, in hexadecimal; names and decoded fields are for people and are not read
  back.
- A last line that is cut off is forgiven with a warning. Any other line that is malformed is an
  error, with its number and what is wrong.
- A record holds mail: its file is its owner's alone.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeAlias, cast, get_args

from aiomilter.cli.console import CommandError
from aiomilter.cli.packets import End, PacketCutter, describe
from aiomilter.errors import escape

__all__ = ["Entry", "Event", "Header", "RecordReader", "RecordWriter"]

Event: TypeAlias = Literal["open", "packet", "bytes", "eof", "error", "close"]

_FORMAT = "aiomilter-record"
_VERSION = 1
_MAX_LINE_BYTES = 2**27
"""Above twice the largest packet, and all that is said about it."""
_MAX_T = 2**53
"""Neither infinite nor beyond what a float can count."""
_DETAIL_KEYS: dict[Event, str] = {"open": "peer", "bytes": "reason", "error": "reason"}


@dataclass(frozen=True, slots=True)
class Header:
    """The first line.

    Attributes:
        started: When ``t`` is 0, in ISO 8601.
        listen: Where the MTA connected to.
        to: Where the milter is.
    """

    started: str
    listen: str
    to: str


@dataclass(frozen=True, slots=True)
class Entry:
    """One line: something that has happened on a connection.

    Attributes:
        t: Seconds since the start.
        connection: Its number, from 1 on.
        event: ``open``; ``packet``; ``bytes`` that are no packet; ``eof``: one end sends nothing
            more; ``error``: it was reset, or never came about; ``close``.
        sender: The end that it came from; None for ``open`` and ``close``, and for an error of
            neither.
        data: Of ``packet`` and ``bytes``, as they came.
        detail: Of ``open`` who has connected; of ``bytes`` and ``error`` why.
    """

    t: float
    connection: int
    event: Event
    sender: End | None = None
    data: bytes = b""
    detail: str = ""


class RecordWriter:
    """Writes a record to a new file."""

    def __init__(self, path: Path, header: Header) -> None:
        """Make the file and write its first line.

        Raises:
            CommandError: The file cannot be made, or there is one that is not empty.
        """
        try:
            if path.exists() and stat.S_ISREG(path.stat().st_mode) and path.stat().st_size:
                raise CommandError(f"{path} exists; name another file for the record, or remove it")
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            self._file = os.fdopen(descriptor, "w", encoding="ascii")
            self._write(
                {
                    "format": _FORMAT,
                    "version": _VERSION,
                    "started": header.started,
                    "listen": header.listen,
                    "to": header.to,
                }
            )
        except OSError as error:
            raise CommandError(f"cannot write the record {path}: {error.strerror}") from error

    def write(self, entry: Entry) -> None:
        """Write one line.

        Raises:
            OSError: It cannot be written, as on a full disk.
        """
        line: dict[str, Any] = {
            "t": round(entry.t, 6),
            "connection": entry.connection,
            "event": entry.event,
        }
        if entry.sender is not None:
            line["from"] = entry.sender
        if entry.data:
            line["data"] = entry.data.hex()
        if entry.detail:
            line[_DETAIL_KEYS[entry.event]] = entry.detail
        if entry.event == "packet" and entry.sender is not None:
            what = describe(entry.sender, entry.data)
            line |= {"name": what.name, "fields": what.fields}
        self._write(line)

    def close(self) -> None:
        """Close the file."""
        try:
            self._file.close()
        except OSError:
            # What could not be written was told when it was tried.
            return

    def _write(self, line: dict[str, Any]) -> None:
        self._file.write(json.dumps(line, separators=(",", ":")) + "\n")
        self._file.flush()


class RecordReader:
    """Reads a record line by line.

    Attributes:
        header: The first line.
    """

    def __init__(self, file: BinaryIO, name: str, warn: Callable[[str], None]) -> None:
        """Read the first line.

        Args:
            file: The record.
            name: What it is called in errors.
            warn: Told of a last line that is cut off.

        Raises:
            CommandError: It is no record of a version that is known here.
        """
        self._file = file
        self._name = name
        self._warn = warn
        self._number = 1
        self.header = self._read_header()

    def entries(self) -> Iterator[Entry]:
        """Yield the lines behind the first.

        Raises:
            CommandError: A line is malformed.
        """
        while text := self._read_line():
            self._number += 1
            try:
                entry = _entry(_object(text))
            except ValueError as error:
                if not text.endswith(b"\n"):
                    self._warn(f"{self._name}:{self._number}: the last line is cut off; left out")
                    return
                raise CommandError(f"{self._name}:{self._number}: {error}") from None
            yield entry

    def _read_header(self) -> Header:
        text = self._read_line()
        if not text:
            raise CommandError(f"{self._name} is empty; a record begins with a line about itself")
        try:
            line = _object(text)
        except ValueError:
            line = {}
        if line.get("format") != _FORMAT:
            raise CommandError(
                f"{self._name} is no record of 'aiomilter trace --record'; for other bytes there "
                f"is 'aiomilter decode' with --raw or --hex"
            )
        if line.get("version") != _VERSION:
            raise CommandError(
                f"{self._name} is a record of version {line.get('version')!r}; this program reads "
                f"version {_VERSION}: update aiomilter"
            )
        try:
            return Header(*(_text(line, key) for key in ("started", "listen", "to")))
        except ValueError as error:
            raise CommandError(f"{self._name}:1: {error}") from None

    def _read_line(self) -> bytes:
        try:
            line = self._file.readline(_MAX_LINE_BYTES + 1)
        except OSError as error:
            raise CommandError(f"cannot read {self._name}: {error.strerror}") from error
        if len(line) > _MAX_LINE_BYTES:
            raise CommandError(
                f"{self._name}: a line above {_MAX_LINE_BYTES} bytes; is it a record?"
            )
        return line


def _object(text: bytes) -> dict[str, Any]:
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError(f"this is no JSON: {escape(text.rstrip())}") from None
    if not isinstance(line, dict):
        raise ValueError(f"this is no JSON object: {escape(text.rstrip())}")
    return cast("dict[str, Any]", line)


def _entry(line: dict[str, Any]) -> Entry:
    event = line.get("event")
    if event not in get_args(Event):
        raise ValueError(f"'event' is one of {', '.join(get_args(Event))}; not {_value(event)}")
    event = cast("Event", event)
    sender = line.get("from")
    if sender not in get_args(End) and not (sender is None and event in ("open", "close", "error")):
        raise ValueError(f"'from' is 'mta' or 'milter', not {_value(sender)}")
    return Entry(
        t=_time(line.get("t")),
        connection=_connection(line.get("connection")),
        event=event,
        sender=sender,
        data=_data(line.get("data"), event) if event in ("packet", "bytes") else b"",
        detail=_text(line, _DETAIL_KEYS[event]) if event in _DETAIL_KEYS else "",
    )


def _time(value: object) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < _MAX_T:
        return float(value)
    raise ValueError(f"'t' is a number of seconds, not {_value(value)}")


def _connection(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    raise ValueError(f"'connection' is a number from 1 on, not {_value(value)}")


def _data(value: object, event: Event) -> bytes:
    try:
        if not isinstance(value, str):
            raise ValueError
        data = bytes.fromhex(value)
    except ValueError:
        raise ValueError(f"'data' is text in hexadecimal, not {_value(value)}") from None
    if event == "packet" and [piece.is_packet for piece in PacketCutter().receive(data)] != [True]:
        raise ValueError(f"'data' is not one whole packet: {_value(value)}")
    return data


def _text(line: dict[str, Any], key: str) -> str:
    value = line.get(key, "")
    if not isinstance(value, str):
        raise ValueError(f"{key!r} is text, not {_value(value)}")
    return value


def _value(value: object) -> str:
    return (
        "missing" if value is None else escape(repr(value) if not isinstance(value, str) else value)
    )
