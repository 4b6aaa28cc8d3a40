"""Metrics of several workers, summed by prometheus_client: its folder, made and kept in order."""

from __future__ import annotations

import os
import shutil
import tempfile
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

__all__ = ["MetricsFolder"]

_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"


class MetricsFolder:
    """Where workers leave their metrics for whichever process is asked for the sum.

    It does nothing without prometheus_client. That module reads the variable when it is imported,
    so that this comes first, in the process above the workers.
    """

    def __init__(self) -> None:
        """Make a folder, or empty the one that the environment names of an earlier run's files."""
        self._owner = os.getpid()
        self._own: Path | None = None
        self._is_used = find_spec("prometheus_client") is not None
        if not self._is_used:
            return
        given = os.environ.get(_VARIABLE)
        if given:
            folder = Path(given)
            folder.mkdir(parents=True, exist_ok=True)
            for file in folder.glob("*.db"):
                file.unlink(missing_ok=True)
        else:
            self._own = Path(tempfile.mkdtemp(prefix="aiomilter-metrics-"))
            os.environ[_VARIABLE] = str(self._own)

    def forget_worker(self, pid: int) -> None:
        """Remove what was true only while a worker lived, such as the number of its connections."""
        if self._is_used:
            # Any: it is no dependency, and so not there for type checkers.
            multiprocess: Any = import_module("prometheus_client.multiprocess")
            multiprocess.mark_process_dead(pid)

    def close(self) -> None:
        """Remove the folder if it was made here."""
        if self._own is not None and os.getpid() == self._owner:
            shutil.rmtree(self._own, ignore_errors=True)
            os.environ.pop(_VARIABLE, None)
