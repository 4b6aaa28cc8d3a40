"""A milter that signs each message with what it believes to know of it."""

import asyncio

from aiomilter import EomActions, Milter


class Stamp(Milter):
    """Adds a header field with queue id, recipients and the size of the body.

    If two sessions in the same process ever took each other's facts, the field would tell.
    """

    body_bytes = 0

    def begin_message(self) -> None:
        self.body_bytes = 0

    async def on_rcpt(self, recipient: str, params: list[str]) -> None:
        pass  # to have the recipients known

    async def on_body(self, chunk: bytes) -> None:
        self.body_bytes += len(chunk)

    async def on_eom(self, actions: EomActions) -> None:
        words = (str(self.queue_id), *self.recipients, str(self.body_bytes))
        actions.add_header("X-Stamp", " ".join(words))


class StampAfterLookup(Stamp):
    """The same after a question to somebody else, so that there are always messages in progress."""

    async def on_eom(self, actions: EomActions) -> None:
        await asyncio.sleep(0.03)
        await super().on_eom(actions)
