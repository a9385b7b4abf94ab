"""The benchmark's ledger can be proven like any other, and its questions have answers."""

from collections import Counter
from datetime import UTC, datetime

import pytest

from app.billing.models import transactions
from app.billing.verify import verify_ledger
from app.database import Database
from benchmarks.load import MANDATE, PROVIDERS, USERS, load
from benchmarks.questions import ask, questions
from tests.world import read_rows

pytestmark = pytest.mark.anyio

ROWS = 2_000


async def test_a_loaded_ledger_is_sound_and_answers(postgresql_url: str) -> None:
    now = datetime.now(UTC)
    async with Database(postgresql_url) as database:
        await load(database, ROWS, now)
        async with database.snapshot() as connection:
            check = await verify_ledger(connection, MANDATE)
        assert (check.mismatches, check.transactions_checked) == ([], ROWS)
        rows = await read_rows(database, transactions)
        kinds = Counter(row.reference_type for row in rows)
        assert kinds["SYSTEM"] == len(USERS)
        assert kinds["USAGE"] > ROWS * 0.9
        assert min(kinds["PAYMENT"], kinds["REVERSAL"]) > 0
        assert {row.aicore_provider for row in rows} == {None, *PROVIDERS}
        written = [row.created_at for row in rows]  # by id
        assert written == sorted(set(written))
        assert all(row.occurred_at <= row.created_at < now for row in rows)

        answers = {
            question.name: await ask(database, question)
            for question in await questions(database, now)
        }
        assert all(found for data in answers.values() for found in data.values())
        everything = answers["totals and count of all"]["transactions"]
        assert everything["totalCount"] == ROWS
        middle = answers["a page in the middle"]["transactions"]["nodes"]
        place = [row.id for row in rows].index(middle[0]["id"])
        assert ROWS * 0.4 < place < ROWS * 0.6
