"""What the milter of a case notes, in this process or in one of its own."""

from __future__ import annotations

import asyncio
from pathlib import Path

__all__ = ["Notes"]

_LOOK_AGAIN_S = 0.01


class Notes:
    """Lines in a file, so that a process that is killed loses none.

    Attributes:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        """Use a file; it is made with the first note."""
        self.path = path

    def add(self, line: str) -> None:
        """Append a line; line ends in it are escaped."""
        text = line.replace("\\", "\\\\") if "\n" in line or "\r" in line else line
        text = text.replace("\r", "\\r").replace("\n", "\\n")
        with self.path.open("a", encoding="utf-8", errors="surrogateescape") as file:
            file.write(f"{text}\n")

    def lines(self) -> list[bytes]:
        """Return all lines so far, as UTF-8."""
        return self.path.read_bytes().split(b"\n")[:-1] if self.path.exists() else []

    async def until(self, text: str, timeout_s: float = 10) -> None:
        """Wait for a line that begins so.

        Raises:
            TimeoutError: There is none in time.
        """
        begin = text.encode("utf-8", "surrogateescape")
        try:
            async with asyncio.timeout(timeout_s):
                # Another process may write the file, and a file that grows wakes nobody.
                while not any(line.startswith(begin) for line in self.lines()):  # noqa: ASYNC110
                    await asyncio.sleep(_LOOK_AGAIN_S)
        except TimeoutError:
            noted = b" | ".join(self.lines()).decode("utf-8", "backslashreplace")
            raise TimeoutError(
                f"no note begins with {text!r} after {timeout_s:g} s; there are: {noted or 'none'}"
            ) from None
