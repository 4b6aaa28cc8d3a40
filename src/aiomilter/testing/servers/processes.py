"""Ending a daemon that is not our child, with all its own children."""

import os
import select
import signal
from pathlib import Path

__all__ = ["ProcessGroup"]

_PATIENCE_S = 5


class ProcessGroup:
    """A daemon and the processes that it started in its process group.

    A daemon has left its parent, so there is nobody to ``wait`` for it: the kernel tells of its
    end through a pidfd.
    """

    def __init__(self, leader: int) -> None:
        """Take note of the process id of the daemon, which leads its group."""
        self.leader = leader

    def members(self) -> list[int]:
        """Return the ids of the processes that are in the group now."""
        found: list[int] = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal():
                try:
                    state, _, group = (entry / "stat").read_text().rpartition(")")[2].split()[:3]
                except OSError:
                    continue  # it ended while we looked
                if int(group) == self.leader and state != "Z":
                    found.append(int(entry.name))
        return found

    def end(self) -> None:
        """Ask the leader to end, wait until the whole group has, and kill what does not."""
        watched = {
            pid: descriptor
            for pid in self.members()
            if (descriptor := _open_pidfd(pid)) is not None
        }
        try:
            if self.leader in watched:
                signal.pidfd_send_signal(watched[self.leader], signal.SIGTERM)
            for descriptor in watched.values():
                if not select.select([descriptor], [], [], _PATIENCE_S)[0]:
                    signal.pidfd_send_signal(descriptor, signal.SIGKILL)
                    select.select([descriptor], [], [], _PATIENCE_S)
        finally:
            for descriptor in watched.values():
                os.close(descriptor)


def _open_pidfd(pid: int) -> int | None:
    """Return a descriptor that is readable from the end of the process on, None if that was."""
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return None
