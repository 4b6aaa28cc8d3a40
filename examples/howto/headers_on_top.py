"""Put the result of a check on top of the headers, and take away forged ones.

python examples/howto/headers_on_top.py
"""

from aiomilter import EomActions, Message, Milter, SocketInfo, no_reply, run

HOST = "mx.example.org"


# <callbacks>
class OnTop(Milter):
    @no_reply
    async def on_connect(self, hostname: str, client: SocketInfo) -> None:
        pass  # with a handler, `self.client` is known

    async def on_eom(self, actions: EomActions) -> None:
        result = "pass" if self.client.is_in("192.0.2.0/24") else "none"
        actions.insert_header(1, "X-Check", f"{HOST}; network={result}")


# <message>
class CleanAndOnTop(Milter):
    async def on_message(self, message: Message) -> None:
        for header in message.headers.get_all("Authentication-Results"):
            if header.value.startswith(HOST):  # nobody else may speak in our name
                message.headers.remove(header)
        message.headers.prepend("Authentication-Results", f"{HOST}; none")


# <end>

if __name__ == "__main__":
    run(CleanAndOnTop, "inet:9900")
