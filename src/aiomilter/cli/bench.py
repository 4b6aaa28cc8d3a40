"""``aiomilter bench``: put a milter under load, and show what it takes.

Rules of this file:

- Exit code 0: every message came to a verdict, whichever; 1: some did not; 2: none could be sent.
- Ctrl-C and SIGTERM end it with what there is.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncGenerator
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from aiomilter.aio.runner import new_event_loop
from aiomilter.app.mta.kind import Mta
from aiomilter.cli.bench_report import print_result, result_as_json
from aiomilter.cli.console import CommandError, errors_as_sentences, stderr
from aiomilter.cli.load import Load, Plan, Result
from aiomilter.cli.question import (
    Question,
    client_of,
    envelope_of,
    finite,
    generated,
    macros_of,
    message_of,
    offer_of,
)
from aiomilter.cli.report import console_for

__all__ = ["bench"]

_ALL_WELL, _SOME_FAILED, _NOTHING = 0, 1, 2
_SENDER = "sender@example.com"
_MESSAGES = 1_000
_BODY_BYTES, _HEADERS, _RECIPIENTS = 4_096, 12, 1
_REFRESH_S = 0.1


def _finite_if_given(
    ctx: click.Context, param: click.Parameter, value: float | None
) -> float | None:
    return None if value is None else finite(ctx, param, value)


@click.command()
@click.argument("address")
@click.argument("message", required=False, metavar="[MESSAGE.eml|-]")
@click.option(
    "--connections",
    "-c",
    type=click.IntRange(1),
    default=10,
    show_default=True,
    metavar="N",
    help="How many connections at a time.",
)
@click.option(
    "--messages",
    "-n",
    type=click.IntRange(1),
    metavar="M",
    help=f"How many messages in all.  [default: {_MESSAGES}]",
)
@click.option(
    "--duration",
    type=click.FloatRange(0, min_open=True),
    callback=_finite_if_given,
    metavar="SECONDS",
    help="How long, instead of or besides --messages.",
)
@click.option(
    "--messages-per-connection",
    type=click.IntRange(1),
    metavar="N",
    help="Open another connection after N messages; else each is kept.",
)
@click.option(
    "--size",
    type=click.IntRange(0),
    metavar="BYTES",
    help=f"Of the body.  [default: {_BODY_BYTES}]",
)
@click.option(
    "--headers", type=click.IntRange(0), metavar="N", help=f"How many.  [default: {_HEADERS}]"
)
@click.option(
    "--recipients",
    type=click.IntRange(1),
    default=_RECIPIENTS,
    show_default=True,
    metavar="N",
    help="How many, of the form recipient1@example.org.",
)
@click.option(
    "--from",
    "sender",
    default=_SENDER,
    show_default=True,
    metavar="ADDRESS",
    help="The envelope sender.",
)
@click.option("--client", metavar="NAME[ADDRESS]:PORT", help="The SMTP client, as for 'check'.")
@click.option(
    "--macro",
    "macros",
    multiple=True,
    metavar="NAME=VALUE",
    help="The value of a macro; may be repeated.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(0, min_open=True),
    callback=_finite_if_given,
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="How long each answer may take.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")
@click.option("--no-color", is_flag=True, help="Print without colours, as with NO_COLOR set.")
def bench(**given: Any) -> None:
    """Put a milter under load, and show what it takes.

    Every connection sends the same message over and over, as Postfix would. This client is one
    process with one thread, written in Python: a fast milter may be held up by it. If it takes a
    whole core (see top), start several of them, and add up.

    The exit code is 0 if every message came to a verdict, whichever, 1 if some did not, and 2 if
    none could be sent. Ctrl-C ends it with what there is.

    \b
      aiomilter bench inet:8891@127.0.0.1 --connections 50 --duration 10
      aiomilter bench unix:/run/my.sock message.eml --messages-per-connection 1
    """  # noqa: D301  (click wants the character itself)
    with errors_as_sentences(given["address"]):
        plan = _plan(given)
        result = _run(plan, console_for(no_color=given["no_color"], own=stderr))
        code = _exit_code(result)
        if given["as_json"]:
            click.echo(result_as_json(plan, result, code))
        elif result.messages or result.failed:
            print_result(console_for(no_color=given["no_color"]), result)
    if code == _NOTHING:
        raise CommandError(
            f"no message came to a verdict: {next(iter(result.errors))}"
            if result.errors
            else "ended from outside before any message came to a verdict"
        )
    raise SystemExit(code)


def _plan(given: dict[str, Any]) -> Plan:
    message, size, headers = given["message"], given["size"], given["headers"]
    if message is not None and (size is not None or headers is not None):
        raise CommandError("--size and --headers are for a message that is made up; leave them out")
    if message is None:
        content = generated(
            _BODY_BYTES if size is None else size, _HEADERS if headers is None else headers
        )
    else:
        content = message_of(message)
    recipients = (f"recipient{number}@example.org" for number in range(1, given["recipients"] + 1))
    question = Question(
        address=given["address"],
        envelope=envelope_of(given["sender"], recipients),
        content=content,
        client=client_of(given["client"], None),
        macros=macros_of(given["macros"]),
        offer=offer_of(None, ()),
        mta=Mta.POSTFIX,
        timeout_s=given["timeout"],
    )
    messages, duration_s = given["messages"], given["duration"]
    return Plan(
        question,
        connections=given["connections"]
        if messages is None
        else min(given["connections"], messages),
        messages=_MESSAGES if messages is None and duration_s is None else messages,
        duration_s=duration_s,
        messages_per_connection=given["messages_per_connection"],
    )


def _run(plan: Plan, terminal: Console) -> Result:
    with asyncio.Runner(loop_factory=lambda: new_event_loop(None)) as runner:
        return runner.run(_load(plan, terminal))


async def _load(plan: Plan, terminal: Console) -> Result:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    signals = (signal.SIGINT, signal.SIGTERM)
    for number in signals:
        loop.add_signal_handler(number, stop.set)
    try:
        load = Load(plan)
        async with _progress(plan, load.result, terminal):
            return await load.run(stop)
    finally:
        for number in signals:
            loop.remove_signal_handler(number)


@contextlib.asynccontextmanager
async def _progress(plan: Plan, result: Result, terminal: Console) -> AsyncGenerator[None]:
    """Show a bar while the load runs, if there is a terminal."""
    if not terminal.is_terminal:
        yield
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=terminal, transient=True) as bar:
        task = bar.add_task("messages", total=plan.messages)

        async def refresh() -> None:
            while True:
                bar.update(task, completed=result.messages + result.failed)
                await asyncio.sleep(_REFRESH_S)

        refreshing = asyncio.create_task(refresh())
        try:
            yield
        finally:
            refreshing.cancel()


def _exit_code(result: Result) -> int:
    if not result.messages:
        return _NOTHING
    return _SOME_FAILED if result.failed else _ALL_WELL
