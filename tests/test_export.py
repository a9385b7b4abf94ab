"""Exports over HTTP: who may read what of them, and what is in them."""

from datetime import timedelta
from decimal import Decimal
from typing import Any

import httpx
import pytest

from app.billing.enums import BillingModel
from app.database import Database, DatabaseUnavailable
from tests.api import Api, add_people
from tests.exports import RANGE, TODAY, TRANSACTIONS, USAGE, read
from tests.world import (
    MANDATE,
    PREPAY_USER,
    SYSADMIN,
    add_mandate,
    add_member,
    credit,
    debit,
    hold,
    ledger_rows,
    record,
    reverse,
    settle,
    transfer,
    usage_event,
)

pytestmark = pytest.mark.anyio

IDS = """query ($filter: TransactionFilter, $orderBy: TransactionOrder) {
    transactions(mandateId: "acme", filter: $filter, orderBy: $orderBy, first: 500) { nodes { id } }
}"""
EVERYTHING = """{ transactions(mandateId: "acme", first: 500) { nodes {
    id createdAt occurredAt account { id currency } user { id } transactionType referenceType amount
    balanceBefore balanceAfter sequence description workflowId featureCode aicoreProvider
    aicoreModel idempotencyKey actor { id } reverses { id } hold { id } counterpart { id }
} } }"""

REFERENCES = ("user", "actor", "reverses", "hold", "counterpart")


async def download(
    api: Api, user_id: str | None, path: str = TRANSACTIONS, /, **parameters: Any
) -> httpx.Response:
    return await api.client.get(
        path,
        params={"mandateId": MANDATE} | parameters,
        headers=api.bearer(user_id) if user_id else {},
    )


async def rows(
    api: Api, user_id: str, path: str = TRANSACTIONS, /, **parameters: Any
) -> list[dict[str, str]]:
    """The rows of a file that may be had."""
    response = await download(api, user_id, path, **parameters)
    assert response.status_code == 200, response.text
    return read(response.content.decode())


def refusal(response: httpx.Response) -> tuple[int, str]:
    [error] = response.json()["errors"]
    assert error["message"]
    assert response.headers["Content-Type"] == "application/json; charset=utf-8"
    assert "Content-Disposition" not in response.headers
    return response.status_code, error["extensions"]["code"]


@pytest.fixture
async def history(database: Database) -> None:
    """Every kind of transaction, of alice and of bob."""
    await add_people(database, model=PREPAY_USER, default_user_credit=Decimal(1))
    await add_member(database, "bob")
    await credit(database, "100.000000001", "alice", key="c1", viewer=SYSADMIN)
    await debit(database, 5, "alice")
    await transfer(database, 7, "alice", "bob")
    used: dict[str, Any] = {
        "aicore_provider": "openai",
        "aicore_model": "gpt-4o",
        "feature_code": "chat",
    }
    await record(
        database,
        usage_event("0.000000001", workflow_id="w1", key="u1", **used),
        usage_event(300, user_id="bob", description="One call, and a dear one"),
        usage_event(2, aicore_provider="azure", feature_code="search"),
        usage_event(0),
    )
    [row] = await ledger_rows(database, idempotency_key="u1")
    await reverse(database, row.id)
    await settle(database, await hold(database, 3), 2)


def flat(node: dict[str, Any]) -> dict[str, str]:
    """A transaction of the API as a row: what it refers to by its id, nothing for null."""
    row = {"currency": node["account"]["currency"]}
    for name, value in node.items():
        if isinstance(value, dict):
            row[f"{name}Id"] = value["id"]
        else:
            row[f"{name}Id" if name in REFERENCES else name] = "" if value is None else str(value)
    return row


@pytest.mark.usefixtures("history")
async def test_every_column_is_the_field_of_that_name(api: Api) -> None:
    for user_id, number in (("alice", 9), ("ada", 12), ("root", 12)):
        nodes = (await api.read(user_id, EVERYTHING))["nodes"]
        found = await rows(api, user_id)
        assert found == [flat(node) for node in nodes]
        assert len(found) == number


@pytest.mark.usefixtures("history")
async def test_amounts_are_plain_numbers(api: Api) -> None:
    found = await rows(api, "root", userId="bob", referenceType="USAGE")
    assert [(row["amount"], row["balanceBefore"], row["balanceAfter"]) for row in found] == [
        ("300", "8", "-292")
    ]
    found = await rows(api, "root", idempotencyKey="u1")
    assert [row["amount"] for row in found] == ["0.000000001"]


@pytest.mark.usefixtures("history")
async def test_who_sees_which_rows(api: Api) -> None:
    for user_id, users in (
        ("alice", {"alice"}),
        ("bob", {"bob"}),
        ("ada", {"alice", "bob"}),
        ("gateway", {"alice", "bob"}),
        ("root", {"alice", "bob"}),
    ):
        found = await rows(api, user_id)
        assert {row["userId"] for row in found} == users
        keys = any(row["idempotencyKey"] for row in found)
        assert keys == (user_id in ("ada", "root"))
        assert any(row["counterpartId"] for row in found) == (len(users) > 1)
        usage = await rows(api, user_id, USAGE, **RANGE, groupBy="USER")
        assert {row["user"] for row in usage} == users
    assert await rows(api, "alice", userId="bob") == []
    assert await rows(api, "alice", idempotencyKey="u1") == []


@pytest.mark.usefixtures("history")
async def test_a_mandate_of_others_is_one_that_does_not_exist(api: Api) -> None:
    for path, parameters in ((TRANSACTIONS, {}), (USAGE, RANGE)):
        for user_id, mandate_id in (
            ("sven", MANDATE),
            ("sven", "none"),
            ("root", "none"),
            ("root", ""),
            ("root", "\0"),
            ("root", "x" * 1000),
        ):
            response = await download(api, user_id, path, **parameters, mandateId=mandate_id)
            assert response.status_code == 404
            assert response.json() == {
                "errors": [
                    {
                        "message": "There is no such mandate.",
                        "extensions": {"code": "NOT_FOUND"},
                    }
                ]
            }


@pytest.mark.usefixtures("history")
async def test_without_a_good_token(api: Api) -> None:
    for headers in (
        {},
        {"Authorization": "Bearer x"},
        {"Authorization": "Basic cm9vdDpyb290"},
        api.bearer("nobody"),
    ):
        for path in (TRANSACTIONS, USAGE):
            response = await api.client.get(path, headers=headers)
            assert refusal(response) == (401, "UNAUTHENTICATED")
            assert response.headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.usefixtures("history")
async def test_every_filter_narrows_as_in_graphql(database: Database, api: Api) -> None:
    [row] = await ledger_rows(database, idempotency_key="u1")
    at = row.created_at.isoformat()
    by_field: dict[str, str] = {
        "transactionType": "CREDIT",
        "referenceType": "USAGE",
        "userId": "bob",
        "accountId": row.account_id,
        "workflowId": "w1",
        "featureCode": "chat",
        "aicoreProvider": "openai",
        "aicoreModel": "gpt-4o",
        "minAmount": "5.0",
        "maxAmount": "5",
        "createdFrom": at,
        "createdTo": at,
        "occurredFrom": at,
        "occurredTo": at,
        "idempotencyKey": "u1",
        "search": "CALL",
    }
    types = await api.read("root", '{ __type(name: "TransactionFilter") { inputFields { name } } }')
    assert {field["name"] for field in types["inputFields"]} == by_field.keys()
    everything = len(await rows(api, "ada"))
    for wanted in ({name: value} for name, value in by_field.items()):
        nodes = (await api.read("ada", IDS, filter=wanted))["nodes"]
        assert 0 < len(nodes) < everything, wanted
        found = await rows(api, "ada", **wanted)
        assert [row["id"] for row in found] == [node["id"] for node in nodes], wanted
    found = await rows(api, "ada", userId="alice", referenceType="USAGE", maxAmount="0")
    assert len(found) == 1


@pytest.mark.usefixtures("history")
async def test_every_order_is_that_of_graphql(api: Api) -> None:
    for field in ("CREATED_AT", "OCCURRED_AT", "AMOUNT"):
        for direction in ("ASC", "DESC"):
            order = {"field": field, "direction": direction}
            nodes = (await api.read("ada", IDS, orderBy=order))["nodes"]
            found = await rows(api, "ada", orderBy=field, direction=direction)
            assert [row["id"] for row in found] == [node["id"] for node in nodes]


FORMULAS = {
    "=1+1": "'=1+1",
    "+41 44 000 00 00": "'+41 44 000 00 00",
    "-5": "'-5",
    "@SUM(A1)": "'@SUM(A1)",
    "\t=1": "'\t=1",
    "\r=1": "'\r'=1",
    "\nx": "'\nx",
    " =1": "' =1",
    "\uff1d1": "'\uff1d1",
    # A spreadsheet that separates by semicolons begins cells and rows where we do not.
    "a;=cmd|'/C calc'!A0;b": "a;'=cmd|'/C calc'!A0;b",
    "a\r\n@x": "a\r\n'@x",
    "5 - 3 = 2; 4": "5 - 3 = 2; 4",
    "'=1": "'=1",
    'He said "a, b";\r\nand\nleft': 'He said "a, b";\r\nand\nleft',
    "Zürich \N{MONEY WITH WINGS}": "Zürich \N{MONEY WITH WINGS}",
}


async def test_texts_are_never_formulas(database: Database, api: Api) -> None:
    await add_people(database, model=BillingModel.UNLIMITED)
    await add_member(database, "=alice")
    texts = ("workflow_id", "feature_code", "aicore_provider", "aicore_model", "description")
    names = {text for text in FORMULAS if text.isprintable() and text == text.strip()}
    events = []
    for text in FORMULAS:
        given: dict[str, Any] = dict.fromkeys(texts if text in names else texts[-1:], text)
        events.append(usage_event(1, **given))
    events.append(usage_event(1, user_id="=alice", key="=key"))
    results = await record(database, *events)
    assert [result.error for result in results] == [None] * len(events)
    found = {row["description"]: row for row in await rows(api, "root", direction="ASC")}
    assert found.keys() == {*FORMULAS.values(), "AI usage"}
    for text, shown in FORMULAS.items():
        if text in names:
            row = found[shown]
            assert {row[name] for name in ("workflowId", "featureCode", "aicoreModel")} == {shown}
    [row] = await rows(api, "root", userId="=alice")
    assert (row["userId"], row["idempotencyKey"]) == ("'=alice", "'=key")
    usage = await rows(api, "root", USAGE, **RANGE, groupBy="USER,MODEL")
    assert {row["user"] for row in usage} == {"alice", "'=alice"}
    assert "'=1+1" in {row["model"] for row in usage}
    assert all(row["model"][:1] not in ("=", "+", "-", "@") for row in usage)


async def test_the_file_has_a_name(database: Database, api: Api) -> None:
    for mandate_id, named in (
        ("acme-1.x", 'filename="transactions-acme-1.x.csv"'),
        ('a"b/../c;d', 'filename="transactions-a_b_.._c_d.csv"'),
        ("a b", 'filename="transactions-a_b.csv"'),
        ("Zürich", 'filename="transactions-Z_rich.csv"'),
    ):
        await add_mandate(database, mandate_id)
        await add_people(database)
        response = await download(api, "root", mandateId=mandate_id)
        assert response.headers["Content-Disposition"] == f"attachment; {named}"
        assert response.headers["Content-Type"] == "text/csv; charset=utf-8"
        assert response.headers["Cache-Control"] == "no-store"
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert read(response.text) == []
        assert response.text.startswith("id,createdAt,occurredAt,accountId,userId,")
    response = await download(api, "root", USAGE, **RANGE)
    assert response.headers["Content-Disposition"] == 'attachment; filename="usage-acme.csv"'
    address = f"{TRANSACTIONS}?mandateId={MANDATE}"
    head = await api.client.head(address, headers=api.bearer("root"))
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["Content-Disposition"] == 'attachment; filename="transactions-acme.csv"'
    assert (await api.client.post(address, headers=api.bearer("root"))).status_code == 405


WRONG: list[tuple[str, dict[str, Any], str]] = [
    (TRANSACTIONS, {"nothing": "1"}, "there is no nothing"),
    (TRANSACTIONS, {"user_id": "alice"}, "there is no user_id"),
    (TRANSACTIONS, {"first": "1"}, "there is no first"),
    (TRANSACTIONS, {"x" * 10_000: ""}, "The parameters are mandateId, orderBy, "),
    (TRANSACTIONS, {"userId": ["a", "b"]}, "userId must be given once."),
    (TRANSACTIONS, {"mandateId": [MANDATE, MANDATE]}, "mandateId must be given once."),
    (TRANSACTIONS, {"mandateId": []}, "mandateId must be given."),
    (TRANSACTIONS, {"minAmount": "1e3"}, "minAmount must be plain digits"),
    (TRANSACTIONS, {"minAmount": ""}, "minAmount must be plain digits"),
    (TRANSACTIONS, {"createdFrom": "yesterday"}, "createdFrom must be RFC 3339"),
    (TRANSACTIONS, {"createdFrom": "2026-01-31"}, "createdFrom must be RFC 3339"),
    (TRANSACTIONS, {"transactionType": "debit"}, "transactionType must be CREDIT or DEBIT."),
    (TRANSACTIONS, {"orderBy": "ID"}, "orderBy must be CREATED_AT or OCCURRED_AT or AMOUNT."),
    (TRANSACTIONS, {"direction": ""}, "direction must be ASC or DESC."),
    (TRANSACTIONS, {"workflowId": "x" * 129}, "workflowId must be 1 to 128 characters"),
    (TRANSACTIONS, {"search": ""}, "search must be 1 to 200 characters"),
    (USAGE, {"from": []}, "from must be given."),
    (USAGE, {"from": "20260101"}, "from must be a day, such as 2026-01-31."),
    (USAGE, {"to": "2026-02-30"}, "to must be a day, such as 2026-01-31."),
    (USAGE, {"granularity": "WEEK"}, "granularity must be HOUR or DAY or MONTH or YEAR."),
    (USAGE, {"groupBy": "aicore_model"}, "groupBy must be PROVIDER or MODEL or FEATURE or USER"),
    (USAGE, {"groupBy": ""}, "groupBy must be PROVIDER"),
    (USAGE, {"first": "1.5"}, "first must be a whole number."),
    (USAGE, {"first": "0"}, "first must be at least 1."),
    (USAGE, {"transactionType": "DEBIT"}, "there is no transactionType"),
]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_wrong_parameters(database: Database, api: Api) -> None:
    await add_people(database)
    for path, wrong, message in WRONG:
        response = await download(
            api, "root", path, **{**(RANGE if path == USAGE else {}), **wrong}
        )
        assert refusal(response) == (400, "BAD_USER_INPUT"), wrong
        said = response.json()["errors"][0]["message"]
        assert message in said
        assert len(said) <= 500


@pytest.mark.usefixtures("history")
async def test_usage_by_groups_and_days(api: Api) -> None:
    found = await rows(api, "ada", USAGE, **RANGE, groupBy=["USER", "PROVIDER"])
    assert list(found[0]) == [
        *("start", "end", "user", "provider", "cost", "transactionCount", "currency")
    ]
    assert len(found) == 4 * 4
    assert [row["start"] for row in found[:4]] == [
        f"{TODAY + timedelta(days=day)}T00:00:00Z" for day in (-2, -1, 0, 1)
    ]
    assert [row["end"] for row in found[:3]] == [row["start"] for row in found[1:4]]
    used = {
        (row["user"], row["provider"], row["cost"], row["transactionCount"], row["currency"])
        for row in found
        if row["transactionCount"] != "0"
    }
    assert used == {
        ("bob", "", "300", "1", "CHF"),
        ("alice", "azure", "2", "1", "CHF"),
        ("alice", "openai", "0", "1", "CHF"),
        ("alice", "", "2", "2", "CHF"),
    }
    repeated = await rows(api, "ada", USAGE, **RANGE, groupBy="USER,PROVIDER")
    assert repeated == found
    assert len(await rows(api, "ada", USAGE, **RANGE, groupBy="USER", first=1)) == 4
    whole = await rows(api, "ada", USAGE, **RANGE, aicoreProvider="azure")
    assert sum(Decimal(row["cost"]) for row in whole) == 2
    assert sum(int(row["transactionCount"]) for row in whole) == 1


@pytest.mark.parametrize(
    ("failure", "expected"),
    [(DatabaseUnavailable(), (503, "UNAVAILABLE")), (RuntimeError("secret"), (500, "INTERNAL"))],
)
@pytest.mark.usefixtures("history")
async def test_a_failure_before_the_first_row(
    api: Api, monkeypatch: pytest.MonkeyPatch, failure: Exception, expected: tuple[int, str]
) -> None:
    async def fail(*_: Any, **__: Any) -> Any:
        raise failure

    monkeypatch.setattr("app.export.list_transactions", fail)
    monkeypatch.setattr("app.export.find_usage", fail)
    for path, parameters in ((TRANSACTIONS, {}), (USAGE, RANGE)):
        response = await download(api, "root", path, **parameters)
        assert refusal(response) == expected
        assert "secret" not in response.text
