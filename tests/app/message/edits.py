"""Random edits of headers, and what real or modelled MTAs are expected to make of them."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from aiomilter.app.message.header import Header
from aiomilter.app.message.headers import Headers

__all__ = ["edit_randomly", "lines_of", "random_headers"]

NAMES = ("X-A", "x-a", "X-B", "X-C", "Received", "Subject")


def random_headers(random: Random, names: tuple[str, ...] = NAMES) -> list[tuple[str, str]]:
    """Return names and values of up to eight headers."""
    return [
        (random.choice(names), random.choice(("1", "2", "folded\n\tvalue", f"v{random.random()}")))
        for _ in range(random.randrange(9))
    ]


def edit_randomly(
    random: Random,
    headers: Headers,
    names: tuple[str, ...] = NAMES,
    keep: Sequence[Header] = (),
) -> None:
    """Do with headers what authors do, a few times; leave some as they are."""
    for _ in range(random.randrange(1, 6)):
        name, value = random.choice(names), random.choice(("1", "2", f"n{random.random()}"))
        present = [header for header in headers if header not in keep]
        chosen = random.choice(present) if present else headers.add(name, value)
        match random.randrange(9):
            case 0:
                headers.add(name, value)
            case 1:
                headers.prepend(name, value)
            case 2:
                headers.insert_before(chosen, name, value)
            case 3:
                headers.insert_after(chosen, name, value)
            case 4 | 5:
                headers.replace(chosen, value)
            case 6:
                headers.remove(chosen)
            case 7:
                move(random, headers, chosen)
            case _:
                headers.replace(chosen, Header.made(chosen.name.swapcase(), value))


def move(random: Random, headers: Headers, header: Header) -> None:
    """Take a header out, and put it in elsewhere."""
    headers.remove(header)
    others = list(headers)
    if not others or random.random() < 0.5:
        headers.prepend(header)
    else:
        headers.insert_after(random.choice(others), header)


def lines_of(headers: Headers) -> list[tuple[str, str]]:
    """Return name and raw value of each header, as a model or an MTA shows them."""
    return [
        (header.name, header.raw_value.decode("utf-8", "surrogateescape")) for header in headers
    ]
