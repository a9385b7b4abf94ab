"""Ports for the servers of the tests."""

import os
import socket
from itertools import count

# Below the ports that outgoing connections are given, of which there are many here: none of them
# takes a port before its server does. Other test processes begin elsewhere.
_ports = count(20_000 + os.getpid() % 100 * 100)


def free_port() -> int:
    for port in _ports:
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("unreachable")
