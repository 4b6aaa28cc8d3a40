"""Move a header of a whole message to the top, and replace a word in its body.

python examples/howto/move_and_replace.py
"""

from aiomilter import Message, Milter, run


class MoveAndReplace(Milter):
    async def on_message(self, message: Message) -> None:
        # <move>
        trace = message.headers.get("X-Trace")
        if trace is not None:
            message.headers.remove(trace)
            message.headers.prepend(trace)
        # <body>
        message.body.replace(chunk.replace(b"foo", b"bar") for chunk in message.body.iter_chunks())
        # <end>


if __name__ == "__main__":
    run(MoveAndReplace, "inet:9900")
