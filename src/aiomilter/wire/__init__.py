"""Bytes to commands and replies and back: framing, fields, and one class a packet."""

__all__: list[str] = []
