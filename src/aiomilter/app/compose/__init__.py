"""Several milters as one, and milters that only say what they would do."""

from __future__ import annotations

from aiomilter.app.compose.composition import Composition, chain, dry_run

__all__ = ["Composition", "chain", "dry_run"]
