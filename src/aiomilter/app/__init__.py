"""What the author of a milter touches: handlers, verdicts, edits, facts."""
