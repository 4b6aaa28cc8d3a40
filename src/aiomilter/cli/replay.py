"""``aiomilter replay``: send a recorded session to a milter, and compare its answers."""

from __future__ import annotations

import difflib
import json
import sys
from pathlib import Path
from typing import Any

import click
from rich.text import Text

from aiomilter.app.text import printable
from aiomilter.cli.console import CommandError, complain, errors_as_sentences, run_to_end, stdout
from aiomilter.cli.packets import PacketCutter, describe
from aiomilter.cli.playback import Difference, Outcome, replay_connection
from aiomilter.cli.question import finite
from aiomilter.cli.record import Entry, RecordReader
from aiomilter.cli.view import packet_line

__all__ = ["replay"]

_INDENT = "    "


@click.command()
@click.argument("record", type=click.Path(path_type=Path))
@click.argument("address")
@click.option(
    "--connection",
    "connections",
    type=click.IntRange(1),
    multiple=True,
    metavar="NUMBER",
    help="Replay only this connection of the record; may be repeated.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(0, min_open=True),
    callback=finite,
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="How long each answer may take.",
)
@click.option("--timing", is_flag=True, help="Keep the recorded pauses.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def replay(
    record: Path,
    address: str,
    connections: tuple[int, ...],
    timeout: float,
    timing: bool,
    as_json: bool,
) -> None:
    """Send a recorded session to a milter, and compare its answers.

    RECORD comes from 'aiomilter trace --record'. Its connections are replayed one after the
    other.

    The exit code is 0 if all answers are the same byte for byte, 1 if not, and 2 if that cannot
    be found out.

    \b
      aiomilter trace --listen inet:9901 --to inet:9900 --record session.jsonl
      aiomilter replay session.jsonl inet:9900
    """  # noqa: D301  (click wants the character itself)
    with errors_as_sentences(address):
        scripts = _scripts(record, connections)
        outcomes = run_to_end(_replay_all(scripts, address, timeout, timing, quiet=as_json))
        is_same = not any(outcome.differences for outcome in outcomes)
        if as_json:
            # Not by rich, which would make it fit a terminal.
            click.echo(json.dumps(_as_json(record, address, outcomes), indent=2))
        else:
            stdout.print(_summary(outcomes), markup=False)
    sys.exit(0 if is_same else 1)


def _scripts(record: Path, connections: tuple[int, ...]) -> list[list[Entry]]:
    """Return the entries of each connection on which the MTA has sent something."""
    by_number: dict[int, list[Entry]] = {}
    try:
        with record.open("rb") as file:
            for entry in RecordReader(file, str(record), complain).entries():
                by_number.setdefault(entry.connection, []).append(entry)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise CommandError(f"cannot read {record}: {reason}") from error
    for number in connections:
        if number not in by_number:
            known = ", ".join(map(str, by_number)) or "none"
            raise CommandError(f"{record} has no connection {number}; it has {known}")
    scripts = [
        entries
        for number, entries in by_number.items()
        if (not connections or number in connections)
        and any(entry.sender == "mta" and entry.data for entry in entries)
    ]
    if not scripts:
        raise CommandError(f"in {record} no MTA has sent anything; there is nothing to replay")
    return scripts


async def _replay_all(
    scripts: list[list[Entry]], address: str, timeout_s: float, keeps_time: bool, *, quiet: bool
) -> list[Outcome]:
    outcomes: list[Outcome] = []
    for entries in scripts:
        outcome = await replay_connection(
            entries, address, timeout_s=timeout_s, keeps_time=keeps_time
        )
        outcomes.append(outcome)
        if not quiet:
            _show(outcome)
    return outcomes


def _show(outcome: Outcome) -> None:
    is_same = not outcome.differences
    verdict = "the same" if is_same else f"{len(outcome.differences)} different"
    stdout.print(
        Text(
            f"connection {outcome.connection}: sent {_count(outcome.sent, 'packet')}, "
            f"{_count(outcome.answers, 'answer')}, {verdict}",
            style="green" if is_same else "bold red",
        )
    )
    for difference in outcome.differences:
        stdout.print(Text(f"  answer {difference.number}, to {difference.to}:", style="bold"))
        for line in _diff(difference):
            stdout.print(Text(_INDENT) + line)
        if difference.note:
            stdout.print(Text(f"{_INDENT}{difference.note}", style="yellow"))
    if outcome.is_cut_off:
        stdout.print(Text("  the record ends here, ahead of the connection's end", style="yellow"))


def _diff(difference: Difference) -> list[Text]:
    """Return the packets: ``-`` recorded, ``+`` now, no mark for both."""
    recorded, now = difference.recorded or [], difference.now or []
    lines: list[Text] = []
    matcher = difflib.SequenceMatcher(None, recorded, now, autojunk=False)
    for kind, start, end, now_start, now_end in matcher.get_opcodes():
        if kind == "equal":
            lines.extend(_packet("  now and then", data, "") for data in recorded[start:end])
            continue
        old, new = recorded[start:end], now[now_start:now_end]
        lines.extend(_packet("- recorded    ", data, "red") for data in old)
        lines.extend(_packet("+ now         ", data, "green") for data in new)
        if len(old) == len(new) == 1 and (where := _where(old[0], new[0])):
            lines.append(Text(where, style="yellow"))
    if difference.recorded is None and difference.now is not None:
        lines.append(Text("nothing was recorded here", style="yellow"))
    return lines


def _packet(mark: str, data: bytes, style: str) -> Text:
    content = (
        packet_line("milter", describe("milter", data))
        if _is_packet(data)
        else Text(f"{'bytes':<17} {printable(data[:60])}")
    )
    return Text.assemble((f"{mark}  ", style), content)


def _is_packet(data: bytes) -> bool:
    return [piece.is_packet for piece in PacketCutter().receive(data)] == [True]


def _where(recorded: bytes, now: bytes) -> str:
    """Say where two packets differ, if their lines do not show it."""
    if _packet("", recorded, "").plain != _packet("", now, "").plain:
        return ""
    pairs = enumerate(zip(recorded, now, strict=False))
    at = next((at for at, (old, new) in pairs if old != new), min(len(recorded), len(now)))
    return f"they differ from byte {at} of the packet on"


def _summary(outcomes: list[Outcome]) -> str:
    different = sum(bool(outcome.differences) for outcome in outcomes)
    connections = _count(len(outcomes), "connection")
    if different:
        return f"{different} of {connections} with other answers than recorded"
    return f"{connections}, all answers as recorded"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _as_json(record: Path, address: str, outcomes: list[Outcome]) -> dict[str, Any]:
    return {
        "record": str(record),
        "address": address,
        "same": not any(outcome.differences for outcome in outcomes),
        "connections": [
            {
                "connection": outcome.connection,
                "sent": outcome.sent,
                "answers": outcome.answers,
                "record_cut_off": outcome.is_cut_off,
                "differences": [
                    {
                        "answer": difference.number,
                        "to": difference.to,
                        "recorded": _packets_as_json(difference.recorded),
                        "now": _packets_as_json(difference.now),
                        "note": difference.note,
                    }
                    for difference in outcome.differences
                ],
            }
            for outcome in outcomes
        ],
    }


def _packets_as_json(packets: list[bytes] | None) -> list[dict[str, Any]] | None:
    if packets is None:
        return None
    found: list[dict[str, Any]] = []
    for data in packets:
        one: dict[str, Any] = {"data": data.hex()}
        if _is_packet(data):
            what = describe("milter", data)
            one |= {"name": what.name, "fields": what.fields}
        found.append(one)
    return found
