"""The clients that teams build from `schema.graphql`: generated, compiled, and run against real servers.

`make clients` runs it; it prints what holds, and ends with 1 at the first thing that does not.
"""

import asyncio
import json
import os
import re
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from app.demo import GATEWAY, MEMBER, SYSADMIN
from benchmarks.server import running_server
from tests.servers import environment, running

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
SCHEMA = ROOT / "schema.graphql"
RELEASED = HERE.parent / "schema.released.graphql"
MANIFEST = HERE / "src" / "generated" / "persisted-documents.json"
NODE = HERE / "node_modules" / ".bin"
PYTHON = HERE / ".venv" / "bin"
SECONDS = 300
"""After which a program hangs."""
PEOPLE = {"GATEWAY": GATEWAY, "MEMBER": MEMBER, "SYSADMIN": SYSADMIN}
PRODUCTION: dict[str, Any] = {
    "BILLING_ENVIRONMENT": "production",
    "BILLING_JWT_SECRET": secrets.token_hex(),
    "BILLING_JWT_AUDIENCE": "billing",
    "BILLING_JWT_ISSUER": "billing",
}


async def main() -> None:
    generate()
    with TemporaryDirectory() as scratch:
        compare_schemas(Path(scratch))
        on_one_server(f"sqlite:///{scratch}/billing.db")
    async with running_server() as postgresql:
        on_two_servers(await postgresql.create("clients"))


def generate() -> None:
    run(NODE / "graphql-codegen", "--config", "codegen.ts")
    run(NODE / "tsc")
    run(
        *(NODE / "eslint", "--config", HERE / "eslint.config.js", "--max-warnings", "0"),
        *(HERE / "src", HERE / "operations.graphql", SCHEMA),
        cwd=ROOT,
    )
    count = len(json.loads(MANIFEST.read_text()))
    print(f"TypeScript: {count} operations generated, compiled and linted")
    run(PYTHON / "ariadne-codegen", "--config", "ariadne.toml")
    run(PYTHON / "mypy", "typed.py")
    print("Python: the same operations generated and type-checked")


def compare_schemas(scratch: Path) -> None:
    """Nothing that was released may go; and it would be noticed."""
    run(NODE / "graphql-inspector", "diff", RELEASED, SCHEMA)
    without = scratch / "schema.graphql"
    text, found = re.subn(r"\n  isWarning: Boolean!\n", "\n", RELEASED.read_text(), count=1)
    assert found, "there is no such field to leave out"
    without.write_text(text)
    run(NODE / "graphql-inspector", "diff", RELEASED, without, fails=True)
    print("Schema: nothing of the released one is broken, and a field that is left out would be")


def on_one_server(database_url: str) -> None:
    billing(database_url, "migrate")
    billing(database_url, "seed-demo")
    with served(database_url) as settings:
        run("node", "dist/typed.js", **settings)
        run(PYTHON / "python", "typed.py", **settings)
        print("A query and a mutation: in TypeScript, in Python")
        run("node", "dist/persisted.js", "automatic", **settings)
        print("Automatic persisted queries: Apollo Client, urql")
        run("node", "dist/live.js", **settings)
        print("Subscriptions on SQLite: graphql-ws, graphql-sse, Apollo Client, urql")
    trusted = {**PRODUCTION, "BILLING_TRUSTED_DOCUMENTS": str(MANIFEST)}
    with served(database_url, **trusted) as settings:
        run("node", "dist/persisted.js", "trusted", **settings)
        run("node", "dist/live.js", "trusted", **settings)
        print("Trusted documents in production, subscriptions too: the same clients")


def on_two_servers(database_url: str) -> None:
    billing(database_url, "migrate")
    billing(database_url, "seed-demo")
    with served(database_url, 2) as settings:
        run("node", "dist/live.js", **settings)
        print("Subscriptions on PostgreSQL, from one server process to the other: the same clients")


@contextmanager
def served(database_url: str, processes: int = 1, **others: Any) -> Iterator[dict[str, Any]]:
    """Server processes, and what the programs need to know of them."""
    with running(database_url, processes, **others) as servers:
        tokens = {
            role: billing(database_url, "token", user_id, **others)
            for role, user_id in PEOPLE.items()
        }
        yield {"SERVER": servers[0].address, "OTHER_SERVER": servers[-1].address, **tokens}


def billing(database_url: str, *arguments: str, **others: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "app", *arguments],
        check=True,
        env=environment(database_url, **others),
        stdout=subprocess.PIPE,
        text=True,
    )
    return done.stdout.strip()


def run(*command: str | Path, cwd: Path = HERE, fails: bool = False, **settings: Any) -> None:
    """Runs a program; what it says is shown where it goes wrong."""
    done = subprocess.run(
        command,
        check=False,
        cwd=cwd,
        env=os.environ | settings,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS,
    )
    if (done.returncode != 0) != fails:
        print(done.stdout, file=sys.stderr)
        sys.exit(f"{' '.join(map(str, command))} ended with {done.returncode}")


if __name__ == "__main__":
    asyncio.run(main())
