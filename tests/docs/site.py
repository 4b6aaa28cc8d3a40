"""The documentation, built as `make docs` does it, once for all tests; and programs of tools/."""

from __future__ import annotations

import fcntl
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

__all__ = ["ROOT", "SITE", "build", "tool"]

ROOT = Path(__file__).resolve().parents[2]
SITE = ROOT / "docs" / "_build" / "html"


def build() -> Path:
    """Build what has changed since the last time; return the folder."""
    SITE.parent.mkdir(exist_ok=True)
    with (SITE.parent / "lock").open("w") as lock:
        # Tests run in several processes, which share this folder.
        fcntl.flock(lock, fcntl.LOCK_EX)
        # Nobody asks how much of the library the documentation imports.
        environment = {k: v for k, v in os.environ.items() if k != "COVERAGE_PROCESS_CONFIG"}
        command = [sys.executable, "-m", "sphinx", "--quiet", "--fail-on-warning", "--keep-going"]
        command += ["--doctree-dir", str(SITE.parent / "doctrees"), "--builder", "html"]
        run = subprocess.run(
            [*command, str(ROOT / "docs"), str(SITE)],
            capture_output=True,
            text=True,
            check=False,
            env=environment,
        )
    assert run.returncode == 0, run.stderr
    return SITE


def tool(name: str) -> ModuleType:
    """Import a program of tools/."""
    path = ROOT / "tools" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name.replace("-", "_"), path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
