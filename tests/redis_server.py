"""A real Redis server of the tests' own, which can be killed, paused and started again."""

import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.ports import free_port


class RedisServer:
    """A process of `redis-server` that keeps nothing, on a port that it keeps."""

    def __init__(self) -> None:
        program = shutil.which("redis-server")
        assert program, "these tests need redis-server: apt-get install redis-server"
        self._port = free_port()
        self._command = [
            program,
            *("--bind", "127.0.0.1", "--port", str(self._port)),
            *("--save", "", "--appendonly", "no"),
        ]
        self.url = f"redis://127.0.0.1:{self._port}/0"
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 30
        while not self._answers():
            assert self._process.poll() is None, "redis-server did not start"
            assert time.monotonic() < deadline, "redis-server does not listen"
            time.sleep(0.02)

    def _answers(self) -> bool:
        try:
            return self.ask("PING") == "+PONG"
        except OSError:
            return False

    def ask(self, command: str) -> str:
        """What it says to an inline command, in one piece."""
        with socket.create_connection(("127.0.0.1", self._port), 5) as client:
            client.sendall(f"{command}\r\n".encode())
            return client.recv(1 << 16).decode().strip()

    def forget(self) -> None:
        """Drops every key."""
        assert self.ask("FLUSHALL") == "+OK"

    def kill(self) -> None:
        self._process.kill()
        self._process.wait(10)

    def pause(self) -> None:
        """It stays connected and says nothing."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._process.send_signal(signal.SIGCONT)


@contextmanager
def redis_running() -> Iterator[RedisServer]:
    server = RedisServer()
    try:
        yield server
    finally:
        server.kill()
