from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import event as events

from app.billing.accounts import update_account
from app.billing.directory import remove_membership
from app.billing.enums import BillingModel
from app.billing.errors import BillingError, Forbidden
from app.billing.models import accounts, daily_usage, transactions
from app.billing.usage import MAX_EVENTS, UsageEvent, UsageMode, record_usage
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
    PROVIDERS,
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
    fresh,
    ledger_rows,
    outcomes,
    read_rows,
    record,
    spend,
    usage_event,
)

pytestmark = pytest.mark.anyio


RECORDED, DUPLICATE = "RECORDED", "DUPLICATE"


async def set_enabled(database: Database, enabled: bool) -> None:
    [account] = await read_rows(database, accounts, mandate_id=MANDATE)
    await update_account(database, OPERATOR, MANDATE, account.id, {"enabled": enabled})


async def refused(database: Database, *batch: UsageEvent) -> list[str]:
    """The outcomes of events that must change nothing."""
    before = await dump(database)
    results = await record(database, *batch)
    assert await dump(database) == before
    assert all(result.transaction is None for result in results if result.error)
    return outcomes(results)


@pytest.mark.parametrize("viewer", [GATEWAY, SYSADMIN, OPERATOR])
async def test_a_gateway_records(database: Database, viewer: Viewer) -> None:
    await add_mandate(database)
    [result] = await record_usage(database, viewer, [usage_event(1)], PROVIDERS)
    assert result.transaction.actor_id == (viewer.user_id or None)


@pytest.mark.parametrize("viewer", [MEMBER, ADMIN, STRANGER])
async def test_anyone_else_is_refused(database: Database, viewer: Viewer) -> None:
    await add_mandate(database)
    before = await dump(database)
    with pytest.raises(Forbidden):
        await record_usage(database, viewer, [usage_event(1)], PROVIDERS)
    assert await dump(database) == before


async def test_an_event_is_written_as_it_was_sent(database: Database) -> None:
    await add_mandate(database)
    then = datetime.now(UTC) - timedelta(days=34)
    event = usage_event(
        "0.00000015",
        key="call-1",
        description="A call",
        workflow_id="flow",
        feature_code="chat",
        aicore_provider="unregistered",
        aicore_model="gpt",
        occurred_at=then,
    )
    [result] = await record(database, event)
    [row] = await ledger_rows(database)
    assert vars(result.transaction) == row._asdict()
    assert {name: getattr(row, name) for name in event.__dataclass_fields__ if name != "mode"} == {
        name: getattr(event, name) for name in event.__dataclass_fields__ if name != "mode"
    }
    assert (row.transaction_type, row.reference_type) == ("DEBIT", "USAGE")


async def test_each_event_has_its_own_outcome_in_the_order_given(database: Database) -> None:
    await add_mandate(database, model=PREPAY_USER, users=["alice", "bob"])
    await add_mandate(database, OTHER_MANDATE, users=["carol"])
    results = await record(
        database,
        usage_event(1, mandate_id=OTHER_MANDATE, user_id="carol"),
        spend(11),
        usage_event(1, user_id="nobody"),
        usage_event(2, user_id="bob"),
        usage_event(1, mandate_id="nowhere"),
        usage_event(3),
    )
    assert outcomes(results) == [
        RECORDED,
        "INSUFFICIENT_FUNDS",
        "NOT_FOUND",
        RECORDED,
        "NOT_FOUND",
        RECORDED,
    ]
    assert [result.error.field for result in results if result.error] == [
        ("events", "1", "amount"),
        ("events", "2", "user_id"),
        ("events", "4", "mandate_id"),
    ]
    assert await balances(database) == {"bob": 8, "alice": 7}
    assert await balances(database, OTHER_MANDATE) == {None: -1}


@pytest.mark.parametrize("count", [0, MAX_EVENTS + 1])
async def test_too_few_or_too_many_events(database: Database, count: int) -> None:
    await add_mandate(database)
    before = await dump(database)
    with pytest.raises(BillingError, match="1 to 1000") as error:
        await record(database, *[usage_event(1)] * count)
    assert (error.value.code, error.value.field) == ("INVALID", ("events",))
    assert await dump(database) == before


# What a mandate of each model may spend: its credit or limit, then events and their outcomes.
FUNDS = "INSUFFICIENT_FUNDS"
LIMIT = "CREDIT_LIMIT_EXCEEDED"
SPENDS: list[tuple[BillingModel, dict[str, Any], int, list[str | int], list[str]]] = [
    (PREPAY_USER, {}, 0, [10, "0.000000001", 0], [RECORDED, FUNDS, FUNDS]),
    (PREPAY_USER, {}, 5, ["15.000000001", 15], [FUNDS, RECORDED]),
    (PREPAY_USER, {"default_user_credit": Decimal(0)}, 0, [0, 1], [FUNDS, FUNDS]),
    (PREPAY_USER, {"block_on_zero_balance": False}, 0, [11, 11], [RECORDED, RECORDED]),
    (PREPAY_MANDATE, {}, 0, [0, "0.000000001"], [FUNDS, FUNDS]),
    (PREPAY_MANDATE, {}, 3, [1, 1, 2, 1], [RECORDED, RECORDED, FUNDS, RECORDED]),
    (PREPAY_MANDATE, {"block_on_zero_balance": False}, 0, [1], [RECORDED]),
    (CREDIT_POSTPAY, {}, 0, [1_000_000], [RECORDED]),
    (CREDIT_POSTPAY, {"credit_limit": Decimal(0)}, 0, [0, 1], [RECORDED, LIMIT]),
    (CREDIT_POSTPAY, {"credit_limit": Decimal(5)}, 0, [6, 5, 0, 1], [LIMIT, RECORDED, RECORDED, LIMIT]),
    (CREDIT_POSTPAY, {"credit_limit": Decimal(5)}, 2, [8, 7], [LIMIT, RECORDED]),
    (
        CREDIT_POSTPAY,
        {"credit_limit": Decimal(5), "block_on_zero_balance": False},
        0,
        [6],
        [LIMIT],
    ),
    (UNLIMITED, {"credit_limit": Decimal(0)}, 0, [1_000_000], [RECORDED]),
]  # fmt: skip


@pytest.mark.parametrize(("model", "settings", "funds", "amounts", "expected"), SPENDS)
async def test_a_spend_needs_funds(
    database: Database,
    model: BillingModel,
    settings: dict[str, Any],
    funds: int,
    amounts: list[str | int],
    expected: list[str],
) -> None:
    """The same outcomes whether the events come in one batch or one by one."""
    for mandate_id in (MANDATE, OTHER_MANDATE):
        await add_mandate(database, mandate_id, model, **settings)
        if funds:
            user_id = "alice" if model == PREPAY_USER else None
            await credit(database, funds, user_id, mandate_id=mandate_id)
    batch = [spend(amount) for amount in amounts]
    assert outcomes(await record(database, *batch)) == expected
    single = [replace(event, mandate_id=OTHER_MANDATE) for event in batch]
    assert [outcomes(await record(database, event))[0] for event in single] == expected
    assert await balances(database) == await balances(database, OTHER_MANDATE)


@pytest.mark.parametrize("model", [*BillingModel, None])
async def test_what_has_happened_is_recorded_whatever_the_funds(
    database: Database, model: BillingModel | None
) -> None:
    await add_mandate(
        database,
        model=model,
        default_user_credit=Decimal(0),
        credit_limit=Decimal(0),
        allowed_providers=[],
    )
    await record(database, usage_event(1))
    await set_enabled(database, False)
    await remove_membership(database, OPERATOR, MANDATE, "alice")
    await add_user(database, "alice", enabled=False)
    results = await record(
        database, usage_event(5), usage_event(0), usage_event(1, aicore_provider="x")
    )
    assert outcomes(results) == [RECORDED] * 3
    assert list((await balances(database)).values()) == [-7]


async def test_reasons_are_given_in_their_order(database: Database) -> None:
    await add_mandate(
        database, model=PREPAY_MANDATE, users=["alice", "bob"], allowed_providers=["azure"]
    )
    await credit(database, 1)
    await set_enabled(database, False)
    beyond = spend(2, aicore_provider="openai")
    assert await refused(database, beyond) == ["ACCOUNT_DISABLED"]
    assert await refused(database, replace(beyond, user_id="nobody")) == ["NOT_FOUND"]
    await set_enabled(database, True)
    assert await refused(database, beyond) == ["PROVIDER_NOT_ALLOWED"]
    await change_settings(database, allowed_providers=["openai"])
    assert await refused(database, beyond) == ["INSUFFICIENT_FUNDS"]


@pytest.mark.parametrize("model", list(BillingModel))
async def test_a_disabled_account_spends_under_no_model(
    database: Database, model: BillingModel
) -> None:
    await add_mandate(database, model=model)
    await record(database, usage_event(0))
    await set_enabled(database, False)
    assert await refused(database, spend(0)) == ["ACCOUNT_DISABLED"]


@pytest.mark.parametrize(
    ("allowed", "may_use", "may_not_use"),
    [
        (None, [None, "azure"], ["Azure", "unregistered"]),
        ([], [], [None, "azure"]),
        (["azure", "openai"], ["azure"], [None, "AZURE", "mistral", "unregistered"]),
    ],
)
@pytest.mark.parametrize("model", [UNLIMITED, PREPAY_USER])
async def test_providers_that_may_be_used(
    database: Database,
    model: BillingModel,
    allowed: list[str] | None,
    may_use: list[str | None],
    may_not_use: list[str | None],
) -> None:
    await add_mandate(database, model=model, allowed_providers=allowed)
    for name in may_use:
        assert outcomes(await record(database, spend(1, aicore_provider=name))) == [RECORDED]
    before = await dump(database)
    results = await record(database, *(spend(1, aicore_provider=name) for name in may_not_use))
    for place, result in enumerate(results):
        assert result.error is not None
        assert (result.error.code, result.error.field) == (
            "PROVIDER_NOT_ALLOWED",
            ("events", str(place), "aicore_provider"),
        )
    assert await dump(database) == before


async def test_a_mandate_without_settings_spends_as_unlimited(database: Database) -> None:
    await add_mandate(database)
    assert outcomes(await record(database, spend(5, aicore_provider="azure"))) == [RECORDED]
    assert await refused(database, spend(1, aicore_provider="x")) == ["PROVIDER_NOT_ALLOWED"]
    assert await balances(database) == {None: -5}


@pytest.mark.parametrize(
    ("amounts", "expected"),
    [
        ([6, 6, 4], [RECORDED, FUNDS, RECORDED]),
        ([11, 10], [FUNDS, RECORDED]),
        ([10, 0], [RECORDED, FUNDS]),
    ],
)
async def test_funds_of_an_event_see_the_events_before_it(
    database: Database, amounts: list[int], expected: list[str]
) -> None:
    await add_mandate(database, model=PREPAY_USER)
    assert outcomes(await record(database, *map(spend, amounts))) == expected
    assert await balances(database) == {"alice": 0}


async def test_a_refused_spend_does_not_open_an_account(database: Database) -> None:
    await add_mandate(database, model=PREPAY_USER)
    assert await refused(database, spend(11)) == ["INSUFFICIENT_FUNDS"]


async def test_an_account_opened_in_a_batch_also_counts_what_was_refused_before(
    database: Database,
) -> None:
    await add_mandate(database, model=PREPAY_USER)
    results = await record(database, spend(11), usage_event(4), spend(7), spend(6))
    assert outcomes(results) == [FUNDS, RECORDED, FUNDS, RECORDED]
    rows = await ledger_rows(database)
    assert [(row.sequence, row.balance_after) for row in rows] == [(1, 10), (2, 6), (3, 0)]


async def test_a_free_call_is_counted(database: Database) -> None:
    await add_mandate(database, model=PREPAY_MANDATE)
    await credit(database, 1)
    assert outcomes(await record(database, spend(0), usage_event(0))) == [RECORDED] * 2
    [day] = await read_rows(database, daily_usage)
    assert (day.cost, day.transaction_count) == (0, 2)


# Retries


@pytest.mark.parametrize("mode", list(UsageMode))
async def test_a_retry_returns_the_first_result(database: Database, mode: UsageMode) -> None:
    await add_mandate(database, model=PREPAY_USER)
    event = spend("12.5", key="call-1", aicore_model="gpt")
    await credit(database, 5, "alice")
    [first] = await record(database, event)
    before = await dump(database)
    for amount in ("12.5", "12.50", "12.500000000"):
        retry = replace(event, amount=Decimal(amount), mode=mode)
        [result] = await record(database, retry)
        assert outcomes([result]) == [DUPLICATE]
        assert result.transaction.id == first.transaction.id
        assert result.transaction.balance_after == Decimal("2.5")
    assert await dump(database) == before


async def test_a_retry_within_a_batch_returns_the_first_result(database: Database) -> None:
    await add_mandate(database)
    event = usage_event(1, key="call-1")
    results = await record(
        database, event, usage_event(2), event, replace(event, amount=Decimal(3))
    )
    assert outcomes(results) == [RECORDED, RECORDED, DUPLICATE, "IDEMPOTENCY_CONFLICT"]
    assert results[2].transaction.id == results[0].transaction.id
    assert results[3].error is not None
    assert results[3].error.field == ("events", "3", "idempotency_key")
    assert await balances(database) == {None: -3}


async def test_other_content_under_a_used_key_is_a_conflict(database: Database) -> None:
    """Also where it would be refused for another reason."""
    await add_mandate(database, users=["alice", "bob"])
    now = datetime.now(UTC)
    event = usage_event(
        1,
        key="call-1",
        workflow_id="flow",
        aicore_provider="azure",
        occurred_at=now - timedelta(hours=1),
    )
    await record(database, event)
    changes: list[dict[str, Any]] = [
        {"amount": Decimal("1.000000001")},
        {"amount": Decimal(-1)},
        {"user_id": "bob"},
        {"user_id": "nobody"},
        {"description": "Another"},
        {"workflow_id": "other"},
        {"workflow_id": None},
        {"feature_code": "other"},
        {"aicore_provider": None},
        {"aicore_model": "other"},
        {"occurred_at": None},
        {"occurred_at": now},
    ]
    conflicts = await refused(database, *(replace(event, **change) for change in changes))
    assert conflicts == ["IDEMPOTENCY_CONFLICT"] * len(changes)


async def test_the_same_instant_in_another_zone_is_the_same_content(database: Database) -> None:
    await add_mandate(database)
    event = usage_event(1, occurred_at=datetime.now(UTC))
    assert event.occurred_at is not None
    moved = replace(event, occurred_at=event.occurred_at.astimezone(timezone(timedelta(hours=5))))
    assert outcomes(await record(database, event, moved)) == [RECORDED, DUPLICATE]
    assert outcomes(await record(database, moved)) == [DUPLICATE]


async def test_a_key_used_by_a_credit_is_a_conflict(database: Database) -> None:
    await add_mandate(database, model=PREPAY_MANDATE)
    await credit(database, 5, key="shared")
    assert await refused(database, usage_event(5, key="shared")) == ["IDEMPOTENCY_CONFLICT"]


async def test_keys_of_two_mandates_never_meet(database: Database) -> None:
    for mandate_id in (MANDATE, OTHER_MANDATE):
        await add_mandate(database, mandate_id)
    ours = usage_event(1, key="call-1")
    theirs = usage_event(2, key="call-1", mandate_id=OTHER_MANDATE)
    assert outcomes(await record(database, ours, theirs)) == [RECORDED, RECORDED]
    results = await record(database, theirs, ours)
    assert outcomes(results) == [DUPLICATE, DUPLICATE]
    assert [result.transaction.amount for result in results] == [2, 1]


async def test_a_retry_succeeds_whatever_has_changed_since(database: Database) -> None:
    await add_mandate(database, model=PREPAY_USER)
    event = spend(4, aicore_provider="azure")
    await record(database, event)
    await set_enabled(database, False)
    await change_settings(database, allowed_providers=[])
    await remove_membership(database, OPERATOR, MANDATE, "alice")
    await add_user(database, "alice", enabled=False)
    before = await dump(database)
    assert outcomes(await record(database, event)) == [DUPLICATE]
    assert await dump(database) == before


async def test_a_retry_succeeds_under_another_model(database: Database) -> None:
    await add_mandate(database, model=CREDIT_POSTPAY)
    event = usage_event(0)
    await record(database, event)
    await change_settings(database, billing_model=PREPAY_USER)
    before = await dump(database)
    assert outcomes(await record(database, event)) == [DUPLICATE]
    assert await dump(database) == before


async def test_a_retry_succeeds_after_36_days(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await add_mandate(database)
    event = usage_event(1, occurred_at=datetime.now(UTC) - timedelta(days=1))
    late = usage_event(1, occurred_at=event.occurred_at)
    await record(database, event)
    monkeypatch.setattr("app.billing.checks.OLDEST", timedelta(hours=1))
    assert outcomes(await record(database, event)) == [DUPLICATE]
    assert await refused(database, late) == ["INVALID"]


@pytest.mark.parametrize("batched", [True, False])
async def test_a_refused_event_does_not_use_up_its_key(database: Database, batched: bool) -> None:
    await add_mandate(database, model=PREPAY_MANDATE)
    refusal, accepted = spend(5, key="call-1"), usage_event(4, key="call-1")
    if batched:
        results = await record(database, refusal, accepted)
    else:
        results = [*await record(database, refusal), *await record(database, accepted)]
    assert outcomes(results) == ["INSUFFICIENT_FUNDS", RECORDED]


# Who and when


async def test_users_who_may_not_spend(database: Database) -> None:
    await add_mandate(database, users=["left", "disabled", "member"])
    await add_mandate(database, OTHER_MANDATE, users=["foreign"])
    await remove_membership(database, OPERATOR, MANDATE, "left")
    await add_user(database, "disabled", enabled=False)
    names = ["left", "disabled", "foreign", "nobody", "", "a\0b", "MEMBER", "x" * 100_000]
    batch = [spend(1, user_id=name) for name in names]
    assert await refused(database, *batch) == ["NOT_FOUND"] * len(names)
    recorded = [usage_event(1, user_id=name) for name in names]
    assert outcomes(await record(database, *recorded)) == [RECORDED] * 2 + ["NOT_FOUND"] * 6


async def test_who_joins_again_spends_from_the_same_account(database: Database) -> None:
    await add_mandate(database, model=PREPAY_USER)
    await record(database, spend(4))
    await remove_membership(database, OPERATOR, MANDATE, "alice")
    assert await refused(database, spend(1)) == ["NOT_FOUND"]
    await add_member(database, "alice")
    assert outcomes(await record(database, spend(7), spend(6))) == [FUNDS, RECORDED]
    assert await balances(database) == {"alice": 0}


@pytest.mark.parametrize(
    ("offset", "expected"),
    [
        (-timedelta(days=35) + timedelta(minutes=1), RECORDED),
        (-timedelta(days=35, minutes=1), "INVALID"),
        (timedelta(minutes=4), RECORDED),
        (timedelta(minutes=6), "INVALID"),
        (timedelta(days=365 * 1000), "INVALID"),
        (-timedelta(days=365 * 2000), "INVALID"),
    ],
)
async def test_when_an_event_may_have_occurred(
    database: Database, offset: timedelta, expected: str
) -> None:
    await add_mandate(database, time_zone="Pacific/Kiritimati")
    [result] = await record(database, usage_event(1, occurred_at=datetime.now(UTC) + offset))
    assert outcomes([result]) == [expected]
    if result.error:
        assert result.error.field == ("events", "0", "occurred_at")


async def test_an_import_may_name_an_old_date(database: Database) -> None:
    await add_mandate(database, time_zone="America/Adak")
    event = usage_event(1, occurred_at=datetime(2000, 1, 1, tzinfo=UTC))
    assert await refused(database, event) == ["INVALID"]
    results = await record_usage(database, OPERATOR, [event], PROVIDERS, imported=True)
    assert outcomes(results) == [RECORDED]
    assert [row.local_date for row in await read_rows(database, daily_usage)] == [
        date(1999, 12, 31)
    ]


# Bad input


BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"amount": -1}, "amount", "INVALID"),
    ({"amount": "-0.000000001"}, "amount", "INVALID"),
    ({"amount": "1000000.000000001"}, "amount", "LIMIT_EXCEEDED"),
    ({"amount": "9" * 30}, "amount", "LIMIT_EXCEEDED"),
    ({"description": ""}, "description", "INVALID"),
    ({"description": " \n"}, "description", "INVALID"),
    ({"description": "x" * 1001}, "description", "INVALID"),
    ({"description": "a\0b"}, "description", "INVALID"),
    *[
        ({name: value}, name, "INVALID")
        for name in ("workflow_id", "feature_code", "aicore_provider", "aicore_model")
        for value in ("", " ", "a\0b", "a\nb", " a", "x" * 129, "x" * 100_000)
    ],
    ({"key": "a\0b"}, "idempotency_key", "INVALID"),
    ({"key": " "}, "idempotency_key", "INVALID"),
    ({"key": "x" * 256}, "idempotency_key", "INVALID"),
    ({"key": "x" * 100_000}, "idempotency_key", "INVALID"),
]


async def test_bad_input_is_refused_and_named(database: Database) -> None:
    """And takes no other event of the batch with it."""
    await add_mandate(database)
    batch = [event for bad, _, _ in BAD for event in (usage_event(**bad), usage_event(1))]
    results = await record(database, *batch)
    assert outcomes(results[1::2]) == [RECORDED] * len(BAD)
    for place, (bad, field, code) in enumerate(BAD):
        error = results[2 * place].error
        assert error is not None, bad
        assert (error.code, error.field) == (code, ("events", str(2 * place), field)), bad
    assert len(await ledger_rows(database)) == len(BAD)


async def test_an_empty_key_is_refused(database: Database) -> None:
    await add_mandate(database)
    empty = replace(usage_event(1), idempotency_key="")
    assert await refused(database, empty) == ["INVALID"]


@pytest.mark.parametrize("name", ["", "a\0b", "globex", "ACME", "acme ", "x" * 100_000])
async def test_a_mandate_that_does_not_exist(database: Database, name: str) -> None:
    await add_mandate(database)
    assert await refused(database, usage_event(1, mandate_id=name)) == ["NOT_FOUND"]


async def test_text_at_its_full_length_is_kept(database: Database) -> None:
    await add_mandate(database)
    wide = "\U0001f4b6" * 128
    event = usage_event(
        1,
        key="\U0001f4b6" * 255,
        description="\U0001f4b6" * 1000,
        workflow_id=wide,
        feature_code=wide,
        aicore_provider=wide,
        aicore_model=wide,
    )
    assert outcomes(await record(database, event, event)) == [RECORDED, DUPLICATE]
    assert outcomes(await record(database, event)) == [DUPLICATE]


async def test_limits_of_an_account_stop_a_record_too(database: Database) -> None:
    await add_mandate(database)
    batch = [usage_event(1_000_000) for _ in range(MAX_EVENTS)]
    assert outcomes(await record(database, *batch)) == [RECORDED] * MAX_EVENTS
    assert await refused(database, usage_event("0.000000001")) == ["LIMIT_EXCEEDED"]
    assert outcomes(await record(database, usage_event(0))) == [RECORDED]


# How


def count_statements(database: Database) -> list[str]:
    """The statements from now on; one that is sent with many rows counts once."""
    statements: list[str] = []

    def note(_c: Any, _cursor: Any, statement: str, *_: Any) -> None:
        statements.append(statement)

    events.listen(database.engine.sync_engine, "before_cursor_execute", note)
    return statements


@pytest.mark.parametrize("model", [PREPAY_USER, UNLIMITED])
async def test_many_events_take_as_many_statements_as_one(
    database: Database, model: BillingModel
) -> None:
    users = [f"user-{n}" for n in range(20)]
    await add_mandate(database, model=model, users=users)
    await record(database, *[usage_event(0, user_id=user_id) for user_id in users])
    statements = count_statements(database)
    await record(database, usage_event(1, user_id="user-0"))
    one = len(statements)
    many = [
        usage_event("0.001", user_id=users[n % 20], feature_code=f"f{n % 3}")
        for n in range(MAX_EVENTS)
    ]
    assert outcomes(await record(database, *many)) == [RECORDED] * MAX_EVENTS
    said = 0 if database.is_sqlite else 1  # once, that there are many keys
    assert len(statements) == 2 * one + said <= 20
    rows = await read_rows(database, transactions)
    assert len(rows) == MAX_EVENTS + 1 + (40 if model == PREPAY_USER else 20)
    days = await read_rows(database, daily_usage)
    assert sum(day.cost for day in days) == 2
    assert sum(day.transaction_count for day in days) == MAX_EVENTS + 21


def keys_of(rows: Sequence[Any]) -> list[str]:
    return [row.idempotency_key for row in rows]


async def test_events_are_written_in_the_order_sent(database: Database) -> None:
    await add_mandate(database)
    batch = [usage_event(1, key=fresh()) for _ in range(50)]
    await record(database, *batch)
    rows = await ledger_rows(database)
    assert keys_of(rows) == [event.idempotency_key for event in batch]
    assert [row.sequence for row in rows] == list(range(1, 51))
