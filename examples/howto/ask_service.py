"""Ask a service over HTTP about each message, with a deadline: a classifier, say, or a model.

    SERVICE_URL=http://127.0.0.1:8000/classify python examples/howto/ask_service.py

The service gets JSON, and answers {"score": 0.0 to 1.0}. An opinion that does not come in time is
none: the mail passes, with a header that says so.
"""

import asyncio
import json
import os
import urllib.request
from collections.abc import Callable

from aiomilter import Message, Milter, Reply, run, time_limit

DEADLINE_S = 5.0
AT_ONCE = 20
"""Calls at a time. What a model cannot bear must wait here, not there."""


def ask(subject: str, sender: str, text: bytes) -> float:
    """Ask the service; blocks, for as long as the deadline at most."""
    question = json.dumps(
        {"subject": subject, "sender": sender, "text": text.decode("utf-8", "replace")}
    )
    request = urllib.request.Request(
        os.environ["SERVICE_URL"],
        question.encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=DEADLINE_S) as answer:
        return float(json.load(answer)["score"])


class AskService(Milter):
    limit = asyncio.Semaphore(AT_ONCE)
    ask: Callable[[str, str, bytes], float] = staticmethod(ask)

    # The MTA is told every five seconds that the answer is still to come, so that this may take
    # longer than the command's own 30 s (Sendmail: 10 s). The budget is for all of it.
    @time_limit(60)
    async def on_message(self, message: Message) -> Reply | None:
        subject = message.headers.get_text("Subject")
        beginning = message.body.slice(0, 20_000)
        try:
            async with asyncio.timeout(DEADLINE_S), self.limit:
                score = await asyncio.to_thread(self.ask, subject, str(message.sender), beginning)
        except (OSError, TimeoutError, ValueError, KeyError) as error:
            self.log.warning("no opinion from the service: %a", error)
            message.headers.replace("X-Opinion", "none")
            return None
        message.headers.replace("X-Opinion", f"{score:.2f}")
        if score > 0.95:
            return Reply(550, "5.7.1", "this looks like spam to us")
        return None


if __name__ == "__main__":
    run(AskService, "inet:9900")
