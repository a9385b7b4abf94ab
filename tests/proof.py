"""What the tests of the proof share: books with every kind of link, forgeries, and what is said of them."""

import re
from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.billing.verify import LedgerCheck, verify_ledger
from app.database import Database
from tests.world import (
    MANDATE,
    PREPAY_USER,
    add_mandate,
    credit,
    hold,
    record,
    release,
    reverse,
    run_sql,
    settle,
    transfer,
    usage_event,
)

_KEY = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass(frozen=True, slots=True)
class Books:
    """Ids of what stands in MANDATE after `keep_books`."""

    alice: str
    """Her account."""
    bob: str
    """His account."""
    paid_in: str
    """50 of alice's, her second transaction."""
    call: str
    """Hers for 4, the third; and its reversal."""
    call_undone: str
    credit_undone: str
    """The reversal of 7 that were her fifth."""
    settlement: str
    """2.5 that a hold of 5 did cost, her seventh."""
    given: str
    """3 from her, the eighth, to bob: his second, after the default credit."""
    received: str
    settled: str
    """Holds of alice's."""
    open: str
    released: str


async def keep_books(database: Database) -> Books:
    """MANDATE, in Zurich, with a transaction of every kind and holds of every status."""
    await add_mandate(
        database,
        MANDATE,
        PREPAY_USER,
        users=("alice", "bob"),
        time_zone="Europe/Zurich",
        default_user_credit=1,
    )
    paid_in = await credit(database, 50, "alice")
    [called] = await record(database, usage_event(4, aicore_provider="openai", workflow_id="flow"))
    call_undone = await reverse(database, called.transaction.id)
    mistaken = await credit(database, 7, "alice")
    credit_undone = await reverse(database, mistaken.id)
    settled, open_, released = [await hold(database, amount) for amount in (5, 2, 1)]
    settlement = await settle(database, settled, "2.5")
    await release(database, released)
    given, received = await transfer(database, 3, "alice", "bob")
    return Books(
        alice=given.account_id,
        bob=received.account_id,
        paid_in=paid_in.id,
        call=called.transaction.id,
        call_undone=call_undone.id,
        credit_undone=credit_undone.id,
        settlement=settlement.id,
        given=given.id,
        received=received.id,
        settled=settled,
        open=open_,
        released=released,
    )


async def prove(database: Database, mandate_id: str = MANDATE) -> LedgerCheck:
    async with database.snapshot() as connection:
        check = await verify_ledger(connection, mandate_id)
    assert check.ok == (not check.mismatches)
    assert {mismatch.mandate_id for mismatch in check.mismatches} <= {mandate_id}
    return check


async def mismatches(database: Database, mandate_id: str = MANDATE) -> list[str]:
    """What is said about a mandate, without the names of mandate and account."""
    check = await prove(database, mandate_id)
    return [str(mismatch).split(": ", 1)[1] for mismatch in check.mismatches]


async def forge(database: Database, *statements: str) -> None:
    """Changes transactions, which the triggers refuse to others."""
    if database.is_sqlite:
        for event in ("update", "delete"):
            await run_sql(database, f"DROP TRIGGER IF EXISTS transaction_no_{event}")

    async def unit(connection: AsyncConnection) -> None:
        for statement in statements:
            await connection.execute(text(_as_stored(database, statement)))

    if not database.is_sqlite:
        await run_sql(database, 'ALTER TABLE "transaction" DISABLE TRIGGER USER')
    await database.write(unit)
    if not database.is_sqlite:
        await run_sql(database, 'ALTER TABLE "transaction" ENABLE TRIGGER USER')


def _as_stored(database: Database, statement: str) -> str:
    """SQLite keeps a UUID as 32 hexadecimal digits."""
    if not database.is_sqlite:
        return statement
    return _KEY.sub(lambda key: key[0].replace("-", ""), statement)
