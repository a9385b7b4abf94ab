"""How low an account stands, and what the outbox tells of it."""

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import delete

from app.billing.accounts import update_account
from app.billing.alerts import MAX_WAITING, legible
from app.billing.enums import BillingModel
from app.billing.errors import BillingError
from app.billing.models import accounts, outbox
from app.billing.usage import MAX_LISTED, record_usage
from app.billing.viewer import OPERATOR
from app.database import Database
from tests.api import Api, add_people
from tests.world import (
    CREDIT_POSTPAY,
    MANDATE,
    OTHER_MANDATE,
    PREPAY_MANDATE,
    PREPAY_USER,
    PROVIDERS,
    UNLIMITED,
    add_mandate,
    change_settings,
    credit,
    debit,
    dump,
    expire,
    hold,
    ledger_rows,
    notices,
    outcomes,
    read_rows,
    record,
    release,
    reverse,
    run_sql,
    settle,
    spend,
    transfer,
    usage_event,
)

pytestmark = pytest.mark.anyio

WARNING, DEPLETED = "WEBHOOK balance.warning", "WEBHOOK balance.depleted"
CREDITED, REJECTED = "WEBHOOK credit.added", "WEBHOOK usage.rejected"


async def told(database: Database) -> list[str]:
    """What the outbox has been told since it was last asked, as "channel type"."""
    found = [f"{row.channel} {row.notice_type}" for row in await notices(database)]
    async with database.engine.begin() as connection:
        await connection.execute(delete(outbox))
    return sorted(found)


async def levels(database: Database, mandate_id: str = MANDATE) -> dict[str | None, str | None]:
    """The stored level of each account, by its user."""
    rows = await read_rows(database, accounts, mandate_id=mandate_id)
    return {row.user_id: row.alert_level for row in rows}


async def use(database: Database, *amounts: str | int, **fields: Any) -> list[str]:
    """Books calls in one batch, and says what was told of it."""
    results = await record(database, *(usage_event(amount, **fields) for amount in amounts))
    assert not any(result.error for result in results)
    return await told(database)


async def pay_in(database: Database, amount: str | int, user_id: str | None = None) -> list[str]:
    """What was told of a credit beside that it was added."""
    await credit(database, amount, user_id)
    said = await told(database)
    said.remove(CREDITED)
    return said


async def change(database: Database, **settings: Any) -> list[str]:
    await change_settings(database, **settings)
    return await told(database)


# Levels


async def test_each_level_is_told_once(database: Database) -> None:
    await add_mandate(database, model=PREPAY_USER)
    assert await use(database, "8.999999999") == []
    assert await levels(database) == {"alice": "NONE"}
    assert await use(database, "0.000000001") == [WARNING]
    assert await levels(database) == {"alice": "WARNING"}
    assert await use(database, "0.5") == []
    assert await use(database, 0) == []
    assert await use(database, "0.499999999") == []
    assert await use(database, "0.000000001") == [DEPLETED]
    assert await levels(database) == {"alice": "EMPTY"}
    assert await use(database, 1) == []


async def test_only_the_highest_level_is_told(database: Database) -> None:
    await add_mandate(database, model=PREPAY_USER, users=["alice", "bob"])
    assert await use(database, 0) == []
    assert await use(database, 12) == [DEPLETED]
    assert await use(database, 12, user_id="bob") == [DEPLETED]


async def test_a_batch_counts_once(database: Database) -> None:
    await add_mandate(database, model=PREPAY_USER, users=["alice", "bob", "carol"])
    assert await use(database, 4, 5, "0.5", "0.25") == [WARNING]
    assert await use(database, "0.25", 1, 1) == [DEPLETED]
    results = await record(
        database,
        *(usage_event(3, user_id="bob") for _ in range(3)),
        *(usage_event(5, user_id="carol") for _ in range(3)),
    )
    assert outcomes(results) == ["RECORDED"] * 6
    assert await told(database) == [DEPLETED, WARNING]
    assert await levels(database) == {"alice": "EMPTY", "bob": "WARNING", "carol": "EMPTY"}


async def test_recovery_arms_the_alert_again(database: Database) -> None:
    await add_mandate(database, model=PREPAY_MANDATE)
    assert await pay_in(database, 10) == []
    for _ in range(2):
        assert await use(database, 9) == [WARNING]
        assert await use(database, 1) == [DEPLETED]
        assert await pay_in(database, 10) == []
        assert await levels(database) == {None: "NONE"}


async def test_half_a_recovery_arms_half(database: Database) -> None:
    await add_mandate(database, model=PREPAY_MANDATE)
    await pay_in(database, 10)
    assert await use(database, 9) == [WARNING]
    assert await use(database, "1.5") == [DEPLETED]
    [row] = await ledger_rows(database, amount=Decimal("1.5"))
    await reverse(database, row.id)
    assert await told(database) == []
    assert await levels(database) == {None: "WARNING"}
    assert await use(database, "0.5") == []
    assert await use(database, "0.5") == [DEPLETED]


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        ({"model": PREPAY_USER}, [(9, [WARNING]), (1, [DEPLETED])]),
        ({"model": PREPAY_USER}, [(10, [DEPLETED])]),
        (
            {"model": PREPAY_USER, "warning_threshold_percent": Decimal(100)},
            [(0, []), (9, []), (1, [DEPLETED])],
        ),
        (
            {"model": PREPAY_USER, "warning_threshold_percent": Decimal(0)},
            [(9, []), (1, [DEPLETED])],
        ),
        ({"model": PREPAY_USER, "default_user_credit": Decimal(0)}, [(0, []), (1, [])]),
        ({"model": PREPAY_MANDATE}, [(0, []), (1, [])]),
        ({"model": CREDIT_POSTPAY}, [(0, []), (1_000_000, [])]),
        (
            {"model": CREDIT_POSTPAY, "credit_limit": Decimal(100)},
            [("89.999999999", []), ("0.000000001", [WARNING]), (10, [DEPLETED]), (1, [])],
        ),
        ({"model": CREDIT_POSTPAY, "credit_limit": Decimal(0)}, [(0, []), (1, [])]),
        ({"model": UNLIMITED}, [(0, []), (1_000_000, [])]),
        ({}, [(0, []), (1_000_000, [])]),
    ],
)
async def test_a_new_account_is_judged_from_after_its_default_credit(
    database: Database, settings: dict[str, Any], steps: list[tuple[str | int, list[str]]]
) -> None:
    """It is told only what it comes to, not what it begins with."""
    await add_mandate(database, **settings)
    for amount, said in steps:
        assert (amount, await use(database, amount)) == (amount, said)


async def test_a_hold_does_not_alert(database: Database) -> None:
    await add_mandate(database, model=PREPAY_USER)
    await hold(database, 8)
    second = await hold(database, 2)
    assert await told(database) == []
    assert await levels(database) == {"alice": "NONE"}
    assert await use(database, "0.5") == []
    await release(database, second)
    assert await use(database, "8.75") == [WARNING]
    assert await change(database, warning_threshold_percent=Decimal(5)) == []
    assert await levels(database) == {"alice": "NONE"}


async def test_a_settlement_alerts(database: Database) -> None:
    await add_mandate(database, model=PREPAY_USER)
    first, second = await hold(database, 1), await hold(database, 1)
    await settle(database, first, "9.5")
    assert await told(database) == [WARNING]
    await expire(database, second)
    await settle(database, second, "0.5")
    assert await told(database) == [DEPLETED]


async def test_corrections_alert_and_recover(database: Database) -> None:
    await add_mandate(database, model=PREPAY_USER, users=["alice", "bob"])
    await debit(database, 9, "alice")
    assert await told(database) == [WARNING]
    await transfer(database, 1, "alice", "bob")
    assert await told(database) == [DEPLETED]
    row = await credit(database, 5, "alice")
    assert await told(database) == [CREDITED]
    assert await levels(database) == {"alice": "NONE", "bob": "NONE"}
    await reverse(database, row.id)
    assert await told(database) == [DEPLETED]
    await transfer(database, 11, "bob", "alice")
    assert await told(database) == [DEPLETED]
    assert await levels(database) == {"alice": "NONE", "bob": "EMPTY"}
    [used] = await record(database, usage_event(11))
    assert await told(database) == [DEPLETED]
    await reverse(database, used.transaction.id)
    assert await told(database) == []
    assert await levels(database) == {"alice": "NONE", "bob": "EMPTY"}


async def test_an_account_that_the_model_does_not_use_is_left_alone(database: Database) -> None:
    await add_mandate(database)
    [used] = await record(database, usage_event(3))
    assert await change(database, billing_model=PREPAY_USER) == []
    assert await use(database, 10) == [DEPLETED]
    assert await change(database, billing_model=PREPAY_MANDATE) == []
    assert await pay_in(database, 5) == []
    await reverse(database, used.transaction.id)
    await transfer(database, 1, None, "alice")
    await transfer(database, 1, "alice", None)
    assert await told(database) == []
    found = await read_rows(database, accounts)
    assert sorted((row.account_type, row.balance, row.alert_level) for row in found) == [
        ("MANDATE", 5, "NONE"),
        ("UNLIMITED", 0, "NONE"),
        ("USER", 0, "NONE"),
    ]


# Settings and limits


async def test_a_change_of_the_percentage_judges_again(database: Database) -> None:
    await add_mandate(database, model=PREPAY_USER, users=["alice", "bob", "carol"])
    await use(database, 5)
    await use(database, 7, user_id="bob")
    await use(database, 10, user_id="carol")
    assert await change(database, warning_threshold_percent=Decimal("49.999999999")) == [WARNING]
    assert await levels(database) == {"alice": "NONE", "bob": "WARNING", "carol": "EMPTY"}
    assert await change(database, warning_threshold_percent=Decimal(50)) == [WARNING]
    assert await change(database, warning_threshold_percent=Decimal(60)) == []
    assert await change(database, warning_threshold_percent=Decimal(10)) == []
    assert await levels(database) == {"alice": "NONE", "bob": "NONE", "carol": "EMPTY"}
    assert await change(database, warning_threshold_percent=Decimal(50)) == [WARNING] * 2


async def test_a_change_of_the_credit_limit_judges_again(database: Database) -> None:
    await add_mandate(database, model=CREDIT_POSTPAY)
    await use(database, 50)
    assert await change(database, credit_limit=Decimal(55)) == [WARNING]
    assert await change(database, credit_limit=Decimal(50)) == [DEPLETED]
    assert await change(database, credit_limit=Decimal(0)) == []
    assert await change(database, credit_limit=Decimal(100)) == []
    assert await levels(database) == {None: "NONE"}
    assert await change(database, credit_limit=Decimal(49)) == [DEPLETED]
    assert await change(database, credit_limit=None) == []
    assert await levels(database) == {None: "NONE"}


async def test_a_change_of_the_model_judges_again(database: Database) -> None:
    await add_mandate(database, model=CREDIT_POSTPAY)
    await use(database, 0)
    assert await change(database, billing_model=PREPAY_MANDATE) == [DEPLETED]
    await pay_in(database, 5)
    assert await change(database, billing_model=CREDIT_POSTPAY) == []
    assert await change(database, billing_model=PREPAY_MANDATE) == []
    assert await use(database, 5) == [DEPLETED]
    assert await change(database, billing_model=UNLIMITED) == []
    assert await levels(database) == {None: "NONE"}
    assert await change(database, billing_model=PREPAY_MANDATE) == [DEPLETED]


async def test_other_changes_of_the_settings_tell_nothing(database: Database) -> None:
    await add_mandate(database, model=PREPAY_USER)
    await use(database, 10)
    changes: list[dict[str, Any]] = [
        {"default_user_credit": Decimal(100)},
        {"block_on_zero_balance": False},
        {"notify_emails": ["a@example.com"]},
        {"notify_on_warning": False},
        {"notify_on_warning": True},
        {"allowed_providers": []},
        {"credit_limit": Decimal(100)},
    ]
    for settings in changes:
        assert await change(database, **settings) == []
    assert await levels(database) == {"alice": "EMPTY"}


async def test_an_accounts_own_limit_judges_again(database: Database) -> None:
    await add_mandate(database, model=CREDIT_POSTPAY, credit_limit=Decimal(100))
    await use(database, 50)
    [account] = await read_rows(database, accounts)

    async def set_account(**changes: Any) -> list[str]:
        await update_account(database, OPERATOR, MANDATE, account.id, changes)
        return await told(database)

    assert await set_account(credit_limit=Decimal(55)) == [WARNING]
    assert await set_account(enabled=False) == []
    assert await set_account(credit_limit=Decimal(50), enabled=True) == [DEPLETED]
    assert await set_account(credit_limit=None) == []
    assert await levels(database) == {None: "NONE"}
    assert await set_account(credit_limit=Decimal(0)) == [DEPLETED]
    assert await change(database, credit_limit=Decimal(1000)) == []
    assert await levels(database) == {None: "EMPTY"}


async def test_another_mandate_is_not_judged(database: Database) -> None:
    for mandate_id in (MANDATE, OTHER_MANDATE):
        await add_mandate(database, mandate_id, CREDIT_POSTPAY)
        await use(database, 50, mandate_id=mandate_id)
    await change_settings(database, credit_limit=Decimal(50))
    [notice] = await notices(database)
    assert (notice.mandate_id, notice.data["mandateId"]) == (MANDATE, MANDATE)
    assert await levels(database, OTHER_MANDATE) == {None: "NONE"}


async def test_an_account_from_before_levels_were_kept(database: Database) -> None:
    """It is told what it comes to, not where it stood."""
    await add_mandate(database, model=PREPAY_USER, users=["alice", "bob"])
    await use(database, 5)
    await use(database, "9.5", user_id="bob")
    await run_sql(database, "UPDATE account SET alert_level = NULL")
    assert await use(database, 0, user_id="bob") == []
    assert await levels(database) == {"alice": None, "bob": "WARNING"}
    assert await use(database, "0.5", user_id="bob") == [DEPLETED]
    assert await use(database, 4) == [WARNING]
    await run_sql(database, "UPDATE account SET alert_level = NULL")
    assert await change(database, warning_threshold_percent=Decimal(20)) == []
    assert await levels(database) == {"alice": "WARNING", "bob": "EMPTY"}


# What is told, and where


async def test_without_notification_the_level_is_kept_and_nothing_is_told(
    database: Database,
) -> None:
    await add_mandate(
        database, model=PREPAY_USER, notify_on_warning=False, notify_emails=["a@example.com"]
    )
    assert await use(database, 9) == []
    assert await levels(database) == {"alice": "WARNING"}
    assert await change(database, notify_on_warning=True) == []
    assert await use(database, "0.5") == []
    assert await use(database, "0.5") == ["EMAIL balance.depleted", DEPLETED]


async def test_an_alert_is_told_once_per_channel(database: Database) -> None:
    await add_mandate(database, model=PREPAY_USER, notify_emails=["a@example.com", "b@example.com"])
    before = datetime.now(UTC)
    await record(database, usage_event(9))
    email, webhook = sorted(await notices(database), key=lambda row: str(row.channel))
    assert (email.channel, webhook.channel) == ("EMAIL", "WEBHOOK")
    assert email.id != webhook.id
    assert email.data == webhook.data
    for row in (email, webhook):
        assert (row.mandate_id, row.notice_type) == (MANDATE, "balance.warning")
        assert (row.attempts, row.last_error) == (0, None)
        assert before <= row.created_at == row.due_at <= datetime.now(UTC)


@pytest.mark.parametrize(
    ("settings", "cost", "kind", "said"),
    [
        (
            {"model": PREPAY_USER},
            "9.25",
            "balance.warning",
            {"userId": "alice", "balance": "0.75", "available": "0.75", "warningThreshold": "1"},
        ),
        (
            {"model": PREPAY_USER, "default_user_credit": Decimal("0.000000015")},
            "0.000000014",
            "balance.warning",
            {
                "userId": "alice",
                "balance": "0.000000001",
                "available": "0.000000001",
                "warningThreshold": "0.000000001",
            },
        ),
        (
            {"model": CREDIT_POSTPAY, "credit_limit": Decimal("20.5")},
            "21",
            "balance.depleted",
            {"userId": None, "balance": "-21", "available": "-0.5", "warningThreshold": "2.05"},
        ),
    ],
)
async def test_what_an_alert_says(
    database: Database, settings: dict[str, Any], cost: str, kind: str, said: dict[str, Any]
) -> None:
    await add_mandate(database, **settings)
    await hold(database, "0.000000001")
    await record(database, usage_event(cost))
    [notice] = await notices(database)
    [account] = await read_rows(database, accounts)
    assert notice.notice_type == kind
    assert notice.data == said | {
        "mandateId": MANDATE,
        "mandateName": "Acme",
        "accountId": account.id,
        "billingModel": settings["model"],
        "currency": "CHF",
    }


async def test_a_change_that_is_rolled_back_tells_nothing(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await add_mandate(database, model=PREPAY_USER)
    before = await dump(database)

    async def fail(*_: Any, **__: Any) -> None:
        raise LookupError

    with monkeypatch.context() as broken:
        broken.setattr("app.billing.ledger.roll_up", fail)
        with pytest.raises(LookupError):
            await record(database, usage_event(10), spend(1))
        with pytest.raises(LookupError):
            await credit(database, 1, "alice")
    assert await dump(database) == before
    assert await notices(database) == []
    await use(database, 5)
    with monkeypatch.context() as broken:
        broken.setattr("app.billing.settings.write_audit_event", fail)
        with pytest.raises(LookupError):
            await change_settings(database, warning_threshold_percent=Decimal(50))
    assert await notices(database) == []
    assert await levels(database) == {"alice": "NONE"}
    assert await change(database, warning_threshold_percent=Decimal(50)) == [WARNING]


# Credits


@pytest.mark.parametrize(
    ("model", "user_id", "balance"),
    [
        (PREPAY_USER, "alice", "22.5"),
        (PREPAY_MANDATE, None, "12.5"),
        (CREDIT_POSTPAY, None, "12.5"),
    ],
)
async def test_a_credit_is_told(
    database: Database, model: BillingModel, user_id: str | None, balance: str
) -> None:
    await add_mandate(database, model=model, notify_emails=["a@example.com"])
    row = await credit(database, "12.50", user_id, key="credit-1")
    [notice] = await notices(database)
    assert (notice.channel, notice.notice_type) == ("WEBHOOK", "credit.added")
    assert notice.data == {
        "mandateId": MANDATE,
        "userId": user_id,
        "accountId": row.account_id,
        "transactionId": row.id,
        "amount": "12.5",
        "currency": "CHF",
        "balance": balance,
    }
    await credit(database, "12.5", user_id, key="credit-1")
    assert len(await notices(database)) == 1


async def test_no_other_money_is_told_as_a_credit(database: Database) -> None:
    await add_mandate(database, model=PREPAY_USER, users=["alice", "bob"])
    await debit(database, 1, "alice")
    await transfer(database, 1, "alice", "bob")
    [used] = await record(database, usage_event(1))
    await reverse(database, used.transaction.id)
    with pytest.raises(BillingError):
        await credit(database, 1)
    assert await told(database) == []


# Rejected usage


async def test_rejected_usage_is_told_once_a_batch(database: Database) -> None:
    await add_mandate(database, model=PREPAY_USER)
    await add_mandate(database, OTHER_MANDATE)
    await record(database, usage_event(1, key="call-1"))
    results = await record(
        database,
        usage_event(1, key="call-1"),
        spend("11.50", key="call-2"),
        usage_event(2, key="call-1"),
        usage_event(1),
        usage_event(1, user_id="nobody", key="call-3"),
        usage_event(1, user_id="nobody", key="call-4", mandate_id=OTHER_MANDATE),
        usage_event(1, mandate_id="nowhere"),
    )
    ours, theirs = await notices(database)
    assert {row.channel for row in (ours, theirs)} == {"WEBHOOK"}
    assert {row.notice_type for row in (ours, theirs)} == {"usage.rejected"}

    def event(place: int, amount: str, key: str, user_id: str = "alice") -> dict[str, Any]:
        error = results[place].error
        assert error is not None
        return {
            "userId": user_id,
            "amount": amount,
            "idempotencyKey": key,
            "code": error.code,
            "message": error.message,
        }

    assert ours.data == {
        "mandateId": MANDATE,
        "count": 3,
        "events": [
            event(1, "11.5", "call-2"),
            event(2, "2", "call-1"),
            event(4, "1", "call-3", "nobody"),
        ],
    }
    assert theirs.data == {
        "mandateId": OTHER_MANDATE,
        "count": 1,
        "events": [event(5, "1", "call-4", "nobody")],
    }


async def test_a_long_list_of_rejected_usage_is_cut_and_counted(database: Database) -> None:
    await add_mandate(database)
    await record(database, *(usage_event(1, user_id="nobody") for _ in range(MAX_LISTED + 5)))
    [notice] = await notices(database)
    assert (notice.data["count"], len(notice.data["events"])) == (MAX_LISTED + 5, MAX_LISTED)


async def test_rejected_usage_waits_in_bounded_number(database: Database) -> None:
    """Whoever sends nonsense for ever does not fill the disk, and hides nothing else."""
    await add_mandate(database, model=PREPAY_USER, notify_emails=["a@example.com"])
    await add_mandate(database, OTHER_MANDATE)
    for _ in range(MAX_WAITING + 2):
        await record(database, usage_event(1, user_id="nobody"))
    assert len(await notices(database)) == MAX_WAITING
    await record(database, usage_event(1, user_id="nobody", mandate_id=OTHER_MANDATE), spend(11))
    assert len(await notices(database, mandate_id=OTHER_MANDATE)) == 1
    assert outcomes(await record(database, usage_event(10), spend(1))) == [
        *("RECORDED", "INSUFFICIENT_FUNDS")
    ]
    await credit(database, 1, "alice")
    said = await told(database)
    assert said.count(REJECTED) == MAX_WAITING + 1
    assert set(said) == {REJECTED, CREDITED, DEPLETED, "EMAIL balance.depleted"}
    await record(database, usage_event(1, user_id="nobody"))
    assert await told(database) == [REJECTED]


HOSTILE = ["a\0b", "\0", "", " ", "x" * 100_000, "\U0001f4b6" * 300, "a\r\nb", "<b>&'\"%_\\"]


async def test_hostile_ids_break_neither_the_batch_nor_the_notice(database: Database) -> None:
    await add_mandate(database)
    bad = [usage_event(1, user_id=text, key=f"user {place}") for place, text in enumerate(HOSTILE)]
    long = "x" * 100_000
    bad += [usage_event(1, key=text) for text in ("a\0b", " ", long)]
    results = await record(
        database, *(event for hostile in bad for event in (hostile, usage_event(1)))
    )
    assert outcomes(results[1::2]) == ["RECORDED"] * len(bad)
    assert "RECORDED" not in outcomes(results[::2])
    [notice] = await notices(database)
    said = notice.data["events"]
    assert [event["userId"] for event in said[: len(HOSTILE)]] == [
        text.replace("\0", "\N{REPLACEMENT CHARACTER}")[:255] for text in HOSTILE
    ]
    assert [event["idempotencyKey"] for event in said[len(HOSTILE) :]] == [
        *("a\N{REPLACEMENT CHARACTER}b", " ", "x" * 255)
    ]
    assert len(json.dumps(notice.data)) < 20_000


def test_what_a_json_column_takes() -> None:
    assert legible("a\0b\ud800c\udfff") == "a\N{REPLACEMENT CHARACTER}b?c?"
    assert legible("\U0001f4b6" * 300) == "\U0001f4b6" * 255


async def test_what_is_no_unicode_is_refused_with_its_request(database: Database, api: Api) -> None:
    await add_people(database)
    before = await dump(database)
    event = (
        r"""{mandateId: \"acme\", userId: \"al\\uD800\", amount: \"1\", idempotencyKey: \"k\"}"""
    )
    results = "{ results { outcome } }"
    headers = api.bearer("gateway") | {"Content-Type": "application/json"}
    for content in (
        rf'{{"query": "mutation {{ recordUsage(input: {{events: [{event}]}}) {results} }}"}}',
        r'{"query": "mutation($e: [UsageEventInput!]!) { recordUsage(input: {events: $e}) '
        rf'{results} }}", "variables": {{"e": [{{"mandateId": "acme", "userId": "al\ud800",'
        r' "amount": "1", "idempotencyKey": "k"}]}}',
    ):
        answer = await api.client.post("/graphql", content=content, headers=headers)
        [error] = answer.json()["errors"]
        assert error["extensions"]["code"] == "BAD_USER_INPUT"
        assert not answer.json().get("data")
    assert await dump(database) == before
    assert await notices(database) == []


async def test_an_import_reports_its_rejected_rows_itself(database: Database) -> None:
    await add_mandate(database, model=PREPAY_USER)
    old = usage_event(1, occurred_at=datetime.now(UTC) - timedelta(days=100))
    results = await record_usage(
        database, OPERATOR, [old, usage_event(1, user_id="nobody")], PROVIDERS, imported=True
    )
    assert outcomes(results) == ["RECORDED", "NOT_FOUND"]
    assert await told(database) == []
