"""Records the sessions of the catalogue on libmilter, for comparison where libmilter is not.

``python -m tests.libmilter.record`` writes ``vectors/THEME.json``; running it again changes
nothing. The catalogue is in ``tests/conformance/catalogue/``, the form of the files is told in
``tests/conformance/vectors.py``. Where a session names a deviation (a row of
``docs/deviations.md``), aiomilter's own answers are
written beside libmilter's, to be looked at when they change.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from tests.conformance.catalogue.sessions import Session
from tests.conformance.catalogue.themes import THEMES
from tests.conformance.vectors import FOLDER, Vector, dump
from tests.libmilter.aiomilter_side import run_aiomilter
from tests.libmilter.libmilter import LibmilterHost
from tests.libmilter.plan import CONTINUE, Call, LibmilterError, Outcome, Plan, Script, Send
from tests.packets import HELO

__all__ = ["record_theme", "text_of_theme"]


def main() -> None:
    # Faults of planned milters are what some sessions are about.
    logging.getLogger("aiomilter").setLevel(logging.CRITICAL + 1)
    FOLDER.mkdir(exist_ok=True)
    with LibmilterHost() as host:
        for theme in THEMES:
            text = text_of_theme(host, theme)
            (FOLDER / f"{theme}.json").write_text(text, encoding="ascii")
            print(f"{theme}: {len(THEMES[theme])} sessions, {len(text)} bytes")
    for path in FOLDER.glob("*.json"):
        if path.stem not in THEMES:
            path.unlink()


def text_of_theme(host: LibmilterHost, theme: str) -> str:
    """Return what the file of a theme has to hold."""
    meta = {"theme": theme, "libmilter": _version(host)}
    return dump(meta, record_theme(host, THEMES[theme]))


def record_theme(host: LibmilterHost, sessions: Iterable[Session]) -> list[Vector]:
    """Run sessions on libmilter.

    Raises:
        LibmilterError: the pace of the MTA changes the outcome of a session, so that there is
            nothing to compare with; or see `LibmilterHost`.
    """
    vectors: list[Vector] = []
    for session in sessions:
        plan, sends = session.plan, session.sends
        pending = host.submit(plan, sends, paced=False)
        paced = host.submit(plan, sends, paced=True).outcome()
        at_once = pending.outcome()
        if at_once.steps != paced.steps:
            raise LibmilterError(
                f"the pace decides in {session.title!r}: {at_once.steps}, but {paced.steps}"
            )
        vectors.append(_vector(session, paced))
    return vectors


def _vector(session: Session, outcome: Outcome) -> Vector:
    """Return the vector of a session that libmilter has run."""
    sends = (*(Send(data) for data in session.sends), Send(b"", end=True))
    own = None
    if session.deviation is not None:
        own = tuple(run_aiomilter(session.plan, sends))
    return Vector(session.title, session.plan, sends, outcome.steps, session.deviation, own)


def _version(host: LibmilterHost) -> str:
    asking = Plan.of(helo=Script.always(CONTINUE, Call.of("version")))
    (found,) = host.run(asking, [HELO]).events[0].returns
    return found.decode("ascii") if isinstance(found, bytes) else str(found)


if __name__ == "__main__":
    main()
