"""What is compared: for each library the program in ``peers/`` that does the benchmark's work."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import aiomilter
from bench.compare.programs import BENCH, BenchError, compile_program

__all__ = ["FLOOR", "LIBMILTER", "PEERS_PYTHON", "Peer", "Work", "find_peers"]

FLOOR = "floor"
LIBMILTER = "libmilter"
PEERS_PYTHON = BENCH / ".work" / "venv" / "bin" / "python"
_ABSENT = BENCH / ".work" / "absent"
_PROGRAMS = BENCH / "peers"

Work = str
"""What a peer's program does: ``add`` a header, the same with ``no-reply`` in front, ``change`` a
header of a message that it has collected, ``wait`` at the sender, ``compute`` at the end."""

_ALL: tuple[Work, ...] = ("add", "no-reply", "change", "wait")
_OURS: tuple[Work, ...] = (*_ALL, "compute")

_NOT_REACHABLE = "not measured: needs {0}, which the machines that this was written on do not reach"


@dataclass(frozen=True)
class Peer:
    """One milter to measure.

    Attributes:
        name: What tables call it.
        version: Of the library.
        works: By what it is to do, program and arguments; `{address}` is where to listen. What it
            cannot do is not in it.
        transports: ``tcp``, ``unix`` or both.
        load_options: What the generator has to do for it.
        absent: Why it cannot run here; empty if it can.
        note: What the reader of a table should know of it.
        is_variant: Whether it is of interest only where it does the work.
        most_connections: How many a machine of ordinary size bears.
    """

    name: str
    version: str
    works: Mapping[Work, tuple[str, ...]]
    transports: tuple[str, ...] = ("tcp", "unix")
    load_options: tuple[str, ...] = ()
    absent: str = ""
    note: str = ""
    is_variant: bool = False
    most_connections: int = 100_000


def find_peers(directory: Path) -> list[Peer]:
    """Compile the C milters into a directory and look up what the Python ones need."""
    return [
        _floor(directory),
        _libmilter(directory),
        _python_peer("pymilter", "pymilter", works=_ALL, note="a binding of libmilter"),
        _python_peer(
            "purepythonmilter",
            "purepythonmilter",
            works=("add", "no-reply", "wait"),
            transports=("tcp",),
            note="asyncio; no unix sockets; no state between handlers, so it cannot collect",
        ),
        _python_peer(
            "kilter",
            "kilter.service",
            works=_ALL,
            load_options=("-a",),
            note="anyio on asyncio; serves a second message only after the ABORT of Postfix; a "
            "buffer of 1 MiB for each connection",
            most_connections=2000,
        ),
        _python_peer(
            "python-libmilter", "python-libmilter", works=_ALL, note="a thread a connection"
        ),
        *_aiomilter_peers(),
        Peer("indymilter", "", {}, absent=_NOT_REACHABLE.format("cargo's registry")),
        Peer("go-milter", "", {}, absent=_NOT_REACHABLE.format("Go and its module proxy")),
    ]


def _compiled(name: str, directory: Path, *libraries: str) -> tuple[Path, str]:
    target = directory / name
    try:
        return compile_program(_PROGRAMS / f"{name}.c", target, *libraries), ""
    except BenchError as error:
        return target, str(error)


def _floor(directory: Path) -> Peer:
    program, absent = _compiled("floor", directory)
    works = {
        work: (str(program), "{address}", *words)
        for work, words in {"add": (), "no-reply": ("no-reply",), "change": ("change",)}.items()
    }
    note = "the limit: one recv and one send a command"
    return Peer(FLOOR, "", works, absent=absent, note=note, is_variant=True)


def _libmilter(directory: Path) -> Peer:
    program, absent = _compiled("libmilter_noop", directory, "-lmilter", "-lpthread")
    works = {work: (str(program), "{address}", work) for work in _ALL}
    return Peer(LIBMILTER, _debian_version("libmilter1.0.1"), works, absent=absent)


def _debian_version(package: str) -> str:
    command = ["dpkg-query", "--show", "--showformat=${Version}", package]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except FileNotFoundError:
        return ""
    return done.stdout if done.returncode == 0 else ""


def _python_peer(
    name: str,
    distribution: str,
    *,
    works: tuple[Work, ...],
    transports: tuple[str, ...] = ("tcp", "unix"),
    load_options: tuple[str, ...] = (),
    note: str,
    most_connections: int = 100_000,
) -> Peer:
    program = _PROGRAMS / f"{name.replace('-', '_')}_noop.py"
    version, absent = "", ""
    try:
        version = _version_there(distribution)
    except BenchError as error:
        absent = str(error)
    commands = {work: (str(PEERS_PYTHON), str(program), "{address}", work) for work in works}
    return Peer(
        name,
        version,
        commands,
        transports,
        load_options,
        absent,
        note,
        most_connections=most_connections,
    )


def _version_there(distribution: str) -> str:
    """Return the version of a library in the environment of the peers."""
    if not PEERS_PYTHON.exists():
        raise BenchError("bench/make-env.sh has not been run")
    reason = _ABSENT / distribution
    if reason.exists():
        lines = reason.read_text(encoding="utf-8").split("\n")
        raise BenchError("not installed: " + next((line for line in lines if line.strip()), "?"))
    code = f"import importlib.metadata as m; print(m.version({distribution!r}))"
    done = subprocess.run(
        [PEERS_PYTHON, "-c", code], capture_output=True, text=True, timeout=30, check=False
    )
    if done.returncode != 0:
        raise BenchError(f"{distribution} is not installed")
    return done.stdout.strip()


_BY_HAND = (
    "collected by handlers with `@no_reply`, so that the MTA waits as little as for on_message"
)


def _aiomilter_peers() -> list[Peer]:
    """Both event loops; the log of a line for each message, which others do not write, apart."""
    version = aiomilter.__version__
    program = str(_PROGRAMS / "aiomilter_noop.py")
    python = sys.executable

    def works(*options: str, of: tuple[Work, ...] = _OURS) -> dict[Work, tuple[str, ...]]:
        return {work: (python, program, "{address}", work, *options) for work in of}

    try:
        loop, no_uvloop = f" on uvloop {importlib.metadata.version('uvloop')}", ""
    except importlib.metadata.PackageNotFoundError:
        loop, no_uvloop = "", "uvloop is not installed"
    peers = [
        Peer("aiomilter-asyncio", version, works()),
        Peer("aiomilter-uvloop", version + loop, works("--uvloop"), absent=no_uvloop),
        Peer(
            "aiomilter-uvloop-log",
            version + loop,
            works("--uvloop", "--log", of=("add", "no-reply")),
            absent=no_uvloop,
            note="as `run` does it unless told otherwise: one line in the log for each message",
            is_variant=True,
        ),
    ]
    if hasattr(aiomilter, "Message"):
        message: Callable[..., tuple[str, ...]] = lambda *options: (  # noqa: E731
            *(python, str(_PROGRAMS / "aiomilter_message.py"), "{address}"),
            *options,
        )

        def quiet(*options: str) -> dict[Work, tuple[str, ...]]:
            return {"change": (python, program, "{address}", "change-no-reply", *options)}

        peers += [
            Peer("by-hand-asyncio", version, quiet(), is_variant=True, note=_BY_HAND),
            Peer(
                "by-hand-uvloop",
                version + loop,
                quiet("--uvloop"),
                absent=no_uvloop,
                note=_BY_HAND,
                is_variant=True,
            ),
            Peer("on_message-asyncio", version, {"change": message()}, is_variant=True),
            Peer(
                "on_message-uvloop",
                version + loop,
                {"change": message("--uvloop")},
                absent=no_uvloop,
                is_variant=True,
            ),
        ]
    return peers
