"""The example on the page docs/mail-servers.md, done as a user would."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "mail-servers.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)

pytestmark = pytest.mark.xdist_group("cases-sendmail")


def test_the_case_of_the_page_passes_with_both_servers(tmp_path: Path, sendmail_root: Path) -> None:
    case = next(text for language, text in BLOCKS if not language)
    test = next(text for language, text in BLOCKS if language == "python")
    (tmp_path / "nobody.case").write_text(case, encoding="utf-8")
    (tmp_path / "test_cases.py").write_text(test, encoding="utf-8")
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
    assert "1 passed" in run.stdout
