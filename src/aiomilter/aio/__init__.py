"""Everything that touches asyncio: connections, servers, addresses, threads, time."""

__all__: list[str] = []
