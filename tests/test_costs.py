from decimal import Decimal

import pytest
from sqlalchemy import func, select

from app.billing.costs import COST, COUNTED, IS_COST
from app.billing.models import transactions
from app.billing.types import exact_sum
from app.database import Database
from tests.proof import keep_books
from tests.world import record, reverse, usage_event

pytestmark = pytest.mark.anyio

KIND = (transactions.c.reference_type, transactions.c.reversed_type)


async def test_usage_costs_and_its_reversal_takes_back(database: Database) -> None:
    await keep_books(database)
    [free] = await record(database, usage_event(0))
    await reverse(database, free.transaction.id)
    sums = (func.count(COST), exact_sum(COST), func.sum(COUNTED))
    async with database.read() as connection:
        found = await connection.execute(select(*KIND, *sums).group_by(*KIND))
        assert {(row[0], row[1]): tuple(row[2:]) for row in found} == {
            ("SYSTEM", None): (0, 0, 0),
            ("ADMIN", None): (0, 0, 0),
            ("TRANSFER", None): (0, 0, 0),
            ("USAGE", None): (3, Decimal("6.5"), 3),
            ("REVERSAL", "USAGE"): (2, -4, 0),
            ("REVERSAL", "ADMIN"): (0, 0, 0),
        }
        total = (await connection.execute(select(*sums).where(IS_COST))).one()
        assert tuple(total) == (5, Decimal("2.5"), 3)
