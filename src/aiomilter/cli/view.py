"""Entries of a record as lines of a terminal: one line each, in columns."""

from __future__ import annotations

from rich.text import Text

from aiomilter.app.text import printable
from aiomilter.cli.console import stdout
from aiomilter.cli.packets import Description, End, describe, readable
from aiomilter.cli.record import Entry
from aiomilter.spec import REPLY_BY_LETTER, ReplyKind

__all__ = ["line_of", "packet_line", "show"]

_NAME_WIDTH = 17
_BEGIN_BYTES = 60
_ARROWS: dict[End | None, str] = {"mta": ">", "milter": "<", None: "-"}

_KINDS = {row.name: row.kind for row in REPLY_BY_LETTER.values()}
_STYLE_OF_KIND = {ReplyKind.NEGOTIATION: "magenta", ReplyKind.EDIT: "cyan"}
_STYLES = {
    "accept": "green",
    "continue": "dim green",
    "skip": "dim green",
    "progress": "dim",
    "tempfail": "yellow",
    "reject": "red",
    "reply_code": "red",
    "discard": "red",
    "shutdown": "bold red",
    "connection_failed": "bold red",
}
_SENT_BY_MTA = "blue"
_WRONG = "bold red"


def show(entry: Entry) -> None:
    """Print an entry; on a terminal not beyond its right edge."""
    line = line_of(entry)
    if stdout.is_terminal:
        line.truncate(stdout.width, overflow="ellipsis")
    stdout.print(line)


def line_of(entry: Entry) -> Text:
    """Return the line of an entry: time, connection, direction, name, content."""
    line = Text(f"{entry.t:10.3f} {entry.connection:>4} ", style="dim")
    arrow = _ARROWS[entry.sender]
    if entry.event == "packet" and entry.sender is not None:
        what = describe(entry.sender, entry.data)
        return Text.assemble(line, f"{arrow} ", packet_line(entry.sender, what))
    style = _WRONG if entry.event in ("bytes", "error") else "dim"
    content = printable(entry.detail)
    if entry.event == "bytes":
        content += f"{': ' if content else ''}{_begin(entry.data)}"
    return Text.assemble(line, (f"{arrow} {entry.event:<{_NAME_WIDTH}} {content}".rstrip(), style))


def packet_line(sender: End, what: Description) -> Text:
    """Return name and content of a packet."""
    return Text(f"{what.name:<{_NAME_WIDTH}} {what.text}".rstrip(), style=_style(sender, what))


def _style(sender: End, what: Description) -> str:
    if "malformed" in what.fields:
        return _WRONG
    if sender == "mta":
        return _SENT_BY_MTA
    if what.name == "reply_code" and what.text.startswith("4"):
        return "yellow"
    return _STYLES.get(what.name) or _STYLE_OF_KIND.get(_KINDS[what.name], "")


def _begin(data: bytes) -> str:
    more = "..." if len(data) > _BEGIN_BYTES else ""
    return f"{len(data):,} bytes: {printable(readable(data[:_BEGIN_BYTES]))}{more}"
