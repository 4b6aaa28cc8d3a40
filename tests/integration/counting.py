"""A milter that knows which message of its session it is at."""

from aiomilter import Milter

__all__ = ["Counting"]


class Counting(Milter):
    """Counts the messages of the session from 1 on."""

    messages = 0

    def begin_message(self) -> None:
        self.messages += 1
