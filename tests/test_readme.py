"""The README's operations, run as they stand on the demo data."""

import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

from app.config import Settings
from app.database import Database
from app.demo import seed_demo
from tests.api import serving

pytestmark = pytest.mark.anyio

README = (Path(__file__).parent.parent / "README.md").read_text()
OPERATIONS = re.findall(r"```graphql\n# as ([\w-]+)[^\n]*\n(.*?)```", README, re.DOTALL)


async def test_every_operation_of_the_readme_works(database: Database, database_url: str) -> None:
    settings = Settings(database_url=database_url)
    await seed_demo(database, datetime.now(UTC))
    assert len(OPERATIONS) == README.count("```graphql") > 10
    async with serving(settings) as api:
        accounts = '{ accounts(mandateId: "demo-university", first: 1) { nodes { id } } }'
        ids = {"ACCOUNT-ID": (await api.read("university-admin", accounts))["nodes"][0]["id"]}
        usage = "filter: { referenceType: USAGE }, first: 1"
        usage = f'{{ transactions(mandateId: "demo-university", {usage}) {{ nodes {{ id }} }} }}'
        ids["TRANSACTION-ID"] = (await api.read("gateway", usage))["nodes"][0]["id"]
        for user_id, operation in OPERATIONS:
            for word, found in ids.items():
                operation = operation.replace(word, found)
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
