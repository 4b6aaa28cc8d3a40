"""The checks on every supported Python that this machine has: `nox`, or `nox -s tests-3.12`.

The Makefile's verbs are the quick way on one interpreter; both install from the same lock.
"""

import os

import nox

nox.options.default_venv_backend = "uv"
nox.options.download_python = "never"
nox.options.error_on_missing_interpreters = False  # test with what is there
nox.options.reuse_venv = "yes"

PYTHONS = ["3.11", "3.12", "3.13"]


def install(session: nox.Session) -> None:
    """Install the locked tools and the library, as tools/make-env.sh does."""
    build = (
        "--build-constraints=requirements/build.txt",
        "--require-build-hashes",
        "--preview-features=build-dependency-hashes",
    )
    session.install("--require-hashes", *build, "-r", "requirements/dev.txt")
    session.install(*build, "--no-deps", "--editable", ".")


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Run the tests; those against a real mail server are left out unless MTA=1."""
    install(session)
    without = ("--ignore=tests/integration", "--ignore=tests/libmilter")
    scope = () if os.environ.get("MTA") else without
    session.run("pytest", "--numprocesses=auto", "--dist=worksteal", *scope, *session.posargs)


@nox.session(python=["3.11"])
@nox.parametrize("switch", ["optimized", "debug"])
def switches(session: nox.Session, switch: str) -> None:
    """Run the tests that need no mail server under `python -O`, or in the debug mode of asyncio."""
    install(session)
    variable = {"optimized": "PYTHONOPTIMIZE", "debug": "PYTHONASYNCIODEBUG"}[switch]
    session.run(
        *("pytest", "--numprocesses=auto", "--dist=worksteal"),
        # In the debug mode everything takes several times as long.
        "--timeout=600",
        # pytest warns that it cannot rewrite assertions of modules that are not the tests' own.
        *("-W", "ignore:assertions not in test modules"),
        *("--ignore=tests/integration", "--ignore=tests/libmilter"),
        *session.posargs,
        env={variable: "1"},
    )


@nox.session(python="3.11")
def lint(session: nox.Session) -> None:
    """Check style and layers."""
    install(session)
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("lint-imports")


@nox.session(python=PYTHONS)
def types(session: nox.Session) -> None:
    """Check types as each Python's standard library declares them."""
    install(session)
    session.run("mypy", f"--python-version={session.python}")
    session.run("basedpyright", f"--pythonversion={session.python}")


@nox.session(python="3.11")
def docs(session: nox.Session) -> None:
    """Build the documentation; warnings are errors."""
    install(session)
    session.run("sphinx-build", "--fail-on-warning", "--keep-going", "docs", "docs/_build/html")
