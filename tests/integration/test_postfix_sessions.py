"""Many SMTP sessions at the same time, which a case cannot express."""

import asyncio

import pytest

from aiomilter import EomActions, Milter
from aiomilter.testing.servers.smtp import SmtpClient
from tests.integration.rig import Rig

pytestmark = pytest.mark.xdist_group("postfix")

CONTENT = b"Subject: x\r\n\r\nbody\r\n"


async def test_many_sessions_at_once_keep_apart(rig: Rig) -> None:
    class Echo(Milter):
        async def on_mail(self, sender: str, params: list[str]) -> None:
            self.name = sender

        async def on_eom(self, actions: EomActions) -> None:
            actions.add_header("X-Sender", self.name)

    async def one_session(number: int) -> None:
        async with SmtpClient.connect(rig.postfix.port("unix")) as smtp:
            await smtp.ehlo()
            for letter in "xyz":
                address = f"{letter}{number}@src.example"
                reply = await smtp.message(CONTENT, sender=address)
                delivery = await rig.delivery(reply)
                assert delivery.own_header_lines[-1] == f"X-Sender: <{address}>".encode()

    async with rig.milter(Echo), asyncio.TaskGroup() as group:
        for number in range(12):
            group.create_task(one_session(number))
