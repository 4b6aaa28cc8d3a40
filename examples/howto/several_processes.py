"""Serve the milter of refuse.py with four processes, each of which logs slow messages.

pip install 'aiomilter[workers]'
python examples/howto/several_processes.py [ADDRESS ...]
"""

# <program>
import logging
import sys

from aiomilter.contrib.gunicorn import run_workers

if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    run_workers(
        "refuse:Refuse",
        *(sys.argv[1:] or ["unix:/run/my/milter.sock"]),
        workers=4,
        observers="slow_messages:observers",
    )
