"""Several milters as one factory.

Rules of this file:

- A class that cannot work is told at once, by `chain` and `dry_run` themselves; what a function
  makes, with the first session.
- Chains within chains are one chain, so that verdicts and edits follow one set of rules.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

from aiomilter.app.compose.member import Member
from aiomilter.app.compose.relay import Missing, Relay
from aiomilter.app.compose.tables import merge_tables
from aiomilter.app.compose.trial import Trial
from aiomilter.app.facts import Facts
from aiomilter.app.handlers import HandlerTable, handler_table
from aiomilter.app.milter import Milter
from aiomilter.app.text import show_value
from aiomilter.errors import ConfigError
from aiomilter.spec import Options

__all__ = ["Composition", "chain", "dry_run"]


@dataclass(frozen=True, slots=True)
class _Part:
    """One of the milters of a composition.

    Attributes:
        factory: Makes it.
        group: If it is run dry, a number that it has in common with those that are run dry with it.
    """

    factory: Callable[[], Milter]
    group: int | None


class Composition:
    """Makes milters of several parts: what `chain` and `dry_run` return.

    It is called without arguments, once for each session, like a milter class. Its ``str()`` names
    its parts, for the log.
    """

    __slots__ = ("_parts", "_tables")

    def __init__(self, parts: Sequence[_Part]) -> None:
        """Take the parts, in their order; `chain` and `dry_run` do so.

        Raises:
            ConfigError: One of them cannot work.
        """
        self._parts = tuple(parts)
        self._tables: dict[tuple[type[Milter] | None, ...], HandlerTable] = {}
        for part in parts:
            _check(part.factory)
        classes = [part.factory for part in parts]
        if all(isinstance(made, type) for made in classes):
            self._table(tuple(cast("list[type[Milter]]", classes)))

    @property
    def parts(self) -> tuple[_Part, ...]:
        """The parts, in their order."""
        return self._parts

    def __call__(self) -> Milter:
        """Make the milters of a session, and one that passes everything on to them.

        One that cannot be made is missing there, for the fault that it is.
        """
        milters: list[Milter | None] = []
        missing: list[Missing] = []
        for part in self._parts:
            milter: Milter | None = None
            try:
                milter = _make(part, milters)
            except BaseException as error:  # noqa: BLE001  (a factory may raise anything)
                missing.append(Missing(_name(part), error, is_dry=part.group is not None))
            milters.append(milter)
        classes = tuple(None if milter is None else type(milter) for milter in milters)
        return Relay(self._table(classes), self._member_maker(milters), missing)

    def __str__(self) -> str:
        names = ", ".join(
            _name(part) if part.group is None else f"dry_run({_name(part)})" for part in self._parts
        )
        return names if len(self._parts) == 1 else f"chain({names})"

    def __repr__(self) -> str:
        return f"<{self}>"

    def _table(self, classes: tuple[type[Milter] | None, ...]) -> HandlerTable:
        table = self._tables.get(classes)
        if table is None:
            found = [
                (made, part.group is not None)
                for made, part in zip(classes, self._parts, strict=True)
                if made is not None
            ]
            table = self._tables[classes] = merge_tables(
                str(self),
                [handler_table(made) for made, _ in found],
                [made.message_needs for made, _ in found],
                [is_dry for _, is_dry in found],
            )
        return table

    def _member_maker(self, milters: Sequence[Milter | None]) -> Callable[[Facts], list[Member]]:
        groups = [part.group for part in self._parts]

        def make(leader: Facts) -> list[Member]:
            return [
                _member(milter, group, leader)
                for milter, group in zip(milters, groups, strict=True)
                if milter is not None
            ]

        return make


def _make(part: _Part, others: Sequence[Milter | None]) -> Milter:
    """Make a milter of a session.

    Raises:
        TypeError: What is made is none that can be one of several.
        ConfigError: Its class cannot work.
    """
    milter = cast("object", part.factory())
    if not isinstance(milter, Milter):
        raise TypeError(f"it made {show_value(milter)}, which is no Milter")
    if isinstance(milter, Relay):
        raise TypeError("it made a chain: pass the chain itself in place of the function")
    if getattr(milter, "_facts", None) is not None or any(milter is one for one in others):
        raise TypeError("it made the same object twice: one is one session")
    handler_table(type(milter))
    return milter


def _member(milter: Milter, group: int | None, leader: Facts) -> Member:
    facts = Facts(leader.session_id, leader.macro_store, leader.listener)
    facts.follow(leader)
    # Also on a class that lets nobody else set attributes, such as a frozen dataclass.
    object.__setattr__(milter, "_facts", facts)
    table = handler_table(type(milter))
    trial = None if group is None else Trial(group)
    member = Member(milter, table, facts, trial)
    member.has_leading_space = table.options & Options.LEADING_SPACE > 0
    member.wants_rejected = table.options & Options.REJECTED_RECIPIENTS > 0
    return member


def chain(*milters: Callable[[], Milter]) -> Composition:
    """Serve several milters as one: each sees what those before it have made of a message.

    For each event they are asked in this order. The strictest verdict counts: REJECT, TEMPFAIL,
    DISCARD, ACCEPT, CONTINUE. One that accepts is done with the message, and the others go on; one
    that refuses a recipient refuses that one for all. After a REJECT, and at the end of a message
    after any verdict that keeps it from being delivered, nobody else is asked; those are told by
    `Milter.on_abort` that the message is over.

    The content is shown when all of it has come, changed by those in front: as a `Message` to
    `Milter.on_message`, and piece by piece to `Milter.on_header`, `Milter.on_eoh`,
    `Milter.on_body` and `Milter.on_eom`.

    A fault in one of them costs its verdict and its edits; the others are still asked unless that
    verdict ends the message. Together they have as much time for an event as the one that may take
    longest.

    Args:
        *milters: At least one: classes, other factories without arguments, and what `chain` and
            `dry_run` return.

    Returns:
        A factory, to be used wherever a milter class is: ``run(chain(Greylist, Tagger), …)``.

    Raises:
        ConfigError: One of the classes cannot work, or there is none.
    """
    if not milters:
        raise ConfigError("a chain has at least one milter")
    parts: list[_Part] = []
    groups = 0
    for milter in milters:
        if isinstance(milter, Composition):
            found = [
                _Part(part.factory, None if part.group is None else part.group + groups)
                for part in milter.parts
            ]
            groups += sum(part.group is not None for part in found)
        else:
            found = [_Part(milter, None)]
        parts += found
    return Composition(parts)


def dry_run(milter: Callable[[], Milter]) -> Composition:
    """Serve a milter without effect, and log what it would have done.

    The MTA goes on whatever it returns, and nothing is changed. For each message there is a line
    of the logger ``aiomilter.dry_run``: verdict, reply, refused recipients and each edit. To the
    milter itself all is as if it counted: it sees no more of a recipient that it has refused, nor
    of a message that it has decided. What it does by itself, such as writing to a database, it
    does.

    Args:
        milter: A class, another factory without arguments, or what `chain` returns: then those in
            it see each other's edits, and nobody else does.

    Returns:
        A factory, to be used wherever a milter class is, also in a chain:
        ``chain(Greylist, dry_run(NewFilter))``. It takes its share of the time that the MTA waits.

    Raises:
        ConfigError: The class cannot work.
    """
    if isinstance(milter, Composition):
        return Composition([_Part(part.factory, 0) for part in milter.parts])
    return Composition([_Part(milter, 0)])


def _check(factory: object) -> None:
    """Refuse what cannot make milters.

    Raises:
        ConfigError: It cannot.
    """
    made_of = factory
    while isinstance(made_of, functools.partial):
        made_of = cast("object", made_of.func)
    if isinstance(made_of, type):
        if not issubclass(made_of, Milter):
            raise ConfigError(f"{made_of.__qualname__} is no subclass of Milter")
        handler_table(made_of)
    elif isinstance(factory, Milter):
        raise ConfigError(
            f"{show_value(factory)} is an object of the class {type(factory).__qualname__}; pass "
            f"the class, of which one object is made for each session"
        )
    if not callable(factory):
        raise ConfigError(f"{show_value(factory)} does not make milters: it is not callable")
    if inspect.iscoroutinefunction(factory):
        raise ConfigError(f"{show_value(factory)} is an async function; make it a plain one")
    try:
        signature = inspect.signature(factory)
    except (TypeError, ValueError):
        return  # Not everything that is written in C has one.
    try:
        signature.bind()
    except TypeError as error:
        name = getattr(factory, "__qualname__", show_value(factory))
        raise ConfigError(
            f"{name}() cannot be called without arguments ({error}): pass "
            f"functools.partial({name}, ...) or another factory"
        ) from None


def _name(part: _Part) -> str:
    name: object = getattr(part.factory, "__qualname__", None)
    return name if isinstance(name, str) else show_value(part.factory)
