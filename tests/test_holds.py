from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import update

from app.billing.accounts import find_balance, list_accounts, update_account
from app.billing.directory import remove_membership, upsert_membership
from app.billing.enums import BillingModel
from app.billing.errors import BillingError, Forbidden
from app.billing.holds import expire_holds
from app.billing.models import accounts, daily_usage, holds
from app.billing.money import MAX_BALANCE
from app.billing.paging import PageArguments
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
    add_member,
    add_user,
    balances,
    change_settings,
    credit,
    dump,
    expire,
    hold,
    hold_status,
    ledger_rows,
    outcomes,
    read_rows,
    record,
    release,
    settle,
    spend,
    usage_event,
)

pytestmark = pytest.mark.anyio

OPEN, SETTLED, RELEASED, EXPIRED = "OPEN", "SETTLED", "RELEASED", "EXPIRED"
NOT_OPEN = ("HOLD_NOT_OPEN", ("hold_id",))
CONFLICT = ("IDEMPOTENCY_CONFLICT", ("idempotency_key",))
NO_FUNDS = ("INSUFFICIENT_FUNDS", ("amount",))


async def refused(database: Database, change: Awaitable[Any]) -> tuple[str, tuple[str, ...]]:
    """Code and field of a change that must change nothing."""
    before = await dump(database)
    with pytest.raises(BillingError) as error:
        await change
    assert await dump(database) == before
    return str(error.value.code), error.value.field


async def left(database: Database, user_id: str = "alice") -> tuple[Any, Any, Any]:
    """Balance, held and available, as they are shown."""
    view = await find_balance(database, SYSADMIN, MANDATE, user_id)
    assert view is not None
    return view.balance, view.held, view.available


async def stored(database: Database, hold_id: str) -> Any:
    [row] = await read_rows(database, holds, id=hold_id)
    return row


async def set_enabled(database: Database, enabled: bool) -> None:
    [account] = await read_rows(database, accounts, mandate_id=MANDATE)
    await update_account(database, OPERATOR, MANDATE, account.id, {"enabled": enabled})


# Who


@pytest.mark.parametrize("viewer", [GATEWAY, SYSADMIN, OPERATOR])
async def test_a_gateway_holds_settles_and_releases(database: Database, viewer: Viewer) -> None:
    await add_mandate(database, model=PREPAY_USER)
    first, second = [await hold(database, 1, viewer=viewer) for _ in range(2)]
    row = await settle(database, first, 1, viewer=viewer)
    assert row.actor_id == (viewer.user_id or None)
    await release(database, second, viewer=viewer)
    assert await left(database) == (9, 0, 9)


@pytest.mark.parametrize("viewer", [MEMBER, ADMIN, STRANGER])
async def test_anyone_else_is_refused(database: Database, viewer: Viewer) -> None:
    await add_mandate(database, model=PREPAY_USER)
    hold_id = await hold(database, 1)
    before = await dump(database)
    for change in (
        hold(database, 1, viewer=viewer),
        settle(database, hold_id, 1, viewer=viewer),
        release(database, hold_id, viewer=viewer),
    ):
        with pytest.raises(Forbidden):
            await change
    assert await dump(database) == before


async def test_users_for_whom_nothing_may_be_held(database: Database) -> None:
    await add_mandate(database, users=["left", "disabled", "member"])
    await add_mandate(database, OTHER_MANDATE, users=["foreign"])
    await remove_membership(database, OPERATOR, MANDATE, "left")
    await add_user(database, "disabled", enabled=False)
    for name in ("left", "disabled", "foreign", "nobody", "", "a\0b", "MEMBER", "x" * 100_000):
        change = hold(database, 1, user_id=name)
        assert await refused(database, change) == ("NOT_FOUND", ("user_id",)), name[:20]


@pytest.mark.parametrize("mandate_id", ["nowhere", "", "a\0b", "x" * 100_000, OTHER_MANDATE])
async def test_a_hold_is_known_in_its_own_mandate_alone(
    database: Database, mandate_id: str
) -> None:
    await add_mandate(database)
    await add_mandate(database, OTHER_MANDATE, users=())
    hold_id = await hold(database, 1)
    field = "hold_id" if mandate_id == OTHER_MANDATE else "mandate_id"
    for change in (
        settle(database, hold_id, 1, mandate_id=mandate_id),
        release(database, hold_id, mandate_id=mandate_id),
    ):
        assert await refused(database, change) == ("NOT_FOUND", (field,))
    change = hold(database, 1, mandate_id=mandate_id)
    field = "user_id" if mandate_id == OTHER_MANDATE else "mandate_id"
    assert await refused(database, change) == ("NOT_FOUND", (field,))


@pytest.mark.parametrize(
    "hold_id", ["00000000-0000-7000-8000-000000000001", "", "a\0b", "x" * 100_000]
)
async def test_an_unknown_hold(database: Database, hold_id: str) -> None:
    await add_mandate(database)
    for change in (settle(database, hold_id, 1), release(database, hold_id)):
        assert await refused(database, change) == ("NOT_FOUND", ("hold_id",))


# Setting aside


async def test_a_hold_is_written_as_it_was_sent(database: Database) -> None:
    await add_mandate(database, model=PREPAY_USER)
    hold_id = await hold(
        database,
        "0.00000015",
        key="call-1",
        ttl_seconds=60,
        workflow_id="flow",
        feature_code="chat",
        aicore_provider="azure",
    )
    row = await stored(database, hold_id)
    [account] = await read_rows(database, accounts)
    assert (row.account_id, row.user_id, row.amount) == (account.id, "alice", Decimal("1.5e-7"))
    assert (row.workflow_id, row.feature_code, row.aicore_provider) == ("flow", "chat", "azure")
    assert (row.status, row.settled_amount, row.idempotency_key) == (OPEN, None, "call-1")
    assert row.expires_at - row.created_at == timedelta(seconds=60)


async def test_a_hold_names_only_what_is_given_and_lasts_15_minutes(database: Database) -> None:
    await add_mandate(database)
    row = await stored(database, await hold(database, 1))
    assert (row.workflow_id, row.feature_code, row.aicore_provider) == (None, None, None)
    assert row.expires_at - row.created_at == timedelta(minutes=15)


async def test_a_hold_is_set_aside_and_books_nothing(database: Database) -> None:
    await add_mandate(database, model=PREPAY_MANDATE)
    await credit(database, 10)
    history = await ledger_rows(database)
    await hold(database, 4)
    assert await left(database) == (10, 4, 6)
    assert await ledger_rows(database) == history
    assert await read_rows(database, daily_usage) == []


# What a mandate of each model may set aside: its credit, then the amounts of holds and whether each
# is granted.
HOLDS: list[tuple[BillingModel, dict[str, Any], int, list[str | int], list[str]]] = [
    (PREPAY_USER, {}, 0, [6, "4.000000001", 4, "0.000000001"], ["ok", "no", "ok", "no"]),
    (PREPAY_USER, {}, 5, ["15.000000001", 15], ["no", "ok"]),
    (PREPAY_USER, {"default_user_credit": Decimal(0)}, 0, ["0.000000001"], ["no"]),
    (PREPAY_USER, {"block_on_zero_balance": False}, 0, [11, 11], ["ok", "ok"]),
    (PREPAY_MANDATE, {}, 0, ["0.000000001"], ["no"]),
    (PREPAY_MANDATE, {}, 3, [2, 2, 1, 1], ["ok", "no", "ok", "no"]),
    (CREDIT_POSTPAY, {}, 0, [1_000_000, 1_000_000], ["ok", "ok"]),
    (CREDIT_POSTPAY, {"credit_limit": Decimal(0)}, 0, ["0.000000001"], ["no"]),
    (CREDIT_POSTPAY, {"credit_limit": Decimal(5)}, 2, [8, 4, 4, 3], ["no", "ok", "no", "ok"]),
    (UNLIMITED, {"credit_limit": Decimal(0)}, 0, [1_000_000], ["ok"]),
]


@pytest.mark.parametrize(("model", "settings", "funds", "amounts", "expected"), HOLDS)
async def test_a_hold_needs_funds_that_no_other_holds(
    database: Database,
    model: BillingModel,
    settings: dict[str, Any],
    funds: int,
    amounts: list[str | int],
    expected: list[str],
) -> None:
    await add_mandate(database, model=model, **settings)
    if funds:
        await credit(database, funds, "alice" if model == PREPAY_USER else None)
    denial = "CREDIT_LIMIT_EXCEEDED" if model == CREDIT_POSTPAY else "INSUFFICIENT_FUNDS"
    for amount, result in zip(amounts, expected, strict=True):
        if result == "ok":
            await hold(database, amount)
        else:
            assert await refused(database, hold(database, amount)) == (denial, ("amount",))


async def test_what_is_held_cannot_be_spent_otherwise(database: Database) -> None:
    await add_mandate(database, model=PREPAY_USER, users=["alice", "bob"])
    await hold(database, 7)
    results = await record(
        database, spend("3.000000001"), spend(3), spend(0), spend(10, user_id="bob")
    )
    assert outcomes(results) == [NO_FUNDS[0], "RECORDED", NO_FUNDS[0], "RECORDED"]
    assert await left(database) == (7, 7, 0)
    assert outcomes(await record(database, usage_event(1))) == ["RECORDED"]
    assert await left(database) == (6, 7, -1)


async def test_a_hold_opens_the_account_once(database: Database) -> None:
    await add_mandate(database, model=PREPAY_USER, default_user_credit=Decimal("2.5"))
    await hold(database, 1)
    await hold(database, 1)
    [account] = await read_rows(database, accounts)
    assert (account.user_id, account.balance, account.sequence) == ("alice", Decimal("2.5"), 1)
    [row] = await ledger_rows(database)
    assert (row.reference_type, row.user_id, row.actor_id) == ("SYSTEM", "alice", None)
    assert await left(database) == (Decimal("2.5"), 2, Decimal("0.5"))


@pytest.mark.parametrize("model", [CREDIT_POSTPAY, UNLIMITED])
async def test_a_hold_opens_an_account_without_history(
    database: Database, model: BillingModel
) -> None:
    await add_mandate(database, model=model)
    hold_id = await hold(database, 1)
    [account] = await read_rows(database, accounts)
    assert (account.balance, account.sequence) == (0, 0)
    assert (await settle(database, hold_id, 1)).sequence == 1


async def test_a_refused_hold_opens_no_account(database: Database) -> None:
    await add_mandate(database, model=PREPAY_USER)
    assert await refused(database, hold(database, "10.000000001")) == NO_FUNDS
    assert await read_rows(database, accounts) == []


BAD: list[tuple[dict[str, Any], str, str]] = [
    *[({"amount": amount}, "amount", "INVALID") for amount in (0, -1, "-0.000000001")],
    *[
        ({"amount": amount}, "amount", "LIMIT_EXCEEDED")
        for amount in ("1000000.000000001", "9" * 30)
    ],
    *[({"ttl_seconds": ttl}, "ttl_seconds", "INVALID") for ttl in (0, -1, 86_401, 2**63)],
    *[
        ({name: value}, name, "INVALID")
        for name in ("workflow_id", "feature_code", "aicore_provider")
        for value in ("", " ", "a\0b", "a\nb", " a", "x" * 129, "x" * 100_000)
    ],
    *[({"key": key}, "idempotency_key", "INVALID") for key in (" ", "a\0b", "x" * 256)],
]


async def test_bad_input_is_refused_and_named(database: Database) -> None:
    await add_mandate(database)
    for given, field, code in BAD:
        found = await refused(database, hold(database, **given))
        assert found == (code, (field,)), str(given)[:50]


async def test_the_widest_values_are_kept(database: Database) -> None:
    await add_mandate(database, allowed_providers=None)
    wide = "\U0001f4b6" * 128
    for ttl in (1, 86_400):
        hold_id = await hold(
            database,
            1_000_000,
            key=f"{ttl:\U0001f4b6>255}",
            ttl_seconds=ttl,
            workflow_id=wide,
            feature_code=wide,
        )
        row = await stored(database, hold_id)
        assert row.expires_at - row.created_at == timedelta(seconds=ttl)
        assert (row.amount, row.workflow_id, row.feature_code) == (1_000_000, wide, wide)


# Its time


async def test_time_is_the_databases_own(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slow(datetime):
        """The clock of a machine that is a year late."""

        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.now(tz) - timedelta(days=365)

    await add_mandate(database)
    before = datetime.now(UTC)
    monkeypatch.setattr("app.billing.ledger.datetime", Slow)
    row = await stored(database, await hold(database, 1, ttl_seconds=1))
    assert before <= row.created_at <= datetime.now(UTC)
    assert row.expires_at == row.created_at + timedelta(seconds=1)


async def test_a_hold_counts_until_its_time_is_over(database: Database) -> None:
    await add_mandate(database, model=PREPAY_USER)
    hold_id = await hold(database, 10)
    assert await refused(database, hold(database, 1)) == NO_FUNDS
    await expire(database, hold_id)
    assert await left(database) == (10, 0, 10)
    assert await hold_status(database, hold_id) == EXPIRED
    await hold(database, 10)
    assert (await stored(database, hold_id)).status == OPEN  # nothing has tidied it


async def test_the_sweeper_tidies_what_is_overdue_in_all_mandates(database: Database) -> None:
    expected: dict[str, str] = {}
    for mandate_id in (MANDATE, OTHER_MANDATE):
        await add_mandate(database, mandate_id)
        ids = [await hold(database, 1, mandate_id=mandate_id) for _ in range(6)]
        settled, released, late, *overdue, still_open = ids
        await settle(database, settled, 1, mandate_id=mandate_id)
        await release(database, released, mandate_id=mandate_id)
        await settle(database, late, 1, mandate_id=mandate_id)
        await expire(database, settled, released, late, *overdue, mandate_id=mandate_id)
        expected |= {settled: SETTLED, released: RELEASED, late: SETTLED, still_open: OPEN}
        expected |= dict.fromkeys(overdue, EXPIRED)
    before = await balances(database)
    assert await expire_holds(database) == 4
    assert {row.id: row.status for row in await read_rows(database, holds)} == expected
    assert await expire_holds(database) == 0
    assert await balances(database) == before


# Retries


@pytest.mark.parametrize("then", [OPEN, SETTLED, RELEASED, EXPIRED])
async def test_a_retry_returns_the_first_hold_as_it_is_now(database: Database, then: str) -> None:
    await add_mandate(database, model=PREPAY_USER)
    first = await hold(database, "5.5", key="call-1", workflow_id="flow")
    if then == SETTLED:
        await settle(database, first, 2)
    elif then == RELEASED:
        await release(database, first)
    elif then == EXPIRED:
        await expire(database, first)
    before = await dump(database)
    for amount in ("5.5", "5.50", "5.500000000"):
        for ttl in (900, 60, 0, 10**9):
            again = hold(database, amount, key="call-1", workflow_id="flow", ttl_seconds=ttl)
            assert await again == first
    assert await hold_status(database, first) == then
    assert await dump(database) == before


async def test_a_retry_succeeds_whatever_has_changed_since(database: Database) -> None:
    await add_mandate(database, model=CREDIT_POSTPAY)
    given: dict[str, Any] = {"key": "call-1", "aicore_provider": "azure"}
    first = await hold(database, 4, **given)
    await set_enabled(database, False)
    await change_settings(database, allowed_providers=[], credit_limit=Decimal(0))
    await remove_membership(database, OPERATOR, MANDATE, "alice")
    await add_user(database, "alice", enabled=False)
    await expire(database, first)
    await change_settings(database, billing_model=PREPAY_USER)
    before = await dump(database)
    assert await hold(database, 4, **given) == first
    assert await dump(database) == before


async def test_other_content_under_a_used_key_is_a_conflict(database: Database) -> None:
    """Also where it would be refused for another reason."""
    await add_mandate(database, users=["alice", "bob"])
    given: dict[str, Any] = {
        "amount": "12.5",
        "key": "call-1",
        "workflow_id": "flow",
        "aicore_provider": "azure",
    }
    await hold(database, **given)
    changes: list[dict[str, Any]] = [
        {"amount": "12.500000001"},
        {"amount": -1},
        {"user_id": "bob"},
        {"user_id": "nobody"},
        {"workflow_id": "other"},
        {"workflow_id": None},
        {"feature_code": "chat"},
        {"aicore_provider": None},
        {"aicore_provider": "openai", "ttl_seconds": 0},
    ]
    for change in changes:
        assert await refused(database, hold(database, **(given | change))) == CONFLICT, change


async def test_a_refused_hold_does_not_use_up_its_key(database: Database) -> None:
    await add_mandate(database, model=PREPAY_USER)
    assert await refused(database, hold(database, 11, key="call-1")) == NO_FUNDS
    for given in ({"amount": 0}, {"ttl_seconds": 0}, {"user_id": "nobody"}):
        await refused(database, hold(database, **{"key": "call-1", **given}))  # type: ignore[arg-type]
    assert (await stored(database, await hold(database, 9, key="call-1"))).amount == 9


async def test_keys_of_holds_and_of_transactions_are_apart(database: Database) -> None:
    await add_mandate(database, model=PREPAY_MANDATE)
    await credit(database, 10, key="shared")
    hold_id = await hold(database, 10, key="shared")
    await settle(database, hold_id, 4)
    await hold(database, 1, key="call-1")
    assert outcomes(await record(database, usage_event(1, key="call-1"))) == ["RECORDED"]
    assert await hold(database, 10, key="shared") == hold_id
    assert (await credit(database, 10, key="shared")).amount == 10
    assert await left(database) == (5, 1, 4)


async def test_keys_of_two_mandates_never_meet(database: Database) -> None:
    for mandate_id in (MANDATE, OTHER_MANDATE):
        await add_mandate(database, mandate_id)
    ours = await hold(database, 1, key="call-1")
    theirs = await hold(database, 2, key="call-1", mandate_id=OTHER_MANDATE)
    assert ours != theirs
    assert await hold(database, 1, key="call-1") == ours
    assert await hold(database, 2, key="call-1", mandate_id=OTHER_MANDATE) == theirs


# Settling


@pytest.mark.parametrize("cost", ["0", "0.000000001", "3", "4", "4.000000001", "12", "1000000"])
async def test_a_settlement_books_the_cost_and_gives_back_the_rest(
    database: Database, cost: str
) -> None:
    await add_mandate(database, model=PREPAY_USER)
    hold_id = await hold(database, 4)
    other = await hold(database, 1)
    row = await settle(database, hold_id, cost)
    assert (row.transaction_type, row.reference_type) == ("DEBIT", "USAGE")
    assert (row.amount, row.balance_after) == (Decimal(cost), 10 - Decimal(cost))
    settled = await stored(database, hold_id)
    assert (settled.status, settled.settled_amount) == (SETTLED, Decimal(cost))
    assert settled.amount == 4
    assert await left(database) == (10 - Decimal(cost), 1, 9 - Decimal(cost))
    assert await hold_status(database, other) == OPEN
    [day] = await read_rows(database, daily_usage)
    assert (day.cost, day.transaction_count) == (Decimal(cost), 1)


async def test_a_settlement_says_what_the_hold_said(database: Database) -> None:
    await add_mandate(database, model=PREPAY_USER)
    hold_id = await hold(
        database, 4, workflow_id="flow", feature_code="chat", aicore_provider="azure"
    )
    then = datetime.now(UTC) - timedelta(days=34)
    row = await settle(
        database, hold_id, 3, description="A call", aicore_model="gpt", occurred_at=then
    )
    assert (await ledger_rows(database))[-1]._asdict() == vars(row)
    assert (row.hold_id, row.account_id) == (hold_id, (await stored(database, hold_id)).account_id)
    assert (row.user_id, row.actor_id, row.description) == ("alice", "gateway", "A call")
    assert (row.workflow_id, row.feature_code) == ("flow", "chat")
    assert (row.aicore_provider, row.aicore_model) == ("azure", "gpt")
    assert (row.occurred_at, row.idempotency_key) == (then, None)
    [day] = await read_rows(database, daily_usage)
    assert (day.local_date, day.aicore_provider, day.feature_code) == (then.date(), "azure", "chat")


@pytest.mark.parametrize(
    ("held_for", "settled_for", "booked"),
    [
        ("azure", None, "azure"),
        ("azure", "openai", "openai"),
        (None, "openai", "openai"),
        (None, None, None),
        ("azure", "unregistered", "unregistered"),
    ],
)
async def test_the_provider_is_the_holds_unless_named(
    database: Database, held_for: str | None, settled_for: str | None, booked: str | None
) -> None:
    await add_mandate(database)
    hold_id = await hold(database, 1, aicore_provider=held_for)
    row = await settle(database, hold_id, 1, aicore_provider=settled_for)
    assert (row.aicore_provider, row.description) == (booked, "AI usage")
    assert (await stored(database, hold_id)).aicore_provider == held_for


@pytest.mark.parametrize("tidied", [True, False])
async def test_an_expired_hold_is_settled(database: Database, tidied: bool) -> None:
    """The call has happened; whatever else was spent meanwhile."""
    await add_mandate(database, model=PREPAY_USER)
    hold_id = await hold(database, 10)
    await expire(database, hold_id)
    await record(database, spend(10))
    if tidied:
        assert await expire_holds(database) == 1
    assert (await settle(database, hold_id, 4)).balance_after == -4
    assert await hold_status(database, hold_id) == SETTLED
    assert await expire_holds(database) == 0
    assert await left(database) == (-4, 0, -4)


async def test_a_settlement_ignores_what_stops_a_spend(database: Database) -> None:
    """The account's state, the providers, a spend limit, the funds, and that the member has left."""
    await add_mandate(database, model=PREPAY_USER)
    hold_id = await hold(database, 5, aicore_provider="azure")
    await record(database, usage_event(20))
    limit = {"amount": Decimal(0), "period": "DAY"}
    await upsert_membership(database, OPERATOR, MANDATE, "alice", {"spend_limit": limit})
    await change_settings(database, allowed_providers=[])
    await set_enabled(database, False)
    await remove_membership(database, OPERATOR, MANDATE, "alice")
    await add_user(database, "alice", enabled=False)
    assert (await settle(database, hold_id, 6)).balance_after == -16


async def test_a_settlement_books_to_the_holds_own_account(database: Database) -> None:
    """Also when the model has changed since."""
    await add_mandate(database)
    unlimited = await hold(database, 1)
    await change_settings(database, billing_model=CREDIT_POSTPAY)
    shared = await hold(database, 2)
    await expire(database, shared)
    await change_settings(database, billing_model=PREPAY_USER)
    own = await hold(database, 3)
    for hold_id, cost in ((unlimited, 1), (shared, 2), (own, 3)):
        row = await settle(database, hold_id, cost)
        assert row.account_id == (await stored(database, hold_id)).account_id
    found = await read_rows(database, accounts)
    assert {row.account_type: row.balance for row in found} == {
        "UNLIMITED": -1,
        "MANDATE": -2,
        "USER": 7,
    }


async def test_an_open_hold_stops_a_change_of_the_model(database: Database) -> None:
    await add_mandate(database, model=CREDIT_POSTPAY)
    for close in (
        lambda hold_id: expire(database, hold_id),
        lambda hold_id: release(database, hold_id),
        lambda hold_id: settle(database, hold_id, 0),
    ):
        hold_id = await hold(database, 1)
        change = change_settings(database, billing_model=PREPAY_USER)
        assert await refused(database, change) == ("BALANCE_NOT_ZERO", ("billing_model",))
        await close(hold_id)
        await change_settings(database, billing_model=PREPAY_USER)
        await change_settings(database, billing_model=CREDIT_POSTPAY)


async def test_settled_again_it_is_the_first_transaction(database: Database) -> None:
    """Whatever has changed since."""
    await add_mandate(database, model=PREPAY_USER)
    hold_id = await hold(database, 5)
    then = datetime.now(UTC)
    given: dict[str, Any] = {"aicore_model": "gpt", "occurred_at": then}
    first = await settle(database, hold_id, "2.5", **given)
    await set_enabled(database, False)
    await remove_membership(database, OPERATOR, MANDATE, "alice")
    before = await dump(database)
    for amount in ("2.5", "2.50"):
        again = await settle(database, hold_id, amount, **given)
        assert (again.id, again.balance_after) == (first.id, Decimal("7.5"))
    changes: list[dict[str, Any]] = [
        {"amount": "2.500000001"},
        {"amount": -1},
        {"description": "Another"},
        {"aicore_provider": "azure"},
        {"aicore_model": None},
        {"occurred_at": None},
        {"occurred_at": then - timedelta(days=100)},
    ]
    for change in changes:
        wrong = settle(database, hold_id, **({"amount": "2.5", **given} | change))
        assert await refused(database, wrong) == ("IDEMPOTENCY_CONFLICT", ("hold_id",)), change
    assert await dump(database) == before


async def test_a_settlement_is_found_again_after_36_days(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await add_mandate(database)
    hold_id = await hold(database, 5)
    then = datetime.now(UTC) - timedelta(days=1)
    first = await settle(database, hold_id, 1, occurred_at=then)
    monkeypatch.setattr("app.billing.checks.OLDEST", timedelta(hours=1))
    assert (await settle(database, hold_id, 1, occurred_at=then)).id == first.id


@pytest.mark.parametrize(
    ("offset", "is_refused"),
    [
        (-timedelta(days=35) + timedelta(minutes=1), False),
        (-timedelta(days=35, minutes=1), True),
        (timedelta(minutes=4), False),
        (timedelta(minutes=6), True),
        (timedelta(days=365 * 1000), True),
        (-timedelta(days=365 * 2000), True),
    ],
)
async def test_when_a_settled_call_may_have_occurred(
    database: Database, offset: timedelta, is_refused: bool
) -> None:
    await add_mandate(database, time_zone="Pacific/Kiritimati")
    hold_id = await hold(database, 5)
    then = datetime.now(UTC) + offset
    change = settle(database, hold_id, 1, occurred_at=then)
    if is_refused:
        assert await refused(database, change) == ("INVALID", ("occurred_at",))
        assert await hold_status(database, hold_id) == OPEN
    else:
        assert (await change).occurred_at == then


BAD_COSTS: list[tuple[dict[str, Any], str, str]] = [
    ({"amount": "-0.000000001"}, "amount", "INVALID"),
    ({"amount": "1000000.000000001"}, "amount", "LIMIT_EXCEEDED"),
    ({"description": ""}, "description", "INVALID"),
    ({"description": "x" * 1001}, "description", "INVALID"),
    ({"description": "a\0b"}, "description", "INVALID"),
    *[
        ({name: value}, name, "INVALID")
        for name in ("aicore_provider", "aicore_model")
        for value in ("", " ", "a\0b", "a\nb", " a", "x" * 129)
    ],
]


async def test_a_bad_settlement_leaves_the_hold_open(database: Database) -> None:
    await add_mandate(database, model=PREPAY_USER)
    hold_id = await hold(database, 5)
    for given, field, code in BAD_COSTS:
        change = settle(database, hold_id, **({"amount": 1} | given))
        assert await refused(database, change) == (code, (field,)), str(given)[:50]
    assert await hold_status(database, hold_id) == OPEN
    assert await left(database) == (10, 5, 5)


async def test_a_settlement_beyond_the_limits_of_an_account_loses_nothing(
    database: Database,
) -> None:
    await add_mandate(database)
    hold_id = await hold(database, 5)
    async with database.engine.begin() as connection:
        await connection.execute(
            update(accounts).values(balance=2 - MAX_BALANCE, debited=MAX_BALANCE - 2)
        )
    change = settle(database, hold_id, "2.000000001")
    assert await refused(database, change) == ("LIMIT_EXCEEDED", ("amount",))
    assert await hold_status(database, hold_id) == OPEN
    assert (await settle(database, hold_id, 2)).balance_after == -MAX_BALANCE


# Releasing


async def test_a_released_hold_gives_back_all(database: Database) -> None:
    await add_mandate(database, model=PREPAY_USER)
    hold_id = await hold(database, 10)
    history = await ledger_rows(database)
    await release(database, hold_id)
    row = await stored(database, hold_id)
    assert (row.status, row.settled_amount) == (RELEASED, None)
    assert await left(database) == (10, 0, 10)
    assert await ledger_rows(database) == history
    await hold(database, 10)


async def test_a_hold_is_released_whatever_has_changed_since(database: Database) -> None:
    await add_mandate(database, model=PREPAY_USER)
    hold_id = await hold(database, 1)
    await set_enabled(database, False)
    await remove_membership(database, OPERATOR, MANDATE, "alice")
    await release(database, hold_id)
    assert await hold_status(database, hold_id) == RELEASED


async def test_released_again_it_stays_as_it_is(database: Database) -> None:
    await add_mandate(database)
    hold_id = await hold(database, 1)
    await release(database, hold_id)
    before = await dump(database)
    await release(database, hold_id)
    assert await dump(database) == before
    await expire(database, hold_id)
    await release(database, hold_id)
    assert await hold_status(database, hold_id) == RELEASED


@pytest.mark.parametrize("tidied", [True, False])
async def test_an_expired_hold_may_be_released_and_stays_expired(
    database: Database, tidied: bool
) -> None:
    await add_mandate(database, model=PREPAY_USER)
    hold_id = await hold(database, 10)
    await expire(database, hold_id)
    if tidied:
        await expire_holds(database)
    before = await dump(database)
    await release(database, hold_id)
    assert await hold_status(database, hold_id) == EXPIRED
    assert await dump(database) == before
    assert (await settle(database, hold_id, 4)).balance_after == 6


async def test_what_was_closed_one_way_cannot_be_closed_the_other(database: Database) -> None:
    await add_mandate(database, model=PREPAY_USER)
    settled, released, expired = [await hold(database, 1) for _ in range(3)]
    await settle(database, settled, 1)
    await release(database, released)
    await expire(database, expired)
    await settle(database, expired, 1)
    assert await refused(database, release(database, settled)) == NOT_OPEN
    assert await refused(database, release(database, expired)) == NOT_OPEN
    for amount in (1, -1):
        assert await refused(database, settle(database, released, amount)) == NOT_OPEN


# Leaving


async def test_who_leaves_settles_what_is_open_and_holds_no_more(database: Database) -> None:
    await add_mandate(database, model=PREPAY_USER)
    settled, released = await hold(database, 3), await hold(database, 4)
    await remove_membership(database, OPERATOR, MANDATE, "alice")
    assert await refused(database, hold(database, 1)) == ("NOT_FOUND", ("user_id",))
    await settle(database, settled, 2)
    await add_member(database, "alice")
    assert await refused(database, hold(database, "4.000000001")) == NO_FUNDS
    await release(database, released)
    await hold(database, 8)
    assert await left(database) == (8, 8, 0)


# How it is shown


async def test_held_money_is_shown_of_open_holds_alone(database: Database) -> None:
    await add_mandate(database, model=PREPAY_USER, users=["alice", "bob"])
    await add_mandate(database, OTHER_MANDATE, PREPAY_USER)
    await hold(database, 5, mandate_id=OTHER_MANDATE)
    ids = [await hold(database, 1) for _ in range(5)]
    await settle(database, ids[0], 1)
    await release(database, ids[1])
    await expire(database, ids[2])
    await hold(database, "0.25", user_id="bob")
    assert await left(database) == (9, 2, 7)
    assert await left(database, "bob") == (10, Decimal("0.25"), Decimal("9.75"))
    page = await list_accounts(
        database, SYSADMIN, MANDATE, user_id=None, enabled=None, page=PageArguments(first=1)
    )
    assert page is not None
    [bob] = page.nodes
    assert (bob.user_id, bob.held, bob.available) == ("bob", Decimal("0.25"), Decimal("9.75"))
    totals = await page.totals()
    assert (totals.balance, totals.held) == (19, Decimal("2.25"))


Settings = dict[str, Any]
SHOWN: list[tuple[Settings, str, str, Decimal | int | None]] = [
    ({"model": PREPAY_USER}, "8.999999999", "9", 1),
    ({"model": CREDIT_POSTPAY, "credit_limit": Decimal(100)}, "89.999999999", "90", 10),
    ({"model": CREDIT_POSTPAY}, "999999", "1000000", None),
    ({"model": UNLIMITED}, "999999", "1000000", None),
]


@pytest.mark.parametrize(("settings", "before", "reached", "available"), SHOWN)
async def test_a_warning_is_shown_by_what_is_available(
    database: Database,
    settings: Settings,
    before: str,
    reached: str,
    available: Decimal | int | None,
) -> None:
    await add_mandate(database, **settings)
    shown: list[Callable[[], Awaitable[Any]]] = [
        lambda: find_balance(database, SYSADMIN, MANDATE, "alice"),
        lambda: _only_account(database),
    ]
    hold_id = await hold(database, before)
    assert [(await show()).is_warning for show in shown] == [False, False]
    await release(database, hold_id)
    await hold(database, reached)
    for show in shown:
        view = await show()
        assert (view.is_warning, view.available) == (available is not None, available)


async def _only_account(database: Database) -> Any:
    page = await list_accounts(
        database, SYSADMIN, MANDATE, user_id=None, enabled=None, page=PageArguments()
    )
    assert page is not None
    [account] = page.nodes
    return account
