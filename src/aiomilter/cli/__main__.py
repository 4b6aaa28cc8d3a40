"""``python -m aiomilter.cli``: the command line without its script."""

from __future__ import annotations

from aiomilter.cli import main

__all__: list[str] = []

if __name__ == "__main__":
    main()
