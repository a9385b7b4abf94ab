"""Rows that are written by one statement: all of them, or the unit of work breaks off."""

from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from app.billing.bulk import insert_rows, update_rows
from app.billing.models import accounts
from app.database import Database
from tests.world import MANDATE, PREPAY_USER, add_mandate, credit, dump, read_rows

pytestmark = pytest.mark.anyio


async def test_a_row_of_no_mandate_is_not_lost_silently(database: Database) -> None:
    await add_mandate(database, model=PREPAY_USER)
    await credit(database, 5, "alice")
    [row] = await read_rows(database, accounts, user_id="alice")

    async def unit(connection: AsyncConnection) -> None:
        await insert_rows(
            connection, accounts, "nobody", [dict(row._mapping) | {"id": str(uuid4())}]
        )

    with pytest.raises((RuntimeError, DBAPIError)):
        await database.write(unit)


async def test_a_change_of_no_row_is_not_lost_silently(database: Database) -> None:
    await add_mandate(database, model=PREPAY_USER)
    await credit(database, 5, "alice")
    [row] = await read_rows(database, accounts, user_id="alice")
    changes: list[dict[str, Any]] = [
        {"id": row.id, "sequence": 7},
        {"id": str(uuid4()), "sequence": 7},
    ]

    async def unit(connection: AsyncConnection) -> None:
        await update_rows(connection, accounts, MANDATE, ("sequence",), changes)

    before = await dump(database)
    with pytest.raises(RuntimeError, match="1 rows were written of 2"):
        await database.write(unit)
    assert await dump(database) == before
