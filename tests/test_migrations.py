import asyncio
import sys
from asyncio.subprocess import PIPE
from decimal import Decimal
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import SQLModel

from app.billing.enums import BillingModel
from app.database import Database
from app.migrate import _config, migrate
from app.revision import MIGRATIONS, WrongRevision, check_revision, revision_needed
from tests.servers import environment
from tests.world import add_mandate, credit, dump, outcomes, record, run_sql, usage_event

pytestmark = pytest.mark.anyio

SCRIPTS = ScriptDirectory(str(MIGRATIONS))
REVISIONS = [script.revision for script in SCRIPTS.walk_revisions()]
"""From the newest to the first."""

# Rows as revision 0001 kept them: what later migrations must carry over.
INSTANT = "'2026-01-01 12:00:00'"
KEY = "'01940000-0000-7000-8000-00000000000{}'"
FIRST_ROWS = [
    "INSERT INTO mandate (id, name, currency, time_zone, created_at)"
    f" VALUES ('acme', 'Acme', 'CHF', 'UTC', {INSTANT})",
    "INSERT INTO billing_settings (mandate_id, version, billing_model, default_user_credit,"
    " warning_threshold_percent, block_on_zero_balance, notify_on_warning, notify_emails,"
    " updated_at) VALUES ('acme', 1, 'PREPAY_USER', 10000000000, 10000000000, true, true, '[]',"
    f" {INSTANT})",
    """INSERT INTO "user" (id, email, kind, is_sys_admin, enabled, created_at)"""
    f" VALUES ('alice', 'alice@acme.example', 'HUMAN', false, true, {INSTANT})",
    f"INSERT INTO membership (mandate_id, user_id, role, created_at)"
    f" VALUES ('acme', 'alice', 'MEMBER', {INSTANT})",
    "INSERT INTO account (mandate_id, id, account_type, user_id, balance, credited, debited,"
    " sequence, funding_base, enabled, created_at, last_transaction_at) VALUES"
    f" ('acme', {KEY.format(1)}, 'USER', 'alice', 7500000000, 10000000000, 2500000000, 2,"
    f" 10000000000, true, {INSTANT}, {INSTANT})",
    """INSERT INTO "transaction" (mandate_id, id, account_id, sequence, user_id, transaction_type,"""
    " reference_type, amount, balance_after, description, aicore_provider, idempotency_key,"
    " content_hash, occurred_at, created_at) VALUES"
    f" ('acme', {KEY.format(2)}, {KEY.format(1)}, 1, 'alice', 'CREDIT', 'SYSTEM', 10000000000,"
    f" 10000000000, 'Default credit', NULL, NULL, NULL, {INSTANT}, {INSTANT}),"
    f" ('acme', {KEY.format(3)}, {KEY.format(1)}, 2, 'alice', 'DEBIT', 'USAGE', 2500000000,"
    f" 7500000000, 'AI usage', 'azure', 'call-1', 'hash', {INSTANT}, {INSTANT})",
    "INSERT INTO daily_usage (mandate_id, local_date, user_id, account_id, aicore_provider,"
    " aicore_model, feature_code, cost, transaction_count) VALUES"
    f" ('acme', '2026-01-01', 'alice', {KEY.format(1)}, 'azure', '', '', 2500000000, 1)",
    "INSERT INTO audit_event (mandate_id, id, action, subject, after, created_at) VALUES"
    f""" ('acme', {KEY.format(4)}, 'mandate.created', 'mandate:acme', '{{}}', {INSTANT})""",
]


async def differences(database: Database) -> list[Any]:
    def compare(connection: Connection) -> list[Any]:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        return list(compare_metadata(context, SQLModel.metadata))

    async with database.engine.connect() as connection:
        return await connection.run_sync(compare)


async def table_names(database: Database) -> set[str]:
    async with database.engine.connect() as connection:
        return set(await connection.run_sync(lambda sync: inspect(sync).get_table_names()))


async def put_first_rows(database: Database) -> None:
    async def unit(connection: AsyncConnection) -> None:
        for statement in FIRST_ROWS:
            # SQLite keeps a UUID as 32 hexadecimal digits.
            plain = statement.replace("01940000-0000-7000-8000-", "01940000000070008000")
            await connection.exec_driver_sql(plain if database.is_sqlite else statement)

    await database.write(unit)


async def test_migrations_make_exactly_the_models(blank_database_url: str) -> None:
    async with Database(blank_database_url) as database:
        await migrate(database)
        assert await differences(database) == []
        assert await table_names(database) == {*SQLModel.metadata.tables, "alembic_version"}
        await check_revision(database)


async def test_a_difference_would_be_seen(blank_database_url: str) -> None:
    async with Database(blank_database_url) as database:
        await migrate(database)
        await run_sql(database, "ALTER TABLE mandate ADD COLUMN extra VARCHAR")
        await run_sql(database, "DROP INDEX transaction_reversal")
        assert {change[0] for change in await differences(database)} == {
            "remove_column",
            "add_index",
        }


@pytest.mark.parametrize("revision", REVISIONS)
async def test_rows_of_an_earlier_revision_are_carried_over(
    blank_database_url: str, revision: str
) -> None:
    """Rows made at the first revision go through `revision` to the newest and work there."""
    async with Database(blank_database_url) as database:
        await migrate(database, REVISIONS[-1])
        await put_first_rows(database)
        await migrate(database, revision)
        await migrate(database)
        await check_revision(database)
        assert await differences(database) == []
        again = usage_event("2.5", key="call-1", aicore_provider="azure")
        results = await record(database, again, usage_event(5), usage_event(0))
        assert outcomes(results) == ["IDEMPOTENCY_CONFLICT", "RECORDED", "RECORDED"]
        assert [
            (result.transaction.sequence, result.transaction.balance_after)
            for result in results[1:]
        ] == [(3, Decimal("2.5")), (4, Decimal("2.5"))]


async def test_migrating_again_changes_nothing(database: Database) -> None:
    await add_mandate(database)
    before = await dump(database)
    await migrate(database)
    assert await dump(database) == before


async def test_two_that_migrate_at_once(blank_database_url: str) -> None:
    async with Database(blank_database_url) as one, Database(blank_database_url) as other:
        await asyncio.gather(migrate(one), migrate(other))
        await check_revision(one)
        assert await differences(one) == []


SLOW = """
from alembic import command
upgrade = command.upgrade
def upgrade_and_wait(*arguments):
    upgrade(*arguments)
    print("done, and not committed", flush=True)
    input()
command.upgrade = upgrade_and_wait
from app.__main__ import main
main()
"""


async def test_who_migrates_second_waits(blank_database_url: str) -> None:
    """However far the first is: it finds all done. From a revision that has tables on."""
    async with Database(blank_database_url) as database:
        await migrate(database, "0002")
        first = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", SLOW, "migrate"),
            env=environment(blank_database_url),
            stdin=PIPE,
            stdout=PIPE,
        )
        assert first.stdout
        assert await first.stdout.readline() == b"done, and not committed\n"
        second = asyncio.create_task(migrate(database))
        await asyncio.wait([second], timeout=0.5)
        assert not second.done()
        with pytest.raises(WrongRevision, match=r"at revision 0002 .* run `billing migrate`"):
            await check_revision(database)
        await first.communicate(b"\n")
        assert first.returncode == 0
        await second
        await check_revision(database)
        assert await differences(database) == []


async def test_the_way_back_leaves_nothing(blank_database_url: str) -> None:
    def downgrade(connection: Connection) -> None:
        command.downgrade(_config(connection), "base")

    async with Database(blank_database_url) as database:
        await migrate(database)
        async with database.engine.begin() as connection:
            await connection.run_sync(downgrade)
        assert await table_names(database) == {"alembic_version"}
        await migrate(database)
        assert await differences(database) == []


async def test_a_database_without_tables_asks_for_migrate(blank_database_url: str) -> None:
    async with Database(blank_database_url) as database:
        with pytest.raises(WrongRevision, match=r"at revision none .* run `billing migrate`"):
            await check_revision(database)


async def test_each_earlier_revision_asks_for_migrate(blank_database_url: str) -> None:
    async with Database(blank_database_url) as database:
        for revision in reversed(REVISIONS[1:]):
            await migrate(database, revision)
            with pytest.raises(WrongRevision, match=f"at revision {revision} .* `billing migrate`"):
                await check_revision(database)


async def test_an_unknown_revision_asks_for_the_newer_program(blank_database_url: str) -> None:
    async with Database(blank_database_url) as database:
        await migrate(database)
        await run_sql(database, "UPDATE alembic_version SET version_num = '9999'")
        with pytest.raises(
            WrongRevision,
            match=rf"at revision 9999, .* \(at {revision_needed()}\) .* install the newer version",
        ):
            await check_revision(database)


@pytest.mark.parametrize(
    "statement",
    [
        """UPDATE "transaction" SET amount = 0""",
        """UPDATE "transaction" SET description = description WHERE sequence = 1""",
        """DELETE FROM "transaction" """,
        """TRUNCATE "transaction" """,
        """TRUNCATE account CASCADE""",
        """INSERT INTO "transaction" SELECT * FROM "transaction" WHERE true
            ON CONFLICT (mandate_id, id) DO UPDATE SET amount = 0""",
        """REPLACE INTO "transaction" SELECT * FROM "transaction" """,
    ],
)
async def test_the_ledger_is_append_only(database: Database, statement: str) -> None:
    await add_mandate(database, model=BillingModel.PREPAY_USER)
    await credit(database, 5, "alice")
    before = await dump(database)
    word = statement.split(maxsplit=1)[0]
    if (word, database.is_sqlite) in {("TRUNCATE", True), ("REPLACE", False)}:
        expected = "syntax error"  # the other database's own words
    else:
        expected = "append-only"

    async def unit(connection: AsyncConnection) -> None:
        await connection.execute(text(statement))

    with pytest.raises(DBAPIError, match=expected):
        await database.write(unit)
    assert await dump(database) == before


async def test_an_account_with_history_cannot_be_deleted(database: Database) -> None:
    await add_mandate(database, model=BillingModel.PREPAY_USER)
    await credit(database, 5, "alice")
    before = await dump(database)
    for table in ("account", '"user"', "mandate"):
        with pytest.raises(DBAPIError):
            await run_sql(database, f"DELETE FROM {table}")
    assert await dump(database) == before
