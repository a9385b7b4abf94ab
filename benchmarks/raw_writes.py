"""The writes of the baseline: each one database transaction with the locks that the ledger needs.

They know PREPAY_USER, accounts that are open, and calls of this moment; nothing of alerts. What they
write is a ledger like ours: `verify-ledger` proves it.
"""

import hashlib
import re
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import Request

from benchmarks.raw_values import NANO, Viewer, money, new_key

_AMOUNT = re.compile(r"([0-9]{1,7})(?:\.([0-9]{1,9}))?", re.ASCII)
_STEP = timedelta(microseconds=1)

_TERMS = """
SELECT mandate.time_zone, settings.block_on_zero_balance
FROM billing_settings AS settings JOIN mandate ON mandate.id = settings.mandate_id
WHERE settings.mandate_id = $1
FOR SHARE
"""
_MEMBERS = """
SELECT membership.user_id, membership.left_at IS NULL AND "user".enabled
FROM membership JOIN "user" ON "user".id = membership.user_id
WHERE membership.mandate_id = $1 AND membership.user_id = ANY($2)
"""
_LOCK_ACCOUNTS = """
SELECT id, user_id, balance, debited, sequence, last_transaction_at, enabled FROM account
WHERE mandate_id = $1 AND user_id = ANY($2)
ORDER BY id FOR UPDATE
"""
_LOCK_ACCOUNT = """
SELECT id, user_id, balance, debited, sequence, last_transaction_at, enabled FROM account
WHERE mandate_id = $1 AND id = $2
FOR UPDATE
"""
_HELD = """
SELECT clock.now, hold.account_id, coalesce(sum(hold.amount), 0)::bigint
FROM (SELECT statement_timestamp() AS now) AS clock
LEFT JOIN hold ON hold.mandate_id = $1 AND hold.account_id = ANY($2) AND hold.status = 'OPEN'
    AND hold.expires_at > clock.now
GROUP BY 1, 2
"""
_WRITTEN = """
SELECT idempotency_key, id, balance_after, content_hash FROM "transaction"
WHERE mandate_id = $1 AND idempotency_key = ANY($2)
"""
_HOLD_WRITTEN = """
SELECT id, status, expires_at, content_hash FROM hold
WHERE mandate_id = $1 AND idempotency_key = $2
"""
_INSERT = """
INSERT INTO "transaction" (
    mandate_id, id, account_id, sequence, user_id, transaction_type, reference_type, amount,
    balance_after, description, workflow_id, feature_code, aicore_provider, aicore_model,
    idempotency_key, content_hash, actor_id, hold_id, occurred_at, created_at
)
SELECT
    $1, id, account_id, sequence, user_id, 'DEBIT', 'USAGE', amount, balance_after, description,
    workflow_id, feature_code, aicore_provider, aicore_model, idempotency_key, content_hash, $2,
    hold_id, created_at, created_at
FROM unnest(
    $3::uuid[], $4::uuid[], $5::bigint[], $6::text[], $7::bigint[], $8::bigint[], $9::text[],
    $10::text[], $11::text[], $12::text[], $13::text[], $14::text[], $15::text[], $16::uuid[],
    $17::timestamptz[]
) AS new (
    id, account_id, sequence, user_id, amount, balance_after, description, workflow_id,
    feature_code, aicore_provider, aicore_model, idempotency_key, content_hash, hold_id, created_at
)
"""
_MOVE = """
UPDATE account SET
    balance = moved.balance, debited = moved.debited, sequence = moved.sequence,
    last_transaction_at = moved.last_transaction_at
FROM unnest($2::uuid[], $3::bigint[], $4::bigint[], $5::bigint[], $6::timestamptz[])
    AS moved (id, balance, debited, sequence, last_transaction_at)
WHERE account.mandate_id = $1 AND account.id = moved.id
"""
_ROLL_UP = """
INSERT INTO daily_usage AS day (
    mandate_id, local_date, user_id, account_id, aicore_provider, aicore_model, feature_code, cost,
    transaction_count
)
SELECT $1, $2, * FROM unnest(
    $3::text[], $4::uuid[], $5::text[], $6::text[], $7::text[], $8::bigint[], $9::bigint[]
)
ON CONFLICT (
    mandate_id, local_date, user_id, account_id, aicore_provider, aicore_model, feature_code
) DO UPDATE SET
    cost = day.cost + excluded.cost,
    transaction_count = day.transaction_count + excluded.transaction_count
"""
_INSERT_HOLD = """
INSERT INTO hold (
    mandate_id, id, account_id, user_id, amount, status, aicore_provider, feature_code, workflow_id,
    idempotency_key, content_hash, expires_at, created_at
) VALUES ($1, $2, $3, $4, $5, 'OPEN', $6, $7, $8, $9, $10, $11, $12)
"""
_FIND_HOLD = "SELECT account_id FROM hold WHERE mandate_id = $1 AND id = $2"
_LOCK_HOLD = """
SELECT user_id, status, aicore_provider, feature_code, workflow_id FROM hold
WHERE mandate_id = $1 AND id = $2
FOR UPDATE
"""
_SETTLE = """
UPDATE hold SET status = 'SETTLED', settled_amount = $3 WHERE mandate_id = $1 AND id = $2
"""


@dataclass(slots=True)
class Account:
    """As it stands after what was posted to it."""

    id: Any
    user_id: str
    balance: int
    debited: int
    sequence: int
    last_transaction_at: datetime
    enabled: bool


@dataclass(slots=True)
class Books:
    """What one database transaction posts."""

    mandate_id: str
    now: datetime
    actor_id: str
    local_date: date
    rows: list[tuple[Any, ...]] = field(default_factory=list)
    moved: dict[Any, Account] = field(default_factory=dict)
    days: dict[tuple[Any, ...], list[int]] = field(default_factory=dict)

    def post(
        self,
        account: Account,
        amount: int,
        event: Mapping[str, Any],
        digest: str,
        hold_id: Any = None,
    ) -> dict[str, Any]:
        """Debits the account; returns the transaction as it is shown."""
        account.balance -= amount
        account.debited += amount
        account.sequence += 1
        account.last_transaction_at = max(self.now, account.last_transaction_at + _STEP)
        self.now = account.last_transaction_at + _STEP
        key = new_key(account.last_transaction_at)
        get = event.get
        provider, model, feature = get("aicoreProvider"), get("aicoreModel"), get("featureCode")
        self.rows.append(
            (
                key,
                account.id,
                account.sequence,
                account.user_id,
                amount,
                account.balance,
                get("description", "AI usage"),
                get("workflowId"),
                feature,
                provider,
                model,
                get("idempotencyKey"),
                digest,
                hold_id,
                account.last_transaction_at,
            )
        )
        self.moved[account.id] = account
        of_day = (account.user_id, account.id, provider or "", model or "", feature or "")
        day = self.days.setdefault(of_day, [0, 0])
        day[0] += amount
        day[1] += 1
        return {"id": key, "balanceAfter": money(account.balance)}

    async def write(self, connection: Any) -> None:
        """Three statements, however many rows."""
        await connection.execute(
            _INSERT, self.mandate_id, self.actor_id, *zip(*self.rows, strict=True)
        )
        moved = [
            (account.id, account.balance, account.debited, account.sequence, at)
            for account in self.moved.values()
            for at in [account.last_transaction_at]
        ]
        await connection.execute(_MOVE, self.mandate_id, *zip(*moved, strict=True))
        days = [(*of_day, *sums) for of_day, sums in sorted(self.days.items())]
        await connection.execute(
            _ROLL_UP, self.mandate_id, self.local_date, *zip(*days, strict=True)
        )


async def record_usage(connection: Any, viewer: Viewer, request: Request) -> Any:
    viewer.require_gateway()
    batches = defaultdict(list)
    for place, event in enumerate(orjson.loads(await request.body())["events"]):
        batches[event["mandateId"]].append((place, event))
    results: dict[int, Any] = {}
    for mandate_id, batch in sorted(batches.items()):
        async with connection.transaction():
            results |= await _book(connection, viewer, mandate_id, batch)
    listed = [results[place] for place in range(len(results))]
    return {"recordUsage": {"results": listed, "userErrors": []}}


async def _book(
    connection: Any, viewer: Viewer, mandate_id: str, batch: Sequence[tuple[int, Any]]
) -> dict[int, Any]:
    time_zone, _ = await _lock_terms(connection, mandate_id)
    members, accounts = await _lock(connection, mandate_id, {event["userId"] for _, event in batch})
    now, _ = await _held(connection, mandate_id, accounts.values())
    keys = [event["idempotencyKey"] for _, event in batch]
    written = {
        key: (content_hash, {"id": str(found), "balanceAfter": money(balance)})
        for key, found, balance, content_hash in await connection.fetch(_WRITTEN, mandate_id, keys)
    }
    books = _books(mandate_id, now, viewer, time_zone)
    results = {}
    for place, event in batch:
        digest, key = _digest("recordUsage", event), event["idempotencyKey"]
        outcome, shown, code = "RECORDED", None, None
        if first := written.get(key):
            content_hash, shown = first
            outcome = "DUPLICATE"
            if content_hash != digest:
                outcome, shown, code = "REJECTED", None, "IDEMPOTENCY_CONFLICT"
        elif event["userId"] not in members or event["userId"] not in accounts:
            outcome, code = "REJECTED", "NOT_FOUND"
        else:
            shown = books.post(accounts[event["userId"]], _nano(event["amount"]), event, digest)
            written[key] = digest, shown
        results[place] = {
            "outcome": outcome,
            "transaction": shown,
            "error": code and {"code": code},
        }
    if books.rows:
        await books.write(connection)
    return results


async def create_hold(connection: Any, viewer: Viewer, request: Request) -> Any:
    viewer.require_gateway()
    new = orjson.loads(await request.body())
    mandate_id, user_id, amount = new["mandateId"], new["userId"], _nano(new["amount"])
    digest = _digest("createHold", new)
    async with connection.transaction():
        _, blocks = await _lock_terms(connection, mandate_id)
        members, accounts = await _lock(connection, mandate_id, [user_id])
        if not members.get(user_id) or user_id not in accounts:
            raise HTTPException(404)
        account = accounts[user_id]
        now, held = await _held(connection, mandate_id, [account])
        first = await connection.fetchrow(_HOLD_WRITTEN, mandate_id, new["idempotencyKey"])
        if first:
            hold_id, status, expires_at, content_hash = first
            if content_hash != digest:
                raise HTTPException(409)
        else:
            available = account.balance - held.get(account.id, 0)
            if not account.enabled or (blocks and (available <= 0 or amount > available)):
                raise HTTPException(402)
            hold_id, status = new_key(now), "OPEN"
            expires_at = now + timedelta(seconds=new.get("ttlSeconds", 900))
            await connection.execute(
                _INSERT_HOLD,
                mandate_id,
                hold_id,
                account.id,
                user_id,
                amount,
                new.get("aicoreProvider"),
                new.get("featureCode"),
                new.get("workflowId"),
                new["idempotencyKey"],
                digest,
                expires_at,
                now,
            )
    hold = {"id": str(hold_id), "status": status, "expiresAt": expires_at}
    return {"createHold": {"hold": hold, "userErrors": []}}


async def settle_hold(connection: Any, viewer: Viewer, request: Request) -> Any:
    viewer.require_gateway()
    asked = orjson.loads(await request.body())
    mandate_id, hold_id, amount = asked["mandateId"], asked["holdId"], _nano(asked["amount"])
    async with connection.transaction():
        time_zone, _ = await _lock_terms(connection, mandate_id)
        account_id = await connection.fetchval(_FIND_HOLD, mandate_id, hold_id)
        if account_id is None:
            raise HTTPException(404)
        account = Account(*await connection.fetchrow(_LOCK_ACCOUNT, mandate_id, account_id))
        now, _ = await _held(connection, mandate_id, [account])
        hold = await connection.fetchrow(_LOCK_HOLD, mandate_id, hold_id)
        _, status, provider, feature, workflow = hold
        if status not in ("OPEN", "EXPIRED"):
            raise HTTPException(409)
        event = {"aicoreProvider": provider, "featureCode": feature, "workflowId": workflow}
        event |= {name: asked[name] for name in _OF_SETTLEMENT if name in asked}
        books = _books(mandate_id, now, viewer, time_zone)
        shown = books.post(account, amount, event, _digest("settleHold", asked), hold_id)
        await books.write(connection)
        await connection.execute(_SETTLE, mandate_id, hold_id, amount)
    settled = {"id": hold_id, "status": "SETTLED"}
    return {"settleHold": {"hold": settled, "transaction": shown, "userErrors": []}}


_OF_SETTLEMENT = ("description", "aicoreProvider", "aicoreModel")


def _books(mandate_id: str, now: datetime, viewer: Viewer, time_zone: str) -> Books:
    local_date = now.astimezone(ZoneInfo(time_zone)).date()
    return Books(mandate_id, now.astimezone(UTC), viewer.user_id, local_date)


async def _lock_terms(connection: Any, mandate_id: str) -> tuple[str, bool]:
    row = await connection.fetchrow(_TERMS, mandate_id)
    if row is None:
        raise HTTPException(404)
    return row["time_zone"], row["block_on_zero_balance"]


async def _lock(
    connection: Any, mandate_id: str, user_ids: Collection[str]
) -> tuple[dict[str, bool], dict[str, Account]]:
    """Whether each member may spend, and the accounts by user."""
    members = dict(await connection.fetch(_MEMBERS, mandate_id, user_ids))
    rows = await connection.fetch(_LOCK_ACCOUNTS, mandate_id, user_ids)
    return members, {row["user_id"]: Account(*row) for row in rows}


async def _held(
    connection: Any, mandate_id: str, accounts: Collection[Account]
) -> tuple[datetime, dict[Any, int]]:
    """The database's clock after the wait, and what is held on each account."""
    rows = await connection.fetch(_HELD, mandate_id, [account.id for account in accounts])
    return rows[0][0], {account_id: held for _, account_id, held in rows}


def _digest(operation: str, content: Mapping[str, Any]) -> str:
    document = orjson.dumps([operation, content], option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(document).hexdigest()


def _nano(text: str) -> int:
    found = _AMOUNT.fullmatch(text)
    if found is None:
        raise HTTPException(422)
    whole, fraction = found.groups(default="")
    return int(whole) * NANO + int(fraction.ljust(9, "0"))
