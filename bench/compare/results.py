"""The results of a run: what was measured with whom, as it is kept in a file."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.compare.measuring import Figures, Workload
from bench.compare.peers import FLOOR, LIBMILTER, Peer

__all__ = ["Results"]


class Results:
    """Figures by workload, peer and round; everything else in them is for the reader.

    Attributes:
        document: What the file holds: ``machine``, ``peers`` (version and note of each),
            ``workloads`` (title, note and, by peer, ``rounds``, ``faults`` or ``absent``).
    """

    def __init__(self, document: dict[str, Any] | None = None) -> None:
        self.document: dict[str, Any] = document or {"machine": {}, "peers": {}, "workloads": {}}

    @classmethod
    def read(cls, path: Path) -> Results:
        """Read a file that `write` has written."""
        return cls(json.loads(path.read_text(encoding="utf-8")))

    def write(self, path: Path) -> None:
        """Write it as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(_rounded(self.document), indent=1) + "\n", encoding="utf-8")

    def note_peer(self, peer: Peer) -> None:
        """Note a peer's version, or why there is none."""
        self.document["peers"][peer.name] = {
            "version": peer.version,
            "note": peer.note,
            "absent": peer.absent,
        }

    def begin(self, workload: Workload, *, quick: bool) -> None:
        """Make a place for a workload."""
        self.document["workloads"][workload.name] = {
            "title": workload.title,
            "note": workload.note,
            "load": " ".join(map(str, workload.options)),
            "quick": quick,
            "peers": {},
        }

    def _entry(self, workload: str, peer: str) -> dict[str, Any]:
        peers = self.document["workloads"][workload]["peers"]
        entry: dict[str, Any] = peers.setdefault(peer, {"rounds": [], "faults": [], "absent": ""})
        return entry

    def add(self, workload: str, peer: str, figures: Figures) -> None:
        """Add a round."""
        self._entry(workload, peer)["rounds"].append(figures)

    def add_fault(self, workload: str, peer: str, why: str) -> None:
        """Add a round that gave no figures."""
        self._entry(workload, peer)["faults"].append(why)

    def note_absence(self, workload: str, peer: str, why: str) -> None:
        """Say why a peer does not take part."""
        self._entry(workload, peer)["absent"] = why

    # Reading

    def workloads(self) -> Iterator[str]:
        """Yield the names of the workloads that were measured."""
        yield from self.document["workloads"]

    def peers_of(self, workload: str) -> list[str]:
        """Return the names of the peers in a workload's table, absent ones included."""
        return list(self.document["workloads"].get(workload, {"peers": {}})["peers"])

    def why_missing(self, workload: str, peer: str) -> str:
        """Say why there are no figures; empty if there are some."""
        entry = self._entry(workload, peer)
        if entry["rounds"]:
            return ""
        return entry["absent"] or next(iter(entry["faults"]), "not measured")

    def values(self, workload: str, peer: str, figure: str) -> list[float]:
        """Return one figure in all rounds; empty if there is none."""
        if peer not in self.peers_of(workload):
            return []
        rounds = self._entry(workload, peer)["rounds"]
        return [figures[figure] for figures in rounds if figure in figures]

    def median(self, workload: str, peer: str, figure: str) -> float | None:
        """Return the median of a figure, or None if there is none."""
        if figure == "ratio_to_floor":
            return self._ratio(workload, peer, FLOOR)
        if figure == "ratio_to_libmilter":
            return self._ratio(workload, peer, LIBMILTER)
        if figure == "ratio_to_lockstep_floor":
            # What the same message costs the limit if every stage is answered.
            return self._ratio(workload, peer, FLOOR, "W1-unix" if "unix" in workload else "W1-50")
        values = self.values(workload, peer, figure)
        return statistics.median(values) if values else None

    def _ratio(
        self, workload: str, peer: str, other: str, others_workload: str = ""
    ) -> float | None:
        own = self.median(workload, peer, "cpu_us")
        others = self.median(others_workload or workload, other, "cpu_us")
        return own / others if own is not None and others else None


def _rounded(value: Any) -> Any:
    """Return a document with four significant digits in each number: the rest is noise."""
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value
