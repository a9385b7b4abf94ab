from typing import Any

import pytest

from app.billing.enums import BillingModel
from app.database import Database
from tests.api import Api, add_people, statements
from tests.world import (
    MANDATE,
    OTHER_MANDATE,
    add_mandate,
    add_member,
    change_settings,
    credit,
    dump,
    ledger_rows,
    outcomes,
    record,
    spend,
    usage_event,
)

pytestmark = pytest.mark.anyio

ACCOUNT = """{
    id mandate { id } user { id } accountType currency balance held available creditLimit
    warningThreshold isWarning enabled
}"""
LIST = f"""query(
    $id: ID!, $user: ID, $enabled: Boolean, $first: Int, $after: String, $last: Int, $before: String
) {{
    accounts(
        mandateId: $id, userId: $user, enabled: $enabled,
        first: $first, after: $after, last: $last, before: $before
    ) {{
        nodes {ACCOUNT} totalCount totalBalance totalHeld
        pageInfo {{ hasNextPage hasPreviousPage startCursor endCursor }}
    }}
}}"""
CREDIT = f"""mutation($input: AddCreditInput!) {{ addCredit(input: $input) {{
    transaction {{
        id transactionType referenceType amount balanceBefore balanceAfter description sequence
        idempotencyKey user {{ id }} actor {{ id }}
    }}
    account {ACCOUNT}
    balance {{ balance available warningThreshold isWarning }}
    userErrors {{ code field message }}
}} }}"""
UPDATE = f"""mutation($input: UpdateAccountInput!) {{ updateAccount(input: $input) {{
    account {ACCOUNT} userErrors {{ code field message }}
}} }}"""


async def add_credit(api: Api, key: str, amount: str = "5", **values: Any) -> Any:
    given = {"mandateId": MANDATE, "amount": amount, "idempotencyKey": key, **values}
    return await api.read("root", CREDIT, input=given)


def refusal(payload: Any) -> tuple[str, str]:
    """Code and field of the one error of a payload that holds nothing else."""
    [error] = payload.pop("userErrors")
    assert not any(payload.values())
    return error["code"], ".".join(error["field"])


async def test_credit_under_each_model(database: Database, api: Api) -> None:
    await add_people(database, model=BillingModel.PREPAY_USER)
    paid = await add_credit(api, "k1", "90.5", userId="alice", referenceType="PAYMENT")
    assert paid["userErrors"] == []
    assert paid["transaction"].pop("id")
    assert paid["transaction"] == {
        "transactionType": "CREDIT",
        "referenceType": "PAYMENT",
        "amount": "90.5",
        "balanceBefore": "10",
        "balanceAfter": "100.5",
        "description": "Manual credit",
        "sequence": 2,
        "idempotencyKey": "k1",
        "user": {"id": "alice"},
        "actor": {"id": "root"},
    }
    assert paid["account"].pop("id")
    assert paid["account"] == {
        "mandate": {"id": MANDATE},
        "user": {"id": "alice"},
        "accountType": "USER",
        "currency": "CHF",
        "balance": "100.5",
        "held": "0",
        "available": "100.5",
        "creditLimit": None,
        "warningThreshold": "10.05",
        "isWarning": False,
        "enabled": True,
    }
    assert paid["balance"] == {
        "balance": "100.5",
        "available": "100.5",
        "warningThreshold": "10.05",
        "isWarning": False,
    }
    for mandate_id, model, available in (
        ("pool", BillingModel.PREPAY_MANDATE, "7"),
        ("postpay", BillingModel.CREDIT_POSTPAY, "47"),
    ):
        await add_mandate(database, mandate_id, model, credit_limit=40)
        paid = await add_credit(api, "k1", "7", mandateId=mandate_id, description="Transfer in")
        assert (paid["userErrors"], paid["transaction"]["user"]) == ([], None)
        assert paid["account"]["accountType"] == "MANDATE"
        assert (paid["balance"]["balance"], paid["balance"]["available"]) == ("7", available)


async def test_credit_that_the_model_does_not_take(database: Database, api: Api) -> None:
    await add_people(database, model=BillingModel.PREPAY_USER)
    await add_mandate(database, "pool", BillingModel.PREPAY_MANDATE)
    await add_mandate(database, "postpay", BillingModel.CREDIT_POSTPAY)
    await add_mandate(database, "unlimited", BillingModel.UNLIMITED)
    before = await dump(database)
    mismatch = "BILLING_MODEL_MISMATCH"
    for values, expected in (
        ({}, (mismatch, "userId")),
        ({"userId": None}, (mismatch, "userId")),
        ({"userId": "sven"}, ("NOT_FOUND", "userId")),
        ({"userId": "nobody"}, ("NOT_FOUND", "userId")),
        ({"mandateId": "pool", "userId": "alice"}, (mismatch, "userId")),
        ({"mandateId": "postpay", "userId": "alice"}, (mismatch, "userId")),
        ({"mandateId": "unlimited"}, (mismatch, "mandateId")),
        ({"mandateId": "unlimited", "userId": "alice"}, (mismatch, "mandateId")),
        ({"mandateId": OTHER_MANDATE}, (mismatch, "mandateId")),
        ({"mandateId": "nowhere"}, ("NOT_FOUND", "mandateId")),
        ({"userId": "alice", "amount": "0"}, ("INVALID", "amount")),
        ({"userId": "alice", "amount": "-1"}, ("INVALID", "amount")),
        ({"userId": "alice", "amount": "1000000.000000001"}, ("LIMIT_EXCEEDED", "amount")),
        ({"userId": "alice", "referenceType": "USAGE"}, ("INVALID", "referenceType")),
        ({"userId": "alice", "description": ""}, ("INVALID", "description")),
        ({"userId": "alice", "idempotencyKey": ""}, ("INVALID", "idempotencyKey")),
    ):
        assert (values, refusal(await add_credit(api, "k", **values))) == (values, expected)
    assert await dump(database) == before
    assert not (await add_credit(api, "k", userId="alice"))["userErrors"]  # the key is not used up


async def test_a_retry_returns_the_first_credit(database: Database, api: Api) -> None:
    await add_people(database, model=BillingModel.PREPAY_USER, default_user_credit=0)
    first = await add_credit(api, "k", "12.50", userId="alice")
    await add_credit(api, "other", "1", userId="alice")
    before = await dump(database)
    again = await add_credit(api, "k", "12.5", userId="alice")
    assert again["transaction"] == first["transaction"]
    assert again["account"]["balance"] == again["balance"]["balance"] == "13.5"
    for other in (
        {"amount": "12.500000001"},
        {"description": "Other"},
        {"referenceType": "PAYMENT"},
    ):
        payload = await add_credit(api, "k", **{"amount": "12.5", "userId": "alice", **other})
        assert refusal(payload) == ("IDEMPOTENCY_CONFLICT", "idempotencyKey")
    assert await dump(database) == before
    await add_mandate(database, "pool", BillingModel.PREPAY_MANDATE)
    assert not (await add_credit(api, "k", mandateId="pool"))["userErrors"]


async def test_each_change_of_one_request_shows_its_own_result(
    database: Database, api: Api
) -> None:
    await add_people(database, model=BillingModel.PREPAY_MANDATE)
    query = """mutation {
        a: addCredit(input: {mandateId: "acme", amount: "1", idempotencyKey: "a"}) { ...Shown }
        b: addCredit(input: {mandateId: "acme", amount: "2", idempotencyKey: "b"}) { ...Shown }
        c: upsertMandate(input: {id: "acme", name: "Second"}) { mandate { name } }
        d: upsertMandate(input: {id: "acme", name: "Third"}) { mandate { name } }
    }
    fragment Shown on AddCreditPayload {
        account { balance mandate { name } } balance { balance } transaction { balanceAfter }
    }"""
    data = await api.read("root", query)
    for name, balance in (("a", "1"), ("b", "3")):
        assert data[name] == {
            "account": {"balance": balance, "mandate": {"name": "Acme"}},
            "balance": {"balance": balance},
            "transaction": {"balanceAfter": balance},
        }
    assert [data[name]["mandate"]["name"] for name in "cd"] == ["Second", "Third"]


async def add_accounts(database: Database) -> list[Any]:
    """Open accounts of five users, oldest first, that hold 1 to 5."""
    await add_people(database, model=BillingModel.PREPAY_USER, default_user_credit=0)
    rows = []
    for amount in range(1, 6):
        await add_member(database, f"u{amount}")
        rows.append(await credit(database, amount, f"u{amount}"))
    await add_mandate(database, "pool", BillingModel.PREPAY_MANDATE)
    await credit(database, 99, mandate_id="pool")
    return rows


async def test_admin_lists_accounts(database: Database, api: Api) -> None:
    rows = await add_accounts(database)
    await api.read(
        "root",
        UPDATE,
        input={"mandateId": MANDATE, "accountId": rows[1].account_id, "enabled": False},
    )
    for arguments, expected in (
        ({}, "u5 u4 u3 u2 u1"),
        ({"first": 2}, "u5 u4"),
        ({"last": 2}, "u2 u1"),
        ({"user": "u3"}, "u3"),
        ({"user": "alice"}, ""),
        ({"enabled": True}, "u5 u4 u3 u1"),
        ({"enabled": False}, "u2"),
        ({"enabled": False, "user": "u3"}, ""),
    ):
        page = await api.read("ada", LIST, id=MANDATE, **arguments)
        assert " ".join(node["user"]["id"] for node in page["nodes"]) == expected
        held = {"first": "u5 u4 u3 u2 u1", "last": "u5 u4 u3 u2 u1"}.get(
            next(iter(arguments), ""), expected
        ).split()
        assert page["totalCount"] == len(held)
        assert page["totalBalance"] == str(sum(int(user_id[1]) for user_id in held))
        assert page["totalHeld"] == "0"
    first = await api.read("ada", LIST, id=MANDATE, first=3)
    rest = await api.read("ada", LIST, id=MANDATE, first=3, after=first["pageInfo"]["endCursor"])
    assert [node["balance"] for node in first["nodes"] + rest["nodes"]] == ["5", "4", "3", "2", "1"]
    assert (first["pageInfo"]["hasNextPage"], rest["pageInfo"]["hasNextPage"]) == (True, False)
    back = await api.read("ada", LIST, id=MANDATE, last=2, before=rest["pageInfo"]["startCursor"])
    assert [node["balance"] for node in back["nodes"]] == ["4", "3"]


async def test_accounts_take_the_same_selects_however_many(database: Database, api: Api) -> None:
    await add_accounts(database)
    counts = []
    for size in (1, 5):
        with statements() as sent:
            await api.read("ada", LIST, id=MANDATE, first=size)
        counts.append(len(sent))
    assert counts[0] == counts[1]


async def test_a_disabled_account_cannot_spend(database: Database, api: Api) -> None:
    await add_people(database, model=BillingModel.PREPAY_USER)
    row = await credit(database, 1, "alice")
    this = {"mandateId": MANDATE, "accountId": row.account_id}
    for enabled, outcome in ((False, "ACCOUNT_DISABLED"), (True, "RECORDED")):
        payload = await api.read("root", UPDATE, input={**this, "enabled": enabled})
        assert (payload["account"]["enabled"], payload["userErrors"]) == (enabled, [])
        assert outcomes(await record(database, spend(1), usage_event(1))) == [outcome, "RECORDED"]
        assert not (await add_credit(api, f"k{enabled}", userId="alice"))["userErrors"]


async def test_an_accounts_own_limit(database: Database, api: Api) -> None:
    await add_people(database, model=BillingModel.CREDIT_POSTPAY, credit_limit=100)
    row = await credit(database, 1)
    this = {"mandateId": MANDATE, "accountId": row.account_id}
    for limit, available, threshold in (
        ("0", "1", "0"),
        ("30.5", "31.5", "3.05"),
        (None, "101", "10"),
    ):
        payload = await api.read("root", UPDATE, input={**this, "creditLimit": limit})
        account = payload["account"]
        assert (account["creditLimit"], account["available"]) == (limit, available)
        assert (account["warningThreshold"], account["enabled"]) == (threshold, True)


async def test_an_account_update_is_refused_by_field(database: Database, api: Api) -> None:
    await add_people(database, model=BillingModel.CREDIT_POSTPAY)
    row = await credit(database, 1)
    before = await dump(database)
    for values, expected in (
        ({"enabled": None}, ("INVALID", "enabled")),
        ({"creditLimit": "-0.000000001"}, ("INVALID", "creditLimit")),
        ({"creditLimit": "1000000000.1"}, ("LIMIT_EXCEEDED", "creditLimit")),
        ({"accountId": "nothing", "enabled": False}, ("NOT_FOUND", "accountId")),
        ({"mandateId": OTHER_MANDATE, "enabled": False}, ("NOT_FOUND", "accountId")),
        ({"mandateId": "nowhere", "enabled": False}, ("NOT_FOUND", "mandateId")),
    ):
        given = {"mandateId": MANDATE, "accountId": row.account_id, **values}
        assert refusal(await api.read("root", UPDATE, input=given)) == expected
    payload = await api.read(
        "root", UPDATE, input={"mandateId": MANDATE, "accountId": row.account_id}
    )
    assert (payload["account"]["id"], payload["userErrors"]) == (row.account_id, [])
    assert await dump(database) == before


async def test_a_change_of_model_leaves_accounts_listed(database: Database, api: Api) -> None:
    await add_people(database)
    await record(database, usage_event(5))
    await change_settings(database, billing_model=BillingModel.PREPAY_MANDATE)
    await add_credit(api, "k")
    page = await api.read("ada", LIST, id=MANDATE)
    assert [
        (node["accountType"], node["balance"], node["available"]) for node in page["nodes"]
    ] == [
        ("MANDATE", "5", "5"),
        ("UNLIMITED", "-5", None),
    ]
    assert page["totalBalance"] == "0"
    assert len(await ledger_rows(database)) == 2
