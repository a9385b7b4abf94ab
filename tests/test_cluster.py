"""`distribute` and migrations on a Citus cluster; collected where BILLING_TEST_CITUS_URL names one."""

import asyncio
import time

import pytest
import sqlalchemy as sa
from alembic import command as alembic
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import make_url, text
from sqlalchemy.exc import DBAPIError

from app.billing.enums import BillingModel
from app.database import PROMPT, Database, DatabaseUnavailable
from app.distribution import DIRECTORY, distribute, distributed_tables
from app.migrate import migrate
from tests.conftest import Billing
from tests.servers import verify_by_command
from tests.test_migrations import differences
from tests.topology import past_pgbouncer
from tests.world import add_mandate, credit, dump, outcomes, record, run_sql, usage_event

pytestmark = pytest.mark.anyio

LAYOUT = {table.name: "reference" for table in DIRECTORY} | {
    table.name: "distributed" for table in distributed_tables()
}


async def fill(database: Database) -> None:
    await migrate(database)
    for mandate_id in ("acme", "globex", "initech"):
        await add_mandate(database, mandate_id, BillingModel.PREPAY_USER)
        await credit(database, 5, "alice", mandate_id=mandate_id)
        await record(database, usage_event(1, mandate_id=mandate_id))


async def layout(database: Database) -> dict[str, str]:
    async with database.read() as connection:
        found = await connection.execute(
            text("SELECT trim(table_name::text, '\"'), citus_table_type FROM citus_tables")
        )
        return {name: kind for name, kind in found if kind != "local"}


async def colocation_groups(database: Database) -> int:
    async with database.read() as connection:
        return int(
            await connection.scalar(
                text(
                    "SELECT count(DISTINCT colocation_id) FROM citus_tables"
                    " WHERE citus_table_type = 'distributed'"
                )
            )
        )


async def all_of(database: Database) -> list[tuple[str, bool]]:
    return [step async for step in distribute(database)]


async def test_a_filled_database_is_distributed(postgresql_url: str) -> None:
    async with Database(postgresql_url) as database:
        await fill(database)
        before = await dump(database)
        steps = await all_of(database)
        assert [name for name, done in steps if done] == list(LAYOUT)
        assert await layout(database) == LAYOUT
        assert await colocation_groups(database) == 1
        assert await dump(database) == before
        again = await record(database, usage_event(1, mandate_id="acme"))
        assert outcomes(again) == ["RECORDED"]
        with pytest.raises(DBAPIError, match="append-only"):
            await run_sql(
                database, "UPDATE \"transaction\" SET amount = 0 WHERE mandate_id = 'acme'"
            )
    assert verify_by_command(postgresql_url) == ""


async def test_what_is_copied_is_no_longer_on_the_coordinator(postgresql_url: str) -> None:
    async with Database(postgresql_url) as database:
        await fill(database)
        await all_of(database)
        async with database.read() as connection:
            for name in LAYOUT:
                assert await connection.scalar(text(f"SELECT pg_relation_size('\"{name}\"')")) == 0


async def test_every_foreign_key_is_back(postgresql_url: str) -> None:
    async with Database(postgresql_url) as database:
        await fill(database)
        await all_of(database)
        changes = [
            change
            for change in await differences(database)
            if isinstance(change, tuple) and change[0] in {"add_fk", "remove_fk"}
        ]
        # Those of shards are shown, too: of what is no table of ours.
        assert [change for change in changes if change[1].table.name in LAYOUT] == []


async def test_to_distribute_again_changes_nothing(postgresql_url: str) -> None:
    async with Database(postgresql_url) as database:
        await fill(database)
        await all_of(database)
        before = await dump(database)
        await all_of(database)
        assert await dump(database) == before
        assert await layout(database) == LAYOUT


@pytest.mark.parametrize("steps", [1, 8, 12, 20, 23])
async def test_one_that_was_stopped_goes_on(postgresql_url: str, steps: int) -> None:
    async with Database(postgresql_url) as database:
        await fill(database)
        before = await dump(database)
        work = distribute(database)
        for _ in range(steps):
            await anext(work)
        await work.aclose()
        assert await layout(database) != LAYOUT
        await all_of(database)
        assert await layout(database) == LAYOUT
        assert await dump(database) == before
    assert verify_by_command(postgresql_url) == ""


async def test_nobody_waits_long_for_a_lock_on_a_worker(postgresql_url: str) -> None:
    async with Database(postgresql_url) as database:
        await fill(database)
        await all_of(database)
        direct = past_pgbouncer(postgresql_url)  # which has sessions from before the settings
        pooled = Database(direct, waits=PROMPT, direct_url=direct)
        async with pooled, database.engine.begin() as other:
            await other.execute(text("SELECT 1 FROM account WHERE mandate_id = 'acme' FOR UPDATE"))
            begun = time.monotonic()
            with pytest.raises(DatabaseUnavailable):
                await record(pooled, usage_event(1, mandate_id="acme"))
            assert time.monotonic() - begun < 5


async def test_a_migration_keeps_the_layout(
    postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It adds a column and an index, and a table that refers to the directory and to an account."""

    def upgrade(config: Config, _: str) -> None:
        op = Operations(MigrationContext.configure(config.attributes["connection"]))
        op.add_column("mandate", sa.Column("region", sa.String()))
        op.add_column(
            "transaction",
            sa.Column("tokens", sa.BigInteger(), nullable=False, server_default="0"),
        )
        op.create_index("transaction_tokens", "transaction", ["mandate_id", "tokens"])
        op.create_table(
            "voucher",
            sa.Column("mandate_id", sa.String(128), nullable=False),
            sa.Column("id", sa.Uuid(), nullable=False),
            sa.Column("account_id", sa.Uuid(), nullable=False),
            sa.PrimaryKeyConstraint("mandate_id", "id"),
            sa.ForeignKeyConstraint(["mandate_id"], ["mandate.id"]),
            sa.ForeignKeyConstraint(
                ["mandate_id", "account_id"], ["account.mandate_id", "account.id"]
            ),
        )
        op.execute(
            "CREATE TRIGGER voucher_append_only BEFORE UPDATE OR DELETE ON voucher"
            " FOR EACH ROW EXECUTE FUNCTION refuse_transaction_change()"
        )

    async with Database(postgresql_url) as database:
        await fill(database)
        await all_of(database)
        monkeypatch.setattr(alembic, "upgrade", upgrade)
        await migrate(database)
        assert await layout(database) == LAYOUT | {"voucher": "distributed"}
        assert await colocation_groups(database) == 1
        await run_sql(
            database,
            "INSERT INTO voucher SELECT mandate_id, id, id FROM account WHERE mandate_id = 'acme'",
        )
        with pytest.raises(DBAPIError, match="voucher_mandate_id_account_id_fkey"):
            await run_sql(
                database,
                "INSERT INTO voucher VALUES ('acme', gen_random_uuid(), gen_random_uuid())",
            )
        assert outcomes(await record(database, usage_event(1, mandate_id="acme"))) == ["RECORDED"]


def test_a_worker_is_no_coordinator(
    command: Billing, monkeypatch: pytest.MonkeyPatch, postgresql_url: str
) -> None:
    async def worker_of() -> str:
        async with Database(postgresql_url) as database:
            await migrate(database)
            await all_of(database)
            async with database.read() as connection:
                query = "SELECT nodename, nodeport FROM pg_dist_node WHERE groupid > 0"
                host, port = (await connection.execute(text(query))).first() or ("", 0)
                return make_url(postgresql_url).set(host=host, port=port).render_as_string(False)

    monkeypatch.setenv("BILLING_DATABASE_URL", asyncio.run(worker_of()))
    code, out, err = command("distribute")
    assert (code, out) == (1, "")
    assert "This node is no coordinator" in err
