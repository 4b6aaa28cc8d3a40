"""The milter of the tutorial."""

from aiomilter import EomActions, Milter, Reply, run


class FirstMilter(Milter):
    async def on_mail(self, sender: str, params: list[str]) -> Reply | None:
        if sender.lower().endswith("@example.net>"):
            return Reply(550, "5.7.1", "no mail from example.net, please")
        return None

    async def on_eom(self, actions: EomActions) -> None:
        actions.add_header("X-First-Milter", f"seen, from {self.sender}")


if __name__ == "__main__":
    run(FirstMilter, "inet:9900")
