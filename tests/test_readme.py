"""The README's operations and programs, run as they stand on the demo data."""

import asyncio
import os
import re
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from app.auth import issue_token
from app.billing.models import holds
from app.config import Settings
from app.database import Database
from app.demo import GATEWAY, seed_demo
from tests.api import serving
from tests.servers import running
from tests.world import read_rows

pytestmark = pytest.mark.anyio

README = (Path(__file__).parent.parent / "README.md").read_text()
OPERATIONS = re.findall(r"```graphql\n# as ([\w-]+)[^\n]*\n(.*?)```", README, re.DOTALL)
[IN_A_SHELL] = (
    block for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL) if "createHold" in block
)
[OF_EVENTS] = (
    block for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL) if "event-stream" in block
)
[IN_PYTHON] = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


async def test_every_operation_of_the_readme_works(database: Database, database_url: str) -> None:
    settings = Settings(database_url=database_url)
    await seed_demo(database, datetime.now(UTC))
    assert len(OPERATIONS) == README.count("```graphql") > 10
    async with serving(settings) as api:
        accounts = '{ accounts(mandateId: "demo-university", first: 1) { nodes { id } } }'
        usage = "filter: { referenceType: USAGE }, first: 1"
        usage = f'{{ transactions(mandateId: "demo-university", {usage}) {{ nodes {{ id }} }} }}'
        ids = {
            "ACCOUNT-ID": (await api.read("university-admin", accounts))["nodes"][0]["id"],
            "TRANSACTION-ID": (await api.read("gateway", usage))["nodes"][0]["id"],
        }
        for user_id, written in OPERATIONS:
            operation = re.sub("[A-Z-]+-ID", lambda word: ids[word[0]], written)
            answer = await api(user_id, operation)
            assert (answer.status, answer.errors) == (200, []), operation
            for name, field in answer.data.items():
                assert field not in (None, []), name
                if operation.startswith("mutation"):
                    assert field["userErrors"] == [], name
                elif isinstance(field, dict):
                    assert field.get("nodes") != [], name
            if "createHold" in answer.data:
                ids["HOLD-ID"] = answer.data["createHold"]["hold"]["id"]
                again = operation.replace("call-9c1e", "call-9c1f")
                other = await api.read(user_id, again)
                ids["OTHER-HOLD-ID"] = other["hold"]["id"]


async def test_the_programs_of_the_readme_hold_and_settle(
    database: Database, database_url: str
) -> None:
    await seed_demo(database, datetime.now(UTC))
    token = issue_token(Settings(database_url=database_url), GATEWAY, 600)
    with running(database_url) as [server]:
        shell = IN_A_SHELL.replace("http://127.0.0.1:8000", server.address)
        shell = shell.replace("$(.venv/bin/billing token gateway)", token)
        said = await run("bash", "-euc", shell)
        assert '"allowed":true' in said
        assert '"balanceAfter"' in said
        said = await run(sys.executable, "-c", IN_PYTHON, TOKEN=token, API=server.address)
        assert "'amount': '0.0831'" in said
    found = await read_rows(database, holds)
    assert [row.status for row in found] == ["SETTLED", "SETTLED"]


async def test_the_events_of_the_readme_come(database: Database, database_url: str) -> None:
    await seed_demo(database, datetime.now(UTC))
    token = issue_token(Settings(database_url=database_url), "member-one", 600)
    with running(database_url) as [server]:
        shell = OF_EVENTS.replace("http://127.0.0.1:8000", server.address)
        shell = shell.replace("$(.venv/bin/billing token member-one)", token)
        said = await run(
            "bash", "-uc", shell.replace("curl -N", "curl -sN -m 30").rstrip() + " | head -n 2"
        )
    assert re.match(r'event: next\r?\ndata: {"data":{"balanceChanged":{"available":"', said)


async def run(*command: str, **environment: str) -> str:
    """What a program prints; it must end well."""
    process = await asyncio.create_subprocess_exec(
        *command,
        env=os.environ | environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    said, wrong = await process.communicate()
    assert (process.returncode, wrong.decode()) == (0, ""), said
    return said.decode()
