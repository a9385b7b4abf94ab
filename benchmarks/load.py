"""A year of one mandate's usage of any size on PostgreSQL, written by SQL: a ledger that can be proven.

The rows are those that the domain would have written. Nothing is measured here.
"""

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import accumulate
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy import insert, text

from app.billing.directory import upsert_mandate, upsert_membership, upsert_user
from app.billing.enums import AccountType, BillingModel, ReferenceType, TransactionType, UserKind
from app.billing.models import accounts, transactions
from app.billing.money import ZERO
from app.billing.roll_up import total_days
from app.billing.settings import update_settings
from app.billing.types import new_key
from app.billing.viewer import OPERATOR
from app.database import Database
from app.migrate import migrate

Advance = Callable[[str, int, int], None]
"""Is told what is being done, and how much of how much."""

MANDATE = "bench"
ZONE = "Europe/Zurich"
GATEWAY = "gateway"
USERS = [f"user-{number:03}" for number in range(100)]
MODELS = {  # provider and weight
    "gpt-4o": ("openai", 30),
    "gpt-4o-mini": ("openai", 25),
    "claude-sonnet": ("anthropic", 20),
    "claude-haiku": ("anthropic", 12),
    "mistral-small": ("mistral", 8),
    "gemini-flash": ("google", 5),
}
FEATURES = {"chat": 50, "summarise": 25, "translate": 15, "search": 10}
PROVIDERS = sorted({provider for provider, _ in MODELS.values()})
DAYS = 365

_USES = [
    (provider, model, feature, by_model * by_feature)
    for model, (provider, by_model) in MODELS.items()
    for feature, by_feature in FEATURES.items()
]
_OPENING = Decimal(10)
_SLICE = 200_000
"""Rows of one statement: what is sorted stays in memory."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_HOUR = timedelta(hours=1)
_MICROSECOND = timedelta(microseconds=1)
_MEMORY = """
SELECT set_config('work_mem', '256MB', true), set_config('maintenance_work_mem', '1GB', true)
"""

# Of a thousand rows two pay in, and two undo the row before it of its account, where that is
# usage. The id is that of app.billing.types.new_key.
_POST = text("""
WITH drawn AS MATERIALIZED (
    SELECT
        us,
        (lpad(to_hex(us / 1000), 12, '0')
            || '7' || lpad(to_hex(us % 1000 * 4096 / 1000), 3, '0')
            || to_hex(random(bigint '-9223372036854775808', bigint '-4611686018427387905')))::uuid
            AS id,
        floor(:users * power(random(), 2.5)) AS payer,
        width_bucket(random(), CAST(:edges AS float8[])) + 1 AS use,
        CASE WHEN random() < 0.99 THEN exp(random_normal(16, 1))::bigint ELSE 0 END AS price,
        CASE WHEN random() < 0.3 THEN 'workflow-' || floor(200 * power(random(), 2)) END
            AS workflow_id,
        CASE WHEN random() < 0.2 THEN 30 * random() ELSE 0 END AS late,
        random() AS luck
    FROM unnest(CAST(:starts AS bigint[]), CAST(:counts AS int[])) AS hour (start, count),
        generate_series(1::bigint, hour.count) AS place,
        LATERAL (SELECT hour.start + (2 * place - 1) * 1800000000 / hour.count AS us) AS instant
), followed AS (
    SELECT
        *,
        CASE WHEN luck < 0.002 AND lag(luck) OVER mine >= 0.004 THEN lag(id) OVER mine END
            AS reverses_id
    FROM drawn
    WINDOW mine AS (PARTITION BY payer ORDER BY us)
), meant AS (
    SELECT
        followed.us,
        followed.id,
        followed.payer,
        followed.reverses_id,
        kind,
        CASE WHEN kind = 'PAYMENT' THEN 10000000000 ELSE coalesce(undone.price, followed.price) END
            AS amount,
        CASE WHEN kind <> 'PAYMENT' THEN coalesce(undone.use, followed.use) END AS use,
        CASE kind WHEN 'USAGE' THEN followed.workflow_id ELSE undone.workflow_id END AS workflow_id,
        CASE kind WHEN 'USAGE' THEN followed.late ELSE 0 END AS late
    FROM followed
    LEFT JOIN drawn AS undone ON undone.id = followed.reverses_id,
        LATERAL (
            SELECT CASE
                WHEN followed.luck >= 0.004 THEN 'USAGE'
                WHEN undone.id IS NULL THEN 'PAYMENT'
                ELSE 'REVERSAL'
            END AS kind
        ) AS kinds
), written AS (
    INSERT INTO "transaction" (
        mandate_id, id, account_id, sequence, user_id, transaction_type, reference_type, amount,
        balance_after, description, workflow_id, feature_code, aicore_provider, aicore_model,
        idempotency_key, content_hash, actor_id, reverses_id, reversed_type, occurred_at, created_at
    )
    SELECT
        :mandate,
        meant.id,
        account.id,
        account.sequence + row_number() OVER mine,
        account.user_id,
        CASE kind WHEN 'USAGE' THEN 'DEBIT' ELSE 'CREDIT' END,
        kind,
        amount,
        account.balance + sum(CASE kind WHEN 'USAGE' THEN -amount ELSE amount END) OVER mine,
        CASE kind
            WHEN 'USAGE' THEN amount / 4000 || ' tokens in, ' || amount / 50000 || ' out'
            WHEN 'PAYMENT' THEN 'Top-up'
            ELSE 'The call had failed'
        END,
        workflow_id,
        (CAST(:features AS text[]))[use],
        (CAST(:providers AS text[]))[use],
        (CAST(:models AS text[]))[use],
        'call-' || us,
        encode(sha256(us::text::bytea), 'hex'),
        CASE kind WHEN 'USAGE' THEN :gateway END,
        reverses_id,
        CASE kind WHEN 'REVERSAL' THEN 'USAGE' END,
        timestamptz 'epoch' + us * interval '1 microsecond' - late * interval '1 second',
        timestamptz 'epoch' + us * interval '1 microsecond'
    FROM meant
    JOIN (
        SELECT row_number() OVER (ORDER BY user_id) - 1 AS payer, * FROM account
    ) AS account USING (payer)
    WINDOW mine AS (PARTITION BY payer ORDER BY us)
    ORDER BY us
    RETURNING *
)
UPDATE account SET
    balance = balance + moved.credited - moved.debited,
    credited = account.credited + moved.credited,
    debited = account.debited + moved.debited,
    sequence = account.sequence + moved.rows,
    funding_base = coalesce(moved.funding_base, account.funding_base),
    last_transaction_at = moved.latest
FROM (
    SELECT
        account_id,
        count(*) AS rows,
        coalesce(sum(amount) FILTER (WHERE transaction_type = 'CREDIT'), 0) AS credited,
        coalesce(sum(amount) FILTER (WHERE transaction_type = 'DEBIT'), 0) AS debited,
        (array_agg(balance_after ORDER BY sequence DESC)
            FILTER (WHERE reference_type = 'PAYMENT'))[1] AS funding_base,
        max(created_at) AS latest
    FROM written
    GROUP BY account_id
) AS moved
WHERE account.id = moved.account_id
""")

_ROLL_UP = text("""
INSERT INTO daily_usage (
    mandate_id, local_date, user_id, account_id, aicore_provider, aicore_model, feature_code, cost,
    transaction_count
)
SELECT
    mandate_id, (occurred_at AT TIME ZONE :zone)::date, user_id, account_id, aicore_provider,
    aicore_model, feature_code, sum(CASE reference_type WHEN 'USAGE' THEN amount ELSE -amount END),
    count(*) FILTER (WHERE reference_type = 'USAGE')
FROM "transaction"
WHERE reference_type = 'USAGE' OR reversed_type = 'USAGE'
GROUP BY 1, 2, 3, 4, 5, 6, 7
ORDER BY 2
""")

_CONSTRAINTS = """
SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint
WHERE conrelid = '"transaction"'::regclass AND contype IN ('p', 'u', 'f')
"""
_INDEXES = """
SELECT indexrelid::regclass::text, pg_get_indexdef(indexrelid) FROM pg_index
WHERE indrelid = '"transaction"'::regclass
"""


async def load(
    database: Database, rows: int, now: datetime, advance: Advance = lambda *_: None
) -> None:
    """Migrates an empty database and fills it with `rows` transactions of the year up to `now`."""
    await migrate(database)
    await create_mandate(database)
    await _open_accounts(database, now - timedelta(DAYS))
    async with without_indexes(database, advance):
        await _post(database, rows - len(USERS), now, advance)
        async with database.engine.begin() as connection:
            await connection.exec_driver_sql(_MEMORY)
            await connection.execute(_ROLL_UP, {"zone": ZONE})
    await total_days(database, now)
    async with database.read() as connection:  # so that indexes alone can answer
        await connection.exec_driver_sql("VACUUM (ANALYZE)")


async def create_mandate(database: Database) -> None:
    """The mandate with its users, whose accounts are not open yet."""
    await upsert_mandate(database, OPERATOR, MANDATE, {"name": "Benchmark", "time_zone": ZONE})
    await upsert_user(database, OPERATOR, GATEWAY, {"kind": UserKind.SERVICE})
    for user_id in USERS:
        names = {"first_name": "User", "last_name": user_id[-3:]}
        await upsert_user(database, OPERATOR, user_id, names)
        await upsert_membership(database, OPERATOR, MANDATE, user_id, {})
    terms = {"billing_model": BillingModel.PREPAY_USER, "default_user_credit": _OPENING}
    await update_settings(
        database, OPERATOR, MANDATE, terms, expected_version=0, registered=PROVIDERS
    )


async def _open_accounts(database: Database, before: datetime) -> None:
    """An account with its default credit for each user."""
    times = [before - place * _MICROSECOND for place in range(len(USERS), 0, -1)]
    opened = [(user_id, new_key(at), at) for user_id, at in zip(USERS, times, strict=True)]
    async with database.engine.begin() as connection:
        await connection.execute(
            insert(accounts),
            [
                {
                    "mandate_id": MANDATE,
                    "id": account_id,
                    "account_type": AccountType.USER,
                    "user_id": user_id,
                    "balance": _OPENING,
                    "credited": _OPENING,
                    "debited": ZERO,
                    "sequence": 1,
                    "funding_base": _OPENING,
                    "enabled": True,
                    "created_at": at,
                    "last_transaction_at": at,
                }
                for user_id, account_id, at in opened
            ],
        )
        await connection.execute(
            insert(transactions),
            [
                {
                    "mandate_id": MANDATE,
                    "id": new_key(at),
                    "account_id": account_id,
                    "sequence": 1,
                    "user_id": user_id,
                    "transaction_type": TransactionType.CREDIT,
                    "reference_type": ReferenceType.SYSTEM,
                    "amount": _OPENING,
                    "balance_after": _OPENING,
                    "description": "Default credit",
                    "occurred_at": at,
                    "created_at": at,
                }
                for user_id, account_id, at in opened
            ],
        )


@asynccontextmanager
async def without_indexes(database: Database, advance: Advance) -> AsyncIterator[None]:
    """The ledger's indexes and keys are made again at the end: one sort each, and no lookups."""
    async with database.engine.begin() as connection:
        keys: Sequence[Any] = (await connection.exec_driver_sql(_CONSTRAINTS)).all()
        for name, _ in keys:
            await connection.exec_driver_sql(f'ALTER TABLE "transaction" DROP CONSTRAINT {name}')
        indexes: Sequence[Any] = (await connection.exec_driver_sql(_INDEXES)).all()
        for name, _ in indexes:
            await connection.exec_driver_sql(f"DROP INDEX {name}")
    yield
    made_again = [f'ALTER TABLE "transaction" ADD CONSTRAINT {name} {made}' for name, made in keys]
    made_again += [made for _, made in indexes]
    for done, statement in enumerate(made_again):
        advance("indexes", done, len(made_again))
        async with database.engine.begin() as connection:
            await connection.exec_driver_sql(_MEMORY)
            await connection.exec_driver_sql(statement)


async def _post(database: Database, rows: int, now: datetime, advance: Advance) -> None:
    *edges, whole = accumulate(weight for *_, weight in _USES)
    constant = {
        "mandate": MANDATE,
        "gateway": GATEWAY,
        "users": len(USERS),
        "providers": [provider for provider, *_ in _USES],
        "models": [model for _, model, *_ in _USES],
        "features": [feature for _, _, feature, _ in _USES],
        "edges": [edge / whole for edge in edges],
    }
    done = 0
    for number, (starts, counts) in enumerate(_slices(rows, now)):
        advance("rows", done, rows)
        async with database.engine.begin() as connection:
            await connection.exec_driver_sql(_MEMORY)
            await connection.exec_driver_sql(f"SELECT setseed({number % 1000 / 1000})")
            await connection.execute(_POST, constant | {"starts": starts, "counts": counts})
        done += sum(counts)


def _slices(rows: int, now: datetime) -> Iterator[tuple[list[int], list[int]]]:
    """The hours of the year, as microseconds since 1970, with how many rows each has."""
    starts, counts = [], []
    for start, count in _hours(rows, now):
        starts.append(start)
        counts.append(count)
        if sum(counts) >= _SLICE:
            yield starts, counts
            starts, counts = [], []
    yield starts, counts


def _hours(rows: int, now: datetime) -> Iterator[tuple[int, int]]:
    """More on working days and by day; the last one ends now."""
    hours = [now - place * _HOUR for place in range(DAYS * 24, 0, -1)]
    here = [hour.astimezone(ZoneInfo(ZONE)) for hour in hours]
    sums = list(
        accumulate(20 if hour.weekday() < 5 and 8 <= hour.hour < 18 else 3 for hour in here)
    )
    before = 0
    for hour, weight in zip(hours, sums, strict=True):
        until = rows * weight // sums[-1]
        if until > before:
            yield (hour - _EPOCH) // _MICROSECOND, until - before
        before = until
