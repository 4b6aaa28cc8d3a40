"""A line in the log for slow messages, and none for the others.

python examples/howto/slow_messages.py
"""

import logging

from aiomilter import EomActions, MessageRecord, Milter, Observer, run

LIMIT_S = 5.0
log = logging.getLogger("mymilter")


class Tagger(Milter):
    async def on_eom(self, actions: EomActions) -> None:
        actions.add_header("X-Seen", "yes")


class Slow(Observer):
    def __init__(self) -> None:
        self.count = 0

    def message_finished(self, record: MessageRecord) -> None:
        if record.seconds > LIMIT_S:
            self.count += 1
            log.warning("message %s took %.1f s", record.queue_id, record.seconds)


def observers() -> list[Observer]:
    return [Slow()]


if __name__ == "__main__":
    logging.getLogger("aiomilter.message").setLevel(logging.WARNING)
    run(Tagger, "inet:9900", observers=observers())
