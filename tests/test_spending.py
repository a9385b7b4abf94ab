"""Whether a spend is allowed: asked before, and judged the same where it is made."""

import asyncio
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from app.billing.accounts import find_balance, update_account
from app.billing.directory import remove_membership
from app.billing.errors import BadInput, BillingError, Forbidden
from app.billing.ledger import Ledger, in_ledger
from app.billing.models import BillingModel, PeriodType, accounts
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
    run_sql,
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
        await hold(database, held)
        await expire(database, await hold(database, "0.000000001"))
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
    "not opened": (OWN, {0: None, 10: None, "10.000000001": FUNDS}),
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
    "limit not opened": (POSTPAY | {"credit_limit": 5}, {5: None, "5.000000001": CREDIT}),
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
    "an own limit of a prepaid account": (OWN | {"own_limit": 100}, {10: None, 11: FUNDS}),
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
    "spend limit below the funds": (OWN | {"spend_limit": 4}, {4: None, 5: LIMIT, 11: LIMIT}),
    "spend limit above the funds": (OWN | {"spend_limit": 12}, {10: None, 11: FUNDS, 13: LIMIT}),
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
    """It writes nothing, shows the balance it was judged on, and holds and debits are judged alike."""
    situation, answers = SITUATIONS[name]
    await add_situation(database, **situation)
    for asked, denial in answers.items():
        amount, provider = asked if isinstance(asked, tuple) else (asked, None)
        before = await dump(database)
        check = await ask(database, amount, provider=provider)
        assert await dump(database) == before
        assert check is not None
        assert (asked, check.denial, check.allowed) == (asked, denial, denial is None)
        shown = await find_balance(database, SYSADMIN, MANDATE, "alice")
        assert shown == replace(check.balance, as_of=shown.as_of)  # type: ignore[union-attr]
        if Decimal(amount) > 0:
            refusal = await _refusal(database, amount, provider)
            assert refusal == ((denial, check.message) if denial else None)
    # A debit would change what the next is judged on: each on its own is refused, or the last.
    refused = [
        spend(amount, aicore_provider=provider)
        for asked, denial in answers.items()
        if denial
        for amount, provider in [asked if isinstance(asked, tuple) else (asked, None)]
    ]
    if refused:
        assert outcomes(await record(database, *refused)) == list(filter(None, answers.values()))


async def _refusal(
    database: Database, amount: str | int, provider: str | None
) -> tuple[str, str] | None:
    """What a hold is refused for; it is given back, with the account it has opened, if it is not."""
    before = await dump(database)
    try:
        hold_id = await hold(database, amount, aicore_provider=provider)
    except BillingError as error:
        assert await dump(database) == before
        return str(error.code), error.message
    await release(database, hold_id)
    if not before["account"]:
        for table in ("hold", "transaction", "account"):
            await _empty(database, table)
    return None


async def _empty(database: Database, table: str) -> None:
    trigger = "ALTER TABLE \"transaction\" {} TRIGGER USER"
    if not database.is_sqlite and table == "transaction":
        await run_sql(database, trigger.format("DISABLE"))
    await run_sql(database, f'DELETE FROM "{table}"')
    if not database.is_sqlite and table == "transaction":
        await run_sql(database, trigger.format("ENABLE"))
