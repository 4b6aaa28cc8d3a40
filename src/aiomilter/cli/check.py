"""``aiomilter check``: feed a message to any milter, and show what becomes of it.

Rules of this file:

- Exit code 0: the message is accepted, for some recipient at least; 1: it is refused, deferred or
  discarded; 2: there is no milter, or a broken one.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from rich.text import Text

from aiomilter.app.mta.kind import Mta
from aiomilter.app.text import printable
from aiomilter.cli.as_json import inquiry_as_json
from aiomilter.cli.console import CommandError, errors_as_sentences, run_to_end
from aiomilter.cli.inquiry import Inquiry, inquire
from aiomilter.cli.question import (
    Question,
    client_of,
    envelope_of,
    finite,
    macros_of,
    message_of,
    offer_of,
)
from aiomilter.cli.report import Report, console_for, verdict_line
from aiomilter.spec import VERSION

__all__ = ["check"]

_ACCEPTED, _REFUSED, _BROKEN = 0, 1, 2
_SENDER, _RECIPIENT = "sender@example.com", "recipient@example.org"


@dataclass(frozen=True, slots=True)
class _Output:
    """How to show what came of it."""

    as_json: bool
    quiet: bool
    verbose: bool
    no_color: bool
    file: Path | None

    def check(self) -> None:
        """Refuse options that exclude each other."""
        if self.as_json and (self.quiet or self.verbose):
            raise CommandError("--json shows all there is; leave --quiet and --verbose out")
        if self.quiet and self.verbose:
            raise CommandError("--quiet and --verbose exclude each other; leave one out")


@click.command()
@click.argument("address")
@click.argument("message", required=False, metavar="[MESSAGE.eml|-]")
@click.option(
    "--from",
    "sender",
    default=_SENDER,
    show_default=True,
    metavar="ADDRESS",
    help="The envelope sender, ESMTP parameters behind a blank; <> is the null sender.",
)
@click.option(
    "--rcpt",
    "recipients",
    multiple=True,
    default=[_RECIPIENT],
    show_default=True,
    metavar="ADDRESS",
    help="An envelope recipient, likewise; may be repeated.",
)
@click.option(
    "--client",
    metavar="NAME[ADDRESS]:PORT",
    help="The SMTP client; an address alone will do. IPv6 as in mx.example[2001:db8::1].",
)
@click.option("--helo", metavar="NAME", help="What the client says at HELO; else its name.")
@click.option(
    "--macro",
    "macros",
    multiple=True,
    metavar="NAME=VALUE",
    help="The value of a macro, such as auth_authen=joe; may be repeated.",
)
@click.option(
    "--mta",
    type=click.Choice([mta.value for mta in Mta]),
    default=Mta.POSTFIX.value,
    show_default=True,
    help="As which MTA to behave.",
)
@click.option(
    "--version",
    type=click.IntRange(0, 2**32 - 1),
    metavar="NUMBER",
    help=f"The protocol version to offer, 2 to 6 for real MTAs.  [default: {VERSION}]",
)
@click.option(
    "--offer",
    "offers",
    multiple=True,
    metavar="TERMS",
    help="Actions and options to offer, parted by commas: -NAME for all but this one, "
    "NAME for only this, +NAME for it besides, actions=0x1f or options=0 for bits.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(0, min_open=True),
    callback=finite,
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="How long each answer may take.",
)
@click.option(
    "--repeat",
    type=click.IntRange(1),
    default=1,
    metavar="N",
    help="Send the message N times on the same connection.",
)
@click.option(
    "--output",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="Write the message, as it is delivered or held, to a file.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")
@click.option("--quiet", "-q", is_flag=True, help="Print the verdict alone.")
@click.option("--verbose", "-v", is_flag=True, help="Print every header and piece of the body.")
@click.option("--no-color", is_flag=True, help="Print without colours, as with NO_COLOR set.")
def check(**given: Any) -> None:
    """Feed a message to a milter, and show what becomes of it.

    Without a file a small built-in message is sent; - is stdin. Nothing is delivered to anybody.

    The exit code is 0 if the message is accepted (or quarantined), 1 if it is rejected, deferred
    or discarded, or all recipients are refused, and 2 if there is no milter, or a broken one.

    \b
      aiomilter check inet:8891@127.0.0.1 message.eml --from joe@example.com
      aiomilter check unix:/run/my.sock --client mx.example.com[192.0.2.1] --json
    """  # noqa: D301  (click wants the character itself)
    output = _Output(
        given["as_json"],
        given["quiet"],
        given["verbose"],
        given["no_color"],
        _output_file(given["output"]),
    )
    output.check()
    with errors_as_sentences(given["address"]):
        question = _question(given)
        inquiry = run_to_end(inquire(question))
        code = _exit_code(inquiry)
        _show(inquiry, code, output, is_built_in=given["message"] is None)
        if output.file is not None:
            _write(inquiry, output.file)
    if inquiry.failure is not None:
        raise CommandError(inquiry.failure.sentence)
    raise SystemExit(code)


def _output_file(name: str | None) -> Path | None:
    if name == "":
        raise CommandError("--output is empty; name a file")
    return None if name is None else Path(name)


def _question(given: dict[str, Any]) -> Question:
    return Question(
        address=given["address"],
        envelope=envelope_of(given["sender"], given["recipients"]),
        content=message_of(given["message"]),
        client=client_of(given["client"], given["helo"]),
        macros=macros_of(given["macros"]),
        offer=offer_of(given["version"], given["offers"]),
        mta=Mta(given["mta"]),
        timeout_s=given["timeout"],
        repeat=given["repeat"],
    )


def _exit_code(inquiry: Inquiry) -> int:
    if inquiry.failure is not None:
        return _BROKEN
    return _ACCEPTED if all(one.is_accepted for one in inquiry.outcomes) else _REFUSED


def _show(inquiry: Inquiry, code: int, output: _Output, *, is_built_in: bool) -> None:
    console = console_for(no_color=output.no_color)
    if output.as_json:
        click.echo(inquiry_as_json(inquiry, code))
    elif output.quiet:
        for outcome in inquiry.outcomes:
            status, text = verdict_line(outcome)
            console.print(f"{status.name} {printable(text)}", markup=False)
    else:
        if is_built_in and inquiry.agreed is not None:
            console.print(Text("No message is given, so this is about a built-in one.", "dim"))
        Report(console, is_verbose=output.verbose).print(inquiry)


def _write(inquiry: Inquiry, path: Path) -> None:
    """Write what is delivered of the last message; nothing if nothing is."""
    delivery = inquiry.outcomes[-1].apply() if inquiry.outcomes else None
    if delivery is None:
        return
    try:
        path.write_bytes(delivery.content.as_bytes())
    except OSError as error:
        raise CommandError(f"cannot write {path}: {error.strerror}") from error
