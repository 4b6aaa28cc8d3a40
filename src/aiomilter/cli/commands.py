"""The commands, each loaded when it is called: ``--help`` is to be there at once."""

from __future__ import annotations

import contextlib
import difflib
import re
from collections.abc import Generator
from importlib import import_module
from typing import Any

import click

from aiomilter._version import __version__
from aiomilter.cli.console import CommandError, quoted, silence_stdout, speak_json

__all__ = ["aiomilter"]

_COMMANDS = {
    "run": "Run a milter, from a class in a module.",
    "check": "Feed a message to a milter, and show what becomes of it.",
    "trace": "Stand between an MTA and a milter, and show every packet.",
    "replay": "Send a recorded session to a milter, and compare its answers.",
    "decode": "Show the packets of a record.",
    "bench": "Put a milter under load.",
}
"""Each in the module of its name, as a command of its name; with its line in the help."""

_LONG_VALUE = re.compile(r"'([^']{81,})'")
_CLICKS_WORDS = (
    (" is not a valid integer range", " is not a valid integer"),
    (" is not a valid float range", " is not a valid number"),
)


class _Commands(click.Group):
    """Loads a command when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in _COMMANDS:
            return None
        command = getattr(import_module(f"aiomilter.cli.{cmd_name}"), cmd_name)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in _COMMANDS:
            alike = difflib.get_close_matches(args[0], _COMMANDS, n=1)
            hint = f"Did you mean {alike[0]!r}?" if alike else f"There are {', '.join(_COMMANDS)}."
            ctx.fail(f"there is no command {quoted(args[0])}. {hint}")
        return super().resolve_command(ctx, args)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        speak_json(False)
        with _endings():
            return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        # The arguments of a command are read here as well.
        with _endings():
            return super().invoke(ctx)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


@contextlib.contextmanager
def _endings() -> Generator[None]:
    """Turn click's errors, of three lines, into one line; end without a word where click has one.

    Whoever read our output has seen enough, as in ``aiomilter --help | head -1``; or it is Ctrl-C.
    """
    try:
        yield
    except BrokenPipeError:
        silence_stdout()
        raise SystemExit(141) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except click.exceptions.NoArgsIsHelpError:
        raise
    except click.UsageError as error:
        message = _in_our_words(error.format_message())
        program = error.ctx.command_path if error.ctx else "aiomilter"
        raise CommandError(f"{message} See {program} --help.") from error


def _in_our_words(message: str) -> str:
    message = message[:1].lower() + message[1:]
    for theirs, ours in _CLICKS_WORDS:
        message = message.replace(theirs, ours)
    message = _LONG_VALUE.sub(lambda found: quoted(found[1]), message)
    return message if message.endswith((".", "?")) else f"{message}."


@click.command(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "--version", "-V", message="aiomilter %(version)s")
def aiomilter() -> None:
    """Run milters, and question any milter, in whatever language it is written.

    Addresses are those of Sendmail and Postfix: inet:PORT@HOST, inet6:PORT@HOST, HOST:PORT,
    unix:/PATH. Without a host it is the loopback address.

    \b
      aiomilter run mymilter.py --listen inet:9900
      aiomilter check inet:9900 message.eml
      aiomilter COMMAND --help
    """  # noqa: D301  (click wants the character itself)
