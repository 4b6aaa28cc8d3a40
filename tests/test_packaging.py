"""What is around the package: its image, and the check of a release's archives."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

from tests.docs.site import tool

ROOT = Path(__file__).resolve().parent.parent
DOCKERFILE = (ROOT / "packaging" / "Dockerfile").read_text(encoding="utf-8")
METADATA = """\
Metadata-Version: 2.4
Name: aiomilter
Version: 1.0
Summary: Mail filters
Requires-Python: >=3.11
License-Expression: Apache-2.0
Keywords: mail
Description-Content-Type: text/markdown

"""
README = "| a | b |\n| --- | --- |\n| 1 | 2 |\n\n```\ncode\n```\n"


def instruction(name: str) -> list[str]:
    """Return what an instruction of the Dockerfile says in JSON."""
    (found,) = re.findall(rf"^{name} (\[.*?\])$", DOCKERFILE, re.MULTILINE | re.DOTALL)
    words: list[str] = json.loads(found.replace("\\\n", ""))
    return words


def test_the_image_starts_what_can_be_started(tmp_path: Path) -> None:
    source, target = re.findall(r"^COPY (examples/\S+) \S+/(\S+)$", DOCKERFILE, re.MULTILINE)[0]
    (tmp_path / target).write_bytes((ROOT / source).read_bytes())
    program, *words = instruction("ENTRYPOINT")
    assert Path(program).name == "aiomilter"
    command = [sys.executable, "-m", "aiomilter.cli", *words, *instruction("CMD"), "--check"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert 'listen = ["inet:9900@0.0.0.0"]' in run.stdout


def wheel(folder: Path, *left_out: str, metadata: str = METADATA + README, more: str = "") -> Path:
    """Make a wheel that is as it should be, but for what is left out or added."""
    path = folder / "aiomilter-1.0-py3-none-any.whl"
    names = [*tool("check-dist").IN_WHEEL, "aiomilter-1.0.dist-info/licenses/LICENSE"]
    with zipfile.ZipFile(path, "w") as archive:
        for name in [*names, *([more] if more else [])]:
            if name not in left_out:
                archive.writestr(name, "")
        archive.writestr("aiomilter-1.0.dist-info/METADATA", metadata)
    return path


def test_a_wheel_is_complained_of(tmp_path: Path) -> None:
    check = tool("check-dist")
    assert list(check._of_wheel(wheel(tmp_path))) == []
    licence = "aiomilter-1.0.dist-info/licenses/LICENSE"
    for left_out, words in [("aiomilter/py.typed", "lacks"), (licence, "has no licence")]:
        assert any(words in said for said in check._of_wheel(wheel(tmp_path, left_out)))
    more = wheel(tmp_path, more="tests/conftest.py")
    assert any("more than the package" in said for said in check._of_wheel(more))
    needy = METADATA.replace("Keywords", "Requires-Dist: attrs\nKeywords") + README
    assert any("attrs" in said for said in check._of_wheel(wheel(tmp_path, metadata=needy)))
    mute = wheel(tmp_path, metadata=METADATA)
    assert any("could not show" in said for said in check._of_wheel(mute))


def test_a_folder_without_archives_is_complained_of(tmp_path: Path) -> None:
    (said,) = tool("check-dist").complaints(tmp_path)
    assert "0 wheels and 0 sdists" in said
