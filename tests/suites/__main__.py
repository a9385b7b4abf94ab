"""The public suites against a real server: the audits of GraphQL over HTTP, and a fuzzer.

`make suites` runs them; it prints their figures, and ends with 1 unless all of it went well.
"""

import json
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

HERE = Path(__file__).parent
EXAMPLES = 40
"""What the fuzzer sends to each root field as each viewer."""
VIEWERS = {"a sysadmin": "demo-sysadmin", "a member": "member-one", "nobody": None}
_SECONDS = 300
_Environment = Mapping[str, str]


class SuiteFailed(Exception):
    """What was found stands above."""


def main() -> None:
    inherited = {name: os.environ[name] for name in os.environ if not name.startswith("BILLING_")}
    with TemporaryDirectory() as scratch:
        development = inherited | {"BILLING_DATABASE_URL": f"sqlite:///{scratch}/billing.db"}
        production = development | {
            "BILLING_ENVIRONMENT": "production",
            "BILLING_JWT_SECRET": secrets.token_hex(),
            "BILLING_JWT_AUDIENCE": "billing",
            "BILLING_JWT_ISSUER": "billing",
        }
        billing(development, "migrate")
        billing(development, "seed-demo")
        figures = []
        try:
            with serving(production) as url:
                figures.append(f"production: {audit(url)}")
            with serving(development) as url:
                figures.append(f"development: {audit(url)}")
                for viewer, user_id in VIEWERS.items():
                    token = billing(development, "token", user_id) if user_id else None
                    figures.append(f"as {viewer}: {fuzz(url, token, Path(scratch))}")
        except (SuiteFailed, subprocess.TimeoutExpired) as failure:
            sys.exit(f"suites: {failure}")
    print("\n".join(figures))


def audit(url: str) -> str:
    """Every audit must be ok."""
    done = subprocess.run(
        ["node", HERE / "audit.mjs", url],
        check=False,
        stdout=subprocess.PIPE,
        text=True,
        timeout=_SECONDS,
    )
    said = done.stdout.strip()
    if done.returncode:
        raise SuiteFailed(said)
    return said


def fuzz(url: str, token: str | None, scratch: Path) -> str:
    """The same requests each time; none may find a fault of the server."""
    report = scratch / "report.json"
    done = subprocess.run(
        [
            *(HERE / ".venv" / "bin" / "schemathesis", "run", url),
            *("--checks", "no_fault_of_the_server"),
            *("--max-examples", str(EXAMPLES)),
            *("--seed", "1"),
            *("--generation-database", "none"),
            *("--request-timeout", "20"),
            *("--warnings", "off"),
            *("--report", "json", "--report-json-path", report),
            *(("--header", f"Authorization: Bearer {token}") if token else ()),
        ],
        check=False,
        cwd=scratch,
        env=os.environ | {"SCHEMATHESIS_HOOKS": "hooks", "PYTHONPATH": str(HERE)},
        stdout=subprocess.PIPE,
        text=True,
        timeout=_SECONDS,
    )
    found = json.loads(report.read_text()) if report.exists() else {}
    operations, cases = found.get("operations", {}), found.get("test_cases", {})
    if done.returncode or not 0 < operations["total"] == operations["tested"]:
        print(done.stdout, file=sys.stderr)
        raise SuiteFailed(f"schemathesis ended with exit code {done.returncode}")
    return f"{cases['generated']:,} requests fuzzed, {cases['with_failures']} failures"


def billing(environment: _Environment, *arguments: str) -> str:
    command = [sys.executable, "-m", "app", *arguments]
    return subprocess.run(
        command, check=True, env=environment, stdout=subprocess.PIPE, text=True
    ).stdout.strip()


@contextmanager
def serving(environment: _Environment) -> Iterator[str]:
    """The address of a server."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = free.getsockname()
    command = [sys.executable, "-m", "app", "serve", "--port", str(place[1])]
    server = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 60
        while not _listens(place):
            if server.poll() is not None or time.monotonic() > deadline:
                raise SuiteFailed("the server does not start")
            time.sleep(0.1)
        yield f"http://127.0.0.1:{place[1]}/graphql"
    finally:
        server.terminate()
        server.wait(60)


def _listens(place: tuple[str, int]) -> bool:
    with socket.socket() as client:
        return client.connect_ex(place) == 0


if __name__ == "__main__":
    main()
