"""The check that every statement names its mandate: what it lets through, what it refuses, what it sees."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, text

from app.billing import held, outbox, roll_up
from app.billing.enums import Channel
from app.billing.holds import expire_holds
from app.billing.models import accounts
from app.billing.verify import DriftCheck
from app.database import Database
from app.statements import Statement
from tests.sent import CROSSING, Sent
from tests.shards import DISTRIBUTED, unnamed

_ROOT = Path(__file__).parents[1]
_POSTGRESQL = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)


def test_all_but_the_directory_is_distributed() -> None:
    assert {
        *("account", "audit_event", "billing_settings", "daily_total", "daily_usage"),
        *("daily_user_total", "hold", "outbox", "transaction"),
    } == DISTRIBUTED


@pytest.mark.parametrize(
    "statement",
    [
        # a value, a list, a row
        "SELECT id FROM account WHERE mandate_id = $1",
        "SELECT a.id FROM account AS a WHERE $1::VARCHAR = a.mandate_id AND a.balance > 0",
        "SELECT id FROM account WHERE mandate_id = ''",
        "SELECT id FROM account WHERE mandate_id = ANY ($1::VARCHAR(128)[])",
        "SELECT id FROM account WHERE mandate_id IN ($1::VARCHAR(128), $2::VARCHAR(128))",
        "SELECT id FROM account WHERE mandate_id IN ('acme', 'brick')",
        "SELECT id FROM account WHERE (mandate_id, id) IN (($1, $2), ($3,$4))",
        "SELECT id FROM account WHERE (mandate_id, id) = ($1, $2)",
        "SELECT id FROM account WHERE (mandate_id = $1 AND id = $2) OR mandate_id = $3",
        # by equality, also through the directory
        "SELECT 1 FROM account a JOIN hold h ON h.mandate_id = a.mandate_id WHERE a.mandate_id = $1",
        "SELECT 1 FROM account a JOIN hold h ON h.mandate_id = a.mandate_id WHERE h.mandate_id = $1",
        "SELECT 1 FROM account a LEFT JOIN hold h ON h.mandate_id = a.mandate_id WHERE a.mandate_id = $1",
        "SELECT 1 FROM hold h RIGHT JOIN account a ON h.mandate_id = a.mandate_id WHERE a.mandate_id = $1",
        "SELECT 1 FROM account a JOIN hold h USING (mandate_id) WHERE a.mandate_id = $1",
        "SELECT 1 FROM billing_settings s, mandate m WHERE s.mandate_id = m.id AND m.id = $1",
        "SELECT 1 FROM account a JOIN mandate m ON m.id = a.mandate_id JOIN hold h"
        " ON h.mandate_id = m.id AND h.account_id = a.id WHERE m.id = $1",
        "SELECT 1 FROM membership WHERE user_id = $1",
        # queries within queries
        "SELECT (SELECT sum(h.amount) FROM hold h WHERE h.mandate_id = $1 AND h.account_id = a.id)"
        " FROM account a WHERE a.mandate_id = $1",
        "SELECT 1 FROM (SELECT mandate_id AS m, id FROM account WHERE mandate_id = $1) AS a"
        " JOIN hold h ON h.mandate_id = a.m",
        "SELECT 1 FROM account a JOIN LATERAL (SELECT id FROM hold h"
        " WHERE h.mandate_id = $1 AND h.account_id = a.id) AS x ON true WHERE a.mandate_id = $1",
        "WITH a AS (SELECT mandate_id FROM account WHERE mandate_id = $1)"
        " SELECT 1 FROM hold JOIN a ON hold.mandate_id = a.mandate_id",
        "WITH RECURSIVE d(m, day) AS (SELECT mandate_id, min(local_date) FROM daily_usage"
        " WHERE mandate_id = $1 GROUP BY 1 UNION ALL SELECT u.mandate_id, u.local_date"
        " FROM daily_usage u JOIN d ON u.mandate_id = d.m) SELECT * FROM d",
        "SELECT 1 FROM hold WHERE mandate_id IN (SELECT mandate_id FROM account WHERE mandate_id = $1)",
        "SELECT id FROM account WHERE mandate_id = $1 UNION ALL SELECT id FROM hold WHERE mandate_id = $2",
        "SELECT row_number() OVER (PARTITION BY user_id ORDER BY id) FROM hold WHERE mandate_id = $1"
        " AND (amount, id) < ($2, $3) ORDER BY amount DESC LIMIT 3 FOR UPDATE",
        # changes
        "INSERT INTO account (id, mandate_id) VALUES ($1, $2), ($3, $4) ON CONFLICT DO NOTHING",
        "INSERT INTO daily_usage (mandate_id, cost) SELECT s.mandate_id, given.cost"
        " FROM billing_settings AS s JOIN unnest($1::BIGINT[]) AS given (cost) ON true"
        " WHERE s.mandate_id = $2 ON CONFLICT (mandate_id) DO UPDATE SET cost = daily_usage.cost + excluded.cost",
        "INSERT INTO daily_total (mandate_id, cost)"
        " SELECT mandate_id, sum(cost) FROM daily_usage WHERE mandate_id = $1 GROUP BY mandate_id",
        "UPDATE account SET balance = given.b FROM unnest($1::UUID[], $2::BIGINT[]) AS given (id, b)"
        " WHERE account.mandate_id = $3 AND account.id = given.id RETURNING account.id",
        "DELETE FROM outbox WHERE mandate_id = $1 AND id = $2",
        "COPY account (mandate_id, id) FROM STDIN",
        'COPY (SELECT 1 FROM account WHERE mandate_id = $1) TO STDOUT',
        # of the session, the schema or no table of ours
        "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL lock_timeout = '1s'",
        "SELECT pg_notify($1, payload) FROM unnest($2::text[]) AS payload",
        "CREATE INDEX hold_open ON hold (mandate_id) WHERE status = 'OPEN'",
        "SELECT id FROM mandate ORDER BY created_at",
    ],
)  # fmt: skip
def test_a_statement_that_names_its_mandate(statement: str) -> None:
    assert unnamed(statement) == []


@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        ("SELECT id FROM account", "account names no mandate_id"),
        ("SELECT id FROM account WHERE id = $1", "account names no mandate_id"),
        ("SELECT 1 FROM public.account AS a", "account as a names no mandate_id"),
        ("SELECT id FROM account WHERE mandate_id > $1", "account names"),
        ("SELECT id FROM account WHERE mandate_id <> ALL ($1)", "account names"),
        ("SELECT id FROM account WHERE mandate_id NOT IN ($1, $2)", "account names"),
        ("SELECT id FROM account WHERE NOT mandate_id = $1", "account names"),
        ("SELECT id FROM account WHERE mandate_id = user_id", "account names"),
        ("SELECT id FROM account WHERE mandate_id = $1 OR id = $2", "account names"),
        ("SELECT id FROM account WHERE (mandate_id, id) > ($1, $2)", "account names"),
        ("SELECT id FROM account ORDER BY mandate_id = $1", "account names"),
        ("SELECT 1 FROM account a JOIN hold h ON h.account_id = a.id WHERE a.mandate_id = $1", "h"),
        ("SELECT 1 FROM account a JOIN hold h USING (id) WHERE a.mandate_id = $1", "hold as h"),
        # An outer join keeps what its condition does not meet.
        ("SELECT 1 FROM account a LEFT JOIN hold h ON h.mandate_id = a.mandate_id"
         " AND a.mandate_id = $1", "account as a"),
        ("SELECT 1 FROM account a LEFT JOIN hold h ON h.mandate_id = a.mandate_id"
         " AND h.mandate_id = $1", "account as a"),
        ("SELECT 1 FROM account a FULL JOIN hold h ON h.mandate_id = a.mandate_id"
         " WHERE a.mandate_id = $1", "hold as h"),
        ("SELECT 1 FROM billing_settings s JOIN mandate m ON m.id = s.mandate_id", "billing_settings"),
        ("SELECT 1 FROM account a JOIN membership m ON m.mandate_id = a.mandate_id"
         " WHERE m.user_id = $1", "account as a"),
        ("SELECT (SELECT sum(h.amount) FROM hold h WHERE h.account_id = a.id)"
         " FROM account a WHERE a.mandate_id = $1", "hold as h"),
        # What a query says is not said of one within it.
        ("SELECT (SELECT sum(h.amount) FROM hold h WHERE h.mandate_id = a.mandate_id)"
         " FROM account a WHERE a.mandate_id = $1", "hold as h"),
        ("SELECT 1 FROM account a WHERE a.mandate_id = $1"
         " AND EXISTS (SELECT 1 FROM hold h WHERE h.mandate_id = a.mandate_id)", "hold as h"),
        ("SELECT 1 FROM account a JOIN LATERAL (SELECT id FROM hold h"
         " WHERE h.mandate_id = a.mandate_id) AS x ON true WHERE a.mandate_id = $1", "hold as h"),
        # What a query within another one says is not said of the other.
        ("SELECT 1 FROM account a WHERE EXISTS (SELECT 1 FROM hold h"
         " WHERE h.mandate_id = $1 AND a.mandate_id = $1)", "account as a"),
        ("SELECT 1 FROM (SELECT mandate_id FROM account) AS a WHERE a.mandate_id = $1", "account names"),
        ("WITH a AS (SELECT id FROM account WHERE mandate_id = $1)"
         " SELECT 1 FROM hold JOIN a ON hold.account_id = a.id", "hold names"),
        ("WITH gone AS (DELETE FROM hold WHERE id = $1 RETURNING id) SELECT 1 FROM gone", "hold names"),
        ("WITH RECURSIVE d(m) AS (SELECT mandate_id FROM daily_usage WHERE mandate_id = $1"
         " UNION ALL SELECT u.mandate_id FROM daily_usage u JOIN d ON true) SELECT * FROM d", "daily_usage as u"),
        ("SELECT 1 FROM hold WHERE mandate_id IN (SELECT mandate_id FROM membership)", "hold names"),
        ("SELECT id FROM account WHERE mandate_id = $1 UNION ALL SELECT id FROM hold", "hold names"),
        ("INSERT INTO account (id) VALUES ($1)", "a row of account is given no mandate_id"),
        ("INSERT INTO account VALUES ($1, $2)", "a row of account is given no mandate_id"),
        ("INSERT INTO account (id, mandate_id) VALUES ($1, DEFAULT)", "a row of account"),
        ("INSERT INTO daily_total (mandate_id) SELECT id FROM mandate", "a row of daily_total"),
        # A cluster makes such rows on its coordinator, and copies them.
        ("INSERT INTO daily_usage (mandate_id, cost) SELECT given.mandate_id, given.cost"
         " FROM unnest($1::VARCHAR[], $2::BIGINT[]) AS given (mandate_id, cost)", "made on no shard"),
        ("INSERT INTO daily_usage (mandate_id) SELECT m.id FROM mandate m WHERE m.id = $1",
         "made on no shard"),
        ("INSERT INTO daily_total (cost, mandate_id) SELECT $1, $2 FROM daily_usage", "daily_usage names"),
        ("UPDATE account SET balance = 0 WHERE id = $1", "account names no mandate_id"),
        ("UPDATE account SET balance = h.amount FROM hold h WHERE h.account_id = account.id"
         " AND account.mandate_id = $1", "hold as h"),
        ("DELETE FROM outbox WHERE created_at < $1", "outbox names no mandate_id"),
        ("TRUNCATE account", "TruncateStmt"),
        ("COPY account (id) FROM STDIN", "account is copied"),
        ("COPY account (mandate_id) TO STDOUT", "account is copied"),
        ("EXPLAIN SELECT 1 FROM hold", "hold names"),
        ("SELECT 1; DELETE FROM hold", "hold names"),
        ("SELECT FROM WHERE", "cannot be read"),
    ],
)  # fmt: skip
def test_a_statement_that_does_not(statement: str, problem: str) -> None:
    assert problem in " and ".join(unnamed(statement))


_SENDS = """
async def by_sqlalchemy(database):
    async with database.read() as connection:
        await connection.execute(query)

async def by_a_statement(database):
    await statement.rows(database)

async def in_a_unit(database):
    async def unit(connection):
        await connection.execute(text("SELECT 1"))
        await statement.rows(connection)
    await database.write(unit)

async def row_by_row(database):
    async with database.snapshot() as connection, connection.stream(query) as rows:
        async for row in rows:
            pass

async def prepared_by_another(database):
    async with database.read() as connection:
        driver = (await connection.get_raw_connection()).driver_connection
        await (await prepare(driver)).fetch()

async def by_the_driver(database):
    async with database.read() as connection:
        driver = (await connection.get_raw_connection()).driver_connection
        await driver.execute("SELECT id FROM account")

async def by_the_driver_with_values(database):
    async with database.read() as connection:
        driver = (await connection.get_raw_connection()).driver_connection
        await driver.fetch("SELECT id FROM account WHERE id = $1", None)

async def as_a_copy(database):
    async with database.read() as connection:
        driver = (await connection.get_raw_connection()).driver_connection
        await driver.copy_records_to_table("hold", records=[], columns=["id"])

async def with_a_bad_row(database):
    async with database.read() as connection:
        await connection.execute(text("UPDATE account SET balance = 0"))
"""
_QUERY = select(accounts.c.id)


async def _prepare(driver: Any) -> Any:
    return await driver.prepare("SELECT id FROM account")


def _application(name: str) -> Callable[[Database], Awaitable[None]]:
    """A function of a module that the application does not have."""
    given = {"query": _QUERY, "statement": Statement(_QUERY), "text": text, "prepare": _prepare}
    module: dict[str, Any] = {"__name__": "app.billing.imagined", **given}
    exec(compile(_SENDS, str(_ROOT / "app" / "billing" / "imagined.py"), "exec"), module)
    return module[name]  # type: ignore[no-any-return]


@_POSTGRESQL
@pytest.mark.anyio
@pytest.mark.parametrize(
    "name", [line.split()[2].partition("(")[0] for line in _SENDS.splitlines() if line[:5] == "async"]
)  # fmt: skip
async def test_what_the_application_sends_is_seen(
    database: Database, sent_to_postgresql: Sent, name: str
) -> None:
    await _application(name)(database)
    [fault] = set(sent_to_postgresql.faults)
    assert fault.startswith(f"app.billing.imagined.{name} sends")
    with pytest.raises(pytest.fail.Exception, match="mandate_id"):
        sent_to_postgresql.check()
    assert not sent_to_postgresql.faults


@_POSTGRESQL
@pytest.mark.anyio
async def test_what_a_test_sends_is_its_own(database: Database, sent_to_postgresql: Sent) -> None:
    async with database.read() as connection:
        await connection.execute(_QUERY)
    await Statement(_QUERY).rows(database)
    assert not sent_to_postgresql.faults


@_POSTGRESQL
@pytest.mark.anyio
@pytest.mark.parametrize("name", ["by_sqlalchemy", "with_a_bad_row"])
async def test_who_may_cross_mandates_only_looks(
    database: Database, sent_to_postgresql: Sent, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setitem(CROSSING, f"app.billing.imagined.{name}", "It is imagined.")
    await _application(name)(database)
    assert bool(sent_to_postgresql.faults) == (name == "with_a_bad_row")
    sent_to_postgresql.faults.clear()


async def _on_connection(database: Database, ask: Callable[[Any], Awaitable[Any]]) -> None:
    async with database.read() as connection:
        await ask(connection)


_CROSSES: dict[str, Callable[[Database], Awaitable[Any]]] = {
    "app.billing.held.count_open": lambda d: _on_connection(d, held.count_open),
    "app.billing.holds._mandates_with_overdue": expire_holds,
    "app.billing.outbox._mandates_with": outbox.drop_old_webhooks,
    "app.billing.outbox.next_due": lambda d: outbox.next_due(d, Channel.EMAIL),
    "app.billing.outbox.waiting": lambda d: _on_connection(d, outbox.waiting),
    "app.billing.roll_up._mandates_to_total": lambda d: roll_up.total_days(d, datetime.now(UTC)),
    "app.billing.verify.drift.DriftCheck.go_on": lambda d: _on_connection(d, DriftCheck().go_on),
}


@_POSTGRESQL
@pytest.mark.anyio
@pytest.mark.parametrize("name", sorted(CROSSING))
async def test_who_may_cross_mandates_does(
    database: Database, sent_to_postgresql: Sent, name: str
) -> None:
    sent_to_postgresql.crossing.clear()
    await _CROSSES[name](database)
    assert sent_to_postgresql.crossing == {name}
