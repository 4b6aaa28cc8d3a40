"""What the author of a milter touches: handlers, verdicts, edits, facts."""

__all__: list[str] = []
