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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

HERE = Path(__file__).parent
EXAMPLES = 30
"""What the fuzzer sends to each root field as each viewer."""
VIEWERS = {  # and whether what they send is of the right types
    "a sysadmin": ("demo-sysadmin", "positive"),
    "a member": ("member-one", "positive"),
    "nobody": (None, "all"),
}
BY_INTROSPECTION = ("2EA1", "28B9", "D6D5", "6A70")
"""Audits that ask for a type by a variable, which production refuses."""
SECONDS = 300
"""After which a suite hangs."""
_Environment = Mapping[str, str]

Figure = tuple[str, bool]
"""What a suite has found, and whether it may stand."""


def main() -> None:
    inherited = {name: os.environ[name] for name in os.environ if not name.startswith("BILLING_")}
    with TemporaryDirectory() as scratch:
        development = inherited | {
            "BILLING_DATABASE_URL": f"sqlite:///{scratch}/billing.db",
            "BILLING_RATE_LIMITS": "off",
        }
        production = development | {
            "BILLING_ENVIRONMENT": "production",
            "BILLING_JWT_SECRET": secrets.token_hex(),
            "BILLING_JWT_AUDIENCE": "billing",
            "BILLING_JWT_ISSUER": "billing",
        }
        billing(development, "migrate")
        billing(development, "seed-demo")
        figures = {}
        with serving(production) as url:
            figures["in production"] = audit(url, without=BY_INTROSPECTION)
        with serving(development) as url:
            figures["in development"] = audit(url)
            for viewer, (user_id, mode) in VIEWERS.items():
                token = billing(development, "token", user_id) if user_id else None
                figures[f"as {viewer}"] = fuzz(url, token, mode, Path(scratch))
    for where, (said, _) in figures.items():
        print(f"{where}: {said}")
    sys.exit(not all(is_well for _, is_well in figures.values()))


def audit(url: str, without: Sequence[str] = ()) -> Figure:
    """Every audit must be ok."""
    done = subprocess.run(
        ["node", HERE / "audit.mjs", url, *without],
        check=False,
        stdout=subprocess.PIPE,
        text=True,
        timeout=SECONDS,
    )
    return done.stdout.strip(), done.returncode == 0


def fuzz(url: str, token: str | None, mode: str, scratch: Path) -> Figure:
    """The same requests each time; none may find a fault of the server."""
    report = scratch / "report.json"
    report.unlink(missing_ok=True)
    done = subprocess.run(
        [
            *(HERE / ".venv" / "bin" / "schemathesis", "run", url),
            *("--checks", "no_fault_of_the_server"),
            *("--mode", mode),
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
        timeout=SECONDS,
    )
    if done.returncode:
        print(done.stdout, file=sys.stderr)
    if not report.exists():
        return f"schemathesis ended with exit code {done.returncode}", False
    found = json.loads(report.read_text())
    operations, cases = found["operations"], found["test_cases"]
    return (
        f"{cases['generated']:,} requests fuzzed to {operations['tested']} of"
        f" {operations['total']} root fields, {cases['with_failures']} failures",
        done.returncode == 0 and operations["tested"] == operations["total"] > 0,
    )


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
                sys.exit("suites: the server does not start")
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
