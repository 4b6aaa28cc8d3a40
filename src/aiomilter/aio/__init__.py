"""Everything that touches asyncio: connections, servers, addresses, threads, time."""
