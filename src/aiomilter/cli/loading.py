"""Milters and lifespans by name: ``package.module:Class`` or ``folder/file.py:Class``.

Rules of this file:

- A module is looked for in the current folder first, a file's imports in the folder of the file
  (of its topmost package, if it is in one), as if Python had been started there.
- What is wrong is one sentence. It tells apart that the module is missing, that something is
  missing which the module imports, and that the module raises; and it names file and line.
"""

from __future__ import annotations

import difflib
import inspect
import pkgutil
import sys
import traceback
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from importlib import import_module
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType
from typing import cast

from aiomilter.aio.server import Lifespan, MilterFactory
from aiomilter.app.milter import Milter
from aiomilter.app.text import describe_error
from aiomilter.cli.console import CommandError

__all__ = [
    "Target",
    "load_lifespan",
    "load_milter",
    "parse_target",
    "source_folder",
    "try_factory",
]

_FORMS = "write MODULE:CLASS, as in package.module:MyMilter, or folder/file.py:MyMilter"
_SHOWN_CHARS = 80


@dataclass(frozen=True, slots=True)
class Target:
    """A name, taken apart.

    Attributes:
        text: As it was written.
        module: The dotted name to import.
        folder: Where to look first.
        name: The dotted name within the module; empty if it was left out.
        file: The file, if one was named.
    """

    text: str
    module: str
    folder: Path
    name: str
    file: Path | None = None


def parse_target(text: str) -> Target:
    """Take a name apart; nothing is imported.

    Raises:
        CommandError: It is of neither form, or the file is not there.
    """
    place, colon, name = text.rpartition(":")
    if not colon:
        place, name = text, ""
    elif not all(part.isidentifier() for part in name.split(".")):
        raise CommandError(f"{text!r}: there is no class after the colon; {_FORMS}")
    if place.endswith(".py") or "/" in place:
        return _file_target(text, Path(place), name)
    if not place or not all(place.split(".")):
        raise CommandError(f"{text!r} names no module; {_FORMS}")
    return Target(text, place, Path.cwd(), name)


def source_folder(target: Target) -> Path:
    """Return the folder that holds the module, or its topmost package; nothing is imported."""
    top = target.module.partition(".")[0]
    spec = PathFinder.find_spec(top, [str(target.folder), *sys.path])
    if spec is None:
        return target.folder
    if spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations))).parent
    return Path(spec.origin).parent if spec.origin else target.folder


def load_milter(text: str) -> MilterFactory:
    """Return the milter class that is named, or the function that makes milters.

    Raises:
        CommandError: There is none.
    """
    target = parse_target(text)
    module = _import(target)
    found = _attribute(module, target) if target.name else _only_milter(module, target)
    if isinstance(found, type) and issubclass(found, Milter):
        return found
    if isinstance(found, Milter):
        raise CommandError(
            f"{text!r} is an object of the class {type(found).__name__}; name the class itself, "
            f"of which one object is made for each session"
        )
    if isinstance(found, type) or not callable(found):
        raise CommandError(
            f"{text!r} is no milter; name a class derived from aiomilter.Milter, or a function "
            f"without arguments that returns one{_those_of(module)}"
        )
    _check_function(found, text)
    return cast("MilterFactory", found)


def try_factory(factory: MilterFactory, text: str) -> None:
    """Have a milter made, as for a session, so that what cannot work is known at the start.

    Args:
        factory: What `load_milter` has returned.
        text: Its name.

    Raises:
        CommandError: It raises, or what it returns is no milter.
    """
    target = parse_target(text)
    name = target.name or getattr(factory, "__qualname__", text)
    try:
        made = cast("object", factory())
    except (Exception, SystemExit) as error:  # whatever the factory raises
        # The first of the places is the call above.
        is_inside = error.__traceback__ is not None and error.__traceback__.tb_next is not None
        where = f" ({_where(error, target.folder)})" if is_inside else ""
        raise CommandError(
            f"{name} cannot make a milter: {describe_error(error)}{where}"
        ) from error
    if not isinstance(made, Milter):
        what = "a class, not an object of it" if isinstance(made, type) else "no Milter"
        raise CommandError(f"{name} returns {_shown(made)}, which is {what}")


def load_lifespan(text: str) -> Lifespan:
    """Return the asynchronous context manager that is named, or what makes one.

    Raises:
        CommandError: There is none.
    """
    target = parse_target(text)
    if not target.name:
        raise CommandError(f"{text!r} names no lifespan; write MODULE:NAME, as in filters:database")
    found = _attribute(_import(target), target)
    if inspect.isasyncgenfunction(found):
        raise CommandError(f"{text!r}: decorate it with @contextlib.asynccontextmanager")
    if isinstance(found, AbstractAsyncContextManager):
        return cast("Lifespan", found)
    if not callable(found):
        raise CommandError(
            f"{text!r} is no lifespan; name an asynchronous context manager, or a function "
            f"without arguments that returns one"
        )
    _check_function(found, text)
    return cast("Lifespan", found)


# The module


def _file_target(text: str, path: Path, name: str) -> Target:
    if path.suffix != ".py":
        raise CommandError(f"'{path}' is no Python file; {_FORMS}")
    file = path.resolve()
    if not file.is_file():
        raise CommandError(f"there is no file {file}; {_FORMS}")
    if "." in file.stem:
        raise CommandError(f"{file} cannot be imported: rename it, without a dot in {file.stem!r}")
    parts = [] if file.stem == "__init__" else [file.stem]
    folder = file.parent
    while (folder / "__init__.py").is_file():
        parts.insert(0, folder.name)
        folder = folder.parent
    return Target(text, ".".join(parts), folder, name, file)


def _import(target: Target) -> ModuleType:
    if sys.path[:1] != [str(target.folder)]:
        sys.path.insert(0, str(target.folder))
    try:
        module = import_module(target.module)
    except (Exception, SystemExit) as error:  # whatever the module raises
        raise CommandError(_import_error(target, error)) from error
    if target.file is not None:
        found = getattr(module, "__file__", None)
        if found is None or Path(found).resolve() != target.file:
            raise CommandError(
                f"{target.file} bears the name of another module, {found or target.module}: "
                f"rename it"
            )
    return module


def _import_error(target: Target, error: BaseException) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name is not None:
        if f"{target.module}.".startswith(f"{error.name}."):
            return (
                f"there is no module {target.module!r} in {target.folder}, nor is it installed; "
                f"{_module_like(target) or _FORMS}"
            )
        return (
            f"module {target.module!r} imports {error.name!r}, which is not there "
            f"({_where(error, target.folder)}): install it for {sys.executable}"
        )
    # The text of a SyntaxError has its place once more.
    reason = f"SyntaxError: {error.msg}" if isinstance(error, SyntaxError) else None
    return (
        f"module {target.module!r} cannot be imported: {reason or describe_error(error)} "
        f"({_where(error, target.folder)})"
    )


def _where(error: BaseException, folder: Path) -> str:
    """Return file and line: the last ones that are the author's own, rather than a library's."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}: {(error.text or '').strip()}"
    frames = traceback.extract_tb(error.__traceback__)
    own = [
        frame
        for frame in frames
        if Path(frame.filename).is_relative_to(folder) and "site-packages" not in frame.filename
    ]
    last = (own or [frame for frame in frames if not frame.filename.startswith("<frozen")])[-1]
    return f"{last.filename}:{last.lineno}: {last.line}"


def _module_like(target: Target) -> str:
    top, dot, rest = target.module.partition(".")
    beside = [module.name for module in pkgutil.iter_modules([str(target.folder)])]
    alike = difflib.get_close_matches(top, beside, n=1)
    return f"did you mean {alike[0] + dot + rest!r}?" if alike and alike[0] != top else ""


# What is in it


def _attribute(module: ModuleType, target: Target) -> object:
    found: object = module
    for part in target.name.split("."):
        try:
            found = cast("object", getattr(found, part))
        except AttributeError:
            names = [name for name in vars(module) if not name.startswith("_")]
            alike = difflib.get_close_matches(target.name, names, n=1)
            hint = f"; did you mean {alike[0]!r}?" if alike else _those_of(module)
            raise CommandError(f"module {module.__name__!r} has no {target.name!r}{hint}") from None
    return found


def _milters(module: ModuleType) -> dict[type[Milter], str]:
    """Return the milter classes that can be named in a module, each with its first name there."""
    found: dict[type[Milter], str] = {}
    for name, value in vars(module).items():
        if name.startswith("_") or not isinstance(value, type) or value is Milter:
            continue
        if issubclass(value, Milter):
            found.setdefault(value, name)
    return found


def _only_milter(module: ModuleType, target: Target) -> type[Milter]:
    own = [milter for milter in _milters(module) if milter.__module__ == module.__name__]
    if len(own) == 1:
        return own[0]
    raise CommandError(
        f"{target.text!r} does not say which class to run: module {module.__name__!r} has "
        f"{'several milter classes' if own else 'no milter class of its own'}"
        f"{_those_of(module) or '; name what makes milters, as in MODULE:NAME'}"
    )


def _those_of(module: ModuleType) -> str:
    names = list(_milters(module).values())
    return f"; milter classes there: {', '.join(names)}" if names else ""


def _check_function(function: object, text: str) -> None:
    """Refuse what cannot be called without arguments, or does not give its result at once."""
    assert callable(function)
    if inspect.iscoroutinefunction(function):
        raise CommandError(f"{text!r} is an async function; make it a plain one")
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return  # Not everything that is written in C has one.
    try:
        signature.bind()
    except TypeError as error:
        raise CommandError(
            f"{text!r} cannot be called without arguments ({error}): give them defaults, or "
            f"name a functools.partial"
        ) from None


def _shown(value: object) -> str:
    """Return the representation of any object, shortened; if it has none, its class."""
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001  (whatever the author's __repr__ raises)
        return f"an object of the class {type(value).__name__}"
    return text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}..."
