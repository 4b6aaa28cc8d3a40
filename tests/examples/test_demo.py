"""What `make demo` prints, and what the README says of it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def run_demo(cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), **variables}
    # In its debug mode asyncio tells of a slow machine.
    environment.pop("PYTHONASYNCIODEBUG", None)
    return subprocess.run(
        [sys.executable, str(ROOT / "examples" / "demo.py")],
        cwd=cwd,
        env=environment,
        capture_output=True,
        encoding="utf-8",
        check=False,
        timeout=20,
    )


@pytest.fixture(scope="module")
def account(tmp_path_factory: pytest.TempPathFactory) -> str:
    run = run_demo(tmp_path_factory.mktemp("elsewhere"), PYTHONIOENCODING="utf-8")
    assert (run.returncode, run.stderr) == (0, "")
    return run.stdout


def block(text: str, language: str) -> str:
    """Return the first fenced block of a language."""
    match = re.search(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    assert match, f"no block of {language}"
    return match[1]


def test_account_says_what_was_agreed(account: str) -> None:
    assert re.search(
        r"^  not asked +connect, helo, mail, data, eoh, unknown ", account, re.MULTILINE
    )
    assert re.search(r"^  no answer +body ", account, re.MULTILINE)


def test_account_shows_a_refused_recipient(account: str) -> None:
    assert re.search(r"^  rcpt +<anna@example\.org> +continue$", account, re.MULTILINE)
    assert re.search(
        r"^  rcpt +<info@example\.org> +550 5\.1\.1 this mailbox is closed$", account, re.MULTILINE
    )
    assert "= accepted, 1 change, for 1 of 2\n" in account
    assert "= refused: no recipient is left\n" in account


def test_account_shows_edits(account: str) -> None:
    assert "+ change header Subject (1): [external] Report for the third quarter\n" in account
    assert "+ change header Subject (1): [external] ¿Café mañana? ☕\n" in account


def test_account_shows_a_large_body_in_pieces_that_nobody_waits_for(account: str) -> None:
    body = r"^  body +31 pieces, the first of 65,535 bytes +no answer awaited$"
    assert re.search(body, account, re.MULTILINE)
    assert "+ quarantine a body of 2,000,000 bytes\n" in account
    assert "= held for the administrator, 1 change, for 1 of 1\n" in account


def test_account_fits_into_a_terminal_and_has_no_control_characters(account: str) -> None:
    lines = account.splitlines()
    assert max(len(line) for line in lines[2:]) <= 100  # above: a path of any length
    assert all(line.isprintable() for line in lines)


def test_demo_works_where_its_letters_cannot_be_shown(tmp_path: Path) -> None:
    run = run_demo(tmp_path, PYTHONIOENCODING="ascii")
    assert (run.returncode, run.stderr) == (0, "")
    assert "\\xbfCaf\\xe9" in run.stdout


def test_demo_says_in_a_sentence_what_went_wrong(tmp_path: Path) -> None:
    directory = tmp_path / ("long" * 30)  # too long for the path of a unix socket
    directory.mkdir()
    run = run_demo(tmp_path, TMPDIR=str(directory))
    assert run.returncode == 1
    assert run.stdout == ""
    assert re.fullmatch(r"demo: .* a unix socket has at most 107 bytes, .*\n", run.stderr)


def test_readme_shows_the_milter_of_the_demo() -> None:
    assert block(README, "python") == (ROOT / "examples/readme_milter.py").read_text("utf-8")


def test_readme_shows_the_end_of_the_account(account: str) -> None:
    shown = block(README, "text")
    assert len(shown.splitlines()) > 5
    assert account.endswith(shown)


@pytest.mark.parametrize("verb", ["demo", "test"])
def test_readme_names_the_two_commands(verb: str) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(rf"^make {verb}\b", block(README, "sh"), re.MULTILINE)
    assert re.search(rf"^{verb}:", makefile, re.MULTILINE)


def test_readme_links_lead_somewhere() -> None:
    for name in ("README.md", "examples/README.md"):
        path = ROOT / name
        links = re.findall(r"\]\(([^):#]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8"))
        assert links
        assert [link for link in links if not (path.parent / link).exists()] == []
