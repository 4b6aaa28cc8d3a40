"""What follows what: the protocol as state machines without input and output."""

__all__: list[str] = []
