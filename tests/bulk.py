"""Transactions by the hundred thousand, past all rules, and what a process holds in memory."""

import re
from pathlib import Path

from app.billing.enums import BillingModel
from app.billing.money import ZERO
from app.database import Database
from tests.world import MANDATE, add_mandate, credit, run_sql

USERS = 10
_NUMBERS = {
    "sqlite": "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < :rows - 1)",
    "postgresql": "WITH n(i) AS (SELECT generate_series(0, CAST(:rows AS integer) - 1))",
}
_IDS = {
    "sqlite": "'01900000000070008000' || printf('%012x', i)",
    "postgresql": "CAST('01900000-0000-7000-8000-' || lpad(to_hex(i), 12, '0') AS uuid)",
}
_ROWS = """
    INSERT INTO "transaction" (
        mandate_id, id, account_id, sequence, user_id, transaction_type, reference_type, amount,
        balance_after, description, workflow_id, feature_code, aicore_provider, aicore_model,
        idempotency_key, actor_id, occurred_at, created_at
    )
    {numbers}
    SELECT
        account.mandate_id, {ids}, account.id, 2 + i / {users}, account.user_id, 'DEBIT', 'USAGE',
        1234567, 1000000000000 - CAST(1234567 AS bigint) * (1 + i / {users}), 'AI usage', 'workflow-' || (i % 1000),
        'chat', 'anthropic', 'a-large-model', 'call-' || i, 'gateway', account.created_at,
        account.created_at
    FROM n JOIN account ON account.user_id = 'user-' || (i % {users})
    WHERE account.mandate_id = :mandate_id
"""


async def add_rows(database: Database, rows: int, mandate_id: str = MANDATE) -> None:
    """A mandate, and so many debits of its users, older than their credits."""
    users = [f"user-{place}" for place in range(USERS)]
    await add_mandate(
        database, mandate_id, BillingModel.PREPAY_USER, users=users, default_user_credit=ZERO
    )
    for user_id in users:
        await credit(database, 1000, user_id, mandate_id=mandate_id)
    name = database.engine.dialect.name
    insert = _ROWS.format(numbers=_NUMBERS[name], ids=_IDS[name], users=USERS)
    await run_sql(database, insert, rows=rows, mandate_id=mandate_id)
    each = rows // USERS
    moved = "UPDATE account SET sequence = sequence + :each WHERE mandate_id = :mandate_id"
    await run_sql(database, moved, each=each, mandate_id=mandate_id)


def resident(pid: int) -> float:
    """MiB of memory that a process holds."""
    status = Path(f"/proc/{pid}/status").read_text()
    [kibibytes] = re.findall(r"VmRSS:\s+(\d+) kB", status)
    return int(kibibytes) / 1024
