"""The milters that the load programs run; the sender of a message says what becomes of it."""

from __future__ import annotations

import asyncio
import hashlib
import time

from aiomilter import EomActions, Message, Milter, Status, time_limit
from aiomilter.app.socket_info import SocketInfo

__all__ = ["Digest", "Quiet", "Soak", "TwoStamps"]

_LIMIT_S = 0.1
_THREAD_LIMIT_S, _HANG_S = 0.5, 0.8
_FOR_EVER_S = 3600.0
_LOOKUP_S = 0.03


class Quiet(Milter):
    """Has all handlers, which do nothing, and adds a header."""

    async def on_connect(self, hostname: str, client: SocketInfo) -> None:
        pass

    async def on_helo(self, hostname: str) -> None:
        pass

    async def on_mail(self, sender: str, params: list[str]) -> None:
        pass

    async def on_rcpt(self, recipient: str, params: list[str]) -> None:
        pass

    async def on_data(self) -> None:
        pass

    async def on_header(self, name: str, value: str) -> None:
        pass

    async def on_eoh(self) -> None:
        pass

    async def on_body(self, chunk: bytes) -> None:
        pass

    async def on_eom(self, actions: EomActions) -> Status:
        actions.add_header("X-Load", self.sender or "")
        return Status.ACCEPT


class Digest(Milter):
    """Reads each message as a whole, in a thread, and tells what it has read."""

    def on_message(self, message: Message) -> None:
        digest = hashlib.sha256()
        for chunk in message.body.iter_chunks():
            digest.update(chunk)
        message.headers.add("X-Digest", digest.hexdigest())


class TwoStamps(Milter):
    """Edits each message twice, after a moment, so that there are always messages in progress."""

    async def on_rcpt(self, recipient: str, params: list[str]) -> None:
        pass

    async def on_eom(self, actions: EomActions) -> None:
        actions.add_header("X-Stamp", "first")
        await asyncio.sleep(_LOOKUP_S)
        actions.add_header("X-Stamp", "last")


class Soak(Quiet):
    """Fails in many ways, as the sender says; keeps what it is told until the message ends."""

    def begin_message(self) -> None:
        self.kept: list[object] = []

    async def on_rcpt(self, recipient: str, params: list[str]) -> None:
        if self.sender == "<fault-rcpt>":
            raise LookupError(recipient)

    @time_limit(_LIMIT_S)
    async def on_data(self) -> None:
        if self.sender in ("<late>", "<leave>"):
            await asyncio.sleep(_FOR_EVER_S)

    async def on_header(self, name: str, value: str) -> None:
        self.kept.append((name, value))

    async def on_body(self, chunk: bytes) -> None:
        self.kept.append(chunk)

    async def on_eom(self, actions: EomActions) -> Status:
        if self.sender == "<fault-eom>":
            actions.add_header("X-Never", "seen")
            raise SystemExit(self.sender)
        if self.sender == "<big-edit>":
            actions.replace_body(b"x" * 200_000)
        return await super().on_eom(actions)

    @time_limit(_THREAD_LIMIT_S)
    def on_unknown(self, command: str) -> None:
        """Run in a thread."""
        if command == "HANG":
            time.sleep(_HANG_S)
        if command == "FAIL":
            raise OSError(command)

    async def on_abort(self) -> None:
        self.kept.clear()

    async def on_close(self) -> None:
        pass
