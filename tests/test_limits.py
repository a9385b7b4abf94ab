"""Spend limits: what one member may spend in each period, whichever account pays."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from app.billing.directory import remove_membership, upsert_membership
from app.billing.enums import BillingModel, MembershipRole, PeriodType
from app.billing.errors import BillingError
from app.billing.limits import SpendLimit, spend_limits, unspent
from app.billing.models import accounts, audit_events, memberships
from app.billing.periods import current_period, day_start
from app.billing.usage import UsageEvent, record_usage
from app.billing.viewer import OPERATOR
from app.database import Database
from tests.api import Api, add_people, statements
from tests.statistics import DAY, INSTANT, MONTH, YEAR, total, write
from tests.world import (
    CREDIT_POSTPAY,
    MANDATE,
    OTHER_MANDATE,
    PREPAY_MANDATE,
    PREPAY_USER,
    PROVIDERS,
    add_mandate,
    add_member,
    change_settings,
    credit,
    dump,
    expire,
    hold,
    outcomes,
    read_rows,
    record,
    release,
    reverse,
    settle,
    spend,
    usage_event,
)

pytestmark = pytest.mark.anyio

RECORDED, LIMIT = "RECORDED", "SPEND_LIMIT_EXCEEDED"
NANO = "0.000000001"


async def limit(
    database: Database,
    amount: str | int | None,
    period: PeriodType = DAY,
    user_id: str = "alice",
    mandate_id: str = MANDATE,
) -> None:
    """Sets a member's limit; None lifts it."""
    wanted = None if amount is None else {"amount": Decimal(amount), "period": period}
    await upsert_membership(database, OPERATOR, mandate_id, user_id, {"spend_limit": wanted})


async def standing(
    database: Database, user_id: str = "alice", mandate_id: str = MANDATE
) -> SpendLimit:
    async with database.read() as connection:
        [found] = await spend_limits(connection, [(mandate_id, user_id)])
    assert found is not None
    return found


async def figures(database: Database, user_id: str = "alice") -> tuple[Any, Any, Any]:
    """Spent, held and remaining."""
    found = await standing(database, user_id)
    return found.spent, found.held, found.remaining


async def spends(database: Database, *amounts: str | int, user_id: str = "alice") -> list[str]:
    """The outcomes of spends that come in one batch."""
    return outcomes(await record(database, *(spend(amount, user_id=user_id) for amount in amounts)))


# Periods


@pytest.mark.parametrize(
    ("period", "today", "first", "end"),
    [
        (DAY, date(2026, 2, 28), date(2026, 2, 28), date(2026, 3, 1)),
        (DAY, date(2028, 2, 28), date(2028, 2, 28), date(2028, 2, 29)),
        (DAY, date(2026, 12, 31), date(2026, 12, 31), date(2027, 1, 1)),
        (MONTH, date(2026, 1, 31), date(2026, 1, 1), date(2026, 2, 1)),
        (MONTH, date(2026, 2, 1), date(2026, 2, 1), date(2026, 3, 1)),
        (MONTH, date(2028, 2, 29), date(2028, 2, 1), date(2028, 3, 1)),
        (MONTH, date(2026, 4, 30), date(2026, 4, 1), date(2026, 5, 1)),
        (MONTH, date(2026, 12, 31), date(2026, 12, 1), date(2027, 1, 1)),
        (YEAR, date(2026, 1, 1), date(2026, 1, 1), date(2027, 1, 1)),
        (YEAR, date(2028, 12, 31), date(2028, 1, 1), date(2029, 1, 1)),
    ],
)
def test_the_period_of_a_day(period: PeriodType, today: date, first: date, end: date) -> None:
    assert current_period(period, today) == (first, end)


# The zone and period of a limit, an instant, the period's first day and when it resets.
ZURICH, NEW_YORK, KOLKATA = "Europe/Zurich", "America/New_York", "Asia/Kolkata"
LORD_HOWE, CAIRO = "Australia/Lord_Howe", "Africa/Cairo"
RESETS = [
    ("UTC", DAY, "2026-11-05T23:59:59.999999Z", "2026-11-05", "2026-11-06T00:00:00Z"),
    ("UTC", DAY, "2026-11-06T00:00:00Z", "2026-11-06", "2026-11-07T00:00:00Z"),
    # 23 hours, then 25
    (ZURICH, DAY, "2026-03-28T22:59:59.999999Z", "2026-03-28", "2026-03-28T23:00:00Z"),
    (ZURICH, DAY, "2026-03-28T23:00:00Z", "2026-03-29", "2026-03-29T22:00:00Z"),
    (ZURICH, DAY, "2026-03-29T21:59:59Z", "2026-03-29", "2026-03-29T22:00:00Z"),
    (ZURICH, DAY, "2026-10-24T22:00:00Z", "2026-10-25", "2026-10-25T23:00:00Z"),
    (ZURICH, DAY, "2026-10-25T22:59:59Z", "2026-10-25", "2026-10-25T23:00:00Z"),
    (ZURICH, DAY, "2026-10-25T23:00:00Z", "2026-10-26", "2026-10-26T23:00:00Z"),
    (ZURICH, MONTH, "2026-02-28T22:59:59Z", "2026-02-01", "2026-02-28T23:00:00Z"),
    (ZURICH, MONTH, "2026-02-28T23:00:00Z", "2026-03-01", "2026-03-31T22:00:00Z"),
    (ZURICH, MONTH, "2026-10-15T12:00:00Z", "2026-10-01", "2026-10-31T23:00:00Z"),
    (ZURICH, YEAR, "2026-12-31T22:59:59Z", "2026-01-01", "2026-12-31T23:00:00Z"),
    (ZURICH, YEAR, "2026-12-31T23:00:00Z", "2027-01-01", "2027-12-31T23:00:00Z"),
    (NEW_YORK, DAY, "2026-03-08T04:59:59Z", "2026-03-07", "2026-03-08T05:00:00Z"),
    (NEW_YORK, DAY, "2026-03-08T05:00:00Z", "2026-03-08", "2026-03-09T04:00:00Z"),
    (NEW_YORK, DAY, "2026-11-01T04:00:00Z", "2026-11-01", "2026-11-02T05:00:00Z"),
    (NEW_YORK, MONTH, "2026-11-01T03:59:59Z", "2026-10-01", "2026-11-01T04:00:00Z"),
    (NEW_YORK, MONTH, "2026-11-01T04:00:00Z", "2026-11-01", "2026-12-01T05:00:00Z"),
    (NEW_YORK, YEAR, "2027-01-01T04:59:59Z", "2026-01-01", "2027-01-01T05:00:00Z"),
    (KOLKATA, DAY, "2026-01-31T18:29:59Z", "2026-01-31", "2026-01-31T18:30:00Z"),
    (KOLKATA, MONTH, "2026-01-31T18:29:59Z", "2026-01-01", "2026-01-31T18:30:00Z"),
    (KOLKATA, MONTH, "2026-01-31T18:30:00Z", "2026-02-01", "2026-02-28T18:30:00Z"),
    # Half an hour
    (LORD_HOWE, DAY, "2026-04-04T13:00:00Z", "2026-04-05", "2026-04-05T13:30:00Z"),
    (LORD_HOWE, DAY, "2026-10-03T13:30:00Z", "2026-10-04", "2026-10-04T13:00:00Z"),
    (LORD_HOWE, MONTH, "2026-04-30T13:29:59Z", "2026-04-01", "2026-04-30T13:30:00Z"),
    (LORD_HOWE, YEAR, "2026-06-01T00:00:00Z", "2026-01-01", "2026-12-31T13:00:00Z"),
    # No midnight
    (CAIRO, DAY, "2026-04-23T21:59:59Z", "2026-04-23", "2026-04-23T22:00:00Z"),
    (CAIRO, DAY, "2026-04-23T22:00:00Z", "2026-04-24", "2026-04-24T21:00:00Z"),
]


@pytest.mark.parametrize(("zone", "period", "now", "first", "resets_at"), RESETS)
def test_a_limit_resets_when_a_day_of_the_mandate_begins(
    zone: str, period: PeriodType, now: str, first: str, resets_at: str
) -> None:
    found = unspent(Decimal(5), period, ZoneInfo(zone), datetime.fromisoformat(now))
    assert (found.first, found.resets_at) == (
        date.fromisoformat(first),
        datetime.fromisoformat(resets_at),
    )
    assert found.resets_at.astimezone(ZoneInfo(zone)).date() == found.end


@pytest.mark.parametrize(("zone", "period", "now", "first", "resets_at"), RESETS)
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_limit_is_open_again_when_it_resets(
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
    zone: str,
    period: PeriodType,
    now: str,
    first: str,
    resets_at: str,
) -> None:
    started, reset = datetime.fromisoformat(now), datetime.fromisoformat(resets_at)

    class Clock(datetime):
        instant = started

        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return cls.instant.astimezone(tz)

    monkeypatch.setattr("app.sqlite.datetime", Clock)
    await add_mandate(database, time_zone=zone)
    await limit(database, 5, period)
    assert await spends(database, 5, NANO) == [RECORDED, LIMIT]
    assert (await standing(database)).resets_at == reset
    Clock.instant = reset - INSTANT
    assert await spends(database, NANO) == [LIMIT]
    Clock.instant = reset
    assert await figures(database) == (0, 0, 5)
    assert await spends(database, 5, NANO) == [RECORDED, LIMIT]


@pytest.mark.parametrize("zone", ["UTC", ZURICH, NEW_YORK, KOLKATA, LORD_HOWE])
@pytest.mark.parametrize("period", [DAY, MONTH, YEAR])
async def test_what_occurred_in_the_current_period_is_spent(
    database: Database, zone: str, period: PeriodType
) -> None:
    await add_mandate(database, time_zone=zone)
    await limit(database, 100, period)
    found = await standing(database)
    now = unspent(Decimal(100), period, ZoneInfo(zone), datetime.now(UTC))
    assert found.resets_at == now.resets_at
    start = day_start(now.first, ZoneInfo(zone))
    await write(
        database,
        *(
            usage_event(amount, occurred_at=occurred_at, feature_code=str(amount))
            for amount, occurred_at in (
                (1, start - INSTANT),
                (2, start),
                (4, now.resets_at - INSTANT),
                (8, now.resets_at),
                (16, None),
            )
        ),
    )
    assert await figures(database) == (22, 0, 78)
    assert await spends(database, "78.000000001", 78) == [LIMIT, RECORDED]


# Setting it


async def test_a_limit_is_set_changed_and_lifted(database: Database) -> None:
    await add_mandate(database)

    async def stored() -> tuple[Any, Any]:
        [row] = await read_rows(database, memberships)
        return row.spend_limit, row.spend_period

    assert await stored() == (None, None)
    await limit(database, "12.5", MONTH)
    assert await stored() == (Decimal("12.5"), "MONTH")
    await upsert_membership(database, OPERATOR, MANDATE, "alice", {})
    await add_member(database, "alice", role=MembershipRole.ADMIN)
    assert await stored() == (Decimal("12.5"), "MONTH")
    await limit(database, 0, YEAR)
    assert await stored() == (0, "YEAR")
    await limit(database, None)
    assert await stored() == (None, None)
    events = await read_rows(database, audit_events, subject="user:alice", mandate_id=MANDATE)
    none, first = (
        {"spend_limit": None, "spend_period": None},
        {"spend_limit": "12.5", "spend_period": "MONTH"},
    )
    zero = {"spend_limit": "0", "spend_period": "YEAR"}
    assert [(event.action, event.before, event.after) for event in events[1:]] == [
        ("membership.updated", none, first),
        ("membership.updated", {"role": "MEMBER"}, {"role": "ADMIN"}),
        ("membership.updated", first, zero),
        ("membership.updated", zero, none),
    ]


async def test_the_same_limit_again_leaves_no_trace(database: Database) -> None:
    await add_mandate(database)
    await limit(database, "12.5", MONTH)
    before = await dump(database)
    await limit(database, "12.50", MONTH)
    assert await dump(database) == before


@pytest.mark.parametrize(
    ("amount", "code"),
    [
        ("-0.000000001", "INVALID"),
        ("-1000000000", "INVALID"),
        ("1000000000.000000001", "LIMIT_EXCEEDED"),
        ("9" * 30, "LIMIT_EXCEEDED"),
    ],
)
async def test_amounts_that_are_no_limit(database: Database, amount: str, code: str) -> None:
    await add_mandate(database)
    before = await dump(database)
    with pytest.raises(BillingError, match="amount must be") as refusal:
        await limit(database, amount)
    assert (refusal.value.code, refusal.value.field) == (code, ("spend_limit", "amount"))
    assert await dump(database) == before


async def test_the_widest_limit(database: Database) -> None:
    await add_mandate(database)
    await limit(database, 1_000_000_000)
    assert await spends(database, *[1_000_000] * 3) == [RECORDED] * 3
    assert (await standing(database)).remaining == 997_000_000


async def test_who_joins_again_has_the_limit_they_had(database: Database) -> None:
    await add_mandate(database)
    await limit(database, 5, YEAR)
    await spends(database, 3)
    await remove_membership(database, OPERATOR, MANDATE, "alice")
    await add_member(database, "alice")
    assert await figures(database) == (3, 0, 2)
    assert await spends(database, 3, 2) == [LIMIT, RECORDED]
    await remove_membership(database, OPERATOR, MANDATE, "alice")
    await add_member(database, "alice", spend_limit=None)
    assert await spends(database, 100) == [RECORDED]


async def test_a_limit_below_what_is_spent_leaves_nothing(database: Database) -> None:
    await add_mandate(database)
    await spends(database, 8)
    await limit(database, 5)
    assert await figures(database) == (8, 0, 0)
    assert await spends(database, 0) == [LIMIT]
    await limit(database, 9)
    assert await figures(database) == (8, 0, 1)
    assert await spends(database, 1) == [RECORDED]


# What counts


@pytest.mark.parametrize("model", [*BillingModel, None])
async def test_a_limit_holds_under_every_model(
    database: Database, model: BillingModel | None
) -> None:
    await add_mandate(database, model=model, users=["alice", "bob"])
    if model == PREPAY_MANDATE:
        await credit(database, 10)
    await limit(database, 5)
    assert await spends(database, 0, 3, "2.000000001", 2, 0) == [RECORDED] * 2 + [
        *(LIMIT, RECORDED, LIMIT)
    ]
    assert await spends(database, 5, user_id="bob") == [RECORDED]
    with pytest.raises(BillingError) as refusal:
        await hold(database, 1)
    assert (refusal.value.code, refusal.value.field) == (LIMIT, ("amount",))


async def test_a_limit_of_nothing(database: Database) -> None:
    await add_mandate(database)
    await limit(database, 0)
    assert await spends(database, 0, NANO) == [LIMIT, LIMIT]


async def test_each_event_sees_the_events_before_it(database: Database) -> None:
    """Those of its user, in the period, that were not refused; whatever their mode."""
    await add_mandate(database, users=["alice", "bob"])
    await limit(database, 10)
    await limit(database, 10, user_id="bob")
    long_ago = datetime.now(UTC) - timedelta(days=3)
    batch = [
        (spend(6, occurred_at=long_ago), RECORDED),
        (spend(6), RECORDED),
        (spend(5), LIMIT),
        (spend(7, user_id="bob"), RECORDED),
        (spend(5, occurred_at=long_ago), LIMIT),
        (usage_event(2), RECORDED),
        (spend(3), LIMIT),
        (spend(2), RECORDED),
        (spend(3, user_id="bob"), RECORDED),
        (usage_event(5), RECORDED),
        (spend(0), LIMIT),
    ]
    results = await record(database, *(event for event, _ in batch))
    assert outcomes(results) == [expected for _, expected in batch]
    assert await figures(database) == (15, 0, 0)
    assert await figures(database, "bob") == (10, 0, 0)


async def test_a_call_is_judged_in_the_period_in_which_it_occurred(database: Database) -> None:
    """Each day has its own limit, whenever it is booked; what is held counts on every day."""
    await add_mandate(database)
    await limit(database, 10)
    today = datetime.now(UTC)
    days = [today - timedelta(days=back) for back in (0, 2, 34)]
    await record(database, usage_event(7, occurred_at=days[1]))
    await hold(database, 1)
    batch = [
        (spend("2.000000001", occurred_at=days[1]), LIMIT),
        (spend(9), RECORDED),
        (spend(1, occurred_at=days[1]), RECORDED),
        (spend(9, occurred_at=days[2]), RECORDED),
        (spend(NANO, occurred_at=days[2]), LIMIT),
        (spend(1, occurred_at=days[1]), RECORDED),
        (spend(0, occurred_at=days[1]), LIMIT),
        (spend(NANO, occurred_at=days[0]), LIMIT),
        (spend(1, occurred_at=today - timedelta(days=36)), "INVALID"),
        (spend(1, occurred_at=datetime(1, 1, 1, tzinfo=UTC)), "INVALID"),
        (spend(1, occurred_at=datetime.max.replace(tzinfo=UTC)), "INVALID"),
    ]
    results = await record(database, *(event for event, _ in batch))
    assert outcomes(results) == [expected for _, expected in batch]
    assert await figures(database) == (9, 1, 0)


async def test_what_is_recorded_counts_and_is_never_refused(database: Database) -> None:
    await add_mandate(database)
    await limit(database, 5)
    assert outcomes(await record(database, usage_event(4), usage_event(4))) == [RECORDED] * 2
    assert await figures(database) == (8, 0, 0)


async def test_usage_of_other_mandates_and_members_does_not_count(database: Database) -> None:
    await add_mandate(database, users=["alice", "bob"])
    await add_mandate(database, OTHER_MANDATE)
    await limit(database, 5)
    await limit(database, 50, mandate_id=OTHER_MANDATE)
    await record(database, usage_event(40, mandate_id=OTHER_MANDATE), usage_event(9, user_id="bob"))
    await hold(database, 3, mandate_id=OTHER_MANDATE)
    await hold(database, 3, user_id="bob")
    assert await figures(database) == (0, 0, 5)
    assert (await standing(database, mandate_id=OTHER_MANDATE)).remaining == 7
    assert await spends(database, 5) == [RECORDED]


async def test_an_open_hold_counts_until_it_is_closed(database: Database) -> None:
    await add_mandate(database)
    await limit(database, 10)
    settled, released, expired, still = [await hold(database, 2) for _ in range(4)]
    assert await figures(database) == (0, 8, 2)
    assert await spends(database, "2.000000001") == [LIMIT]
    await settle(database, settled, 5)
    assert await figures(database) == (5, 6, 0)
    await release(database, released)
    await expire(database, expired)
    assert await figures(database) == (5, 2, 3)
    assert await spends(database, "3.000000001", 3) == [LIMIT, RECORDED]
    await settle(database, still, 0)
    assert await figures(database) == (8, 0, 2)


async def test_a_hold_sees_other_holds_and_what_is_spent(database: Database) -> None:
    await add_mandate(database)
    await limit(database, 10)
    await record(database, usage_event(3))
    await hold(database, 4)
    with pytest.raises(BillingError, match=r"more than the 3 left .* limit of 10 for the day"):
        await hold(database, "3.000000001")
    await hold(database, 3)
    assert await figures(database) == (3, 7, 0)


async def test_all_accounts_of_the_mandate_count(database: Database) -> None:
    """Also those of an earlier model."""
    await add_mandate(database)
    await limit(database, 10)
    await record(database, usage_event(2))
    await hold(database, 3)
    await change_settings(database, billing_model=PREPAY_USER)
    await record(database, usage_event(1))
    assert await figures(database) == (3, 3, 4)
    assert await spends(database, "4.000000001", 4) == [LIMIT, RECORDED]
    assert len(await read_rows(database, accounts)) == 2


async def test_a_reversal_lowers_what_is_spent(database: Database) -> None:
    await add_mandate(database)
    await limit(database, 10)
    [result] = await record(database, spend(10))
    assert await spends(database, 1) == [LIMIT]
    await reverse(database, result.transaction.id)
    assert await figures(database) == (0, 0, 10)
    assert await spends(database, 10) == [RECORDED]


async def test_what_is_spent_is_what_statistics_count(database: Database) -> None:
    """A call of an earlier period that is taken back now lowers the cost of now."""
    await add_mandate(database)
    await limit(database, 10, YEAR)
    year = datetime.now(UTC).year
    old = usage_event(4, occurred_at=datetime(year - 1, 6, 1, tzinfo=UTC))
    await write(database, old, usage_event(6))
    [row] = await read_of(database, old)
    await reverse(database, row.id)
    assert (await standing(database)).spent == (await total(database, YEAR, year))[0]
    assert await figures(database) == (2, 0, 8)


async def test_what_is_taken_back_of_an_earlier_period_raises_no_limit(
    database: Database,
) -> None:
    await add_mandate(database)
    await limit(database, 10)
    old = usage_event(4, occurred_at=datetime.now(UTC) - timedelta(days=3))
    [result] = await record(database, old)
    await reverse(database, result.transaction.id)
    assert await figures(database) == (-4, 0, 10)
    await hold(database, 3)
    assert await figures(database) == (-4, 3, 7)
    assert await spends(database, "7.000000001", 7) == [LIMIT, RECORDED]


async def read_of(database: Database, event: UsageEvent) -> list[Any]:
    results = await record_usage(database, OPERATOR, [event], PROVIDERS)
    return [result.transaction for result in results]


async def test_credits_and_debits_by_hand_do_not_count(database: Database) -> None:
    await add_mandate(database, model=PREPAY_USER)
    await limit(database, 5)
    row = await credit(database, 100, "alice")
    await reverse(database, row.id)
    assert await figures(database) == (0, 0, 5)


async def test_limits_of_many_are_read_in_the_order_asked(database: Database) -> None:
    await add_mandate(database, users=["alice", "bob", "carol"], time_zone=ZURICH)
    await add_mandate(database, OTHER_MANDATE, users=["alice", "carol"], time_zone=KOLKATA)
    await limit(database, 1)
    await limit(database, 2, MONTH, "carol")
    await limit(database, 3, YEAR, mandate_id=OTHER_MANDATE)
    await record(
        database,
        usage_event("0.1"),
        usage_event("0.2", user_id="carol"),
        usage_event("0.3", mandate_id=OTHER_MANDATE),
        usage_event("0.4", mandate_id=OTHER_MANDATE, user_id="carol"),
    )
    await hold(database, "0.5", user_id="carol")
    asked = [
        (OTHER_MANDATE, "alice"),
        (MANDATE, "bob"),
        (MANDATE, "carol"),
        (OTHER_MANDATE, "carol"),
        (MANDATE, "nobody"),
        ("nowhere", "alice"),
        (MANDATE, "alice"),
        (MANDATE, "a\0b"),
    ]
    async with database.read() as connection:
        found = await spend_limits(connection, asked)
        assert await spend_limits(connection, []) == []
    shown: list[Any] = [
        (one.amount, one.period, one.spent, one.held) if one else None for one in found
    ]
    assert shown == [
        (3, YEAR, Decimal("0.3"), 0),
        None,
        (2, MONTH, Decimal("0.2"), Decimal("0.5")),
        None,
        None,
        None,
        (1, DAY, Decimal("0.1"), 0),
        None,
    ]


# Over GraphQL

SHOWN = "spendLimit { amount period spent held remaining resetsAt }"
MEMBERS = f"""query($id: ID!) {{
    mandateUsers(mandateId: $id) {{ nodes {{ user {{ id }} {SHOWN} }} }}
}}"""
CHANGE = f"""mutation($input: UpsertMembershipInput!) {{ upsertMembership(input: $input) {{
    membership {{ {SHOWN} }} userErrors {{ code field message }}
}} }}"""


async def test_a_limit_over_graphql(database: Database, api: Api) -> None:
    await add_people(database, model=CREDIT_POSTPAY, time_zone=ZURICH)
    who = {"mandateId": MANDATE, "userId": "alice"}

    async def change(**given: Any) -> Any:
        payload = await api.read("root", CHANGE, input=who | given)
        assert payload["userErrors"] == []
        return payload["membership"]["spendLimit"]

    assert await change() is None
    shown = await change(spendLimit={"amount": "12.50", "period": "YEAR"})
    await hold(database, "2.25")
    await record(database, usage_event("0.000000001"))
    year = datetime.now(ZoneInfo(ZURICH)).year
    expected = {
        "amount": "12.5",
        "period": "YEAR",
        "spent": "0",
        "held": "0",
        "remaining": "12.5",
        "resetsAt": f"{year}-12-31T23:00:00Z",
    }
    assert shown == expected
    expected |= {"spent": "0.000000001", "held": "2.25", "remaining": "10.249999999"}
    assert await change(role="ADMIN") == expected
    own = await api.read("alice", f"{{ viewer {{ memberships {{ {SHOWN} }} }} }}")
    assert own["memberships"] == [{"spendLimit": expected}]
    assert await change(spendLimit=None) is None
    for wanted, code, said in (
        ({"amount": "-1", "period": "DAY"}, "INVALID", "amount must be 0 or more."),
        (
            {"amount": "1000000000.1", "period": "DAY"},
            "LIMIT_EXCEEDED",
            "amount must be at most 1000000000.",
        ),
    ):
        payload = await api.read("root", CHANGE, input=who | {"spendLimit": wanted})
        assert payload == {
            "membership": None,
            "userErrors": [{"code": code, "field": ["spendLimit", "amount"], "message": said}],
        }
    halves: list[dict[str, Any]] = [{"amount": "1"}, {"period": "DAY"}, {}]
    for half in halves:
        answer = await api("root", CHANGE, input=who | {"spendLimit": half})
        assert set(answer.codes) == {"BAD_USER_INPUT"}


async def test_many_limits_take_as_many_selects_as_one(database: Database, api: Api) -> None:
    await add_people(database)
    counts = []
    for users in ([f"u{place}" for place in range(3)], [f"u{place}" for place in range(3, 30)]):
        for place, user_id in enumerate(users):
            wanted = {"amount": Decimal(place + 5), "period": list(PeriodType)[place % 3]}
            await add_member(database, user_id, spend_limit=wanted)
        await record(database, *(usage_event(1, user_id=user_id) for user_id in users))
        await hold(database, 2, user_id=users[-1])
        with statements() as sent:
            page = await api.read("ada", MEMBERS, id=MANDATE)
        counts.append(len(sent))
    limits = {node["user"]["id"]: node["spendLimit"] for node in page["nodes"]}
    assert len(limits) == 32
    assert limits["ada"] is limits["alice"] is None
    assert {wanted["spent"] for wanted in limits.values() if wanted} == {"1"}
    assert (limits["u29"]["held"], limits["u29"]["remaining"]) == ("2", "28")
    assert counts[0] == counts[1] <= 8  # one for each period


async def test_limits_in_many_mandates_take_as_many_selects_as_in_one(
    database: Database, api: Api
) -> None:
    await add_people(database)
    wanted = {"amount": Decimal(5), "period": MONTH}
    counts = []
    for mandate_ids in (["m0"], [f"m{place}" for place in range(1, 20)]):
        for place, mandate_id in enumerate(mandate_ids):
            await add_mandate(database, mandate_id, users=())
            await add_member(database, "alice", mandate_id, spend_limit=wanted)
            await record(database, usage_event(f"0.{place + 1:02}", mandate_id=mandate_id))
        with statements() as sent:
            viewer = await api.read(
                "alice", f"{{ viewer {{ memberships {{ mandate {{ id }} {SHOWN} }} }} }}"
            )
        counts.append(len(sent))
    shown = {item["mandate"]["id"]: item["spendLimit"] for item in viewer["memberships"]}
    assert shown.pop(MANDATE) is None
    assert {item["spent"] for item in shown.values()} == {
        f"0.{place + 1:02}".rstrip("0") for place in range(19)
    }
    assert counts[0] == counts[1] <= 7
