"""Metrics for Prometheus, in a program of one's own.

pip install 'aiomilter[prometheus]'
python examples/howto/metrics.py
"""

# <serve>
import asyncio

from aiomilter import Milter, Server, run
from aiomilter.aio.metrics_http import MetricsServer
from aiomilter.contrib.prometheus import PrometheusObserver


async def serve(stop: asyncio.Event, address: str = "inet:8890", port: int = 9464) -> None:
    metrics = PrometheusObserver()
    async with (
        MetricsServer(metrics.render, "127.0.0.1", port),
        Server(Milter, address, observers=[metrics]),
    ):
        await stop.wait()


# <run>
def main(address: str = "inet:8890", port: int = 9464) -> None:
    metrics = PrometheusObserver()
    server = MetricsServer(metrics.render, "127.0.0.1", port)
    run(Milter, address, observers=[metrics], metrics=server)


# <end>
if __name__ == "__main__":
    main()
