"""Lines of one's own in the log, with the ids of session and message.

python examples/howto/log_ids.py
"""

import logging

from aiomilter import EomActions, Milter, run
from aiomilter.logs import ContextFilter

FORMAT = "%(asctime)s [%(session_id)s %(queue_id)s] %(message)s"
log = logging.getLogger("mymilter")


class Telling(Milter):
    async def on_eom(self, actions: EomActions) -> None:
        log.info("all of it is here")


def set_up_log() -> None:
    handler = logging.StreamHandler()
    handler.addFilter(ContextFilter())
    handler.setFormatter(logging.Formatter(FORMAT))
    log.addHandler(handler)
    log.setLevel(logging.INFO)


if __name__ == "__main__":
    set_up_log()
    run(Telling, "inet:9900")
