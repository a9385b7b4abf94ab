"""The public suites against a real server: the audits of GraphQL over HTTP, and a fuzzer.

`make suites` runs them; it prints their figures, and ends with 1 unless all of it went well.
"""

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.servers import Server, environment, running

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
PRODUCTION: dict[str, Any] = {
    "BILLING_ENVIRONMENT": "production",
    "BILLING_JWT_SECRET": secrets.token_hex(),
    "BILLING_JWT_AUDIENCE": "billing",
    "BILLING_JWT_ISSUER": "billing",
}
Figure = tuple[str, bool]
"""What a suite has found, and whether it may stand."""


def main() -> None:
    figures = {}
    with TemporaryDirectory() as scratch:
        database_url = f"sqlite:///{scratch}/billing.db"
        billing(database_url, "migrate")
        billing(database_url, "seed-demo")
        token = billing(database_url, "token", "demo-sysadmin", **PRODUCTION)
        with running(database_url, **PRODUCTION) as [server]:
            figures["in production"] = audit(server, token, BY_INTROSPECTION)
        with running(database_url) as [server]:
            figures["in development"] = audit(server)
            for viewer, (user_id, mode) in VIEWERS.items():
                token = billing(database_url, "token", user_id) if user_id else ""
                figures[f"as {viewer}"] = fuzz(server, token, mode, Path(scratch))
    for where, (said, _) in figures.items():
        print(f"{where}: {said}")
    sys.exit(not all(is_well for _, is_well in figures.values()))


def audit(server: Server, token: str = "", without: Sequence[str] = ()) -> Figure:
    """Every audit must be ok."""
    done = subprocess.run(
        ["node", HERE / "audit.mjs", f"{server.address}/graphql", token, *without],
        check=False,
        stdout=subprocess.PIPE,
        text=True,
        timeout=SECONDS,
    )
    return done.stdout.strip(), done.returncode == 0


def fuzz(server: Server, token: str, mode: str, scratch: Path) -> Figure:
    """The same requests each time; none may find a fault of the server."""
    report = scratch / "report.json"
    report.unlink(missing_ok=True)
    done = subprocess.run(
        [
            *(HERE / ".venv" / "bin" / "schemathesis", "run"),
            f"{server.address}/graphql",
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


def billing(database_url: str, *arguments: str, **settings: str) -> str:
    command = [sys.executable, "-m", "app", *arguments]
    return subprocess.run(
        command,
        check=True,
        env=environment(database_url, **settings),
        stdout=subprocess.PIPE,
        text=True,
    ).stdout.strip()


if __name__ == "__main__":
    main()
