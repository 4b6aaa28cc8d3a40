"""What the README promises beside the demo: its test runs, and its links lead somewhere."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from tests.docs.site import ROOT
from tests.docs.tutorial import PLAIN

README = (ROOT / "README.md").read_text(encoding="utf-8")
PROGRAMS = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
FILES = ("readme_milter.py", "test_readme_milter.py")


def test_its_programs_are_files_that_are_checked() -> None:
    files = [(ROOT / "examples" / name).read_text(encoding="utf-8") for name in FILES]
    assert [text.removeprefix("# pyright: basic\n") for text in files] == PROGRAMS


def test_its_test_passes_beside_the_milter(tmp_path: Path) -> None:
    for name in FILES:
        shutil.copy(ROOT / "examples" / name, tmp_path)
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *PLAIN],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout
    assert "1 passed" in run.stdout


def test_the_tests_among_the_examples_pass_where_they_are() -> None:
    """In a clone pytest would take the project's own settings, were there none beside them."""
    programs = ("test_readme_milter.py", "testing", "tutorial")
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *programs],
        cwd=ROOT / "examples", capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout


def test_the_milter_is_short() -> None:
    body = PROGRAMS[0].partition("class ")[2].partition("\n\n\nif ")[0]
    assert len([line for line in body.splitlines() if line.strip()]) <= 16


def test_anchors_in_its_links_are_headings() -> None:
    links = re.findall(r"\]\(([^):#]+\.md)#([^)]+)\)", README)
    assert links
    for path, anchor in links:
        text = (ROOT / path).read_text(encoding="utf-8")
        headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
        slugs = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
        assert anchor in slugs, f"{path}#{anchor}"


def test_every_row_of_ours_has_a_page_or_a_no() -> None:
    """A claim in the table leads to where it is explained."""
    table = README.partition("| | aiomilter |")[2].partition("\n\n")[0]
    rows = [line.split("|")[1:3] for line in table.splitlines()[2:]]
    assert len(rows) > 15
    facts = {"is", "licence"}
    for title, ours in rows:
        if title.strip() not in facts and ours.strip() != "no":
            assert re.search(r"\]\(docs/[^)]+\)", ours), title
