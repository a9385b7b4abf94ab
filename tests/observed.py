"""A real server process whose output is kept, with settings of its own."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.servers import Server

PRODUCTION = {
    "BILLING_ENVIRONMENT": "production",
    "BILLING_JWT_SECRET": "a secret of the tests, long enough",
    "BILLING_JWT_AUDIENCE": "billing",
    "BILLING_JWT_ISSUER": "billing",
}


class ObservedServer(Server):
    """Writes all that it says into one file."""

    def __init__(
        self,
        database_url: str,
        output: Path,
        *arguments: str,
        before: str | None = None,
        settings: dict[str, str] | None = None,
    ) -> None:
        self._output = output
        self._arguments = arguments
        self._settings = settings or {}
        super().__init__(database_url, before)

    def _start(self) -> None:
        with self._output.open("ab") as output:
            self._process = subprocess.Popen(
                [*self._command, *self._arguments],
                env=self._environment | self._settings,
                stdout=output,
                stderr=subprocess.STDOUT,
            )


@contextmanager
def observed(
    database_url: str,
    output: Path,
    *arguments: str,
    before: str | None = None,
    settings: dict[str, str] | None = None,
) -> Iterator[ObservedServer]:
    server = ObservedServer(database_url, output, *arguments, before=before, settings=settings)
    try:
        server.wait_until_it_listens()
        yield server
    finally:
        server.stop()
