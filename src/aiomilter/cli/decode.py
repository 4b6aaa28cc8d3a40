"""``aiomilter decode``: show the packets of a record, or of bytes from elsewhere."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterator
from typing import BinaryIO, TextIO, cast, get_args

import click

from aiomilter.cli.console import CommandError, complain, errors_as_sentences
from aiomilter.cli.packets import End, PacketCutter, Piece
from aiomilter.cli.record import Entry, Event, RecordReader
from aiomilter.cli.view import show
from aiomilter.errors import escape

__all__ = ["decode"]

_READ_BYTES = 2**16
_OFFSET = re.compile(rb"\s*(?:0x)?[0-9a-fA-F]{4,16}(?::\s*|\s{2,})")
_BETWEEN_DIGITS = re.compile(rb"0x|\\x|[\s,:]")
_END_OF_HEXDUMP = re.compile(rb"\s*[0-9a-fA-F]{7,16}\s*")


@click.command()
@click.argument("record", default="-", metavar="[RECORD|-]")
@click.option("--hex", "is_hex", is_flag=True, help="The input is a hex dump.")
@click.option("--raw", "is_raw", is_flag=True, help="The input is a binary stream.")
@click.option(
    "--from",
    "sender",
    type=click.Choice(get_args(End)),
    help="Who has sent the bytes of --hex and --raw; without it, the MTA.",
)
@click.option(
    "--connection",
    "connections",
    type=click.IntRange(1),
    multiple=True,
    metavar="NUMBER",
    help="Show only this connection of a record; may be repeated.",
)
def decode(
    record: str, is_hex: bool, is_raw: bool, sender: End | None, connections: tuple[int, ...]
) -> None:
    """Show the packets of a record, as 'trace' shows them.

    Without a file, or with -, stdin is read. With --hex (digits alone, or as xxd, hexdump -C and
    tcpdump -X print them) or --raw it is what one end has sent.

    \b
      aiomilter decode session.jsonl
      echo 0000000148 | aiomilter decode --hex
    """  # noqa: D301  (click wants the character itself)
    if is_hex and is_raw:
        raise CommandError("--hex and --raw exclude each other; leave one out")
    is_stream = is_hex or is_raw
    if sender is not None and not is_stream:
        raise CommandError("--from belongs to --hex or --raw; a record knows who has sent what")
    if connections and is_stream:
        raise CommandError("--connection belongs to a record; --hex and --raw are one stream")
    with errors_as_sentences(record), _open(record) as file:
        name = "stdin" if record == "-" else record
        if is_stream:
            chunks = _bytes_of_dump(file, name) if is_hex else _chunks(file, name)
            entries = _entries(chunks, sender or "mta", name)
        else:
            entries = RecordReader(file, name, complain).entries()
        for entry in entries:
            if not connections or entry.connection in connections:
                show(entry)


def _open(name: str) -> contextlib.AbstractContextManager[BinaryIO]:
    if name == "-":
        # Python has None for a descriptor that was closed when it started.
        if cast("TextIO | None", sys.stdin) is None:
            raise CommandError("stdin is closed; name a file")
        return contextlib.nullcontext(sys.stdin.buffer)
    try:
        return open(name, "rb")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise CommandError(f"cannot read {name}: {reason}") from error


def _entries(chunks: Iterator[bytes], sender: End, name: str) -> Iterator[Entry]:
    """Yield a stream as a record of one connection, on which no time passes."""
    cutter = PacketCutter()
    is_empty = True
    for chunk in chunks:
        is_empty = False
        for piece in cutter.receive(chunk):
            yield _entry(piece, sender)
    if rest := cutter.rest():
        yield _entry(rest, sender)
    if is_empty:
        raise CommandError(f"{name} is empty; there is nothing to decode")


def _entry(piece: Piece, sender: End) -> Entry:
    event: Event = "packet" if piece.is_packet else "bytes"
    return Entry(0.0, 1, event, sender, piece.data, piece.reason)


def _chunks(file: BinaryIO, name: str) -> Iterator[bytes]:
    try:
        while chunk := file.read(_READ_BYTES):
            yield chunk
    except OSError as error:
        raise CommandError(f"cannot read {name}: {error.strerror}") from error


def _bytes_of_dump(file: BinaryIO, name: str) -> Iterator[bytes]:
    """Yield the bytes of a hex dump.

    A line is digits, or as of xxd, tcpdump -X (``offset: digits  text``) and hexdump -C
    (``offset  digits  |text|``).
    """
    digits, is_hexdump = bytearray(), False
    for number, line in enumerate(b"".join(_chunks(file, name)).splitlines(), 1):
        if line.strip() == b"*":
            raise CommandError(f"{name}:{number}: lines are left out here; use hexdump -v -C")
        if is_hexdump and _END_OF_HEXDUMP.fullmatch(line):
            continue
        offset = _OFFSET.match(line)
        rest = line[offset.end() :] if offset else line
        if offset and b"|" in rest:
            is_hexdump = True
            rest = rest.partition(b"|")[0]
        elif offset:
            rest = re.split(rb"\s{2,}", rest, maxsplit=1)[0]
        found = _BETWEEN_DIGITS.sub(b"", rest)
        try:
            # Text after the digits is found here, too: nothing is guessed about it.
            bytes.fromhex(found.decode("ascii") + "0" * (len(found) % 2))
        except ValueError:
            raise CommandError(
                f"{name}:{number}: this is no hex dump: {escape(line.strip())}"
            ) from None
        digits += found
    if len(digits) % 2:
        raise CommandError(f"{name}: an odd number of hexadecimal digits; is the dump whole?")
    if digits:
        yield bytes.fromhex(digits.decode("ascii"))
