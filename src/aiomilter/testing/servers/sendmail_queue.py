"""The queue folder of a Sendmail: the messages in it, and the processes that work there.

A message is a control file and a data file, ``df`` and its id. The control file is ``qf`` and
the id, or ``hf`` in quarantine. ``tf`` and ``xf`` are there for a time only. What the lines of
a control file mean is in Sendmail's operations guide.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

from aiomilter.testing.servers.server import HeldMessage

__all__ = ["held_messages", "kill_those_in", "unsettled_ids"]

_PATIENCE_S = 5
_LOOK_AGAIN_S = 0.01


def unsettled_ids(queue_directory: Path) -> list[str]:
    """Return the ids of the messages that are there without being in quarantine, sorted."""
    names = [path.name for path in queue_directory.iterdir()]
    held = {name[2:] for name in names if name.startswith("hf")}
    return sorted({name[2:] for name in names} - held)


def held_messages(queue_directory: Path) -> list[HeldMessage]:
    """Return the messages in quarantine, oldest first."""
    dated: list[tuple[int, HeldMessage]] = []
    # Control files appear by a rename, so what is there is whole.
    for path in queue_directory.glob("hf*"):
        with suppress(FileNotFoundError):  # released while we looked
            dated.append((path.stat().st_mtime_ns, _message(path.name[2:], path)))
    return [message for _, message in sorted(dated, key=lambda entry: entry[0])]


def kill_those_in(queue_directory: Path) -> None:
    """Kill the processes that work in the queue folder, as each Sendmail does.

    Returns when the last of them is gone, or after some time: then the kernel could not end it.
    """
    deadline = time.monotonic() + _PATIENCE_S
    while (pids := _those_in(queue_directory)) and time.monotonic() < deadline:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(_LOOK_AGAIN_S)


def _those_in(directory: Path) -> list[int]:
    found: list[int] = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            # It may have ended while we looked; a zombie is nowhere.
            with suppress(OSError):
                if (entry / "cwd").readlink() == directory:
                    found.append(int(entry.name))
    return found


def _message(queue_id: str, control_file: Path) -> HeldMessage:
    sender = ""
    reason = ""
    recipients: list[str] = []
    # Each line is a letter and what it is about; continuation lines begin with a tab.
    for line in control_file.read_text("utf-8", "surrogateescape").split("\n"):
        letter, value = line[:1], line[1:]
        match letter:
            case "S":
                sender = _bare(value)
            case "R":
                # Flags come first: RPFD:<b@dst.example>
                recipients.append(_bare(value.partition(":")[2]))
            case "q":
                reason = value
            case _:
                pass
    return HeldMessage(queue_id, sender, tuple(sorted(recipients)), reason)


def _bare(address: str) -> str:
    return address.removeprefix("<").removesuffix(">")
