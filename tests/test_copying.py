"""The way from one database to another: all of it arrives as it is, or nothing does."""

import asyncio
import shutil
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Column, func, select

from app import copying
from app.billing.models import users
from app.billing.money import MAX_TRANSACTION
from app.billing.roll_up import total_days
from app.database import Database
from app.migrate import migrate
from app.revision import revision_needed
from tests.conftest import Billing, OnDatabase, on
from tests.outbox import put
from tests.test_command_line import failure
from tests.world import (
    MANDATE,
    OTHER_MANDATE,
    PREPAY_MANDATE,
    PREPAY_USER,
    SYSADMIN,
    add_mandate,
    add_member,
    add_user,
    change_settings,
    credit,
    debit,
    hold,
    read_rows,
    record,
    release,
    reverse,
    run_sql,
    settle,
    transfer,
    usage_event,
)

ALL = copying.copied_tables()
LARGEST = "999999.999999999"
TEXT = "Zürich, 中文, 🧾 'quoted' \\N\t\"\n"


async def fill(database: Database) -> None:
    """Sound books with rows in every table, and in every column that may be NULL both."""
    every: dict[str, Any] = {"aicore_provider": "openai", "aicore_model": "gpt-4o"}
    every |= {"feature_code": "chat", "workflow_id": "flow-é"}
    await add_user(database, "ann", email="ann@example.com", first_name="Ännchen", last_name="O'中")
    await add_mandate(
        database,
        MANDATE,
        PREPAY_USER,
        users=("alice", "ben"),
        time_zone="Asia/Kathmandu",
        warning_threshold_percent=Decimal("12.34567891"),
        credit_limit=Decimal(LARGEST),
        notify_emails=["one@example.com", "two@example.com"],
        billing_address={"line1": TEXT.strip(), "city": "Zürich", "country": "CH"},
    )
    await add_mandate(database, OTHER_MANDATE)
    await add_member(
        database, "ben", spend_limit={"amount": Decimal("0.000000001"), "period": "MONTH"}
    )
    await credit(database, str(MAX_TRANSACTION), "alice", description=TEXT)
    await credit(database, LARGEST, "alice", viewer=SYSADMIN)
    await add_mandate(database, "initech", PREPAY_MANDATE)
    await credit(database, 5, mandate_id="initech")
    await run_sql(database, "UPDATE audit_event SET after = NULL WHERE mandate_id = 'initech'")
    undone = await debit(database, "0.000000001", "alice")
    await reverse(database, undone.id)
    await transfer(database, 1, "alice", "ben")
    for mandate_id in (MANDATE, OTHER_MANDATE):
        then = datetime.now(UTC) - timedelta(days=10)
        await record(
            database,
            usage_event(0, mandate_id=mandate_id),
            usage_event(LARGEST, mandate_id=mandate_id, occurred_at=then, **every),
        )
    del every["aicore_model"]
    await settle(database, await hold(database, 2, **every), "1.5", description=TEXT)
    await release(database, await hold(database, 2))
    await hold(database, "0.000000001")
    await change_settings(database, allowed_providers=[])
    await put(database, note=TEXT, numbers=[1, -0.5, None, True, 2**53], nothing={})
    await run_sql(database, "UPDATE outbox SET last_error = 'refused', attempts = 3")
    await put(database)
    await run_sql(database, "UPDATE account SET credit_limit = 5 WHERE user_id = 'alice'")
    await run_sql(database, "UPDATE account SET alert_level = NULL WHERE user_id = 'ben'")
    await run_sql(database, "UPDATE membership SET left_at = created_at WHERE user_id = 'ben'")
    await total_days(database, datetime.now(UTC))


async def content(database: Database) -> dict[str, list[Any]]:
    return {table.name: await read_rows(database, table) for table in ALL}


async def filled_values(database: Database) -> dict[Column[Any], tuple[int, int]]:
    """How many rows there are, and how many with a value: JSON's null is one, too."""
    found = {}
    async with database.read() as connection:
        for column in (column for table in ALL for column in table.c):
            counts = select(func.count(), func.count(column)).select_from(column.table)
            rows, values = (await connection.execute(counts)).one()
            found[column] = (rows, values)
    return found


@pytest.fixture(params=["sqlite", "postgresql"])
def target_url(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> str:
    """The new database, migrated and empty."""
    if request.param == "sqlite":
        path = tmp_path / "new.db"
        shutil.copyfile(request.getfixturevalue("sqlite_template"), path)
        return f"sqlite:///{path}"
    url = str(request.getfixturevalue("postgresql_url"))
    on(url, migrate)
    return url


@pytest.fixture
def copy(command: Billing, monkeypatch: pytest.MonkeyPatch, target_url: str) -> Billing:
    """Copies into the new database, from the URL that is given."""
    monkeypatch.setenv("BILLING_DATABASE_URL", target_url)
    monkeypatch.setattr(copying, "_ROWS", 2)  # so that most tables take several batches
    return lambda url: command("copy-from", url)


def is_empty(url: str) -> bool:
    return not any(on(url, content).values())


def test_all_rows_arrive_as_they_are(
    copy: Billing, on_database: OnDatabase, database_url: str, target_url: str
) -> None:
    on_database(fill)
    before = on_database(content)
    counts = on_database(filled_values)
    for column, (rows, values) in counts.items():
        assert values, column
        assert (values < rows) == bool(column.nullable), column
    number = sum(map(len, before.values()))
    assert copy(database_url) == (
        0,
        f"{number} rows are copied. Their proof follows, as by `billing verify-ledger`.\n3 mandates: every figure follows from the transactions.\n",
        "",
    )
    assert on(target_url, content) == before
    assert on(target_url, filled_values) == counts
    assert on_database(content) == before

    has = f"The new database has rows already ({', '.join(table.name for table in ALL)})"
    assert copy(database_url) == failure(f"{has}: it must be an empty one.")
    assert on(target_url, content) == before


@pytest.mark.parametrize("target_url", ["postgresql"], indirect=True)
@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_sums_beyond_64_bits(
    copy: Billing, on_database: OnDatabase, database_url: str, target_url: str
) -> None:
    on_database(fill)
    on_database(run_sql, "UPDATE daily_total SET cost = -99999999999999999999999999999")
    before = on_database(content)
    code, out, error = copy(database_url)
    assert (code, "figures do not follow" in error) == (1, True)
    assert "rows are copied" in out
    assert on(target_url, content) == before


class Interrupted(Exception):
    pass


def test_broken_off_it_leaves_nothing(
    on_database: OnDatabase, database_url: str, target_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copying, "_ROWS", 2)
    on_database(fill)

    async def break_off(target: Database) -> None:
        def advance(done: int, total: int) -> None:
            if done == total:
                raise Interrupted

        async with Database(database_url) as source:
            await copying.copy_database(source, target, advance)

    with pytest.raises(Interrupted):
        on(target_url, break_off)
    assert is_empty(target_url)


@pytest.mark.parametrize("target_url", ["postgresql"], indirect=True)
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_row_that_is_refused_is_one_line(
    copy: Billing, on_database: OnDatabase, database_url: str, target_url: str
) -> None:
    on_database(fill)
    on_database(run_sql, "UPDATE hold SET content_hash = char(0)")
    code, out, error = copy(database_url)
    assert (code, out, error.count("\n")) == (1, "", 1)
    assert error.startswith("billing: The new database refused a row of hold: ")
    assert is_empty(target_url)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    ("statement", "told"),
    [
        # What it may not hold would be written as NULL.
        (
            "UPDATE hold SET workflow_id = 'flow' || char(0)",
            "Of 3 values of workflow_id of hold, 0 have arrived.",
        ),
        (
            "UPDATE audit_event SET actor_id = printf('%0129d', 1)",
            "values of actor_id of audit_event,",
        ),
        (
            "UPDATE account SET created_at = 'once'",
            "A row of account holds what it may not: ValueError.",
        ),
    ],
)
def test_a_value_that_cannot_be_copied_is_one_line(
    copy: Billing,
    on_database: OnDatabase,
    database_url: str,
    target_url: str,
    statement: str,
    told: str,
) -> None:
    on_database(fill)
    on_database(run_sql, statement)
    code, out, error = copy(database_url)
    assert (code, out, error.count("\n")) == (1, "", 1)
    assert told in error
    assert is_empty(target_url)


@pytest.mark.parametrize("target_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_row_that_does_not_arrive_is_missed(
    copy: Billing, on_database: OnDatabase, database_url: str, target_url: str
) -> None:
    on_database(fill)
    swallow = """CREATE TRIGGER swallow BEFORE INSERT ON "user" WHEN NEW.id = 'ann'
        BEGIN SELECT RAISE(IGNORE); END"""
    on(target_url, run_sql, swallow)
    assert copy(database_url) == failure("Of 3 rows of user, 2 have arrived.")
    assert is_empty(target_url)


def test_what_is_written_meanwhile_is_not_copied(
    on_database: OnDatabase, database_url: str, target_url: str
) -> None:
    on_database(fill)
    before = on_database(content)

    async def copy_while_others_write(target: Database) -> int:
        def advance(done: int, total: int) -> None:
            if done < total:  # in another thread, which has an event loop of its own
                writer.submit(on_database, add_user, f"new-{done}").result()

        async with Database(database_url) as source:
            return await copying.copy_database(source, target, advance)

    with ThreadPoolExecutor() as writer:
        copied = on(target_url, copy_while_others_write)
    assert copied == sum(map(len, before.values()))
    assert on(target_url, content) == before
    assert len(on_database(read_rows, users)) > len(before["user"])


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_of_two_copies_at_once_one_is_refused(
    on_database: OnDatabase, database_url: str, target_url: str
) -> None:
    on_database(fill)

    async def copy_twice(target: Database) -> list[Any]:
        async with Database(database_url) as source, Database(target_url) as other:
            copies = (copying.copy_database(source, new, print) for new in (target, other))
            return await asyncio.gather(*copies, return_exceptions=True)

    one, other = sorted(on(target_url, copy_twice), key=str)
    assert one == sum(map(len, on_database(content).values()))
    assert isinstance(other, copying.CopyFailed)
    assert str(other).startswith("The new database has rows already (")


def test_a_database_is_not_copied_into_itself(
    command: Billing,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("BILLING_DATABASE_URL", database_url)
    same = failure("The old database and the new one are the same.")
    assert command("copy-from", database_url) == same
    if database_url.startswith("sqlite"):
        (tmp_path / "link.db").symlink_to(tmp_path / "billing.db")
        assert command("copy-from", f"sqlite:///{tmp_path}/link.db") == same


@pytest.mark.parametrize("target_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_both_must_be_at_this_revision(
    copy: Billing, on_database: OnDatabase, database_url: str, target_url: str
) -> None:
    on_database(add_user, "ann")
    on_database(run_sql, "UPDATE alembic_version SET version_num = '0001'")
    assert copy(database_url) == failure(
        f"The old database is not at revision {revision_needed()}, which this program needs:"
        f" let BILLING_DATABASE_URL name {database_url} and run `billing migrate`."
    )
    on(target_url, run_sql, "UPDATE alembic_version SET version_num = '0001'")
    assert copy(database_url) == failure(
        f"The database is at revision 0001 and this program needs {revision_needed()}:"
        " run `billing migrate`."
    )
    assert is_empty(target_url)


@pytest.mark.parametrize("target_url", ["sqlite"], indirect=True)
def test_an_unknown_old_database(copy: Billing, tmp_path: Path) -> None:
    address = "sqlite:///FILE or postgresql://USER:PASSWORD@HOST/DATABASE"
    for url in (
        "mysql://root:hunter2@localhost/billing",
        "hunter2",
        "postgresql://a:hunter2@b:x/c",
    ):
        assert copy(url) == failure(f"URL must be {address}.")
    missing = tmp_path / "missing.db"
    assert copy(f"sqlite:///{missing}") == failure(f"There is no database {missing}.")
    assert not missing.exists()
    code, out, error = copy("postgresql://root:hunter2@127.0.0.1:1/billing")
    assert (code, out, error.count("\n")) == (1, "", 1)
    assert error.startswith("billing: The database cannot be reached: ")
    assert "hunter2" not in error


@pytest.mark.parametrize("target_url", ["postgresql"], indirect=True)
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_postgresql_knows_at_once_how_many_rows_there_are(
    copy: Billing,
    on_database: OnDatabase,
    database_url: str,
    target_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    on_database(add_user, "ann")
    # Behind a pooler, too, which the old database is not.
    monkeypatch.setenv("BILLING_DATABASE_POOLED", "on")
    monkeypatch.setenv("BILLING_DIRECT_DATABASE_URL", target_url)
    assert copy(database_url)[0] == 0
    known = on(target_url, run_sql, "SELECT reltuples FROM pg_class WHERE relname = 'user'")
    assert known == [(1,)]
