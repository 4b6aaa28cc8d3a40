"""Loopback ports that stay ours from the choice until the server's own ``bind``."""

import socket
from types import TracebackType
from typing import Self

__all__ = ["ReservedPort"]


class ReservedPort:
    """A free port of 127.0.0.1, held by a bound socket that never listens.

    Asking the kernel for a port, closing the socket and naming the number in a configuration
    file leaves a gap in which a parallel test can take the port. Linux lets a second socket
    bind the same port while the first does not listen and both have SO_REUSEADDR, as Postfix
    and asyncio set it; the kernel gives it to nobody who asks for any free port.
    """

    def __init__(self) -> None:
        """Take a free port.

        Raises:
            OSError: The machine has none left.
        """
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind(("127.0.0.1", 0))
        self.number: int = self._socket.getsockname()[1]

    def close(self) -> None:
        """Give the port back. Calling it again does nothing."""
        self._socket.close()

    def __enter__(self) -> Self:
        """Return the reservation itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give the port back."""
        self.close()
