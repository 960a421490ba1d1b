"""Install the clients of the benchmark, each in an environment of its own.

    python -m benchmarks.peers.clients.install            all of them
    python -m benchmarks.peers.clients.install llama      one; it compiles llama.cpp, which takes minutes

An environment of the same settings stays.
"""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.peers.workshop import CLIENTS
from tests.deploy.clients.install import main

if __name__ == "__main__":
    main(sys.argv[1:], here=Path(__file__).resolve().parent, clients=CLIENTS)
