from decimal import Decimal
from typing import Any

import pytest

from app.billing.directory import remove_membership
from app.billing.enums import BillingModel
from app.billing.viewer import OPERATOR
from app.database import Database
from tests.api import Api, add_people, statements
from tests.world import (
    MANDATE,
    add_mandate,
    add_member,
    add_user,
    change_settings,
    credit,
    record,
    run_sql,
    usage_event,
)

pytestmark = pytest.mark.anyio

FIELDS = """{
    id mandate { id } account { balance enabled } user { id } billingModel currency
    balance held available creditLimit warningThreshold isWarning
}"""
BALANCE = f"query($id: ID!, $user: ID) {{ balance(mandateId: $id, userId: $user) {FIELDS} }}"

#  mandate:          settings, credit, cost,
#                    balance, available, creditLimit, warningThreshold, isWarning
MODELS: dict[str, tuple[dict[str, Any], str, str, list[Any]]] = {
    "a-user": (
        {"model": BillingModel.PREPAY_USER, "warning_threshold_percent": 20},
        *("90", "85"),
        ["15", "15", None, "20", True],
    ),
    "b-unopened": ({"model": BillingModel.PREPAY_USER}, "", "", ["0", "10", None, "1", False]),
    "c-nothing": (
        {"model": BillingModel.PREPAY_USER, "default_user_credit": 0},
        *("", ""),
        ["0", "0", None, "0", True],
    ),
    "d-pool": (
        {
            "model": BillingModel.PREPAY_MANDATE,
            "warning_threshold_percent": Decimal("33.333333333"),
        },
        *("50.000000001", "12.345678901"),
        ["37.6543211", "37.6543211", None, "16.666666666", False],
    ),
    "e-overdrawn": (
        {"model": BillingModel.PREPAY_MANDATE},
        *("1", "3"),
        ["-2", "-2", None, "0.1", True],
    ),
    "f-postpay": (
        {"model": BillingModel.CREDIT_POSTPAY, "credit_limit": 100},
        *("", "95.5"),
        ["-95.5", "4.5", "100", "10", True],
    ),
    "g-no-limit": ({"model": BillingModel.CREDIT_POSTPAY}, "", "7", ["-7", None, None, "0", False]),
    "h-unlimited": ({"model": BillingModel.UNLIMITED}, "", "7", ["-7", None, None, "0", False]),
    "i-no-settings": ({}, "", "", ["0", None, None, "0", False]),
}


async def add_models(database: Database) -> None:
    """A mandate with alice for every model and state, as MODELS says."""
    for mandate_id, (settings, paid_in, cost, _) in MODELS.items():
        await add_mandate(database, mandate_id, **settings)
        if paid_in:
            user_id = "alice" if settings["model"] == BillingModel.PREPAY_USER else None
            await credit(database, paid_in, user_id, mandate_id=mandate_id)
        if cost:
            await record(database, usage_event(cost, mandate_id=mandate_id))


def shown(mandate_id: str) -> dict[str, Any]:
    """What alice must see of that mandate."""
    settings, paid_in, cost, figures = MODELS[mandate_id]
    own = settings.get("model") == BillingModel.PREPAY_USER
    balance, available, credit_limit, threshold, is_warning = figures
    return {
        "id": f"{mandate_id}/alice" if own else mandate_id,
        "mandate": {"id": mandate_id},
        "account": {"balance": balance, "enabled": True} if paid_in or cost else None,
        "user": {"id": "alice"} if own else None,
        "billingModel": settings.get("model", "UNLIMITED"),
        "currency": "CHF",
        "balance": balance,
        "held": "0",
        "available": available,
        "creditLimit": credit_limit,
        "warningThreshold": threshold,
        "isWarning": is_warning,
    }


async def test_member_sees_a_balance_for_each_mandate(database: Database, api: Api) -> None:
    await add_models(database)
    await add_mandate(database, "foreign", users=())
    balances = await api.read("alice", f"{{ balances {FIELDS} }}")
    assert balances == [shown(mandate_id) for mandate_id in MODELS]
    for mandate_id in MODELS:
        assert await api.read("alice", BALANCE, id=mandate_id) == shown(mandate_id)
        assert await api.read("alice", BALANCE, id=mandate_id, user="alice") == shown(mandate_id)


async def test_others_see_the_same_balance(database: Database, api: Api) -> None:
    await add_models(database)
    await add_people(database)
    for mandate_id in MODELS:
        await add_member(database, "ada", mandate_id, role="ADMIN")
        for user_id in ("ada", "gateway", "root"):
            balance = await api.read(user_id, BALANCE, id=mandate_id, user="alice")
            assert (user_id, balance) == (user_id, shown(mandate_id))


async def test_an_accounts_own_limit_goes_first(database: Database, api: Api) -> None:
    await add_mandate(database, model=BillingModel.CREDIT_POSTPAY, credit_limit=100)
    await record(database, usage_event(8))
    for own, limit, left in ((10 * 10**9, "10", "2"), (0, "0", "-8"), ("NULL", "100", "92")):
        await run_sql(database, f"UPDATE account SET credit_limit = {own}")
        balance = await api.read("alice", BALANCE, id=MANDATE)
        assert (balance["creditLimit"], balance["available"]) == (limit, left)


async def test_service_names_whose_balance(database: Database, api: Api) -> None:
    await add_people(database, model=BillingModel.PREPAY_USER)
    for user_id in ("gateway", "root"):
        answer = await api(user_id, BALANCE, id=MANDATE)
        assert (answer.codes, answer.data) == (["BAD_USER_INPUT"], {"balance": None})
        assert answer.errors[0]["message"].startswith("userId is required")
        assert await api.read(user_id, BALANCE, id=MANDATE, user="sven") is None
        assert await api.read(user_id, "{ balances { id } }") == []
    await change_settings(database, billing_model=BillingModel.PREPAY_MANDATE)
    for user_id in ("gateway", "root"):
        assert (await api.read(user_id, BALANCE, id=MANDATE))["id"] == MANDATE


async def test_a_user_who_left(database: Database, api: Api) -> None:
    await add_people(database, model=BillingModel.PREPAY_USER)
    await credit(database, 5, "alice")
    await remove_membership(database, OPERATOR, MANDATE, "alice")
    assert await api.read("alice", "{ balances { id } }") == []
    assert await api.read("alice", BALANCE, id=MANDATE) is None
    assert (await api.read("ada", BALANCE, id=MANDATE, user="alice"))["balance"] == "15"


async def test_balances_of_many_mandates_take_one_select_each_kind(
    database: Database, api: Api
) -> None:
    counts = []
    for mandate_ids in (["m0"], [f"m{place}" for place in range(1, 8)]):
        for mandate_id in mandate_ids:
            await add_mandate(database, mandate_id, model=BillingModel.PREPAY_USER)
            await credit(database, 1, "alice", mandate_id=mandate_id)
        with statements() as sent:
            balances = await api.read("alice", f"{{ balances {FIELDS} }}")
        counts.append(len(sent))
    assert len(balances) == 8
    assert counts[0] == counts[1] <= 5


async def test_a_disabled_user_is_unknown(database: Database, api: Api) -> None:
    await add_people(database)
    await add_user(database, "alice", enabled=False)
    answer = await api("alice", "{ balances { id } }")
    assert (answer.status, answer.codes, answer.data) == (401, ["UNAUTHENTICATED"], None)
