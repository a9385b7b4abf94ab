"""The benchmark's ledger can be proven like any other, its questions have answers, and the baseline's are ours."""

from collections import Counter
from contextlib import AsyncExitStack
from datetime import UTC, datetime

import pytest

from app.billing.models import transactions
from app.billing.verify import verify_ledger
from app.database import Database
from benchmarks.comparison import compare
from benchmarks.contenders import OURS, RAW, STOCK, running
from benchmarks.load import MANDATE, PROVIDERS, USERS, load
from benchmarks.questions import ask, questions
from benchmarks.work import all_work
from benchmarks.world import populate
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


async def test_hand_written_routes_answer_and_write_as_our_server_does(postgresql_url: str) -> None:
    now = datetime.now(UTC)
    works = all_work(now)
    [page] = [work for work in works if work.name == "page-50"]
    async with Database(postgresql_url) as database, AsyncExitStack() as stack:
        await load(database, ROWS, now)
        await populate(database)
        raw, ours, stock = [
            await stack.enter_async_context(running(name, postgresql_url, page))
            for name in (RAW, OURS, STOCK)
        ]
        await compare(page, [raw, stock])
        written = 0
        for work in works:
            await compare(work, [raw, ours])
            if work.expected is not None:
                outcome = await raw.answer(work, connections=8, most=8)
                assert outcome.answered == 8
                written += 10 * max(1, work.expected[1])
        async with database.snapshot() as connection:
            check = await verify_ledger(connection, MANDATE)
        assert (check.mismatches, check.transactions_checked) == ([], ROWS + written)
