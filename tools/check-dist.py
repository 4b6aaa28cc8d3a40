#!/usr/bin/env python3
"""Check the archives of a release: their contents, their metadata, and that they can be used.

    tools/check-dist.py [FOLDER]        by default dist

The wheel is installed into an empty environment, without an index, and runs the demo there, as it
comes out of the sdist.
"""

from __future__ import annotations

import email
import os
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from collections.abc import Iterator
from email.message import Message
from pathlib import Path

from readme_renderer import markdown

__all__ = ["complaints"]

IN_WHEEL = ("aiomilter/__init__.py", "aiomilter/py.typed", "aiomilter/cli/__init__.py")
IN_SDIST = (
    "CHANGELOG.md", "LICENSE", "Makefile", "PKG-INFO", "README.md", "docs/conf.py",
    "examples/demo.py", "packaging/Dockerfile", "packaging/systemd/mymilter.service",
    "requirements/dev.txt", "src/aiomilter/__init__.py", "tests/conftest.py", "tools/make-dist.sh",
)  # fmt: skip
NOT_IN_SDIST = (".git/", ".venv/", "docs/_build/", "__pycache__", ".sendmail/", "bench/.work/")
MOST_BYTES = 12 * 2**20
METADATA = ("Name", "Version", "Summary", "Requires-Python", "License-Expression", "Keywords")


def complaints(folder: Path) -> Iterator[str]:
    """Say what is wrong, a sentence each."""
    wheels, sdists = sorted(folder.glob("*.whl")), sorted(folder.glob("*.tar.gz"))
    if (len(wheels), len(sdists)) != (1, 1):
        yield f"{folder} has {len(wheels)} wheels and {len(sdists)} sdists, not one of each"
        return
    (wheel,), (sdist,) = wheels, sdists
    yield from _of_wheel(wheel)
    yield from _of_sdist(sdist)
    yield from _of_use(wheel, sdist)


def _of_wheel(path: Path) -> Iterator[str]:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        yield from (f"{path.name} lacks {name}" for name in IN_WHEEL if name not in names)
        tops = {name.split("/")[0] for name in names}
        info = next(top for top in tops if top.endswith(".dist-info"))
        if tops != {"aiomilter", info}:
            yield f"{path.name} would install more than the package: {sorted(tops)}"
        if f"{info}/licenses/LICENSE" not in names:
            yield f"{path.name} has no licence"
        yield from _of_metadata(email.message_from_bytes(archive.read(f"{info}/METADATA")))


def _of_metadata(metadata: Message) -> Iterator[str]:
    yield from (f"the metadata lacks {name}" for name in METADATA if not metadata.get(name))
    required = metadata.get_all("Requires-Dist") or []
    yield from (f"a dependency: {entry}" for entry in required if "extra ==" not in entry)
    if metadata.get("Description-Content-Type") != "text/markdown":
        yield "the README is not said to be Markdown"
    text = metadata.get_payload()
    page = markdown.render(text) if isinstance(text, str) else None
    if page is None or "<table>" not in page or "<pre" not in page:
        yield "an index of packages could not show the README"


def _of_sdist(path: Path) -> Iterator[str]:
    with tarfile.open(path) as archive:
        members = archive.getmembers()
    names = [member.name.partition("/")[2] for member in members]
    yield from (f"{path.name} lacks {name}" for name in IN_SDIST if name not in names)
    yield from (f"{path.name} has {name}" for name in names for bad in NOT_IN_SDIST if bad in name)
    yield from (f"{m.name} is no plain file" for m in members if not (m.isfile() or m.isdir()))
    yield from (f"{m.name} belongs to {m.uid}" for m in members if m.uid or m.gid)
    if path.stat().st_size > MOST_BYTES:
        yield f"{path.name} has {path.stat().st_size:,} bytes"


def _of_use(wheel: Path, sdist: Path) -> Iterator[str]:
    """Install it where nothing else is, and run the demo."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        venv.create(folder / "venv", with_pip=True)
        python = folder / "venv" / "bin" / "python"
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        environment["PIP_DISABLE_PIP_VERSION_CHECK"] = "1"
        install = [python, "-m", "pip", "install", "--quiet", "--no-index", wheel.resolve()]
        with tarfile.open(sdist) as archive:
            archive.extractall(folder, filter="data")
        demo = next(folder.glob("aiomilter-*")) / "examples" / "demo.py"
        said = ""
        for parts in (install, [python, "-m", "pip", "check"], [python, demo]):
            command = [str(part) for part in parts]
            run = subprocess.run(
                command, cwd=folder, env=environment, capture_output=True, text=True, check=False
            )
            said = run.stdout
            if run.returncode:
                yield f"{' '.join(command[1:])}: {run.stderr.strip() or said}"
                return
        if "held for the administrator" not in said:
            yield "the demo does not say what it should"


def main() -> None:
    """Check, and print what is wrong."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path("dist")
    wrong = list(complaints(folder))
    print(*wrong, sep="\n", end="\n" if wrong else "")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
