"""What `distribute` says where there is no Citus, and that the model can be distributed.

What it does on a cluster is tested where there is one, by tests/test_cluster.py and by all others.
"""

from collections.abc import Iterator

import pytest
from sqlalchemy import (
    Column,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    MetaData,
    String,
    Table,
    UniqueConstraint,
    text,
)
from sqlmodel import SQLModel

from app.billing.models import accounts, mandates, memberships, transactions, users
from app.database import Database
from app.distribution import distributed_tables, is_distributed
from app.migrate import migrate
from tests.conftest import Billing, new_database
from tests.world import run_sql

pytestmark = pytest.mark.anyio

_KEYS = """
    SELECT conrelid::regclass::text AS name, conname,
        (SELECT attname FROM pg_attribute WHERE attrelid = conrelid AND attnum = conkey[1]) AS first
    FROM pg_constraint
    WHERE contype IN ('p', 'u') OR contype = 'f' AND confrelid::regclass::text = ANY (:names)
    UNION
    SELECT indrelid::regclass::text, indexrelid::regclass::text,
        (SELECT attname FROM pg_attribute WHERE attrelid = indrelid AND attnum = indkey[0])
    FROM pg_index WHERE indisunique
"""


def misfits(metadata: MetaData) -> set[str]:
    """The keys of distributed tables that do not begin with mandate_id, by their columns."""
    tables = distributed_tables(metadata)
    return {
        f"{table.name}: {', '.join(columns)}"
        for table in tables
        for columns in keys(table, {other.name for other in tables})
        if columns[0] != "mandate_id"
    }


def keys(table: Table, distributed: set[str]) -> Iterator[list[str]]:
    for constraint in table.constraints:
        if isinstance(constraint, ForeignKeyConstraint):
            if constraint.referred_table.name in distributed:
                yield list(constraint.column_keys)
                yield [part.column.name for part in constraint.elements]
        elif isinstance(constraint, UniqueConstraint) or constraint is table.primary_key:
            yield list(constraint.columns.keys())
    yield from (list(index.columns.keys()) for index in table.indexes if index.unique)


async def misfits_of(database: Database) -> set[str]:
    """As misfits, by what the catalogs of a database say."""
    names = [table.name for table in distributed_tables()]
    async with database.read() as connection:
        found = await connection.execute(text(_KEYS), {"names": [f'"{n}"' for n in names] + names})
        return {
            row.conname
            for row in found
            if row.name.strip('"') in names and row.first != "mandate_id"
        }


def test_what_has_a_mandate_and_is_no_directory_is_distributed() -> None:
    assert not any(map(is_distributed, (mandates, users, memberships)))
    assert is_distributed(accounts)
    assert is_distributed(transactions)
    new = Table("voucher", MetaData(), Column("mandate_id", String, primary_key=True))
    assert is_distributed(new)


def test_what_is_referred_to_is_distributed_first() -> None:
    order = [table.name for table in distributed_tables()]
    assert order.index("account") < order.index("transaction")


def test_each_key_of_the_model_begins_with_the_mandate() -> None:
    assert misfits(SQLModel.metadata) == set()


def test_a_key_without_the_mandate_would_be_seen() -> None:
    metadata = MetaData()
    for table in SQLModel.metadata.sorted_tables:
        table.to_metadata(metadata)
    account = metadata.tables["account"]
    Index("account_alone", account.c.id, unique=True)
    account.append_constraint(UniqueConstraint(account.c.sequence))
    Table("voucher", metadata, Column("mandate_id", String), Column("id", String, primary_key=True))
    Table(
        "receipt",
        metadata,
        Column("mandate_id", String, primary_key=True),
        Column("account_id", ForeignKey("account.id")),
    )
    assert misfits(metadata) == {
        "account: id",
        "account: sequence",
        "voucher: id",
        "receipt: account_id",
        "receipt: id",
    }


async def test_each_key_of_a_migrated_database_begins_with_the_mandate(postgresql_url: str) -> None:
    async with Database(postgresql_url) as database:
        await migrate(database)
        assert await misfits_of(database) == set()
        await run_sql(database, "CREATE UNIQUE INDEX account_alone ON account (id)")
        await run_sql(database, "ALTER TABLE hold ADD CONSTRAINT hold_alone UNIQUE (id)")
        await run_sql(
            database,
            "ALTER TABLE outbox ADD CONSTRAINT outbox_of_account FOREIGN KEY (id)"
            " REFERENCES account (id)",
        )
        assert await misfits_of(database) == {"account_alone", "hold_alone", "outbox_of_account"}


@pytest.fixture
def without_citus(
    command: Billing, monkeypatch: pytest.MonkeyPatch, postgresql_server: str
) -> Iterator[Billing]:
    with new_database(postgresql_server, spread=False) as address:
        monkeypatch.setenv("BILLING_DATABASE_URL", address)
        assert command("migrate")[0] == 0
        yield command


def test_without_the_extension_it_says_what_to_do(without_citus: Billing) -> None:
    code, out, err = without_citus("distribute")
    assert (code, out) == (1, "")
    assert err.count("\n") == 1
    for step in ("shared_preload_libraries", "CREATE EXTENSION citus", "citus_add_node"):
        assert step in err


def test_sqlite_cannot_be_distributed(
    command: Billing, monkeypatch: pytest.MonkeyPatch, sqlite_template: str
) -> None:
    monkeypatch.setenv("BILLING_DATABASE_URL", f"sqlite:///{sqlite_template}")
    code, out, err = command("distribute")
    assert (code, out) == (1, "")
    assert err.startswith("billing: SQLite cannot be distributed: set BILLING_DATABASE_URL")
    assert err.count("\n") == 1
