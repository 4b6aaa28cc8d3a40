"""The settings of ``aiomilter run``: options of the command line, and a file in TOML.

Rules of this file:

- `Config` is the one source for what it has: an option has the name, type and default of the
  field, and its text from the docstring.
- The command line wins over the file, the file over the defaults.
- In a file the settings stand at the top level. If there is a table ``[aiomilter]``, they stand in
  it, and everything else in the file is left alone, to be the milter's own.
- A time is in seconds; `unix_mode` is octal, as everywhere else in Unix.
"""

from __future__ import annotations

import contextlib
import difflib
import json
import math
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from datetime import date, datetime, time
from pathlib import Path
from typing import Any, cast

import click

from aiomilter.aio.address import parse_address
from aiomilter.aio.config import Config
from aiomilter.aio.metrics_http import parse_metrics_address
from aiomilter.cli.console import CommandError
from aiomilter.errors import ConfigError
from aiomilter.session.status import Status

__all__ = [
    "CONFIG_NAMES",
    "CRASH_VERDICTS",
    "LOG_FORMATS",
    "LOG_LEVELS",
    "Settings",
    "config_options",
    "is_json_asked_for",
    "is_json_wanted",
    "settings_as_toml",
    "settings_of",
]

LOG_LEVELS = click.Choice(["debug", "info", "warning", "error", "critical"], case_sensitive=False)
CONFIG_NAMES = tuple(field.name for field in fields(Config))

_COMMAND_LINE = "command line"
_ON_ERROR = ["tempfail", "reject", "accept", "continue"]
_OVERLOAD = ["tempfail", "close"]
LOG_FORMATS = ["text", "json"]
CRASH_VERDICTS = ["tempfail", "reject", "accept", "discard"]
_MAX_MODE = 0o777
_OCTAL = re.compile(r"(0o)?[0-7]{1,4}")


@dataclass(frozen=True, slots=True)
class Settings:
    """What a milter is to be run with.

    Attributes:
        milter: The name of the class, see `loading`.
        listen: Addresses; there may be none, which is enough for `--check`.
        config: For the server.
        lifespan: The name of the lifespan, or None.
        uvloop: Whether to use uvloop; None to use it if it is installed.
        log_level: One of `LOG_LEVELS`; None for what the milter sets up, or else ``info``.
        log_format: ``text`` or ``json``; None for what the milter sets up, or else ``text``.
        metrics: The host and port that serve metrics and a health check, or None.
        workers: How many processes serve; None for this one alone.
        worker_timeout: For how many seconds the event loop of one may be blocked.
        start_timeout: How many seconds the start of one may take.
        crash_limit: How many of them a message may end.
        crash_verdict: One of `CRASH_VERDICTS`, for a message that has ended so many.
        origins: Where a setting is from, by its name; those that are not there are defaults.
    """

    milter: str
    listen: tuple[str, ...]
    config: Config
    lifespan: str | None
    uvloop: bool | None
    log_level: str | None
    log_format: str | None
    metrics: str | None
    workers: int | None
    worker_timeout: float
    start_timeout: float
    crash_limit: int
    crash_verdict: str
    origins: Mapping[str, str]


# What a setting takes


def _of_type(*types: type) -> Callable[[object], object]:
    """Return a check; exact, as True is an int for Python, but not for people."""

    def check(value: object) -> object:
        if type(value) not in types:
            raise ValueError
        return value

    return check


def _seconds(value: object) -> float:
    if type(value) not in (int, float):
        raise ValueError
    return float(cast("int | float", value))


def _count(value: object) -> int:
    if type(value) is not int or value < 1:
        raise ValueError
    return value


def _positive_seconds(value: object) -> float:
    seconds = _seconds(value)
    if not 0 < seconds < math.inf:
        raise ValueError
    return seconds


def _mode(value: object) -> int:
    if type(value) is int:
        # A decimal 660 is above 0o777, and likewise all modes that let the owner read and write.
        if value > _MAX_MODE and _OCTAL.fullmatch(str(value)):
            raise ConfigError(f'unix_mode is octal: write "{value:04}" instead of {value}')
        return value
    if not isinstance(value, str) or not _OCTAL.fullmatch(value):
        raise ValueError
    return int(value.removeprefix("0o"), 8)


def _one_of(choices: Iterable[str]) -> Callable[[object], object]:
    def check(value: object) -> object:
        if not isinstance(value, str) or value.lower() not in choices:
            raise ValueError
        return value.lower()

    return check


def _texts(value: object) -> tuple[str, ...]:
    found = [value] if isinstance(value, str) else value
    if not isinstance(found, (list, tuple)):
        raise ValueError
    texts = tuple(cast("Iterable[object]", found))
    if not all(isinstance(one, str) for one in texts):
        raise ValueError
    return cast("tuple[str, ...]", texts)


@dataclass(frozen=True, slots=True)
class _Kind:
    """A kind of setting.

    Attributes:
        takes: What it takes, for an error.
        convert: Returns the value for one from a file or option, or raises ValueError.
        option: The type of its option.
        metavar: What stands for its value in the help; None for what click makes of the type.
    """

    takes: str
    convert: Callable[[object], object]
    option: click.ParamType[Any, Any] = click.STRING
    metavar: str | None = None


_KINDS = {
    "int": _Kind("a whole number", _of_type(int), click.INT, "NUMBER"),
    "float": _Kind("a number of seconds", _seconds, click.FLOAT, "SECONDS"),
    "Status | str": _Kind(
        f"one of {', '.join(_ON_ERROR)}",
        _one_of(_ON_ERROR),
        click.Choice(_ON_ERROR, case_sensitive=False),
    ),
    "tuple[str, ...]": _Kind("a list of texts in quotes", _texts, metavar="TEXT"),
    "str | None": _Kind("a text in quotes", _of_type(str), metavar="PATH"),
    "str | int | None": _Kind("a name or number", _of_type(str, int), metavar="NAME"),
}
"""By the types that the fields of `Config` are declared with."""

_TEXT = _Kind("a text in quotes", _of_type(str))
_SETTINGS: dict[str, _Kind] = {
    "milter": _TEXT,
    "listen": _Kind("an address in quotes, or a list of them", _texts),
    "lifespan": _TEXT,
    "uvloop": _Kind("true or false", _of_type(bool)),
    "log_level": _Kind(f"one of {', '.join(LOG_LEVELS.choices)}", _one_of(LOG_LEVELS.choices)),
    "log_format": _Kind(f"one of {', '.join(LOG_FORMATS)}", _one_of(LOG_FORMATS)),
    "metrics": _Kind("HOST:PORT in quotes", _of_type(str)),
    "workers": _Kind("a whole number from 1 on", _count),
    "worker_timeout": _Kind("a number of seconds above 0", _positive_seconds),
    "start_timeout": _Kind("a number of seconds above 0", _positive_seconds),
    "crash_limit": _Kind("a whole number from 1 on", _count),
    "crash_verdict": _Kind(f"one of {', '.join(CRASH_VERDICTS)}", _one_of(CRASH_VERDICTS)),
    **{field.name: _KINDS[str(field.type)] for field in fields(Config) if field.type != "str"},
    "overload": _Kind(
        f"one of {', '.join(_OVERLOAD)}",
        _one_of(_OVERLOAD),
        click.Choice(_OVERLOAD, case_sensitive=False),
    ),
    "unix_mode": _Kind('octal permissions, as in "0660" or 0o660', _mode, metavar="MODE"),
}


# Options


def config_options() -> list[click.Parameter]:
    """Return an option for each field of `Config`; None as its value is: not given."""
    texts = _field_texts(Config.__doc__ or "")
    options: list[click.Parameter] = []
    for field in fields(Config):
        kind = _SETTINGS[field.name]
        text = texts.get(field.name, "")
        if field.default not in (MISSING, None):
            text = f"{text} [default: {_shown(field.name, cast('object', field.default))}]"
        option = click.Option(
            [f"--{_dashed(field.name)}"],
            type=kind.option,
            metavar=kind.metavar,
            multiple=str(field.type).startswith("tuple"),
            help=text,
        )
        options.append(option)
    return options


def _field_texts(docstring: str) -> dict[str, str]:
    """Return the texts of a docstring's section ``Attributes:``, as plain text, by name."""
    _, _, section = docstring.partition("Attributes:\n")
    entries = re.findall(r"^ {8}(\w+): (.*(?:\n {12}.*)*)", section, flags=re.MULTILINE)
    return {name: " ".join(text.replace("`", "").split()) for name, text in entries}


def _dashed(name: str) -> str:
    return name.replace("_", "-")


# From options and file to settings


def settings_of(given: Mapping[str, object], path: Path | None) -> Settings:
    """Return the settings.

    Args:
        given: What the command line says, by the names of the settings; None and () stand for
            nothing.
        path: A file with more.

    Raises:
        CommandError: A setting is missing, unknown or wrong, or the file cannot be read.
    """
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    if path is not None:
        for name, value in _read(path).items():
            values[name] = value
            origins[name] = str(path)
    for name, value in given.items():
        if value is not None and value != ():
            values[name] = _checked(name, value, f"--{_dashed(name)}")
            origins[name] = _COMMAND_LINE
    return _settings(values, origins)


def is_json_asked_for(arguments: Sequence[str]) -> bool:
    """Return whether arguments ask for a log in JSON, also if they are wrong otherwise."""
    found = ""
    for name, value in zip(arguments, (*arguments[1:], ""), strict=False):
        if name == "--log-format":
            found = value
        elif name.startswith("--log-format="):
            found = name.partition("=")[2]
    return found.lower() == "json"


def is_json_wanted(given: Mapping[str, object], path: Path | None) -> bool:
    """Return whether the log is to be in JSON, also if other settings are wrong.

    Args:
        given: As for `settings_of`.
        path: The same.
    """
    found = given.get("log_format")
    if found is None and path is not None:
        with contextlib.suppress(CommandError):
            table = _table(path)
            found = table.get("log_format", table.get("log-format"))
    return isinstance(found, str) and found.lower() == "json"


def _settings(values: Mapping[str, Any], origins: Mapping[str, str]) -> Settings:
    if "milter" not in values:
        raise CommandError(
            "no milter to run: write aiomilter run MODULE:CLASS --listen ADDRESS, or "
            'milter = "MODULE:CLASS" in the file that --config names'
        )
    return Settings(
        milter=values["milter"],
        listen=values.get("listen", ()),
        config=Config(**{name: values[name] for name in CONFIG_NAMES if name in values}),
        lifespan=values.get("lifespan"),
        uvloop=values.get("uvloop"),
        log_level=values.get("log_level"),
        log_format=values.get("log_format"),
        metrics=values.get("metrics"),
        workers=values.get("workers"),
        worker_timeout=values.get("worker_timeout", 30.0),
        start_timeout=values.get("start_timeout", 300.0),
        crash_limit=values.get("crash_limit", 3),
        crash_verdict=values.get("crash_verdict", "tempfail"),
        origins=origins,
    )


def _checked(name: str, value: object, where: str) -> Any:
    """Return a value as the setting has it; refuse one that cannot work, with where it is from."""
    kind = _SETTINGS[name]
    try:
        converted: Any = kind.convert(value)
        if name in CONFIG_NAMES:
            Config(**{name: converted})
        elif name == "metrics":
            parse_metrics_address(converted)
        elif name == "listen":
            for address in converted:
                parse_address(address)
    except ValueError:
        raise CommandError(f"{where}: {name} is {kind.takes}, not {_plain(value)}") from None
    except ConfigError as error:
        raise CommandError(f"{where}: {error}") from error
    return converted


def _plain(value: object) -> str:
    """Return a wrong value as a person has written it."""
    if isinstance(value, datetime):  # which is a date, too
        return f"the date and time {value}"
    if isinstance(value, date):
        return f"the date {value}"
    if isinstance(value, time):
        return f"the time {value}"
    return repr(value)


def _read(path: Path) -> dict[str, object]:
    """Return the settings in a file, by their names."""
    found: dict[str, object] = {}
    for key, value in _table(path).items():
        name = key.replace("-", "_")
        if name not in _SETTINGS:
            raise CommandError(f"{path}: there is no setting {key!r}{_alike(name)}")
        if name in found:
            raise CommandError(f"{path}: {name} stands there twice; remove one of them")
        found[name] = _checked(name, value, str(path))
    return found


def _table(path: Path) -> dict[str, object]:
    try:
        document: dict[str, object] = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CommandError(f"cannot read {path}: {error.strerror}; see --config") from error
    except UnicodeDecodeError as error:
        raise CommandError(f"{path} is no TOML: it is not in UTF-8 ({error})") from error
    except tomllib.TOMLDecodeError as error:
        raise CommandError(f"{path} is no TOML: {error}") from error
    table = document.pop("aiomilter", None)
    if table is None:
        return document
    if not isinstance(table, dict):
        raise CommandError(f"{path}: aiomilter is a table, [aiomilter], not {table!r}")
    outside = [key for key in document if key.replace("-", "_") in _SETTINGS]
    if outside:
        raise CommandError(f"{path}: {outside[0]} stands outside of [aiomilter]; move it there")
    return cast("dict[str, object]", table)


def _alike(name: str) -> str:
    alike = difflib.get_close_matches(name, _SETTINGS, n=1)
    return f"; did you mean {alike[0]!r}?" if alike else f"; there are {', '.join(_SETTINGS)}"


# Showing them


def settings_as_toml(settings: Settings) -> str:
    """Return settings as text that a file could have, each with where it is from."""
    lines: list[str] = []
    for name in _SETTINGS:
        source = settings.config if name in CONFIG_NAMES else settings
        value: object = getattr(source, name)
        origin = settings.origins.get(name, "default")
        if value is None or value == ():
            lines.append(f"# {name} is not set")
        else:
            lines.append(f"{f'{name} = {_as_toml(name, value)}':40}  # {origin}")
    return "\n".join(lines)


def _as_toml(name: str, value: object) -> str:
    if name == "unix_mode":
        return f'"{_shown(name, value)}"'
    return json.dumps(_shown(name, value) if isinstance(value, Status) else value)


def _shown(name: str, value: object) -> str:
    """Return a value as it is written on the command line."""
    if isinstance(value, Status):
        return value.name.lower()
    if name == "unix_mode":
        return f"{value:04o}"
    if value == ():
        return "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
