"""Run a fuzz target, or replay inputs with it: ``python fuzz/run.py filter --seconds 600``.

Rules of this file:

- A target is a module ``fuzz_NAME`` with ``check(data)``, which raises on a finding,
  ``describe(data)``, which shows an input to a reader, and ``seeds()``, the first inputs.
- Replaying needs the library and Python only; atheris is imported for fuzzing alone.
- The targets are imported here while atheris listens, so that the library is instrumented and
  the targets themselves are not: it is the library's branches that the search is for.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol, cast

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / "fuzz" / ".work"
TARGETS = ("author", "filter", "wire")

# A session of the largest inputs takes milliseconds: seconds mean that some cost is quadratic.
TIME_LIMIT_S = 10
# Above what is let in before the negotiation (4096), so that this limit can be passed.
MAX_INPUT_BYTES = 6_000


class Target(Protocol):
    """What each ``fuzz_NAME`` module offers."""

    def check(self, data: bytes) -> None:
        """Do what the input says; raise if the invariant does not hold."""

    def describe(self, data: bytes) -> str:
        """Return the input as a reader wants to see it."""
        ...

    def seeds(self) -> Iterator[bytes]:
        """Yield the inputs to begin with."""
        ...


def load(name: str) -> Target:
    """Import a target; the library is that of this checkout, installed or not."""
    sys.path[:0] = [str(ROOT / "src"), str(ROOT)]
    return cast(Target, importlib.import_module(f"fuzz.fuzz_{name}"))


def report(name: str, target: Target, data: bytes, path: Path) -> None:
    """Show what a finding needs to be understood and repeated; the traceback follows."""
    command = f"python fuzz/run.py {name}"
    sys.stderr.write(
        f"\n==== a finding of the target {name!r}: {len(data)} bytes\n"
        f"{target.describe(data)}\n"
        f"==== to repeat it, without atheris:\n"
        f"{command} {path.relative_to(ROOT)}\n"
        f"{command} --hex {data.hex()}\n\n"
    )
    sys.stderr.flush()


def replay(name: str, inputs: list[bytes]) -> None:
    """Check inputs one after the other, up to the first finding."""
    target = load(name)
    for data in inputs:
        sys.stdout.write(f"{target.describe(data)}\n")
        target.check(data)
    sys.stdout.write(f"{len(inputs)} input(s), no finding\n")


def fuzz(name: str, seconds: int, flags: list[str]) -> None:
    """Search for findings; does not return, the engine ends the process."""
    # atheris is installed by `make fuzz` only, and has types in no release.
    import atheris  # type: ignore[import-not-found, import-untyped, unused-ignore]

    with atheris.instrument_imports(include=["aiomilter"]):
        target = load(name)

    corpus, findings = WORK / "corpus" / name, WORK / "findings"
    corpus.mkdir(parents=True, exist_ok=True)
    findings.mkdir(parents=True, exist_ok=True)
    for seed in target.seeds():
        (corpus / hashlib.sha1(seed, usedforsecurity=False).hexdigest()).write_bytes(seed)

    def check(data: bytes) -> None:
        try:
            target.check(data)
        except BaseException:
            # The engine writes the input to this file after the exception has left.
            digest = hashlib.sha1(data, usedforsecurity=False).hexdigest()
            report(name, target, data, findings / f"{name}-crash-{digest}")
            raise

    arguments = [
        f"-max_total_time={seconds}",
        f"-max_len={MAX_INPUT_BYTES}",
        f"-timeout={TIME_LIMIT_S}",
        f"-artifact_prefix={findings}/{name}-",
        "-print_final_stats=1",
        *flags,
        str(corpus),
    ]
    atheris.Setup([sys.argv[0], *arguments], check)
    atheris.Fuzz()


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Run a fuzz target, or replay inputs")
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("inputs", nargs="*", type=Path, help="files to replay, as of a finding")
    parser.add_argument("--hex", help="an input to replay, in hex")
    parser.add_argument("--seconds", type=int, default=60, help="how long to fuzz (default: 60)")
    parser.add_argument(
        "--flag", action="append", default=[], help="for libFuzzer: -max_len=500, …"
    )
    arguments = parser.parse_args()
    inputs = [path.read_bytes() for path in arguments.inputs]
    if arguments.hex is not None:
        inputs.append(bytes.fromhex(arguments.hex))
    if inputs:
        replay(arguments.target, inputs)
    else:
        fuzz(arguments.target, arguments.seconds, arguments.flag)


if __name__ == "__main__":
    main()
