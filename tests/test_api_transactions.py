import base64
import json
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import chain
from typing import Any

import pytest

from app.billing.directory import enrol
from app.billing.enums import BillingModel, ReferenceType
from app.billing.viewer import OPERATOR
from app.database import Database
from tests.api import Api, add_people, statements
from tests.world import (
    MANDATE,
    SYSADMIN,
    add_member,
    credit,
    fresh,
    ledger_rows,
    record,
    reverse,
    transfer,
    usage_event,
)

pytestmark = pytest.mark.anyio

PAGE = """query(
    $id: ID!, $filter: TransactionFilter, $orderBy: TransactionOrder,
    $first: Int, $after: String, $last: Int, $before: String
) {
    transactions(
        mandateId: $id, filter: $filter, orderBy: $orderBy,
        first: $first, after: $after, last: $last, before: $before
    ) {
        nodes { idempotencyKey }
        edges { cursor node { idempotencyKey } }
        pageInfo { hasNextPage hasPreviousPage startCursor endCursor }
        totalCount totals { credits debits net }
    }
}"""
NESTED = """query($id: ID!, $first: Int) { transactions(mandateId: $id, first: $first) { nodes {
    amount
    user { displayName email } actor { displayName } mandate { name timeZone }
    account { balance warningThreshold user { displayName } }
    reverses { id user { id } } reversedBy { id actor { id } }
} } }"""


def keys(page: dict[str, Any]) -> list[str]:
    return [node["idempotencyKey"] for node in page["nodes"]]


async def pages(api: Api, user_id: str, size: int, backwards: bool, **arguments: Any) -> list[Any]:
    """All pages of a list from one end to the other."""
    found: list[Any] = []
    cursor = None
    while True:
        place = {"last": size, "before": cursor} if backwards else {"first": size, "after": cursor}
        page = await api.read(user_id, PAGE, id=MANDATE, **place, **arguments)
        found.append(page)
        info = page["pageInfo"]
        assert [edge["node"] for edge in page["edges"]] == page["nodes"]
        assert [edge["cursor"] for edge in page["edges"][:: len(page["nodes"]) - 1 or 1]] == [
            info["startCursor"],
            info["endCursor"],
        ][: len(page["nodes"])]
        cursor = info["startCursor" if backwards else "endCursor"]
        if not info["hasPreviousPage" if backwards else "hasNextPage"]:
            return found


async def test_a_transaction_shows_what_was_recorded(database: Database, api: Api) -> None:
    await add_people(database, model=BillingModel.PREPAY_USER)
    paid_in = await credit(
        database,
        "12.5",
        "alice",
        key="c-1",
        description="Refill",
        reference_type=ReferenceType.PAYMENT,
        viewer=SYSADMIN,
    )
    occurred_at = datetime.now(UTC) - timedelta(days=3)
    [result] = await record(
        database,
        usage_event(
            "0.000000015",
            key="u-1",
            description="A call",
            workflow_id="w",
            feature_code="chat",
            aicore_provider="openai",
            aicore_model="gpt",
            occurred_at=occurred_at,
        ),
    )
    query = """query($id: ID!) { transaction(mandateId: "acme", id: $id) {
        transactionType sequence amount balanceBefore balanceAfter description referenceType
        workflowId featureCode aicoreProvider aicoreModel idempotencyKey occurredAt createdAt
        user { id } actor { id } mandate { id } account { id balance } reverses { id }
        reversedBy { id }
    } }"""
    row = result.transaction
    shared = {
        "user": {"id": "alice"},
        "mandate": {"id": MANDATE},
        "account": {"id": row.account_id, "balance": "22.499999985"},
        "reverses": None,
        "reversedBy": None,
    }
    usage = shared | {
        "transactionType": "DEBIT",
        "sequence": 3,
        "amount": "0.000000015",
        "balanceBefore": "22.5",
        "balanceAfter": "22.499999985",
        "description": "A call",
        "referenceType": "USAGE",
        "workflowId": "w",
        "featureCode": "chat",
        "aicoreProvider": "openai",
        "aicoreModel": "gpt",
        "idempotencyKey": "u-1",
        "occurredAt": instant(occurred_at),
        "createdAt": instant(row.created_at),
        "actor": {"id": "gateway"},
    }
    payment = shared | {
        "transactionType": "CREDIT",
        "sequence": 2,
        "amount": "12.5",
        "balanceBefore": "10",
        "balanceAfter": "22.5",
        "description": "Refill",
        "referenceType": "PAYMENT",
        "workflowId": None,
        "featureCode": None,
        "aicoreProvider": None,
        "aicoreModel": None,
        "idempotencyKey": "c-1",
        "occurredAt": instant(paid_in.created_at),
        "createdAt": instant(paid_in.created_at),
        "actor": {"id": "root"},
    }
    for user_id in ("alice", "ada", "gateway", "root"):
        hidden = {} if user_id in ("ada", "root") else {"idempotencyKey": None}
        assert await api.read(user_id, query, id=row.id) == usage | hidden
        assert await api.read(user_id, query, id=paid_in.id) == payment | hidden


def instant(value: datetime) -> str:
    return value.isoformat().replace("+00:00", "Z")


async def test_reversal_and_reversed_name_each_other(database: Database, api: Api) -> None:
    await add_people(database, model=BillingModel.PREPAY_MANDATE)
    [result] = await record(database, usage_event(3))
    wrong = result.transaction
    row = await reverse(database, wrong.id)
    query = '{ transactions(mandateId: "acme") { nodes { id reverses { id } reversedBy { id } } } }'
    page = await api.read("alice", query)
    assert page["nodes"] == [
        {"id": row.id, "reverses": {"id": wrong.id}, "reversedBy": None},
        {"id": wrong.id, "reverses": None, "reversedBy": {"id": row.id}},
    ]


async def test_the_legs_of_a_transfer_name_each_other_to_admins(
    database: Database, api: Api
) -> None:
    await add_people(database, model=BillingModel.PREPAY_USER)
    debit, credit_ = await transfer(database, 3, "alice", "ada")
    query = """{ transactions(mandateId: "acme", filter: {referenceType: TRANSFER}) {
        nodes { id counterpart { id amount } } } }"""
    page = await api.read("root", query)
    assert page["nodes"] == [
        {"id": credit_.id, "counterpart": {"id": debit.id, "amount": "3"}},
        {"id": debit.id, "counterpart": {"id": credit_.id, "amount": "3"}},
    ]
    page = await api.read("alice", query)
    assert page["nodes"] == [{"id": debit.id, "counterpart": None}]


ORDERS = [
    {"field": field, "direction": direction}
    for field in ("CREATED_AT", "OCCURRED_AT", "AMOUNT")
    for direction in ("ASC", "DESC")
]


async def test_pages_in_every_order_and_direction(database: Database, api: Api) -> None:
    await add_people(database, model=BillingModel.PREPAY_MANDATE)
    now = datetime.now(UTC)
    await record(
        database,
        *(  # ties in amount and in time
            usage_event(place % 3, key=f"k{place}", occurred_at=now - timedelta(days=place % 4))
            for place in range(7)
        ),
    )
    rows = await ledger_rows(database)
    for order in [None, *ORDERS]:
        column = order["field"].lower() if order else "created_at"
        expected = [
            row.idempotency_key for row in sorted(rows, key=lambda r: (getattr(r, column), r.id))
        ]
        if order is None or order["direction"] == "DESC":
            expected.reverse()
        for backwards in (False, True):
            for size in (3, 7):
                found = await pages(api, "ada", size, backwards, orderBy=order)
                assert len(found) == -(-7 // size)
                listed = [keys(page) for page in (found[::-1] if backwards else found)]
                assert list(chain(*listed)) == expected
                behind = [page["pageInfo"]["hasPreviousPage"] for page in found]
                ahead = [page["pageInfo"]["hasNextPage"] for page in found]
                if backwards:
                    behind, ahead = ahead, behind
                assert behind == [False] + [True] * (len(found) - 1)
                assert ahead == [True] * (len(found) - 1) + [False]
                assert {page["totalCount"] for page in found} == {7}


async def test_a_page_has_50_rows_unless_asked_otherwise(database: Database, api: Api) -> None:
    await add_people(database)
    await record(database, *(usage_event(0, key=f"k{place}") for place in range(51)))
    page = await api.read("ada", PAGE, id=MANDATE)
    assert keys(page) == [f"k{place}" for place in range(50, 0, -1)]
    assert page["pageInfo"]["hasNextPage"]
    rest = await api.read("ada", PAGE, id=MANDATE, after=page["pageInfo"]["endCursor"])
    assert keys(rest) == ["k0"]
    between = await api.read(
        "ada", PAGE, id=MANDATE, after=page["edges"][3]["cursor"], before=page["edges"][6]["cursor"]
    )
    assert keys(between) == ["k46", "k45"]


async def test_a_mandate_without_transactions(database: Database, api: Api) -> None:
    await add_people(database)
    assert await api.read("ada", PAGE, id=MANDATE) == {
        "nodes": [],
        "edges": [],
        "pageInfo": {
            "hasNextPage": False,
            "hasPreviousPage": False,
            "startCursor": None,
            "endCursor": None,
        },
        "totalCount": 0,
        "totals": {"credits": "0", "debits": "0", "net": "0"},
    }


@pytest.mark.parametrize("backwards", [False, True])
async def test_nothing_is_skipped_or_repeated_while_others_write(
    database: Database, api: Api, backwards: bool
) -> None:
    await add_people(database, model=BillingModel.PREPAY_USER, default_user_credit=0)
    now = datetime.now(UTC)

    async def write(prefix: str, count: int) -> None:
        events = [
            usage_event(
                place % 5,
                key=fresh(prefix),
                user_id=("alice", "ada")[place % 2],
                occurred_at=now - timedelta(hours=place % 7),
            )
            for place in range(count)
        ]
        await record(database, *events)

    await write("old", 30)
    for order in ORDERS:
        before = {row.idempotency_key for row in await ledger_rows(database)}
        seen: list[str] = []
        cursor = None
        while True:
            place = {"last": 9, "before": cursor} if backwards else {"first": 9, "after": cursor}
            page = await api.read("ada", PAGE, id=MANDATE, orderBy=order, **place)
            await write("new", 1)
            seen += keys(page)
            cursor = page["pageInfo"]["startCursor" if backwards else "endCursor"]
            if not page["pageInfo"]["hasPreviousPage" if backwards else "hasNextPage"]:
                break
        assert len(seen) == len(set(seen))
        assert before <= set(seen)


async def test_filters(database: Database, api: Api) -> None:
    await add_people(database, model=BillingModel.PREPAY_USER, default_user_credit=0)
    await add_member(database, "bob")
    now = datetime.now(UTC)
    day = timedelta(days=1)
    paid_in = await credit(database, 100, "alice", key="c1", description="100% ÄRGER_\\ free")
    await credit(database, "5.5", "bob", key="c2", reference_type=ReferenceType.PAYMENT)
    await record(
        database,
        usage_event(2, key="u1", aicore_provider="openai", aicore_model="gpt", workflow_id="w1"),
        usage_event(3, key="u2", aicore_provider="azure", feature_code="chat", workflow_id="w2"),
        usage_event(4, key="u3", user_id="bob", aicore_provider="openai", occurred_at=now - day),
        usage_event(0, key="u4", user_id="bob", description="100 free", occurred_at=now - 2 * day),
    )
    rows = {row.idempotency_key: row for row in await ledger_rows(database)}
    at = instant(rows["c2"].created_at)
    amounts = {key: row.amount for key, row in rows.items()}
    everything = "c1 c2 u1 u2 u3 u4"
    for wanted, expected in (
        ({}, everything),
        (dict.fromkeys(("userId", "search", "minAmount", "createdTo")), everything),
        ({"transactionType": "CREDIT"}, "c1 c2"),
        ({"transactionType": "DEBIT"}, "u1 u2 u3 u4"),
        ({"referenceType": "PAYMENT"}, "c2"),
        ({"referenceType": "USAGE", "userId": "alice"}, "u1 u2"),
        ({"referenceType": "SYSTEM"}, ""),
        ({"userId": "bob"}, "c2 u3 u4"),
        ({"accountId": paid_in.account_id}, "c1 u1 u2"),
        ({"accountId": paid_in.account_id.upper()}, ""),
        ({"workflowId": "w1"}, "u1"),
        ({"featureCode": "chat"}, "u2"),
        ({"aicoreProvider": "openai"}, "u1 u3"),
        ({"aicoreProvider": "OpenAI"}, ""),
        ({"aicoreProvider": "openai", "aicoreModel": "gpt"}, "u1"),
        ({"minAmount": "3"}, "c1 c2 u2 u3"),
        ({"maxAmount": "3"}, "u1 u2 u4"),
        ({"minAmount": "2.000000001", "maxAmount": "5.5"}, "c2 u2 u3"),
        ({"minAmount": "-1", "maxAmount": "9" * 30}, everything),
        ({"minAmount": "9" * 30}, ""),
        ({"maxAmount": "-1"}, ""),
        ({"minAmount": "4", "maxAmount": "3"}, ""),
        ({"createdFrom": at}, "c2 u1 u2 u3 u4"),
        ({"createdTo": at}, "c1"),
        ({"createdFrom": at, "createdTo": at}, ""),
        ({"occurredFrom": instant(now - day)}, "c1 c2 u1 u2 u3"),
        ({"occurredTo": instant(now - day)}, "u4"),
        (
            {"occurredFrom": "0001-01-01T00:00:00Z", "occurredTo": "9999-12-31T23:59:59Z"},
            everything,
        ),
        ({"createdFrom": "9999-12-31T23:59:59.999999Z"}, ""),
        ({"idempotencyKey": "u3"}, "u3"),
        ({"search": "100"}, "c1 u4"),
        ({"search": "100%"}, "c1"),
        ({"search": "ärger"}, "c1"),
        ({"search": "_"}, "c1"),
        ({"search": "\\"}, "c1"),
        ({"search": "FREE"}, "c1 u4"),
        ({"search": "credit"}, "c2"),
    ):
        page = await api.read("ada", PAGE, id=MANDATE, filter=wanted)
        found = sorted(expected.split())
        assert (wanted, sorted(keys(page))) == (wanted, found)
        credits_in = sum((amounts[key] for key in found if key[0] == "c"), Decimal())
        debits = sum((amounts[key] for key in found if key[0] == "u"), Decimal())
        assert page["totalCount"] == len(found)
        assert {name: Decimal(value) for name, value in page["totals"].items()} == {
            "credits": credits_in,
            "debits": debits,
            "net": credits_in - debits,
        }


async def test_newest_first_is_by_the_time_that_the_filter_bounds(
    database: Database, api: Api
) -> None:
    await add_people(database)
    now = datetime.now(UTC)
    days = {"k0": 1, "k1": 3, "k2": 2, "k3": 0}
    await record(
        database,
        *(usage_event(key=key, occurred_at=now - timedelta(days=days[key])) for key in days),
    )
    bounds = {"From": now - timedelta(days=9), "To": now + timedelta(days=9)}
    for end, at in bounds.items():
        created = await api.read("ada", PAGE, id=MANDATE, filter={f"created{end}": instant(at)})
        assert keys(created) == ["k3", "k2", "k1", "k0"]
        occurred = await api.read("ada", PAGE, id=MANDATE, filter={f"occurred{end}": instant(at)})
        assert keys(occurred) == ["k3", "k0", "k2", "k1"]


async def test_totals_are_exact_beyond_64_bits(database: Database, api: Api) -> None:
    await add_people(database, model=BillingModel.PREPAY_USER, default_user_credit=1_000_000)
    users = [f"u{place:05}" for place in range(10)]
    await enrol(database, OPERATOR, [(MANDATE, user_id) for user_id in users])
    events = [
        usage_event("999999.999999999", user_id=user_id) for user_id in users for _ in range(1000)
    ]
    for place in range(0, len(events), 1000):
        await record(database, *events[place : place + 1000])
    for wanted in ({}, {"maxAmount": "1000000"}):
        page = await api.read("ada", PAGE, id=MANDATE, filter=wanted, first=1)
        assert page["totals"] == {
            "credits": "10000000",
            "debits": "9999999999.99999",
            "net": "-9989999999.99999",
        }
        assert page["totalCount"] == 10_010


async def test_a_page_takes_the_same_selects_for_1_row_and_for_500(
    database: Database, api: Api
) -> None:
    await add_people(database, model=BillingModel.PREPAY_USER, default_user_credit=0)
    users = [f"u{place:03}" for place in range(250)]
    await enrol(database, OPERATOR, [(MANDATE, user_id) for user_id in users])
    await record(database, *(usage_event(1, user_id=user_id) for user_id in users * 2))
    counts = {}
    for size in (1, 2, 500):
        with statements() as sent:
            page = await api.read("ada", NESTED, id=MANDATE, first=size)
        assert len(page["nodes"]) == size
        counts[size] = sorted(
            re.findall(r"FROM \"?(?!json_each)(\w+)", statement)[-1] for statement in sent
        )
    assert counts[1] == counts[2] == counts[500]
    assert counts[1] == [  # the page with its users, the reversals, the viewer with the mandates
        *("account", "transaction", "transaction", "user", "user")
    ]


async def test_count_and_totals_are_computed_only_when_asked_for(
    database: Database, api: Api
) -> None:
    await add_people(database)
    await record(database, usage_event(1))
    counts = []
    for fields in (
        "nodes { id }",
        "totalCount",
        "totals { net }",
        "totalCount totals { credits debits }",
    ):
        for wanted in ("", ', filter: {userId: "alice"}'):
            query = f'{{ transactions(mandateId: "acme"{wanted}) {{ {fields} }} }}'
            with statements() as sent:
                await api.read("ada", query)
            counts.append(len(sent) - sum("count(" in s or "sum(" in s for s in sent))
            assert any("sum(" in s or "count(" in s for s in sent) == (fields != "nodes { id }")
    assert len(set(counts)) == 1


async def test_an_admins_list_reads_the_totals_from_the_accounts(
    database: Database, api: Api
) -> None:
    await add_people(database)
    await record(database, usage_event(1))
    query = '{ transactions(mandateId: "acme") { totalCount totals { net } } }'
    with statements() as sent:
        await api.read("ada", query)
    [summing] = [statement for statement in sent if "sum(" in statement]
    assert "FROM account" in summing


async def test_a_page_between_two_cursors_knows_its_neighbours(
    database: Database, api: Api
) -> None:
    await add_people(database)
    await record(database, *(usage_event(key=f"u{n}") for n in range(6)))
    cursors = [edge["cursor"] for edge in (await api.read("ada", PAGE, id=MANDATE))["edges"]]
    for arguments, expected in (
        ({"first": 2, "before": cursors[4]}, (["u5", "u4"], True, False)),
        ({"first": 9, "before": cursors[4]}, (["u5", "u4", "u3", "u2"], True, False)),
        ({"last": 2, "after": cursors[1]}, (["u1", "u0"], False, True)),
        ({"last": 9, "after": cursors[3]}, (["u1", "u0"], False, True)),
        ({"first": 2, "after": cursors[0], "before": cursors[4]}, (["u4", "u3"], True, True)),
    ):
        page = await api.read("ada", PAGE, id=MANDATE, **arguments)
        info = page["pageInfo"]
        assert (keys(page), info["hasNextPage"], info["hasPreviousPage"]) == expected


async def test_a_forged_cursor_is_refused(database: Database, api: Api) -> None:
    await add_people(database)
    await record(database, usage_event())
    for field in ("CREATED_AT", "OCCURRED_AT", "AMOUNT"):
        order = {"orderBy": {"field": field, "direction": "DESC"}}
        page = await api.read("ada", PAGE, id=MANDATE, **order)
        cursor = page["edges"][0]["cursor"]
        parts = json.loads(base64.urlsafe_b64decode(cursor))
        hostile: list[Any] = ["nonsense", "", "x" * 100_000, None, 1, [], "9" * 30, "2026-01-01"]
        forged = [f"{cursor}!", f" {cursor}", f"{cursor}\n"]
        for place in range(1, len(parts)):
            for value in hostile:
                changed = [*parts[:place], value, *parts[place + 1 :]]
                forged.append(base64.urlsafe_b64encode(json.dumps(changed).encode()).decode())
        for text in forged:
            answer = await api("ada", PAGE, id=MANDATE, after=text, **order)
            assert (answer.codes, answer.data) == (["BAD_USER_INPUT"], {"transactions": None})


async def test_keys_are_no_filter_for_those_who_may_not_read_them(
    database: Database, api: Api
) -> None:
    await add_people(database)
    await record(database, usage_event(key="u1"))
    wanted = {"idempotencyKey": "u1"}
    for user_id, found in (("alice", 0), ("gateway", 0), ("ada", 1), ("root", 1)):
        page = await api.read(user_id, PAGE, id=MANDATE, filter=wanted)
        assert (user_id, len(page["nodes"]), page["totalCount"]) == (user_id, found, found)


@pytest.mark.parametrize("text", ["İstanbul", "STRASSE", "ΟΔΟΣ", "Ünïcödé"])
async def test_the_exact_text_is_found(database: Database, api: Api, text: str) -> None:
    await add_people(database)
    await record(database, usage_event(key="u1", description=f"to {text}"))
    page = await api.read("ada", PAGE, id=MANDATE, filter={"search": text})
    assert keys(page) == ["u1"]


@pytest.mark.parametrize("arguments", ["", ", first: 0", ', after: "x"', ", first: 1, last: 1"])
async def test_of_no_mandate_there_is_no_page_whatever_is_asked(
    database: Database, api: Api, arguments: str
) -> None:
    await add_people(database)
    for viewer in ("root", "ada"):
        answer = await api(
            viewer, f'{{ transactions(mandateId: "none"{arguments}) {{ totalCount }} }}'
        )
        assert (answer.data, answer.errors) == ({"transactions": None}, [])
    if arguments:
        answer = await api(
            "root", f'{{ transactions(mandateId: "acme"{arguments}) {{ totalCount }} }}'
        )
        assert answer.errors[0]["extensions"]["code"] == "BAD_USER_INPUT"
