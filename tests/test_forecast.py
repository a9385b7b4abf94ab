"""Balance.forecast: what the last days have cost, and when nothing is left at that pace."""

import re
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.billing.enums import BillingModel, MembershipRole
from app.billing.roll_up import total_days
from app.billing.statistics import Pace
from app.billing.viewer import Viewer
from app.database import Database
from schema import schema
from schema.context import Context
from tests.api import NO_LIMITS, statements
from tests.world import (
    ADMIN,
    CREDIT_POSTPAY,
    MANDATE,
    MEMBER,
    PREPAY_MANDATE,
    PREPAY_USER,
    PROVIDERS,
    SYSADMIN,
    UNLIMITED,
    add_mandate,
    change_settings,
    credit,
    hold,
    ledger_rows,
    record,
    reverse,
    usage_event,
)

pytestmark = pytest.mark.anyio

TODAY = date(2026, 3, 10)
FORECAST = "forecast { dailyCost7 dailyCost30 emptyOn }"


def empty_on(available: str | None, cost_7: str) -> date | None:
    pace = Pace(TODAY, Decimal(cost_7), Decimal(0))
    return pace.forecast(None if available is None else Decimal(available)).empty_on


@pytest.mark.parametrize(
    ("available", "cost_7", "days"),
    [
        ("10", "21", 3),  # 3 a day: 1 is left after 3 days, nothing in the course of the next
        ("9", "21", 3),
        ("8.999999999", "21", 2),
        ("0.000000001", "700", 0),
        ("0", "21", 0),
        ("-5", "21", 0),
        ("0", "0", 0),
        ("10", "0", None),
        ("10", "-7", None),
        (None, "21", None),
        ("36525", "7", 36_525),
        ("36526", "7", None),
        ("1000000000", "0.000000001", None),
    ],
)
def test_empty_on(available: str | None, cost_7: str, days: int | None) -> None:
    expected = None if days is None else TODAY + timedelta(days=days)
    assert empty_on(available, cost_7) == expected


@given(cost_7=st.integers(-(10**25), 10**25), cost_30=st.integers(-(10**25), 10**25))
def test_means_are_rounded_half_even(cost_7: int, cost_30: int) -> None:
    forecast = Pace(TODAY, Decimal(cost_7).scaleb(-9), Decimal(cost_30).scaleb(-9)).forecast(None)
    for mean, nano, days in (
        (forecast.daily_cost_7, cost_7, 7),
        (forecast.daily_cost_30, cost_30, 30),
    ):
        floor, rest = divmod(nano, days)
        up = 2 * rest > days or (2 * rest == days and floor % 2 == 1)
        assert mean == Decimal(floor + up).scaleb(-9)


async def ask(database: Database, viewer: Viewer = SYSADMIN, user: str | None = "alice") -> Any:
    context = Context(database, PROVIDERS, viewer, "r", NO_LIMITS)
    named = f', userId: "{user}"' if user else ""
    document = f'{{ balance(mandateId: "{MANDATE}"{named}) {{ available {FORECAST} }} }}'
    result = await schema.execute(document, context_value=context)
    assert result.errors is None, result.errors
    assert result.data is not None
    return result.data["balance"]["forecast"]


def ago(days: int, zone: str = "UTC") -> datetime:
    """Noon, so many days ago."""
    today = datetime.now(UTC).astimezone(ZoneInfo(zone)).date() - timedelta(days=days)
    return datetime(today.year, today.month, today.day, 12, tzinfo=ZoneInfo(zone))


async def test_whole_days_without_today(database: Database) -> None:
    """Of 7 and of 30 days, whatever of them is totalled; calls of today only lower what is left."""
    await add_mandate(
        database, model=PREPAY_USER, default_user_credit=Decimal(0), users=("alice", "bob")
    )
    await credit(database, 100, "alice")
    for days, amount in ((31, 1000), (30, 9), (8, 6), (7, 7), (1, 14), (0, 1)):
        moment = ago(days) if days else datetime.now(UTC)
        await record(database, usage_event(amount, occurred_at=moment))
    await record(database, usage_event(50, user_id="bob", occurred_at=ago(2)))
    await credit(database, 1000, "alice")
    # 63 are left, and 21 go in 7 days.
    expected = {
        "dailyCost7": "3",
        "dailyCost30": "1.2",
        "emptyOn": f"{datetime.now(UTC).date() + timedelta(days=21):%Y-%m-%d}",
    }
    for back in (40, 5, -2):
        await total_days(database, datetime.now(UTC) - timedelta(days=back))
        assert await ask(database) == expected
        assert (await ask(database, user="bob"))["dailyCost7"] == "7.142857143"
        assert await ask(database, MEMBER, None) == expected


@pytest.mark.parametrize("model", [PREPAY_MANDATE, CREDIT_POSTPAY])
async def test_the_mandates_own(database: Database, model: BillingModel) -> None:
    """The pace is that of all its users, for members as for admins: it is their balance, too."""
    await add_mandate(database, model=model, credit_limit=Decimal(10), users=("alice", "bob"))
    if model == PREPAY_MANDATE:
        await credit(database, 24)
    for user in ("alice", "bob"):
        await record(database, usage_event(7, user_id=user, occurred_at=ago(1)))
    left = 10 if model == PREPAY_MANDATE else -4
    expected = f"{datetime.now(UTC).date() + timedelta(days=max(0, left // 2)):%Y-%m-%d}"
    for back in (40, -2):
        await total_days(database, datetime.now(UTC) - timedelta(days=back))
        for viewer, named in ((ADMIN, None), (MEMBER, None), (SYSADMIN, "bob")):
            assert await ask(database, viewer, named) == {
                "dailyCost7": "2",
                "dailyCost30": "0.466666667",
                "emptyOn": expected,
            }


async def test_none_under_unlimited(database: Database) -> None:
    await add_mandate(database, model=UNLIMITED)
    await record(database, usage_event(7, occurred_at=ago(1)))
    assert await ask(database) is None
    await change_settings(database, billing_model=CREDIT_POSTPAY)
    # Without a limit there is a pace, and no end.
    assert await ask(database) == {"dailyCost7": "1", "dailyCost30": "0.233333333", "emptyOn": None}


async def test_before_anything_was_spent(database: Database) -> None:
    await add_mandate(database, model=PREPAY_USER)
    assert await ask(database) == {"dailyCost7": "0", "dailyCost30": "0", "emptyOn": None}


async def test_holds_and_reversals(database: Database) -> None:
    """What is held is not left; what was taken back today lowers no earlier day."""
    await add_mandate(database, model=PREPAY_USER, default_user_credit=Decimal(0))
    await credit(database, 100, "alice")
    await record(database, usage_event(70, occurred_at=ago(1)))
    await hold(database, 10)
    today = datetime.now(UTC).date()
    assert (await ask(database))["emptyOn"] == f"{today + timedelta(days=2):%Y-%m-%d}"
    await reverse(database, (await ledger_rows(database))[-1].id)
    found = await ask(database)
    assert (found["dailyCost7"], found["emptyOn"]) == (
        "10",
        f"{today + timedelta(days=9):%Y-%m-%d}",
    )


async def test_days_of_the_mandates_own_zone(database: Database) -> None:
    """At any time it is another day in Kiritimati than in Niue: each counts its own yesterday."""
    for mandate, zone in (("east", "Pacific/Kiritimati"), ("west", "Pacific/Niue")):
        await add_mandate(database, mandate, PREPAY_USER, time_zone=zone)
        for days in (8, 7, 1, 0):
            moment = min(ago(days, zone), datetime.now(UTC))
            await record(database, usage_event(days or 100, mandate_id=mandate, occurred_at=moment))
    context = Context(
        database,
        PROVIDERS,
        Viewer("alice", roles=dict.fromkeys(("east", "west"), MembershipRole.MEMBER)),
        "r",
        NO_LIMITS,
    )
    with statements() as sent:
        result = await schema.execute(f"{{ balances {{ {FORECAST} }} }}", context_value=context)
    assert result.errors is None
    assert result.data is not None
    assert [one["forecast"]["dailyCost7"] for one in result.data["balances"]] == ["1.142857143"] * 2
    assert len(sent) == 3  # balances, zones, costs
    assert not [statement for statement in sent if re.search(r"\btransaction\b", statement)]
