"""Mistakes put right: opposite transactions, debits by hand and transfers."""

from collections.abc import Awaitable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import update

from app.billing.accounts import update_account
from app.billing.directory import remove_membership
from app.billing.enums import BillingModel, ReferenceType
from app.billing.errors import BillingError, Forbidden
from app.billing.models import accounts, audit_events, daily_usage, transactions
from app.billing.money import MAX_BALANCE
from app.billing.statistics import UsageDimension
from app.billing.viewer import OPERATOR, Viewer
from app.database import Database
from tests.proof import mismatches
from tests.statistics import DAY, ZURICH, both, find, total, write
from tests.world import (
    ADMIN,
    CREDIT_POSTPAY,
    GATEWAY,
    MANDATE,
    MEMBER,
    OTHER_MANDATE,
    PREPAY_MANDATE,
    PREPAY_USER,
    STRANGER,
    SYSADMIN,
    UNLIMITED,
    add_mandate,
    add_member,
    add_user,
    balances,
    change_settings,
    credit,
    debit,
    dump,
    expire,
    hold,
    ledger_rows,
    outcomes,
    read_rows,
    record,
    reverse,
    settle,
    transfer,
    usage_event,
)

pytestmark = pytest.mark.anyio

ADMIN_TYPE, PAYMENT = ReferenceType.ADMIN, ReferenceType.PAYMENT
CONFLICT = ("IDEMPOTENCY_CONFLICT", ("idempotency_key",))
NO_FUNDS = ("INSUFFICIENT_FUNDS", ("amount",))
ALREADY = ("ALREADY_REVERSED", ("transaction_id",))


async def refused(database: Database, change: Awaitable[Any]) -> tuple[str, tuple[str, ...]]:
    """Code and field of a change that must change nothing."""
    before = await dump(database)
    with pytest.raises(BillingError) as error:
        await change
    assert await dump(database) == before
    return str(error.value.code), error.value.field


async def use(database: Database, amount: str | int, **fields: Any) -> Any:
    """A call's transaction."""
    [result] = await record(database, usage_event(amount, **fields))
    assert result.error is None
    return result.transaction


async def set_enabled(database: Database, enabled: bool) -> None:
    for account in await read_rows(database, accounts, mandate_id=MANDATE):
        await update_account(database, OPERATOR, MANDATE, account.id, {"enabled": enabled})


@pytest.mark.parametrize(
    ("viewer", "error"),
    [(MEMBER, Forbidden), (ADMIN, Forbidden), (GATEWAY, Forbidden), (STRANGER, BillingError)],
)
async def test_only_a_sysadmin_corrects(
    database: Database, viewer: Viewer, error: type[Exception]
) -> None:
    """A stranger is told what one is told of a mandate that does not exist."""
    await add_mandate(database, model=PREPAY_USER, users=["alice", "bob"])
    row = await use(database, 1)
    before = await dump(database)
    for change in (
        reverse(database, row.id, viewer=viewer),
        debit(database, 1, "alice", viewer=viewer),
        transfer(database, 1, "alice", "bob", viewer=viewer),
    ):
        with pytest.raises(error) as refusal:
            await change
        if isinstance(refusal.value, BillingError):
            assert (refusal.value.code, refusal.value.field) == ("NOT_FOUND", ("mandate_id",))
    assert await dump(database) == before


@pytest.mark.parametrize("mandate_id", ["nowhere", "", "a\0b", "x" * 100_000])
async def test_a_mandate_that_does_not_exist(database: Database, mandate_id: str) -> None:
    await add_mandate(database, model=PREPAY_USER, users=["alice", "bob"])
    row = await use(database, 1)
    for change in (
        reverse(database, row.id, mandate_id=mandate_id),
        debit(database, 1, "alice", mandate_id=mandate_id),
        transfer(database, 1, "alice", "bob", mandate_id=mandate_id),
    ):
        assert await refused(database, change) == ("NOT_FOUND", ("mandate_id",))


# Reversals


@pytest.mark.parametrize("viewer", [SYSADMIN, OPERATOR])
async def test_a_reversal_is_the_opposite_and_says_what_it_undoes(
    database: Database, viewer: Viewer
) -> None:
    await add_mandate(database, model=PREPAY_USER)
    original = await use(
        database,
        4,
        workflow_id="flow",
        feature_code="chat",
        aicore_provider="azure",
        aicore_model="gpt",
        occurred_at=datetime.now(UTC) - timedelta(days=3),
    )
    started = datetime.now(UTC)
    row = await reverse(database, original.id, key="undo-1", reason="Wrong user", viewer=viewer)
    stored = (await ledger_rows(database))[-1]
    assert stored._asdict() == vars(row)
    changed = {
        "id": row.id,
        "sequence": 3,
        "transaction_type": "CREDIT",
        "reference_type": "REVERSAL",
        "balance_after": 10,
        "description": "Wrong user",
        "idempotency_key": "undo-1",
        "content_hash": row.content_hash,
        "actor_id": viewer.actor_id,
        "reverses_id": original.id,
        "reversed_type": "USAGE",
        "occurred_at": row.created_at,
        "created_at": row.created_at,
    }
    assert stored._asdict() == vars(original) | changed
    assert row.created_at >= started
    [event] = await read_rows(database, audit_events, action="transaction.reversed")
    assert (event.actor_id, event.subject) == (viewer.actor_id, f"transaction:{original.id}")
    assert (event.before, event.after) == (
        {"balance": "6"},
        {"balance": "10", "reason": "Wrong user", "reversal": row.id},
    )


async def test_money_put_in_or_taken_out_by_hand_is_reversed(database: Database) -> None:
    await add_mandate(database, model=PREPAY_MANDATE)
    for reference_type in (ADMIN_TYPE, PAYMENT):
        paid_in = await credit(database, 9, reference_type=reference_type)
        taken = await debit(database, 2, reference_type=reference_type)
        undone = await reverse(database, taken.id)
        assert (undone.transaction_type, undone.balance_after) == ("CREDIT", 9)
        undone = await reverse(database, paid_in.id)
        assert (undone.transaction_type, undone.balance_after) == ("DEBIT", 0)
        assert undone.reversed_type == reference_type
    assert await read_rows(database, daily_usage) == []
    assert await mismatches(database) == []


async def test_a_settlement_is_reversed(database: Database) -> None:
    await add_mandate(database, model=PREPAY_USER)
    hold_id = await hold(database, 5, workflow_id="flow", aicore_provider="azure")
    row = await settle(database, hold_id, 4, aicore_model="gpt")
    undone = await reverse(database, row.id)
    assert (undone.amount, undone.balance_after, undone.hold_id) == (4, 10, None)
    assert (undone.workflow_id, undone.aicore_provider, undone.aicore_model) == (
        *("flow", "azure", "gpt"),
    )
    assert (await settle(database, hold_id, 4, aicore_model="gpt")).id == row.id
    assert await mismatches(database) == []


async def test_a_free_call_is_reversed(database: Database) -> None:
    await add_mandate(database)
    row = await use(database, 0)
    assert (await reverse(database, row.id)).amount == 0
    assert await refused(database, reverse(database, row.id)) == ALREADY


async def test_what_cannot_be_reversed(database: Database) -> None:
    """A reversal, either leg of a transfer, and the default credit."""
    await add_mandate(database, model=PREPAY_USER, users=["alice", "bob"])
    row = await use(database, 1)
    await transfer(database, 1, "alice", "bob")
    await reverse(database, row.id)
    rows = await ledger_rows(database)
    tried = [row for row in rows if row.reference_type in ("REVERSAL", "TRANSFER", "SYSTEM")]
    assert len(tried) == 5
    for row in tried:
        assert await refused(database, reverse(database, row.id)) == (
            *("INVALID", ("transaction_id",)),
        )


async def test_a_transaction_is_reversed_once(database: Database) -> None:
    await add_mandate(database)
    row = await use(database, 1)
    await reverse(database, row.id)
    assert await refused(database, reverse(database, row.id)) == ALREADY
    assert await refused(database, reverse(database, row.id, reason="Again")) == ALREADY
    assert await balances(database) == {None: 0}


async def test_a_retry_returns_the_first_reversal(database: Database) -> None:
    """Whatever has changed since."""
    await add_mandate(database, model=PREPAY_USER, default_user_credit=Decimal(0))
    row = await use(database, 4)
    first = await reverse(database, row.id, key="undo-1")
    await set_enabled(database, False)
    await remove_membership(database, OPERATOR, MANDATE, "alice")
    await change_settings(database, billing_model=UNLIMITED)
    before = await dump(database)
    again = await reverse(database, row.id, key="undo-1")
    assert (again.id, again.balance_after) == (first.id, 0)
    assert await dump(database) == before


async def test_other_content_under_the_key_of_a_reversal_is_a_conflict(database: Database) -> None:
    await add_mandate(database, model=PREPAY_MANDATE)
    paid_in = await credit(database, 5, key="credit-1")
    first, second = await use(database, 1, key="call-1"), await use(database, 1)
    await reverse(database, first.id, key="undo-1")
    for change in (
        reverse(database, first.id, key="undo-1", reason="Another"),
        reverse(database, first.id, key="undo-1", reason=""),
        reverse(database, second.id, key="undo-1"),
        reverse(database, "unknown", key="undo-1"),
        reverse(database, second.id, key="credit-1"),
        reverse(database, second.id, key="call-1"),
        credit(database, 5, key="undo-1"),
        debit(database, 1, key="undo-1"),
    ):
        assert await refused(database, change) == CONFLICT
    assert outcomes(await record(database, usage_event(1, key="undo-1"))) == [CONFLICT[0]]
    assert (await reverse(database, paid_in.id)).balance_after == -1


@pytest.mark.parametrize(
    "transaction_id", ["00000000-0000-7000-8000-000000000001", "", "a\0b", "x" * 100_000]
)
async def test_an_unknown_transaction(database: Database, transaction_id: str) -> None:
    await add_mandate(database)
    change = reverse(database, transaction_id, key="undo-1")
    assert await refused(database, change) == ("NOT_FOUND", ("transaction_id",))
    row = await use(database, 1)
    await reverse(database, row.id, key="undo-1")


async def test_a_transaction_of_another_mandate_is_unknown(database: Database) -> None:
    await add_mandate(database)
    await add_mandate(database, OTHER_MANDATE)
    ours, theirs = await use(database, 1), await use(database, 1, mandate_id=OTHER_MANDATE)
    change = reverse(database, ours.id, mandate_id=OTHER_MANDATE)
    assert await refused(database, change) == ("NOT_FOUND", ("transaction_id",))
    await reverse(database, ours.id, key="undo-1")
    await reverse(database, theirs.id, key="undo-1", mandate_id=OTHER_MANDATE)
    assert await balances(database) == await balances(database, OTHER_MANDATE) == {None: 0}


async def test_a_bad_reversal_is_refused_and_named(database: Database) -> None:
    await add_mandate(database)
    row = await use(database, 1)
    bad: list[tuple[dict[str, Any], str]] = [
        *(({"reason": reason}, "reason") for reason in ("", " ", "a\0b", "x" * 1001)),
        *(({"key": key}, "idempotency_key") for key in (" ", "a\0b", "x" * 256)),
    ]
    for given, field in bad:
        change = reverse(database, row.id, **({"key": "undo-1"} | given))
        assert await refused(database, change) == ("INVALID", (field,))
    await reverse(database, row.id, key="undo-1", reason="x" * 1000)


async def test_a_reversal_works_on_disabled_and_unused_accounts(database: Database) -> None:
    await add_mandate(database)
    unlimited = await use(database, 3)
    await change_settings(database, billing_model=PREPAY_USER)
    own = await use(database, 4)
    await remove_membership(database, OPERATOR, MANDATE, "alice")
    await add_user(database, "alice", enabled=False)
    await set_enabled(database, False)
    assert (await reverse(database, unlimited.id)).balance_after == 0
    assert (await reverse(database, own.id)).balance_after == 10
    assert await mismatches(database) == []


async def test_a_reversal_may_leave_a_balance_below_0(database: Database) -> None:
    await add_mandate(database, model=PREPAY_MANDATE)
    paid_in = await credit(database, 10)
    await use(database, 7)
    await hold(database, 1)
    assert (await reverse(database, paid_in.id)).balance_after == -7


async def test_a_reversal_stays_within_the_limits_of_an_account(database: Database) -> None:
    await add_mandate(database, model=PREPAY_MANDATE)
    row = await credit(database, 2)
    async with database.engine.begin() as connection:
        await connection.execute(
            update(accounts).values(balance=1 - MAX_BALANCE, credited=2, debited=MAX_BALANCE + 1)
        )
    assert await refused(database, reverse(database, row.id)) == ("LIMIT_EXCEEDED", ("amount",))


@both
async def test_a_reversal_lowers_the_cost_of_the_day_it_is_written(
    database: Database, reader: dict[str, Any]
) -> None:
    """A period that is final stays as it was; the call has happened all the same."""
    await add_mandate(database, users=["alice", "bob"], time_zone="Europe/Zurich")
    then = datetime.now(UTC) - timedelta(days=80)
    named: dict[str, Any] = {
        "aicore_provider": "openai",
        "aicore_model": "gpt",
        "feature_code": "chat",
        "workflow_id": "flow",
    }
    await write(database, usage_event(4, occurred_at=then, **named))
    [row] = await ledger_rows(database)
    undone = await reverse(database, row.id)
    await use(database, 1, user_id="bob", workflow_id="flow")
    zone = ZoneInfo(reader.get("time_zone", "Europe/Zurich"))
    now = undone.created_at.astimezone(zone)
    then = then.astimezone(zone)
    for wanted in ({}, {"workflow_id": "flow"}):
        assert await total(database, DAY, then.year, then.month, **reader, **wanted) == (4, 1)
        assert await total(database, DAY, now.year, now.month, **reader, **wanted) == (-3, 1)
        view = await find(database, DAY, now.year, now.month, **reader, **wanted)
        days = {bucket.start.astimezone(zone).day: bucket for bucket in await view.buckets()}
        assert (days[now.day].cost, days[now.day].transaction_count) == (-3, 1)
        for dimension, keys in (
            (UsageDimension.PROVIDER, (None, "openai")),
            (UsageDimension.MODEL, (None, "gpt")),
            (UsageDimension.FEATURE, (None, "chat")),
            (UsageDimension.USER, ("bob", "alice")),
        ):
            parts = await view.cost_by(dimension)
            assert [(part.key, part.cost, part.transaction_count) for part in parts] == [
                (keys[0], 1, 1),
                (keys[1], -4, 0),
            ]


async def test_a_reversal_is_rolled_up_with_what_it_undoes(database: Database) -> None:
    await add_mandate(database, time_zone="Europe/Zurich")
    row = await use(database, 4, aicore_provider="azure", occurred_at=datetime.now(UTC))
    await use(database, "0.5", aicore_provider="azure", occurred_at=row.created_at)
    undone = await reverse(database, row.id)
    days = await read_rows(database, daily_usage)
    assert sum(day.cost for day in days) == Decimal("0.5")
    assert sum(day.transaction_count for day in days) == 2
    assert undone.created_at.astimezone(ZURICH).date() in {day.local_date for day in days}
    assert {(day.account_id, day.aicore_provider) for day in days} == {(row.account_id, "azure")}
    assert await mismatches(database) == []


async def test_a_reversal_is_no_new_base_of_the_warning(database: Database) -> None:
    await add_mandate(database, model=PREPAY_MANDATE)
    await credit(database, 100)
    await debit(database, 30)
    row = await use(database, 60)
    await reverse(database, row.id)
    [account] = await read_rows(database, accounts)
    assert (account.balance, account.funding_base) == (70, 100)


# Debits by hand


@pytest.mark.parametrize("viewer", [SYSADMIN, OPERATOR])
async def test_a_debit_takes_money_out(database: Database, viewer: Viewer) -> None:
    await add_mandate(database, model=PREPAY_USER)
    row = await debit(
        database,
        "2.5",
        "alice",
        key="debit-1",
        description="Refund 7",
        reference_type=PAYMENT,
        viewer=viewer,
    )
    assert (row.transaction_type, row.reference_type) == ("DEBIT", "PAYMENT")
    assert (row.user_id, row.actor_id) == ("alice", viewer.actor_id)
    assert (row.description, row.idempotency_key) == ("Refund 7", "debit-1")
    assert (row.amount, row.balance_after, row.sequence) == (Decimal("2.5"), Decimal("7.5"), 2)
    stored = (await ledger_rows(database))[-1]
    assert stored._asdict() == vars(row)
    [event] = await read_rows(database, audit_events, action="debit.added")
    assert (event.actor_id, event.subject) == (viewer.actor_id, f"transaction:{row.id}")
    assert event.before == {"balance": "10"}
    assert event.after == {"balance": "7.5", "amount": "2.5", "user_id": "alice"}
    [account] = await read_rows(database, accounts)
    assert (account.funding_base, account.debited) == (10, Decimal("2.5"))
    assert await read_rows(database, daily_usage) == []


@pytest.mark.parametrize(
    ("model", "user_id", "expected"),
    [
        (PREPAY_USER, "alice", {"alice": 15}),
        (PREPAY_USER, None, "user_id"),
        (PREPAY_MANDATE, None, {None: 15}),
        (PREPAY_MANDATE, "alice", "user_id"),
        (CREDIT_POSTPAY, None, {None: 15}),
        (CREDIT_POSTPAY, "alice", "user_id"),
        (UNLIMITED, None, "mandate_id"),
        (UNLIMITED, "alice", "mandate_id"),
        (None, None, "mandate_id"),
    ],
)
async def test_who_is_debited_under_each_model(
    database: Database, model: BillingModel | None, user_id: str | None, expected: Any
) -> None:
    await add_mandate(database, model=model, default_user_credit=Decimal(0))
    if isinstance(expected, str):
        change = debit(database, 5, user_id)
        assert await refused(database, change) == ("BILLING_MODEL_MISMATCH", (expected,))
        return
    await credit(database, 20, user_id)
    await debit(database, 5, user_id)
    assert await balances(database) == expected


async def test_users_who_cannot_be_debited(database: Database) -> None:
    await add_mandate(database, model=PREPAY_USER, users=["alice", "left"])
    await add_mandate(database, OTHER_MANDATE, users=["foreign"])
    await use(database, 1, user_id="left")
    await remove_membership(database, OPERATOR, MANDATE, "left")
    for name in ("left", "foreign", "nobody", "", "a\0b", "x" * 100_000):
        assert await refused(database, debit(database, 1, name)) == ("NOT_FOUND", ("user_id",))


@pytest.mark.parametrize(
    ("settings", "taken"),
    [
        ({"model": PREPAY_USER}, 5),
        ({"model": PREPAY_USER, "block_on_zero_balance": False}, 5),
        ({"model": PREPAY_MANDATE}, 5),
        ({"model": CREDIT_POSTPAY}, 5),
        ({"model": CREDIT_POSTPAY, "credit_limit": Decimal(100)}, 5),
    ],
)
async def test_a_debit_takes_no_more_than_what_is_there_and_not_held(
    database: Database, settings: dict[str, Any], taken: int
) -> None:
    """Whatever may be spent on credit."""
    await add_mandate(database, default_user_credit=Decimal(0), **settings)
    user_id = "alice" if settings["model"] == PREPAY_USER else None
    await credit(database, 9, user_id)
    await use(database, 1)
    await hold(database, 3)
    await expire(database, await hold(database, 1))
    assert await refused(database, debit(database, "5.000000001", user_id)) == NO_FUNDS
    assert (await debit(database, 5, user_id)).balance_after == 3
    assert await refused(database, debit(database, "0.000000001", user_id)) == NO_FUNDS


async def test_a_debit_opens_the_account_with_its_default_credit(database: Database) -> None:
    await add_mandate(database, model=PREPAY_USER, users=["alice", "bob"])
    assert await refused(database, debit(database, "10.000000001", "alice")) == NO_FUNDS
    await debit(database, 10, "alice")
    await debit(database, 4, "bob")
    assert await balances(database) == {"alice": 0, "bob": 6}
    rows = await ledger_rows(database)
    assert sorted(row.reference_type for row in rows) == ["ADMIN", "ADMIN", "SYSTEM", "SYSTEM"]


@pytest.mark.parametrize("model", [PREPAY_MANDATE, CREDIT_POSTPAY])
async def test_nothing_can_be_taken_from_an_account_that_is_not_open(
    database: Database, model: BillingModel
) -> None:
    await add_mandate(database, model=model)
    assert await refused(database, debit(database, 1)) == NO_FUNDS


async def test_a_disabled_account_can_be_debited(database: Database) -> None:
    await add_mandate(database, model=PREPAY_MANDATE)
    await credit(database, 3)
    await set_enabled(database, False)
    assert (await debit(database, 1)).balance_after == 2


BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"amount": 0}, "INVALID", "amount"),
    ({"amount": -1}, "INVALID", "amount"),
    ({"amount": "1000000.000000001"}, "LIMIT_EXCEEDED", "amount"),
    ({"amount": "9" * 30}, "LIMIT_EXCEEDED", "amount"),
    ({"description": ""}, "INVALID", "description"),
    ({"description": "x" * 1001}, "INVALID", "description"),
    ({"description": "a\0b"}, "INVALID", "description"),
    ({"key": " "}, "INVALID", "idempotency_key"),
    ({"key": "a\0b"}, "INVALID", "idempotency_key"),
    ({"key": "x" * 256}, "INVALID", "idempotency_key"),
]


async def test_a_bad_debit_is_refused_and_named(database: Database) -> None:
    await add_mandate(database, model=PREPAY_MANDATE)
    await credit(database, 10)
    others = [kind for kind in ReferenceType if kind not in (ADMIN_TYPE, PAYMENT)]
    for given, code, field in (
        *BAD,
        *(({"reference_type": kind}, "INVALID", "reference_type") for kind in others),
    ):
        found = await refused(database, debit(database, **({"amount": 5} | given)))
        assert found == (code, (field,)), str(given)[:50]


async def test_a_retry_returns_the_first_debit(database: Database) -> None:
    """Whatever has changed since: the account, the member, the model, what is left."""
    await add_mandate(database, model=PREPAY_USER)
    first = await debit(database, "10", "alice", key="debit-1")
    await set_enabled(database, False)
    await remove_membership(database, OPERATOR, MANDATE, "alice")
    await change_settings(database, billing_model=UNLIMITED)
    before = await dump(database)
    again = await debit(database, "10.00", "alice", key="debit-1")
    assert (again.id, again.balance_after) == (first.id, 0)
    assert await dump(database) == before


async def test_other_content_under_the_key_of_a_debit_is_a_conflict(database: Database) -> None:
    """A credit is another operation, whatever its content."""
    await add_mandate(database, model=PREPAY_USER, users=["alice", "bob"])
    given: dict[str, Any] = {"amount": 5, "user_id": "alice", "key": "debit-1"}
    await debit(database, **given)
    for change in (
        {"amount": "5.000000001"},
        {"amount": -1},
        {"user_id": "bob"},
        {"user_id": None},
        {"description": "Another"},
        {"reference_type": PAYMENT},
    ):
        assert await refused(database, debit(database, **(given | change))) == CONFLICT, change
    assert await refused(database, credit(database, **given, description="Refund")) == CONFLICT
    refused_first = debit(database, 6, "alice", key="debit-2")
    assert await refused(database, refused_first) == NO_FUNDS
    assert (await debit(database, 5, "alice", key="debit-2")).balance_after == 0


# Transfers


async def test_a_transfer_has_two_legs(database: Database) -> None:
    await add_mandate(database, model=PREPAY_USER, users=["alice", "bob"])
    await use(database, 1, user_id="bob")
    taken, given = await transfer(
        database, "2.5", "alice", "bob", key="move-1", description="Wrong user", viewer=SYSADMIN
    )
    stored = {row.id: row for row in await ledger_rows(database)}
    assert stored[taken.id]._asdict() == vars(taken)
    assert stored[given.id]._asdict() == vars(given)
    own = {row.user_id: row.id for row in await read_rows(database, accounts)}
    for leg, other, kind, user_id, balance, key in (
        (taken, given, "DEBIT", "alice", Decimal("7.5"), "move-1"),
        (given, taken, "CREDIT", "bob", Decimal("11.5"), None),
    ):
        assert (leg.transaction_type, leg.reference_type) == (kind, "TRANSFER")
        assert (leg.user_id, leg.account_id) == (user_id, own[user_id])
        assert (leg.amount, leg.balance_after) == (Decimal("2.5"), balance)
        assert (leg.counterpart_id, leg.idempotency_key) == (other.id, key)
        assert (leg.actor_id, leg.description) == ("root", "Wrong user")
    [event] = await read_rows(database, audit_events, action="credit.transferred")
    assert (event.actor_id, event.subject) == ("root", f"transaction:{taken.id}")
    assert event.before == {"from_balance": "10", "to_balance": "9"}
    assert event.after == {
        "from_balance": "7.5",
        "to_balance": "11.5",
        "from_user_id": "alice",
        "to_user_id": "bob",
        "amount": "2.5",
        "description": "Wrong user",
    }
    assert len(await read_rows(database, daily_usage)) == 1
    assert await mismatches(database) == []


@pytest.mark.parametrize("model", [*BillingModel, None])
async def test_money_moves_both_ways_under_every_model(
    database: Database, model: BillingModel | None
) -> None:
    """The receiving account is opened, a user's with the default credit, once."""
    await add_mandate(database, model=model, default_user_credit=Decimal(3))
    await transfer(database, 1, "alice", None)
    assert await balances(database) == {"alice": 2, None: 1}
    await transfer(database, 1, None, "alice")
    await transfer(database, 1, "alice", None)
    assert await balances(database) == {"alice": 2, None: 1}
    found = await read_rows(database, accounts)
    assert {(row.account_type, row.credited, row.sequence) for row in found} == {
        ("USER", 4, 4),
        ("MANDATE", 2, 3),
    }
    assert len(await ledger_rows(database, reference_type="SYSTEM")) == 1
    assert await mismatches(database) == []


async def test_a_transfer_opens_the_receiver(database: Database) -> None:
    await add_mandate(database, model=PREPAY_MANDATE, users=["alice", "bob"])
    await credit(database, 5)
    _, given = await transfer(database, 5, None, "alice")
    assert (given.sequence, given.balance_after) == (2, 15)
    await change_settings(database, default_user_credit=Decimal(0))
    _, given = await transfer(database, 1, "alice", "bob")
    assert (given.sequence, given.balance_after) == (1, 1)
    found = {row.user_id: row for row in await read_rows(database, accounts)}
    assert {user_id: row.funding_base for user_id, row in found.items()} == {
        None: 5,
        "alice": 15,
        "bob": 1,
    }


async def test_a_transfer_needs_what_is_there_and_not_held(database: Database) -> None:
    await add_mandate(
        database,
        model=CREDIT_POSTPAY,
        credit_limit=Decimal(100),
        default_user_credit=Decimal(0),
    )
    assert await refused(database, transfer(database, 1, None, "alice")) == NO_FUNDS
    assert await refused(database, transfer(database, 1, "alice", None)) == NO_FUNDS
    await credit(database, 10)
    await hold(database, 4)
    await expire(database, await hold(database, 5))
    assert await refused(database, transfer(database, "6.000000001", None, "alice")) == NO_FUNDS
    await transfer(database, 6, None, "alice")
    assert await balances(database) == {None: 4, "alice": 6}


async def test_who_has_left_gives_and_does_not_receive(database: Database) -> None:
    await add_mandate(database, model=PREPAY_USER, users=["alice", "left", "disabled"])
    await add_mandate(database, OTHER_MANDATE, users=["foreign"])
    await use(database, 1, user_id="left")
    await remove_membership(database, OPERATOR, MANDATE, "left")
    await add_user(database, "disabled", enabled=False)
    await transfer(database, 9, "left", "alice")
    await transfer(database, 1, "alice", "disabled")
    assert await balances(database) == {"left": 0, "alice": 18, "disabled": 11}
    change = transfer(database, 1, "alice", "left")
    assert await refused(database, change) == ("NOT_FOUND", ("to_user_id",))
    for name in ("foreign", "nobody", "", "a\0b", "x" * 100_000):
        change = transfer(database, 1, "alice", name)
        assert await refused(database, change) == ("NOT_FOUND", ("to_user_id",))
        change = transfer(database, 1, name, "alice")
        assert await refused(database, change) == ("NOT_FOUND", ("from_user_id",))


async def test_who_has_left_receives_what_they_owe(database: Database) -> None:
    """Else the money that is owed could never be settled, nor the model be changed."""
    await add_mandate(database, model=PREPAY_USER, users=["alice", "left", "new"])
    await use(database, 15, user_id="left")
    for user_id in ("left", "new"):
        await remove_membership(database, OPERATOR, MANDATE, user_id)
    for amount, user_id in (("5.000000001", "left"), (1, "new")):
        change = transfer(database, amount, "alice", user_id)
        assert await refused(database, change) == ("NOT_FOUND", ("to_user_id",))
    await transfer(database, 2, "alice", "left")
    await transfer(database, 3, "alice", "left")
    change = transfer(database, "0.000000001", "alice", "left")
    assert await refused(database, change) == ("NOT_FOUND", ("to_user_id",))
    assert await balances(database) == {"alice": 5, "left": 0}


@pytest.mark.parametrize("user_id", ["alice", "nobody", None])
async def test_a_transfer_needs_two_accounts(database: Database, user_id: str | None) -> None:
    await add_mandate(database, model=PREPAY_USER)
    change = transfer(database, 1, user_id, user_id)
    assert await refused(database, change) == ("INVALID", ("to_user_id",))


async def test_a_disabled_account_gives_and_receives(database: Database) -> None:
    await add_mandate(database, model=PREPAY_USER, users=["alice", "bob"])
    await use(database, 0)
    await use(database, 0, user_id="bob")
    await set_enabled(database, False)
    await transfer(database, 4, "alice", "bob")
    assert await balances(database) == {"alice": 6, "bob": 14}


async def test_a_bad_transfer_is_refused_and_named(database: Database) -> None:
    await add_mandate(database, model=PREPAY_USER)
    good: dict[str, Any] = {"amount": 5, "giver": "alice", "receiver": None}
    for given, code, field in BAD:
        change = transfer(database, **(good | given))
        assert await refused(database, change) == (code, (field,)), str(given)[:50]


async def test_a_transfer_to_an_account_at_its_limit_takes_nothing(database: Database) -> None:
    await add_mandate(database, model=PREPAY_USER, users=["alice", "bob"])
    await use(database, 0, user_id="bob")
    async with database.engine.begin() as connection:
        await connection.execute(
            update(accounts).values(balance=MAX_BALANCE - 1, credited=MAX_BALANCE - 1)
        )
    change = transfer(database, 2, "alice", "bob")
    assert await refused(database, change) == ("LIMIT_EXCEEDED", ("amount",))


async def test_a_retry_returns_both_legs(database: Database) -> None:
    """Whatever has changed since; the key stands on the debit alone."""
    await add_mandate(database, model=PREPAY_USER, users=["alice", "bob"])
    first = await transfer(database, 10, "alice", "bob", key="move-1")
    await set_enabled(database, False)
    for user_id in ("alice", "bob"):
        await remove_membership(database, OPERATOR, MANDATE, user_id)
    before = await dump(database)
    again = await transfer(database, "10.0", "alice", "bob", key="move-1")
    assert [leg.id for leg in again] == [leg.id for leg in first]
    assert [leg.balance_after for leg in again] == [0, 20]
    assert await dump(database) == before
    keyed = await read_rows(database, transactions, idempotency_key="move-1")
    assert [row.transaction_type for row in keyed] == ["DEBIT"]


async def test_other_content_under_the_key_of_a_transfer_is_a_conflict(database: Database) -> None:
    await add_mandate(database, model=PREPAY_USER, users=["alice", "bob", "carol"])
    given: dict[str, Any] = {"amount": 5, "giver": "alice", "receiver": "bob", "key": "move-1"}
    await transfer(database, **given)
    for change in (
        {"amount": "5.000000001"},
        {"amount": 0},
        {"giver": "carol"},
        {"giver": None},
        {"giver": "bob"},
        {"receiver": "carol"},
        {"receiver": None},
        {"giver": "bob", "receiver": "alice"},
        {"description": "Another"},
    ):
        assert await refused(database, transfer(database, **(given | change))) == CONFLICT, change
    assert outcomes(await record(database, usage_event(5, key="move-1"))) == [CONFLICT[0]]
    await credit(database, 1, "alice", key="credit-1")
    assert await refused(database, transfer(database, **(given | {"key": "credit-1"}))) == CONFLICT


async def test_a_refused_transfer_does_not_use_up_its_key(database: Database) -> None:
    await add_mandate(database, model=PREPAY_USER)
    change = transfer(database, 11, "alice", None, key="move-1")
    assert await refused(database, change) == NO_FUNDS
    await transfer(database, 10, "alice", None, key="move-1")
    await add_mandate(database, OTHER_MANDATE, PREPAY_USER)
    await transfer(database, 1, "alice", None, key="move-1", mandate_id=OTHER_MANDATE)
    assert await balances(database, OTHER_MANDATE) == {"alice": 9, None: 1}


async def test_a_transfer_makes_way_for_another_model(database: Database) -> None:
    await add_mandate(database, model=PREPAY_USER, users=["alice", "left"])
    await use(database, 0)
    await use(database, 0, user_id="left")
    await remove_membership(database, OPERATOR, MANDATE, "left")
    change = change_settings(database, billing_model=PREPAY_MANDATE)
    assert await refused(database, change) == ("BALANCE_NOT_ZERO", ("billing_model",))
    for user_id in ("alice", "left"):
        await transfer(database, 10, user_id, None)
    await change_settings(database, billing_model=PREPAY_MANDATE)
    assert await balances(database) == {"alice": 0, "left": 0, None: 20}
    await add_member(database, "left")
    assert (await use(database, 5, user_id="left")).balance_after == 15
