from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from app.billing.accounts import update_account
from app.billing.directory import remove_membership
from app.billing.enums import BillingModel, ReferenceType
from app.billing.errors import BillingError, Forbidden
from app.billing.models import accounts, audit_events
from app.billing.viewer import OPERATOR, Viewer
from app.database import Database
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
    balances,
    change_settings,
    credit,
    dump,
    ledger_rows,
    read_rows,
    record,
    usage_event,
)

pytestmark = pytest.mark.anyio


async def refused(database: Database, *arguments: Any, **given: Any) -> tuple[str, tuple[str, ...]]:
    """Code and field of a credit that must change nothing."""
    before = await dump(database)
    with pytest.raises(BillingError) as error:
        await credit(database, *arguments, **given)
    assert await dump(database) == before
    return str(error.value.code), error.value.field


@pytest.mark.parametrize("viewer", [SYSADMIN, OPERATOR])
async def test_a_sysadmin_credits(database: Database, viewer: Viewer) -> None:
    await add_mandate(database, model=PREPAY_USER)
    row = await credit(
        database,
        "12.5",
        "alice",
        key="credit-1",
        description="Invoice 7",
        reference_type=ReferenceType.PAYMENT,
        viewer=viewer,
    )
    assert (row.transaction_type, row.reference_type) == ("CREDIT", "PAYMENT")
    assert (row.user_id, row.actor_id) == ("alice", viewer.user_id or None)
    assert (row.description, row.idempotency_key) == ("Invoice 7", "credit-1")
    assert (row.amount, row.balance_after, row.sequence) == (Decimal("12.5"), Decimal("22.5"), 2)
    stored = (await ledger_rows(database))[-1]
    assert stored._asdict() == vars(row)
    [event] = await read_rows(database, audit_events, action="credit.added")
    assert (event.actor_id, event.subject) == (viewer.user_id or None, f"transaction:{row.id}")
    assert event.before == {"balance": "10"}
    assert event.after == {"balance": "22.5", "amount": "12.5", "user_id": "alice"}


@pytest.mark.parametrize(
    ("viewer", "error"),
    [(MEMBER, Forbidden), (ADMIN, Forbidden), (GATEWAY, Forbidden), (STRANGER, BillingError)],
)
async def test_anyone_else_is_refused(
    database: Database, viewer: Viewer, error: type[Exception]
) -> None:
    """A stranger is told what one is told of a mandate that does not exist."""
    await add_mandate(database, model=PREPAY_USER)
    before = await dump(database)
    with pytest.raises(error) as refusal:
        await credit(database, 1, "alice", viewer=viewer)
    if isinstance(refusal.value, BillingError):
        assert (refusal.value.code, refusal.value.field) == ("NOT_FOUND", ("mandate_id",))
    assert await dump(database) == before


@pytest.mark.parametrize(
    ("model", "user_id", "expected"),
    [
        (PREPAY_USER, "alice", {"alice": 15}),
        (PREPAY_USER, None, "user_id"),
        (PREPAY_MANDATE, None, {None: 5}),
        (PREPAY_MANDATE, "alice", "user_id"),
        (CREDIT_POSTPAY, None, {None: 5}),
        (CREDIT_POSTPAY, "alice", "user_id"),
        (UNLIMITED, None, "mandate_id"),
        (UNLIMITED, "alice", "mandate_id"),
        (None, None, "mandate_id"),
    ],
)
async def test_who_is_credited_under_each_model(
    database: Database, model: BillingModel | None, user_id: str | None, expected: Any
) -> None:
    await add_mandate(database, model=model)
    if isinstance(expected, str):
        assert await refused(database, 5, user_id) == ("BILLING_MODEL_MISMATCH", (expected,))
        return
    row = await credit(database, 5, user_id)
    assert row.user_id == user_id
    assert await balances(database) == expected


async def test_users_who_cannot_be_credited(database: Database) -> None:
    await add_mandate(database, model=PREPAY_USER, users=["alice", "left"])
    await add_mandate(database, OTHER_MANDATE, users=["foreign"])
    await record(database, usage_event(1, user_id="left"))
    await remove_membership(database, OPERATOR, MANDATE, "left")
    for name in ("left", "foreign", "nobody", "", "a\0b", "x" * 100_000):
        assert await refused(database, 5, name) == ("NOT_FOUND", ("user_id",))


@pytest.mark.parametrize("mandate_id", ["nowhere", "", "a\0b", "x" * 100_000])
async def test_a_mandate_that_does_not_exist(database: Database, mandate_id: str) -> None:
    await add_mandate(database, model=PREPAY_USER)
    code = await refused(database, 5, "alice", mandate_id=mandate_id)
    assert code == ("NOT_FOUND", ("mandate_id",))


BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"amount": 0}, "INVALID", "amount"),
    ({"amount": -1}, "INVALID", "amount"),
    ({"amount": "1000000.000000001"}, "LIMIT_EXCEEDED", "amount"),
    ({"amount": "9" * 30}, "LIMIT_EXCEEDED", "amount"),
    ({"description": ""}, "INVALID", "description"),
    ({"description": "x" * 100_000}, "INVALID", "description"),
    ({"description": "a\0b"}, "INVALID", "description"),
    ({"key": " "}, "INVALID", "idempotency_key"),
    ({"key": "a\0b"}, "INVALID", "idempotency_key"),
    ({"key": "x" * 256}, "INVALID", "idempotency_key"),
    *[
        ({"reference_type": other}, "INVALID", "reference_type")
        for other in ReferenceType
        if other not in (ReferenceType.ADMIN, ReferenceType.PAYMENT)
    ],
]


async def test_bad_input_is_refused_and_named(database: Database) -> None:
    await add_mandate(database, model=PREPAY_MANDATE)
    for given, code, field in BAD:
        found = await refused(database, **({"amount": 5} | given))
        assert found == (code, (field,)), str(given)[:50]


async def test_a_retry_returns_the_first_transaction(database: Database) -> None:
    """Whatever has changed since: the account, the member, the model."""
    await add_mandate(database, model=PREPAY_USER, default_user_credit=Decimal(0))
    first = await credit(database, "12.5", "alice", key="credit-1")
    await record(database, usage_event("12.5"))
    [account] = await read_rows(database, accounts)
    await update_account(database, OPERATOR, MANDATE, account.id, {"enabled": False})
    await remove_membership(database, OPERATOR, MANDATE, "alice")
    await change_settings(database, billing_model=UNLIMITED)
    before = await dump(database)
    again = await credit(database, "12.50", "alice", key="credit-1")
    assert (again.id, again.balance_after) == (first.id, Decimal("12.5"))
    assert await dump(database) == before


async def test_other_content_under_a_used_key_is_a_conflict(database: Database) -> None:
    await add_mandate(database, model=PREPAY_USER, users=["alice", "bob"])
    given: dict[str, Any] = {"amount": "12.5", "user_id": "alice", "key": "credit-1"}
    await credit(database, **given)
    changes: list[dict[str, Any]] = [
        {"amount": "12.500000001"},
        {"amount": -1},
        {"user_id": "bob"},
        {"user_id": None},
        {"description": "Another"},
        {"reference_type": ReferenceType.PAYMENT},
    ]
    for change in changes:
        conflict = await refused(database, **(given | change))
        assert conflict == ("IDEMPOTENCY_CONFLICT", ("idempotency_key",)), change


async def test_a_key_used_by_an_event_is_a_conflict(database: Database) -> None:
    await add_mandate(database, model=PREPAY_MANDATE)
    await record(database, usage_event(5, key="shared"))
    conflict = await refused(database, 5, key="shared")
    assert conflict == ("IDEMPOTENCY_CONFLICT", ("idempotency_key",))


async def test_keys_of_two_mandates_never_meet(database: Database) -> None:
    for mandate_id, amount in ((MANDATE, 1), (OTHER_MANDATE, 2)):
        await add_mandate(database, mandate_id, PREPAY_MANDATE)
        await credit(database, amount, mandate_id=mandate_id, key="credit-1")
    assert await balances(database) == {None: 1}
    assert await balances(database, OTHER_MANDATE) == {None: 2}


async def test_a_refused_credit_does_not_use_up_its_key(database: Database) -> None:
    await add_mandate(database, model=PREPAY_USER)
    await refused(database, 0, "alice", key="credit-1")
    assert (await credit(database, 1, "alice", key="credit-1")).amount == 1


async def test_a_disabled_account_can_be_credited(database: Database) -> None:
    await add_mandate(database, model=PREPAY_MANDATE)
    await credit(database, 1)
    [account] = await read_rows(database, accounts)
    await update_account(database, OPERATOR, MANDATE, account.id, {"enabled": False})
    assert (await credit(database, 1)).balance_after == 2


async def test_a_credit_is_the_new_base_of_the_warning(database: Database) -> None:
    await add_mandate(database, model=PREPAY_MANDATE)
    await record(database, usage_event(3))
    started = datetime.now(UTC)
    row = await credit(database, 10)
    [account] = await read_rows(database, accounts)
    assert (account.funding_base, account.credited, account.debited) == (7, 10, 3)
    assert account.last_transaction_at == row.created_at >= started
