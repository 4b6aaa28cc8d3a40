"""What machine it was, for whoever reads the figures later."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from pathlib import Path

__all__ = ["describe_machine"]

_GIB = 2**30


def describe_machine() -> dict[str, str]:
    """Return the facts about hardware and software that figures depend on, by name."""
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "processor": _field("/proc/cpuinfo", "model name") or platform.processor(),
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / _GIB:.0f} GiB",
        "virtual": "yes" if "hypervisor" in (_field("/proc/cpuinfo", "flags") or "") else "no",
        "kernel": platform.release(),
        "python": f"{platform.python_implementation()} {platform.python_version()}, "
        f"{platform.python_compiler()}",
        "compiler": _first_line("gcc", "--version"),
        "load_before": f"{os.getloadavg()[0]:.2f}",
    }


def _field(path: str, name: str) -> str | None:
    try:
        lines = Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), None)


def _first_line(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except FileNotFoundError:
        return "none"
    return (done.stdout.splitlines() or [""])[0]
