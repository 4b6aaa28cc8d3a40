"""Adapters between aiomilter and other software; each needs what it adapts to."""

__all__: list[str] = []
