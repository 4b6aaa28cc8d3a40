#!/usr/bin/env python3
"""Draw docs/images/protocol.svg: the states of a session, from the table of commands.

    .venv/bin/python tools/draw-protocol.py            # writes the image
    .venv/bin/python tools/draw-protocol.py --check    # says whether it is as it should be

Every arrow is an entry of `follows` in `aiomilter.spec.COMMANDS`; nothing is drawn by hand but the
places of the boxes.
"""

from __future__ import annotations

import sys
from pathlib import Path

from aiomilter.spec import COMMANDS, CommandSpec, State

__all__ = ["IMAGE", "drawing"]

IMAGE = Path(__file__).parents[1] / "docs" / "images" / "protocol.svg"

MAIN = tuple(State(number) for number in range(State.INIT, State.QUIT))
"""From the connection to the end of a message, from top to bottom."""
ASIDE = (State.UNKNOWN, State.ABORT, State.QUIT, State.QUIT_NC)
WIDTH, BOX_WIDTH, BOX_HEIGHT, STEP, TOP, LEFT = 740, 150, 34, 66, 30, 190
CHARACTERS = 30
STYLE = """
  text { font: 13px sans-serif; fill: #1b2a33; }
  .name { font-weight: bold; text-anchor: middle; }
  .letter { font: 12px monospace; fill: #0b6170; }
  .small { font-size: 12px; fill: #3d4f5a; }
  .box { fill: #e3f1f3; stroke: #1f6f78; }
  .message { fill: #fdf0d9; stroke: #a86a00; }
  .aside { fill: #eeeeee; stroke: #777777; }
  .arrow { fill: none; stroke: #44555f; stroke-width: 1.3; marker-end: url(#head); }
"""

HEAD = """<marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7"
  orient="auto"><path d="M0 0 8 4 0 8z" fill="#44555f"/></marker>"""


def drawing() -> str:
    """Return the image."""
    height = TOP + STEP * len(MAIN)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">',
        "<title>States of a session and the commands between them</title>",
        f"<style>{STYLE}</style>",
        f"<defs>{HEAD}</defs>",
        f'<rect width="{WIDTH}" height="{height}" rx="8" fill="#ffffff"/>',
    ]
    commands = {row.target: row for row in COMMANDS if row.target is not None}
    for state in MAIN:
        if state in commands:
            parts += _arrows(commands[state])
    parts += [_box(state, commands.get(state)) for state in MAIN]
    y = TOP
    for state in ASIDE:
        lines = _aside(commands[state], y)
        parts += lines
        y += 74 + 17 * (len(lines) - 3)
    parts.append("</svg>")
    return "\n".join(parts) + "\n"


def _middle(state: State) -> int:
    return TOP + STEP * MAIN.index(state) + BOX_HEIGHT // 2


def _box(state: State, command: CommandSpec | None) -> str:
    in_message = State.MAIL <= state < State.EOM
    style = "box message" if in_message else "box"
    y = _middle(state) - BOX_HEIGHT // 2
    size = f'width="{BOX_WIDTH}" height="{BOX_HEIGHT}"'
    box = f'<rect class="{style}" x="{LEFT}" y="{y}" {size} rx="6"/>'
    name = f'<text class="name" x="{LEFT + BOX_WIDTH // 2}" y="{y + 22}">{state.name}</text>'
    letter = command.letter.decode() if command else ""
    return box + name + f'<text class="letter" x="{LEFT + 10}" y="{y + 22}">{letter}</text>'


def _arrows(command: CommandSpec) -> list[str]:
    assert command.target is not None
    end = MAIN.index(command.target)
    found: list[str] = []
    for start in sorted(MAIN.index(state) for state in command.follows if state in MAIN):
        if start == end - 1:
            found.append(_straight(start, end))
        else:
            found.append(_loop(end) if start == end else _arc(start, end))
    return found


def _straight(start: int, end: int) -> str:
    x = LEFT + BOX_WIDTH // 2
    return (
        f'<path class="arrow" d="M{x} {_middle(MAIN[start]) + BOX_HEIGHT // 2} '
        f'V{_middle(MAIN[end]) - BOX_HEIGHT // 2}"/>'
    )


def _loop(index: int) -> str:
    x, y = LEFT + BOX_WIDTH, _middle(MAIN[index])
    return f'<path class="arrow" d="M{x} {y - 9} c34 -6 34 24 0 18"/>'


def _arc(start: int, end: int) -> str:
    """Forwards on the left, backwards on the right; the wider, the farther."""
    reach = 26 + 24 * abs(end - start)
    # Several arrows end at one box: each a little lower or higher than the others.
    y1, y2 = _middle(MAIN[start]) + 7, _middle(MAIN[end]) - 3 * min(abs(end - start), 4)
    x, side = (LEFT, -reach) if end > start else (LEFT + BOX_WIDTH, reach)
    if end < start:
        y1, y2 = _middle(MAIN[start]) - 7, _middle(MAIN[end]) + 7
    return f'<path class="arrow" d="M{x} {y1} C{x + side} {y1} {x + side} {y2} {x} {y2}"/>'


def _aside(command: CommandSpec, y: int) -> list[str]:
    assert command.target is not None
    x = 545
    found = [
        f'<rect class="aside" x="{x}" y="{y}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="6"/>',
        f'<text class="name" x="{x + BOX_WIDTH // 2}" y="{y + 22}">{command.target.name}</text>',
        f'<text class="letter" x="{x + 10}" y="{y + 22}">{command.letter.decode()}</text>',
    ]
    line = "follows"
    lines: list[str] = []
    for state in sorted(command.follows):
        word = f" {state.name.lower()}"
        if len(line + word) > CHARACTERS:
            lines.append(line)
            line = word.strip()
        else:
            line += word
    lines.append(line)
    for number, text in enumerate(lines):
        found.append(f'<text class="small" x="{x}" y="{y + 52 + 17 * number}">{text}</text>')
    return found


def main() -> None:
    """Write the image, or compare it."""
    if "--check" in sys.argv:
        sys.exit(0 if IMAGE.read_text(encoding="utf-8") == drawing() else f"{IMAGE} is out of date")
    IMAGE.write_text(drawing(), encoding="utf-8")


if __name__ == "__main__":
    main()
