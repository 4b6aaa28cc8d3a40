"""The benchmark's filter on aiomilter's `on_message`: the library collects, one header changes."""

import argparse
import logging
from typing import Any

from aiomilter import Milter, run


class ChangingMilter(Milter):
    """Gets whole messages."""

    async def on_message(self, message: Any) -> None:
        """Change the one header that the load generator expects to be changed."""
        message.headers.replace("X-Header-3", "changed")


def main() -> None:
    """Serve until SIGINT or SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("address", help="where to listen: inet:PORT@IPV4 or unix:PATH")
    parser.add_argument("--uvloop", action="store_true", help="uvloop in place of stock asyncio")
    options = parser.parse_args()
    run(ChangingMilter, options.address, uvloop=options.uvloop, log_level=logging.WARNING)


if __name__ == "__main__":
    main()
