"""How a sysadmin puts mistakes right: debits by hand, reversals and transfers."""

import re
import uuid
from typing import Any

import pytest

from app.billing.enums import BillingModel
from app.billing.models import audit_events
from app.database import Database
from tests.api import Api, add_people, statements
from tests.world import (
    MANDATE,
    add_member,
    balances,
    change_settings,
    credit,
    dump,
    fresh,
    hold,
    ledger_rows,
    read_rows,
    record,
    reverse,
    transfer,
    usage_event,
)

pytestmark = pytest.mark.anyio

ERRORS = "userErrors { code field message }"
ROW = """{
    id transactionType referenceType amount balanceBefore balanceAfter description idempotencyKey
    user { id } actor { id } account { id balance } reverses { id reversedBy { id } } reversedBy { id }
    counterpart { id amount user { id } }
}"""
DEBIT = f"""mutation($input: AddDebitInput!) {{ addDebit(input: $input) {{
    transaction {ROW} account {{ id balance held }} balance {{ id balance held available }} {ERRORS}
}} }}"""
REVERSE = f"""mutation($input: ReverseTransactionInput!) {{
    reverseTransaction(input: $input) {{ transaction {ROW} {ERRORS} }}
}}"""
TRANSFER = f"""mutation($input: TransferCreditInput!) {{
    transferCredit(input: $input) {{ debit {ROW} credit {ROW} {ERRORS} }}
}}"""


def given(**values: Any) -> dict[str, Any]:
    return {"mandateId": MANDATE, "idempotencyKey": fresh(), **values}


async def made(api: Api, query: str, /, **values: Any) -> Any:
    """What an accepted mutation answers."""
    payload = await api.read("root", query, input=values)
    assert payload.pop("userErrors") == []
    return payload


async def refused(api: Api, query: str, /, **values: Any) -> tuple[str, list[str] | None]:
    """Code and field of the one thing that is wrong; nothing else is answered."""
    payload = await api.read("root", query, input=values)
    [error] = payload.pop("userErrors")
    assert set(payload.values()) == {None}
    assert not re.search(r"[a-z]_[a-z]", error["message"])
    return error["code"], error["field"]


async def test_sysadmin_takes_money_out(database: Database, api: Api) -> None:
    await add_people(database, model=BillingModel.PREPAY_USER)
    await hold(database, 4)
    asked = given(
        userId="alice",
        amount="2.50",
        description="Refund",
        referenceType="PAYMENT",
        idempotencyKey="debit-1",
    )
    payload = await made(api, DEBIT, **asked)
    [_, row] = await ledger_rows(database)
    assert payload == {
        "transaction": {
            "id": row.id,
            "transactionType": "DEBIT",
            "referenceType": "PAYMENT",
            "amount": "2.5",
            "balanceBefore": "10",
            "balanceAfter": "7.5",
            "description": "Refund",
            "idempotencyKey": "debit-1",
            "user": {"id": "alice"},
            "actor": {"id": "root"},
            "account": {"id": row.account_id, "balance": "7.5"},
            "reverses": None,
            "reversedBy": None,
            "counterpart": None,
        },
        "account": {"id": row.account_id, "balance": "7.5", "held": "4"},
        "balance": {"id": "acme/alice", "balance": "7.5", "held": "4", "available": "3.5"},
    }
    before = await dump(database)
    assert await made(api, DEBIT, **(asked | {"amount": "2.5"})) == payload
    for change, code, field in (
        ({"amount": "2.6"}, "IDEMPOTENCY_CONFLICT", "idempotencyKey"),
        ({"referenceType": "ADMIN"}, "IDEMPOTENCY_CONFLICT", "idempotencyKey"),
        ({"amount": "3.500000001", "idempotencyKey": "k"}, "INSUFFICIENT_FUNDS", "amount"),
        ({"amount": "0", "idempotencyKey": "k"}, "INVALID", "amount"),
        ({"referenceType": "USAGE", "idempotencyKey": "k"}, "INVALID", "referenceType"),
        ({"description": " ", "idempotencyKey": "k"}, "INVALID", "description"),
        ({"userId": "sven", "idempotencyKey": "k"}, "NOT_FOUND", "userId"),
        ({"userId": None, "idempotencyKey": "k"}, "BILLING_MODEL_MISMATCH", "userId"),
        ({"mandateId": "nowhere"}, "NOT_FOUND", "mandateId"),
    ):
        assert await refused(api, DEBIT, **(asked | change)) == (code, [field])
    assert await dump(database) == before
    assert (await made(api, DEBIT, **(asked | {"amount": "3.5", "idempotencyKey": "k"})))["account"]
    await change_settings(database, block_on_zero_balance=False)
    assert await refused(api, DEBIT, **(asked | {"idempotencyKey": "l"})) == (
        *("INSUFFICIENT_FUNDS", ["amount"]),
    )


async def test_sysadmin_undoes_a_call(database: Database, api: Api) -> None:
    await add_people(database, model=BillingModel.PREPAY_USER)
    [used] = await record(database, usage_event(4, description="A call", workflow_id="flow"))
    original = used.transaction
    asked = given(transactionId=original.id, reason="Wrong user", idempotencyKey="undo-1")
    payload = await made(api, REVERSE, **asked)
    row = payload["transaction"]
    assert row == {
        "id": row["id"],
        "transactionType": "CREDIT",
        "referenceType": "REVERSAL",
        "amount": "4",
        "balanceBefore": "6",
        "balanceAfter": "10",
        "description": "Wrong user",
        "idempotencyKey": "undo-1",
        "user": {"id": "alice"},
        "actor": {"id": "root"},
        "account": {"id": original.account_id, "balance": "10"},
        "reverses": {"id": original.id, "reversedBy": {"id": row["id"]}},
        "reversedBy": None,
        "counterpart": None,
    }
    before = await dump(database)
    assert await made(api, REVERSE, **asked) == payload
    default_credit = (await ledger_rows(database))[0].id
    for change, code, field in (
        ({"reason": "Other"}, "IDEMPOTENCY_CONFLICT", "idempotencyKey"),
        ({"idempotencyKey": "k"}, "ALREADY_REVERSED", "transactionId"),
        ({"idempotencyKey": "k", "transactionId": row["id"]}, "INVALID", "transactionId"),
        ({"idempotencyKey": "k", "transactionId": default_credit}, "INVALID", "transactionId"),
        ({"idempotencyKey": "k", "transactionId": str(uuid.uuid4())}, "NOT_FOUND", "transactionId"),
        ({"idempotencyKey": "k", "reason": ""}, "INVALID", "reason"),
        ({"idempotencyKey": ""}, "INVALID", "idempotencyKey"),
        ({"mandateId": "globex"}, "NOT_FOUND", "transactionId"),
    ):
        assert await refused(api, REVERSE, **(asked | change)) == (code, [field])
    assert await dump(database) == before
    year, month = original.created_at.year, original.created_at.month
    query = """query($filter: UsageFilter) { statistics(
        mandateId: "acme", period: DAY, year: $year, month: $month, filter: $filter
    ) { totalCost transactionCount } }""".replace("$year", str(year)).replace("$month", str(month))
    for wanted in (None, {"workflowId": "flow"}, {"userId": "alice"}):
        found = await api.read("alice", query, filter=wanted)
        assert found == {"totalCost": "0", "transactionCount": 1}


async def test_sysadmin_moves_money(database: Database, api: Api) -> None:
    await add_people(database, model=BillingModel.PREPAY_USER)
    await add_member(database, "bob")
    asked = given(fromUserId="alice", toUserId="bob", amount="2.50", idempotencyKey="move-1")
    payload = await made(api, TRANSFER, **asked)
    taken, paid = payload["debit"], payload["credit"]
    for leg, other, kind, before, after, user_id, key in (
        (taken, paid, "DEBIT", "10", "7.5", "alice", "move-1"),
        (paid, taken, "CREDIT", "10", "12.5", "bob", None),
    ):
        assert leg == {
            "id": leg["id"],
            "transactionType": kind,
            "referenceType": "TRANSFER",
            "amount": "2.5",
            "balanceBefore": before,
            "balanceAfter": after,
            "description": "Transfer",
            "idempotencyKey": key,
            "user": {"id": user_id},
            "actor": {"id": "root"},
            "account": {"id": leg["account"]["id"], "balance": after},
            "reverses": None,
            "reversedBy": None,
            "counterpart": {"id": other["id"], "amount": "2.5", "user": other["user"]},
        }
    assert await made(api, TRANSFER, **asked) == payload
    assert await refused(api, TRANSFER, **(asked | {"toUserId": "ada"})) == (
        *("IDEMPOTENCY_CONFLICT", ["idempotencyKey"]),
    )
    assert await balances(database) == {"alice": 7.5, "bob": 12.5}
    assert len(await read_rows(database, audit_events, action="credit.transferred")) == 1


async def test_a_null_user_is_the_mandate_itself(database: Database, api: Api) -> None:
    await add_people(database, model=BillingModel.PREPAY_MANDATE, default_user_credit=0)
    await credit(database, 10)
    to_alice = await made(api, TRANSFER, **given(toUserId="alice", amount="4"))
    assert (to_alice["debit"]["user"], to_alice["credit"]["user"]) == (None, {"id": "alice"})
    back = await made(api, TRANSFER, **given(fromUserId="alice", toUserId=None, amount="1"))
    assert (back["debit"]["user"], back["credit"]["user"]) == ({"id": "alice"}, None)
    assert await balances(database) == {None: 7, "alice": 3}
    for values, code, field in (
        ({"amount": "1"}, "INVALID", "toUserId"),
        ({"amount": "1", "fromUserId": "alice", "toUserId": "alice"}, "INVALID", "toUserId"),
        ({"amount": "1", "fromUserId": "nobody"}, "NOT_FOUND", "fromUserId"),
        ({"amount": "1", "toUserId": "sven"}, "NOT_FOUND", "toUserId"),
        ({"amount": "7.1", "toUserId": "alice"}, "INSUFFICIENT_FUNDS", "amount"),
        ({"amount": "0", "toUserId": "alice"}, "INVALID", "amount"),
        ({"amount": "1", "toUserId": "alice", "description": ""}, "INVALID", "description"),
    ):
        assert await refused(api, TRANSFER, **given(**values)) == (code, [field])


async def test_many_corrections_take_as_many_selects_as_one(database: Database, api: Api) -> None:
    await add_people(database, model=BillingModel.PREPAY_USER)
    query = f'{{ transactions(mandateId: "acme", first: 100) {{ nodes {ROW} }} }}'
    counts = []
    for count in (1, 9):
        for _ in range(count):
            [used] = await record(database, usage_event(1))
            await reverse(database, used.transaction.id)
            await transfer(database, "0.1", "alice", "ada")
        with statements() as sent:
            page = await api.read("ada", query)
        counts.append(len(sent))
    assert len(page["nodes"]) == 42
    assert sum(node["reverses"] is not None for node in page["nodes"]) == 10
    assert sum(node["counterpart"] is not None for node in page["nodes"]) == 20
    assert counts[0] == counts[1] <= 9
