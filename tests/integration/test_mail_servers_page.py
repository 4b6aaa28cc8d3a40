"""The cases on the page docs/mail-servers.md, done as a user would."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CASES = ROOT / "examples" / "mail_servers"

pytestmark = pytest.mark.xdist_group("cases-sendmail")


def test_the_cases_of_the_page_pass_with_both_servers(tmp_path: Path, sendmail_root: Path) -> None:
    for path in CASES.glob("*.*"):
        shutil.copy(path, tmp_path)
    settings = f"[pytest]\npythonpath = {ROOT}\nasyncio_default_fixture_loop_scope = function\n"
    (tmp_path / "pytest.ini").write_text(settings, encoding="utf-8")
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", "-rA", "."],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "AIOMILTER_SENDMAIL_ROOT": str(sendmail_root)},
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "2 passed" in run.stdout
