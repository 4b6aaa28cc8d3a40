"""The catalogue: all sessions that are recorded, by the file that they go to."""

from __future__ import annotations

from tests.conformance.catalogue.complete import COMPLETE
from tests.conformance.catalogue.connect import CONNECT_ADDRESSES
from tests.conformance.catalogue.content import BODIES, FRAMING, MACROS, MALFORMED
from tests.conformance.catalogue.edits import EDITS, REPLIES
from tests.conformance.catalogue.negotiation import NEGOTIATION
from tests.conformance.catalogue.sessions import Session
from tests.conformance.catalogue.states import STATES
from tests.conformance.catalogue.verdicts import NO_REPLY, RESULTS

__all__ = ["THEMES"]

THEMES: dict[str, list[Session]] = {
    "negotiation": NEGOTIATION,
    "connect": CONNECT_ADDRESSES,
    "results": RESULTS,
    "no_reply": NO_REPLY,
    "replies": REPLIES,
    "edits": EDITS,
    "states": STATES,
    "macros": MACROS,
    "bodies": BODIES,
    "framing": FRAMING,
    "malformed": MALFORMED,
    "complete": COMPLETE,
}
