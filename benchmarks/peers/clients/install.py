"""Install the clients of the benchmark, each in an environment of its own.

    python -m benchmarks.peers.clients.install            all of them
    python -m benchmarks.peers.clients.install llama      one; it compiles llama.cpp, which takes minutes

An environment of the same settings stays.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from benchmarks.peers.workshop import CLIENTS
from tests.deploy.clients.install import main

HERE = Path(__file__).resolve().parent

if __name__ == "__main__":
    os.environ["PEERS_CLIENTS"] = str(HERE)  # llama.txt names a file beside it
    main(sys.argv[1:], here=HERE, clients=CLIENTS)
