"""A mandate of any number of transactions, written by SQL within seconds."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

from sqlalchemy import insert

from app.billing.enums import AccountType
from app.billing.models import accounts
from app.billing.types import EPOCH, new_key
from app.database import Database
from tests.world import MANDATE, add_mandate

MICROSECOND = timedelta(microseconds=1)
START = datetime(2025, 1, 1, tzinfo=UTC)
STEP = timedelta(seconds=30, microseconds=17)

SHARES = ("one", "few", "some", "many", "rest", "old", "new")
"""On 1 row, 0.1 %, 1 %, 10 % and all others; the oldest 10 % and the newest 5 % have their own."""
VALUES: dict[str, tuple[str, ...]] = {
    **{
        name: tuple(f"{share}-{name}" for share in SHARES)
        for name in ("user_id", "workflow_id", "feature_code", "aicore_provider", "aicore_model")
    },
    "account_id": tuple(new_key(START) for _ in SHARES),
    "transaction_type": ("CREDIT", "CREDIT", *["DEBIT"] * 5),
    "reference_type": ("ADMIN", "PAYMENT", "SYSTEM", "TRANSFER", "USAGE", "REVERSAL", "REVERSAL"),
}
ACCOUNTS = [
    {
        "mandate_id": MANDATE,
        "id": account_id,
        "account_type": AccountType.USER,
        "user_id": user_id,
        **dict.fromkeys(("balance", "credited", "debited", "funding_base"), 0),
        "sequence": 0,
        "enabled": True,
        "created_at": START,
        "last_transaction_at": START,
    }
    for account_id, user_id in zip(VALUES["account_id"], VALUES["user_id"], strict=True)
]
SLOW = {
    True: """
        SELECT 'DROP INDEX ' || name AS dropped, sql AS made FROM sqlite_master
        WHERE tbl_name = 'transaction' AND type = 'index' AND sql <> ''
    """,
    False: """
        SELECT 'DROP INDEX ' || indexname AS dropped, indexdef AS made FROM pg_indexes
        WHERE tablename = 'transaction' AND indexname NOT IN (SELECT conname FROM pg_constraint)
        UNION ALL
        SELECT 'ALTER TABLE transaction DROP CONSTRAINT ' || conname,
            'ALTER TABLE transaction ADD CONSTRAINT ' || conname || ' ' || pg_get_constraintdef(oid)
        FROM pg_constraint WHERE conrelid = 'transaction'::regclass AND contype = 'f'
    """,
}
"""What is made far faster for rows that are there than it follows them: how to drop and to make it."""


def written(place: int) -> datetime:
    """When the row of this place, from 1, was written."""
    return START + place * STEP


def amount(rank: int) -> Decimal:
    """The amount that as many rows do not exceed."""
    return Decimal(rank) / 1000


async def fill(address: str, rows: int) -> None:
    """Writes MANDATE with as many transactions."""
    async with Database(address) as database:
        await add_mandate(database, users=VALUES["user_id"])
        async with database.engine.begin() as connection:
            if not database.is_sqlite:  # Citus changes what refers to the directory in turn
                sequential = "SET LOCAL citus.multi_shard_modify_mode = sequential"
                await connection.exec_driver_sql(sequential)
            await connection.execute(insert(accounts), ACCOUNTS)
            slow = (await connection.exec_driver_sql(SLOW[database.is_sqlite])).all()
            for statement in (
                *(each.dropped for each in slow),
                rows_by(database.is_sqlite, rows),
                *(each.made for each in slow),
                *([] if database.is_sqlite else ["ANALYZE"]),
            ):
                await connection.exec_driver_sql(statement)


def rows_by(is_sqlite: bool, rows: int) -> str:
    """SQL that writes the rows: ids and instants are in the form of the database."""
    if is_sqlite:
        series = f"SELECT 1 AS n UNION ALL SELECT n + 1 FROM series WHERE n < {rows}"
        key = "printf('%012x7%03x8%015x', at / 1000, at % 1000 * 4096 / 1000, n)"
        instant = (
            "strftime('%Y-%m-%d %H:%M:%S', {0} / 1000000, 'unixepoch')"
            " || printf('.%06d', {0} % 1000000)"
        )
    else:
        series = f"SELECT n FROM generate_series(1::bigint, {rows}) AS series(n)"
        key = (
            "(lpad(to_hex(at / 1000), 12, '0') || '7'"
            " || lpad(to_hex(at % 1000 * 4096 / 1000), 3, '0') || '8'"
            " || lpad(to_hex(n), 15, '0'))::uuid"
        )
        instant = "timestamptz 'epoch' + {} * interval '1 microsecond'"
    columns = [share_of(rows, *item, place) for place, item in enumerate(VALUES.items())]
    if not is_sqlite:
        columns[list(VALUES).index("account_id")] += "::uuid"
    return f"""
        WITH RECURSIVE series AS ({series}),
        written AS (
            SELECT n, {(START - EPOCH) // MICROSECOND} + n * {STEP // MICROSECOND} AS at FROM series
        ),
        happened AS (
            SELECT n, at, at - 1000000 * CASE
                WHEN n % 97 = 0 THEN n % 35 * 86400 WHEN n % 101 = 0 THEN -300 ELSE n % 60
            END AS since FROM written
        )
        INSERT INTO "transaction" (
            mandate_id, id, sequence, amount, balance_after, description, idempotency_key,
            occurred_at, created_at, {", ".join(VALUES)}
        )
        SELECT '{MANDATE}', {key}, n, (n * 104729 % {rows} + 1) * 1000000, 0, 'A call', 'k-' || n,
            {instant.format("since")}, {instant.format("at")}, {", ".join(columns)}
        FROM happened
    """


def share_of(rows: int, name: str, values: tuple[str, ...], place: int) -> str:
    """SQL for a column that has these values in SHARES, on other rows than the next column."""
    one, few, some, many, rest, old, new = (
        f"'{value.replace('-', '') if name == 'account_id' else value}'" for value in values
    )
    mixed = f"(n * {7919 + 6000 * place}) % {rows}"
    return f"""(CASE WHEN n <= {rows // 10} THEN {old} WHEN n > {rows - rows // 20} THEN {new}
        WHEN {mixed} = {rows // 2 + 3} THEN {one} WHEN {mixed} < {rows // 1000} THEN {few}
        WHEN {mixed} < {rows // 100} THEN {some} WHEN {mixed} < {rows // 10} THEN {many}
        ELSE {rest} END)"""
