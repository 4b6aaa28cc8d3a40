"""Count what a message costs aiomilter in function calls and in system calls: no clock, no noise.

    python -m bench.counts
    python -m bench.counts --no-reply --loop uvloop --functions 40 --syscalls

A count is the same in every run on one version of Python, so it shows a change that a stopwatch
on a busy machine hides. It is no time: a call may do much or little.

One connection says the benchmark's message (W1) in lockstep. Calls are counted on the event loop's
thread, between the same points of consecutive messages; the MTA's side is another thread. What
counts as a call is what `sys.setprofile` reports: each entry into a Python function, and each
resumption of a coroutine. Calls of C functions are counted apart.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, TypeVar, cast

from aiomilter import EomActions, Milter, Server, SocketInfo, no_reply
from bench.compare.counting import aiomilter_command, syscalls_per_message
from bench.compare.load import Load
from bench.compare.programs import compile_load
from bench.dialogue import COMMANDS, talk

__all__ = ["count_calls", "count_syscalls", "main"]

_HERE = str(Path(__file__))
_LIBRARY = str(Path(__file__).resolve().parents[1] / "src" / "aiomilter")
_WARM_UP = 2
_TRIES = 4
_JOIN_S = 20.0

Calls = Counter[str]
_Handler = TypeVar("_Handler", bound=Callable[..., Any])


@dataclass
class _Book:
    """What was counted; positions are handlers that have begun."""

    by_code: Counter[CodeType] = field(default_factory=Counter)
    c_calls: int = 0
    pages: list[tuple[str, Calls, int]] = field(default_factory=list)

    def note(self, frame: FrameType, kind: str, argument: object) -> None:
        """Count one event of the profiler."""
        if kind == "call":
            self.by_code[frame.f_code] += 1
        elif kind == "c_call" and argument is not sys.setprofile:
            self.c_calls += 1

    def turn_page(self, stage: str) -> None:
        """Close what belongs to the stage before; called at the beginning of a handler."""
        sys.setprofile(None)
        calls = Counter[str]()
        for code, times in self.by_code.items():
            if code.co_filename != _HERE:
                calls[_name(code)] += times
        self.pages.append((stage, calls, self.c_calls))
        self.by_code.clear()
        self.c_calls = 0
        sys.setprofile(self.note)


def _name(code: CodeType) -> str:
    """Return how the report calls a function: the library's by module, others in brackets."""
    path = code.co_filename
    if path.startswith(_LIBRARY):
        module = path[len(_LIBRARY) + 1 :].removesuffix(".py").replace("/", ".")
        return f"{module}:{code.co_qualname}"
    return f"[{Path(path).stem}:{code.co_qualname}]"


def _milter(book: _Book, *, observes: bool) -> type[Milter]:
    """Return the benchmark's milter; its handlers only mark where they begin."""

    def option(handler: _Handler) -> _Handler:
        return no_reply(handler) if observes else handler

    class Counted(Milter):
        @option
        async def on_connect(self, hostname: str, client: SocketInfo) -> None:
            book.turn_page("connect")

        @option
        async def on_helo(self, hostname: str) -> None:
            book.turn_page("helo")

        @option
        async def on_mail(self, sender: str, params: list[str]) -> None:
            book.turn_page("mail")

        @option
        async def on_rcpt(self, recipient: str, params: list[str]) -> None:
            book.turn_page("rcpt")

        @option
        async def on_data(self) -> None:
            book.turn_page("data")

        @option
        async def on_header(self, name: str, value: str) -> None:
            book.turn_page("header")

        @option
        async def on_eoh(self) -> None:
            book.turn_page("eoh")

        @option
        async def on_body(self, chunk: bytes) -> None:
            book.turn_page("body")

        async def on_eom(self, actions: EomActions) -> None:
            book.turn_page("eom")
            actions.add_header("X-Bench", "1")

        async def on_abort(self) -> None:
            pass

        async def on_close(self) -> None:
            pass

        @option
        async def on_unknown(self, command: str) -> None:
            pass

    return Counted


async def _serve(milter: type[Milter], messages: int, *, answers: bool) -> None:
    loop = asyncio.get_running_loop()
    over: asyncio.Future[None] = loop.create_future()
    with tempfile.TemporaryDirectory(prefix="counts-") as directory:
        path = str(Path(directory) / "milter.sock")

        def be_the_mta() -> None:
            error: Exception | None = None
            try:
                # One message more, so that the last one that counts has an end.
                talk(path, messages + 1, answers=answers)
            except (OSError, ValueError) as caught:
                error = caught
            loop.call_soon_threadsafe(finish, error)

        def finish(error: Exception | None) -> None:
            sys.setprofile(None)
            if error is None:
                over.set_result(None)
            else:
                over.set_exception(error)

        async with Server(milter, f"unix:{path}"):
            thread = threading.Thread(target=be_the_mta)
            thread.start()
            try:
                await over
            finally:
                sys.setprofile(None)
                thread.join(_JOIN_S)


def _run(main: Coroutine[Any, Any, None], loop: str) -> None:
    if loop == "uvloop":
        import uvloop

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(main)
    else:
        asyncio.run(main)


def count_calls(
    *, no_reply: bool = False, loop: str = "asyncio", messages: int = 3
) -> dict[str, Any]:
    """Count the calls of Python functions that a message costs.

    Args:
        no_reply: Whether all stages but the end of the message are negotiated as no-reply.
        loop: ``asyncio`` or ``uvloop``.
        messages: How many messages are counted; all must cost the same.

    Returns:
        ``calls_per_message``: all calls, the event loop's included, handlers not;
        ``library_calls_per_message``: those of functions of aiomilter;
        ``calls_per_command``, ``library_calls_per_command``: the same by command;
        ``c_calls_per_message``: calls of C functions;
        ``by_stage``: by the name of a stage, the calls from the beginning of its handler to the
        beginning of the next one, on average over its commands;
        ``by_function``: how often each function was called in a message, most often first.

    Raises:
        RuntimeError: The messages did not cost the same.
        ValueError: The milter gave a wrong answer.
    """
    for _ in range(_TRIES - 1):
        try:
            return _count_calls(no_reply, loop, messages)
        except _DisturbedError:
            # On a machine that stood still, a timer has gone off in the middle.
            continue
    return _count_calls(no_reply, loop, messages)


class _DisturbedError(RuntimeError):
    """Messages have not cost the same."""


def _count_calls(no_reply: bool, loop: str, messages: int) -> dict[str, Any]:
    book = _Book()
    milter = _milter(book, observes=no_reply)
    before = sys.getprofile()
    try:
        total = _WARM_UP + messages
        _run(_serve(milter, total, answers=not no_reply), loop)
    finally:
        sys.setprofile(before)
    # A page is closed by the handler after it: pages[i] belongs to the stage of pages[i - 1].
    pages = book.pages
    begins = [at for at, (stage, _, _) in enumerate(pages) if stage == "mail"]
    functions = [
        _sum(calls for _, calls, _ in pages[begin + 1 : end + 1])
        for begin, end in zip(begins[_WARM_UP:], begins[_WARM_UP + 1 :], strict=False)
    ]
    if len(functions) != messages or any(other != functions[0] for other in functions):
        raise _DisturbedError(f"messages cost different calls: {[f.total() for f in functions]}")
    first, last = begins[_WARM_UP], begins[_WARM_UP + messages]
    by_stage: dict[str, list[int]] = {}
    for at in range(first, last):
        by_stage.setdefault(pages[at][0], []).append(pages[at + 1][1].total())
    calls = functions[0]
    library = sum(times for name, times in calls.items() if not name.startswith("["))
    return {
        "calls_per_message": calls.total(),
        "calls_per_command": calls.total() / COMMANDS,
        "library_calls_per_message": library,
        "library_calls_per_command": library / COMMANDS,
        "c_calls_per_message": sum(page[2] for page in pages[first + 1 : last + 1]) / messages,
        "by_stage": {stage: sum(counts) / len(counts) for stage, counts in by_stage.items()},
        "by_function": dict(sorted(calls.items(), key=lambda item: (-item[1], item[0]))),
    }


def count_syscalls(
    *, no_reply: bool = False, loop: str = "asyncio", transport: str = "tcp", messages: int = 50
) -> dict[str, float]:
    """Count the system calls that a message costs, in a process of its own, with strace.

    Args:
        no_reply: Whether all stages but the end of the message are negotiated as no-reply.
        loop: ``asyncio`` or ``uvloop``.
        transport: ``tcp`` or ``unix``.
        messages: Over how many it is averaged.

    Returns:
        By the name of a call, how often it is made in a message; ``total``: all together;
        ``per_command``: the same by command. In lockstep the figures are whole numbers, but for
        what timers do now and then.

    Raises:
        BenchError: There is no strace or no C compiler, or a run failed.
    """
    with tempfile.TemporaryDirectory(prefix="counts-") as directory:
        load = Load(compile_load(Path(directory)))
        command = aiomilter_command(no_reply=no_reply, loop=loop)
        calls = syscalls_per_message(command, load, transport=transport, messages=messages)
    return {**calls, "per_command": calls["total"] / COMMANDS}


def _sum(counters: Any) -> Calls:
    total = Counter[str]()
    for counter in cast("list[Calls]", list(counters)):
        total.update(counter)
    return total


def main() -> int:
    """Count and print."""
    parser = argparse.ArgumentParser(prog="bench.counts", description=__doc__)
    parser.add_argument("--no-reply", action="store_true", help="observers only (W3)")
    parser.add_argument("--loop", choices=("asyncio", "uvloop"), default="asyncio")
    parser.add_argument("--syscalls", action="store_true", help="system calls too, by strace")
    parser.add_argument("--transport", choices=("tcp", "unix"), default="tcp", help="for those")
    parser.add_argument("--functions", type=int, default=25, help="how many to list")
    options = parser.parse_args()
    counts = count_calls(no_reply=options.no_reply, loop=options.loop)
    for name in ("calls", "library_calls"):
        print(
            f"{name.replace('_', ' ')}: {counts[name + '_per_message']} a message, "
            f"{counts[name + '_per_command']:.2f} a command"
        )
    print(f"calls of C functions: {counts['c_calls_per_message']:g} a message")
    print("from a handler to the next one:")
    for stage, calls in counts["by_stage"].items():
        print(f"  {calls:7.2f}  {stage}")
    print("functions, calls a message:")
    for name, calls in list(counts["by_function"].items())[: options.functions]:
        print(f"  {calls:5}  {name}")
    if options.syscalls:
        syscalls = count_syscalls(
            no_reply=options.no_reply, loop=options.loop, transport=options.transport
        )
        print("system calls a message:")
        for name, times in sorted(syscalls.items(), key=lambda item: -item[1]):
            print(f"  {times:7.2f}  {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
