"""Whether a spend is allowed: asked before, and judged the same where it is made."""

import asyncio
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from app.billing.accounts import find_balance, update_account
from app.billing.directory import remove_membership
from app.billing.enums import BillingModel, PeriodType
from app.billing.errors import BadInput, BillingError, Forbidden
from app.billing.ledger import Ledger, in_ledger
from app.billing.locked import Needs
from app.billing.models import accounts
from app.billing.spending import SpendCheck, check_spending
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
    credit,
    dump,
    expire,
    hold,
    outcomes,
    read_rows,
    record,
    release,
    spend,
    usage_event,
)

pytestmark = pytest.mark.anyio


async def ask(
    database: Database,
    amount: str | int = 1,
    *,
    user_id: str | None = "alice",
    provider: str | None = None,
    viewer: Viewer = GATEWAY,
    mandate_id: str = MANDATE,
) -> SpendCheck | None:
    return await check_spending(
        database,
        viewer,
        mandate_id,
        amount=Decimal(amount),
        user_id=user_id,
        provider=provider,
        registered=PROVIDERS,
    )


async def add_situation(
    database: Database,
    *,
    paid_in: int = 0,
    cost: int = 0,
    held: int = 0,
    enabled: bool = True,
    own_limit: int | None = None,
    spend_limit: int | None = None,
    **settings: Any,
) -> None:
    """A mandate with alice, whose account is opened only if something is said of it."""
    await add_mandate(database, **settings)
    if paid_in:
        user_id = "alice" if settings["model"] == PREPAY_USER else None
        await credit(database, paid_in, user_id)
    if cost or not enabled or own_limit is not None:
        await record(database, usage_event(cost))
    if held:
        await expire(database, await hold(database, "0.000000001"))
        await hold(database, held)
    for account in await read_rows(database, accounts):
        changes = {"enabled": enabled, "credit_limit": own_limit}
        await update_account(database, OPERATOR, MANDATE, account.id, changes)
    if spend_limit is not None:
        limit = {"amount": Decimal(spend_limit), "period": PeriodType.MONTH}
        await add_member(database, "alice", spend_limit=limit)


NANO = "0.000000001"
FUNDS, CREDIT, LIMIT = "INSUFFICIENT_FUNDS", "CREDIT_LIMIT_EXCEEDED", "SPEND_LIMIT_EXCEEDED"
PROVIDER, DISABLED = "PROVIDER_NOT_ALLOWED", "ACCOUNT_DISABLED"
POSTPAY: dict[str, Any] = {"model": CREDIT_POSTPAY}
POOL: dict[str, Any] = {"model": PREPAY_MANDATE}
OWN: dict[str, Any] = {"model": PREPAY_USER}
ANY: dict[str, Any] = {"model": UNLIMITED}
ALL_WRONG: dict[str, Any] = {"allowed_providers": [], "spend_limit": 0}

Answers = dict[str | int | tuple[str | int, str], str | None]
# Of each situation, amounts (and a provider) and why they may not be spent; None: they may.
SITUATIONS: dict[str, tuple[dict[str, Any], Answers]] = {
    "not opened": (OWN, {0: None, "10.000000001": FUNDS, 10: None}),
    "not opened, nothing to come": (OWN | {"default_user_credit": 0}, {0: FUNDS, NANO: FUNDS}),
    "opened": (OWN | {"paid_in": 5, "cost": 3}, {0: None, 12: None, "12.000000001": FUNDS}),
    "held": (OWN | {"held": 6}, {0: None, 4: None, "4.000000001": FUNDS}),
    "all held": (OWN | {"held": 10}, {0: FUNDS, NANO: FUNDS}),
    "overdrawn": (OWN | {"cost": 11}, {0: FUNDS, NANO: FUNDS}),
    "never blocked": (OWN | {"cost": 11, "block_on_zero_balance": False}, {1_000_000: None}),
    "empty pool": (POOL, {0: FUNDS, NANO: FUNDS}),
    "pool": (POOL | {"paid_in": 9, "held": 6}, {0: None, 3: None, "3.000000001": FUNDS}),
    "pool never blocked": (POOL | {"block_on_zero_balance": False}, {0: None, 1_000_000: None}),
    "postpaid": (POSTPAY | {"cost": 5, "held": 5}, {0: None, 1_000_000: None}),
    "limit": (
        POSTPAY | {"credit_limit": 5, "cost": 2, "held": 1, "block_on_zero_balance": False},
        {0: None, 2: None, "2.000000001": CREDIT},
    ),
    "limit not opened": (POSTPAY | {"credit_limit": 5}, {"5.000000001": CREDIT, 5: None}),
    "no limit left": (POSTPAY | {"credit_limit": 0}, {0: None, NANO: CREDIT}),
    "beyond the limit": (POSTPAY | {"credit_limit": 5, "cost": 6}, {0: CREDIT}),
    "own limit below": (
        POSTPAY | {"credit_limit": 5, "own_limit": 0},
        {0: None, NANO: CREDIT},
    ),
    "own limit above": (
        POSTPAY | {"credit_limit": 0, "own_limit": 9},
        {9: None, "9.000000001": CREDIT},
    ),
    "own limit alone": (POSTPAY | {"own_limit": 9}, {9: None, "9.000000001": CREDIT}),
    "an own limit of a prepaid account": (OWN | {"own_limit": 100}, {11: FUNDS, 10: None}),
    "unlimited": (ANY | {"credit_limit": 0, "cost": 5}, {0: None, 1_000_000: None}),
    "no settings": ({}, {0: None, 1_000_000: None, (1, "azure"): None, (1, "x"): PROVIDER}),
    "every registered provider": (
        OWN,
        {(1, "azure"): None, (1, "Azure"): PROVIDER, (1, "unregistered"): PROVIDER},
    ),
    "one provider": (
        OWN | {"allowed_providers": ["azure"]},
        {(1, "azure"): None, (1, "openai"): PROVIDER, (1, "AZURE"): PROVIDER, 1: PROVIDER},
    ),
    "no provider": (ANY | {"allowed_providers": []}, {(1, "azure"): PROVIDER, 0: PROVIDER}),
    "spend limit": (
        ANY | {"spend_limit": 9, "cost": 4, "held": 3},
        {0: None, 2: None, "2.000000001": LIMIT},
    ),
    "spend limit reached": (ANY | {"spend_limit": 4, "cost": 4}, {0: LIMIT, NANO: LIMIT}),
    "spend limit passed": (POSTPAY | {"spend_limit": 3, "cost": 4}, {0: LIMIT, NANO: LIMIT}),
    "spend limit of 0": (POOL | {"spend_limit": 0, "paid_in": 9}, {0: LIMIT, NANO: LIMIT}),
    "spend limit below the funds": (OWN | {"spend_limit": 4}, {5: LIMIT, 11: LIMIT, 4: None}),
    "spend limit above the funds": (OWN | {"spend_limit": 12}, {11: FUNDS, 13: LIMIT, 10: None}),
    "spend limit and provider": (
        OWN | {"spend_limit": 4, "allowed_providers": ["azure"]},
        {5: PROVIDER, (11, "azure"): LIMIT},
    ),
    **{
        f"disabled under {settings['model']}": (
            settings | {"enabled": False},
            {0: DISABLED, 1: DISABLED, (1, "azure"): DISABLED},
        )
        for settings in (OWN, POOL, POSTPAY, ANY)
    },
    "disabled first": (
        OWN | ALL_WRONG | {"enabled": False, "cost": 20},
        {0: DISABLED, (1, "x"): DISABLED},
    ),
    "disabled first, postpaid": (
        POSTPAY | ALL_WRONG | {"enabled": False, "credit_limit": 0, "cost": 1},
        {1: DISABLED},
    ),
    "then the provider": (POSTPAY | ALL_WRONG | {"credit_limit": 0}, {1: PROVIDER}),
    "then the spend limit": (POSTPAY | {"spend_limit": 0, "credit_limit": 0}, {1: LIMIT}),
}


@pytest.mark.parametrize("name", list(SITUATIONS))
async def test_the_answer_is_what_a_spend_would_meet(database: Database, name: str) -> None:
    """It writes nothing, and shows the balance it was judged on."""
    situation, answers = SITUATIONS[name]
    await add_situation(database, **situation)
    for asked, denial in answers.items():
        amount, provider = asked if isinstance(asked, tuple) else (asked, None)
        before = await dump(database)
        check = await ask(database, amount, provider=provider)
        assert check is not None
        assert (asked, check.denial, check.allowed) == (asked, denial, denial is None)
        shown = await find_balance(database, SYSADMIN, MANDATE, "alice")
        assert shown is not None
        assert check.balance == replace(shown, as_of=check.balance.as_of)
        assert await dump(database) == before
        if denial is None and amount == 0:
            continue
        if denial is None:
            await release(database, await hold(database, amount, aicore_provider=provider))
            continue
        [result] = await record(database, spend(amount, aicore_provider=provider))
        assert result.error is not None
        assert (result.error.code, result.error.message) == (denial, check.message)
        if amount != 0:
            with pytest.raises(BillingError) as refusal:
                await hold(database, amount, aicore_provider=provider)
            assert (refusal.value.code, refusal.value.message) == (denial, check.message)
        assert await dump(database) == before
    if 0 in answers and answers[0] is None:
        assert outcomes(await record(database, spend(0))) == ["RECORDED"]


async def test_it_says_what_is_so(database: Database) -> None:
    await add_mandate(database, model=PREPAY_USER, allowed_providers=["azure"])
    for amount, provider, message in (
        ("2.50", "azure", "2.5 may be spent now."),
        (11, "azure", "11 is more than the 10 available: add credit first."),
        (1, "openai", "This mandate does not allow the provider openai."),
        (1, None, "This mandate allows named providers only: name one."),
    ):
        check = await ask(database, amount, provider=provider)
        assert check is not None
        assert check.message == message
    limit = {"amount": Decimal("7.5"), "period": PeriodType.YEAR}
    await add_member(database, "alice", spend_limit=limit)
    await hold(database, 2, aicore_provider="azure")
    check = await ask(database, 6, provider="azure")
    assert check is not None
    resets_at = f"{check.balance.as_of.year + 1}-01-01T00:00:00Z"
    assert check.message == (
        "6 is more than the 5.5 left of the member's limit of 7.5 for the year,"
        f" which resets at {resets_at}."
    )


async def test_it_waits_for_nobody(database: Database) -> None:
    """A dashboard is answered while a spend has the books locked."""
    await add_mandate(database, model=PREPAY_USER)
    await record(database, usage_event(1))

    async def work(ledger: Ledger) -> SpendCheck | None:
        await ledger.prepare(Needs(spends=[("alice", None)]))
        return await asyncio.wait_for(ask(database, 9), 5)

    check = await in_ledger(database, MANDATE, work)
    assert check is not None
    assert check.allowed


# Who asks for whom


@pytest.mark.parametrize(
    ("viewer", "user_id", "judged"),
    [
        (MEMBER, None, "alice"),
        (MEMBER, "alice", "alice"),
        (MEMBER, "ada", Forbidden),
        (MEMBER, "nobody", Forbidden),
        (ADMIN, None, "ada"),
        (ADMIN, "ada", "ada"),
        (ADMIN, "alice", Forbidden),
        (GATEWAY, "alice", "alice"),
        (GATEWAY, "nobody", None),
        (GATEWAY, None, BadInput),
        (SYSADMIN, "ada", "ada"),
        (SYSADMIN, "sven", None),
        (SYSADMIN, None, BadInput),
        (OPERATOR, "alice", "alice"),
        (STRANGER, None, None),
        (STRANGER, "sven", None),
        (STRANGER, "alice", None),
    ],
)
async def test_who_asks_for_whom(
    database: Database, viewer: Viewer, user_id: str | None, judged: str | type[Exception] | None
) -> None:
    await add_mandate(database, model=PREPAY_USER, users=["alice", "ada"])
    await add_mandate(database, OTHER_MANDATE, PREPAY_USER, users=["sven"])
    if isinstance(judged, type):
        with pytest.raises(judged, match="userId"):
            await ask(database, user_id=user_id, viewer=viewer)
        return
    check = await ask(database, user_id=user_id, viewer=viewer)
    assert (check and check.balance.user_id) == judged


@pytest.mark.parametrize("model", [PREPAY_MANDATE, CREDIT_POSTPAY, UNLIMITED])
async def test_a_service_asks_for_the_mandate_itself(
    database: Database, model: BillingModel
) -> None:
    """Nobody's spend limit is in the way where nobody is named."""
    await add_mandate(database, model=model)
    limit = {"amount": Decimal(0), "period": PeriodType.DAY}
    await add_member(database, "alice", spend_limit=limit)
    if model != UNLIMITED:
        await credit(database, 5)
    for viewer in (GATEWAY, SYSADMIN):
        check = await ask(database, 5, user_id=None, viewer=viewer)
        assert check is not None
        assert (check.denial, check.balance.user_id) == (None, None)
    check = await ask(database, 5, user_id=None, viewer=MEMBER)
    assert check is not None
    assert check.denial == LIMIT


async def test_no_answer_for_users_who_may_not_spend(database: Database) -> None:
    await add_mandate(database, model=PREPAY_USER, users=["left", "disabled", "member"])
    await add_mandate(database, OTHER_MANDATE, users=["foreign"])
    await record(database, usage_event(1, user_id="left"))
    await remove_membership(database, OPERATOR, MANDATE, "left")
    await add_user(database, "disabled", enabled=False)
    for name in ("left", "disabled", "foreign", "nobody", "", "a\0b", "MEMBER", "x" * 100_000):
        assert await ask(database, user_id=name) is None, name[:20]
    await add_member(database, "left")
    check = await ask(database, 9, user_id="left")
    assert check is not None
    assert check.allowed


@pytest.mark.parametrize("mandate_id", ["nowhere", "", "a\0b", "x" * 100_000])
async def test_a_mandate_that_does_not_exist(database: Database, mandate_id: str) -> None:
    await add_mandate(database)
    for viewer in (GATEWAY, SYSADMIN, MEMBER):
        assert await ask(database, mandate_id=mandate_id, viewer=viewer) is None


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"amount": "-0.000000001"}, "amount must be 0 or more"),
        ({"amount": "1000000.000000001"}, "amount must be at most 1000000"),
        ({"amount": "9" * 30}, "amount must be at most 1000000"),
        *[
            ({"provider": provider}, "provider must")
            for provider in ("", " ", "a\0b", "a\nb", " a", "x" * 129, "x" * 100_000)
        ],
    ],
)
async def test_what_cannot_be_asked(database: Database, given: dict[str, Any], said: str) -> None:
    await add_mandate(database)
    with pytest.raises(BadInput, match=said) as refusal:
        await ask(database, **given)
    assert len(str(refusal.value)) < 200
