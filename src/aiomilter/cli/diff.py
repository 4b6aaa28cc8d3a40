"""What a milter has changed, as a unified diff of envelope and message.

Rules of this file:

- Lines are shown through `printable`: a CR, an escape sequence or a byte that is no UTF-8 is
  visible.
- Lines that are the same at the beginning and at the end are not compared, and where many are
  left, that is told of in one line: comparing takes time in proportion to their square at worst.
- Something that has changed never has an empty diff.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator

from rich.text import Text

from aiomilter.app.mta.content import Content
from aiomilter.app.mta.delivery import Delivery
from aiomilter.app.mta.envelope import Envelope
from aiomilter.app.text import printable

__all__ = ["diff_lines", "styled"]

_MOST_LINES = 4_000
_CONTEXT = 3
_PLACE = re.compile(r"(?<=[ ])([-+])([0-9]+)")
_STYLES = {"-": "red", "+": "green", "@": "cyan"}


def diff_lines(envelope: Envelope, content: Content, delivery: Delivery) -> list[str]:
    """Return the lines of the diff, printable; none if nothing has changed."""
    return [
        *_diff("envelope", _envelope_lines(envelope), _envelope_lines(delivery.envelope)),
        *_content_diff(content, delivery.content),
    ]


def styled(line: str) -> Text:
    """Return a line of a diff in its colour."""
    style = "bold" if line.startswith(("---", "+++")) else _STYLES.get(line[:1], "")
    return Text(line, style=style)


def _envelope_lines(envelope: Envelope) -> list[str]:
    lines = [f"MAIL FROM:{envelope.sender}", *(f"RCPT TO:{path}" for path in envelope.recipients)]
    return [printable(line) for line in lines]


def _content_diff(old: Content, new: Content) -> Iterator[str]:
    if old == new:
        return
    old_head, new_head = _head_lines(old), _head_lines(new)
    old_body = new_body = list[str]()
    if old.body != new.body:
        old_body, new_body = _body_lines(old), _body_lines(new)
    lines = old_head + old_body, new_head + new_body
    if _is_small(*lines):
        unseen = "The message differs in what cannot be shown, such as its last line end."
        yield from _diff("message", *lines) or [unseen]
        return
    if _is_small(old_head, new_head):
        yield from _diff("message", old_head, new_head)
    else:
        yield f"The headers differ: {len(old_head):,} lines, now {len(new_head):,}."
    if old.body != new.body:
        yield f"The body is another one: {len(old.body):,} bytes, now {len(new.body):,} bytes."


def _head_lines(content: Content) -> list[str]:
    return [
        printable(line) for name, value in content.headers for line in f"{name}:{value}".split("\n")
    ]


def _body_lines(content: Content) -> list[str]:
    lines = content.body.split(b"\r\n")
    if not lines[-1]:
        lines.pop()
    return ["", *map(printable, lines)]


def _is_small(old: list[str], new: list[str]) -> bool:
    """Return whether few lines are left between those that are the same at both ends."""
    start, end = _same_ends(old, new)
    return max(len(old), len(new)) - start - end <= _MOST_LINES


def _same_ends(old: list[str], new: list[str]) -> tuple[int, int]:
    """Return how many lines are the same at the beginning, and how many others at the end."""
    most = min(len(old), len(new))
    start = next((at for at in range(most) if old[at] != new[at]), most)
    most -= start
    end = next((at for at in range(most) if old[-1 - at] != new[-1 - at]), most)
    return start, end


def _diff(name: str, old: list[str], new: list[str]) -> list[str]:
    """Return a unified diff; its line numbers are those of the whole."""
    start, end = _same_ends(old, new)
    # Enough is left at both ends for the lines of context.
    start, end = max(start - _CONTEXT, 0), max(end - _CONTEXT, 0)
    titles = f"{name} as it came", f"{name} as it is delivered"
    lines = list(
        difflib.unified_diff(
            old[start : len(old) - end],
            new[start : len(new) - end],
            *titles,
            n=_CONTEXT,
            lineterm="",
        )
    )
    return [_moved(line, start) for line in lines]


def _moved(line: str, start: int) -> str:
    """Return a line of a diff; the numbers in those with ``@@`` are higher by what was left out."""
    if not line.startswith("@@"):
        return line
    return _PLACE.sub(lambda found: f"{found[1]}{int(found[2]) + start}", line)
