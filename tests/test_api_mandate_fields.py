"""What hangs on a mandate is what the root field of the same name says, to everybody."""

from typing import Any

import pytest

from app.billing.directory import remove_membership
from app.billing.enums import BillingModel
from app.billing.viewer import OPERATOR
from app.database import Database
from tests.api import PEOPLE, Api, add_people, statements
from tests.world import (
    MANDATE,
    OTHER_MANDATE,
    add_mandate,
    add_member,
    change_settings,
    credit,
    record,
    usage_event,
)

pytestmark = pytest.mark.anyio

BALANCE = """{
    id user { id } account { id } mandate { id } billingModel balance held available
    warningThreshold isWarning
}"""
PAGE = "{ edges { cursor node { id amount } } pageInfo { hasNextPage } totalCount totals { net } }"
ARGUMENTS = (
    "",
    "(first: 2)",
    "(last: 1)",
    '(filter: { userId: "alice" })',
    '(filter: { occurredFrom: "2000-01-01T00:00:00Z" })',
    "(orderBy: { field: AMOUNT, direction: ASC }, first: 2)",
)
MODELS = list(BillingModel)


async def add_two(database: Database, model: BillingModel) -> None:
    """MANDATE with usage of two users, and OTHER_MANDATE, which is sven's."""
    await add_people(database, model=model)
    await add_member(database, "bob")
    for amount, user_id in enumerate(("alice", "bob", "alice"), start=1):
        await record(database, usage_event(amount, user_id=user_id))
    await record(database, usage_event(9, mandate_id=OTHER_MANDATE, user_id="sven"))


def with_mandate(arguments: str) -> str:
    """The same arguments for the root field."""
    return f"({', '.join(filter(None, ('mandateId: $id', arguments.strip('()'))))})"


async def both(api: Api, user_id: str, field: str, arguments: str, fields: str) -> list[Any]:
    """What the root field and the mandate's answer: the data and the codes of the errors."""
    root = await api(
        user_id,
        f"query($id: ID!) {{ {field}{with_mandate(arguments)} {fields} }}",
        id=MANDATE,
    )
    nested = await api(
        user_id,
        f"query($id: ID!) {{ mandate(id: $id) {{ {field}{arguments} {fields} }} }}",
        id=MANDATE,
    )
    return [
        (root.data[field], root.codes),
        ((nested.data["mandate"] or {field: None})[field], nested.codes),
    ]


@pytest.mark.parametrize("model", MODELS)
async def test_balance_is_that_of_the_root(
    database: Database, api: Api, model: BillingModel
) -> None:
    await add_two(database, model)
    for user_id in PEOPLE:
        for owner in (
            "",
            '(userId: "alice")',
            '(userId: "bob")',
            '(userId: "sven")',
            '(userId: "")',
        ):
            root, nested = await both(api, user_id, "balance", owner, BALANCE)
            if root[1] == ["BAD_USER_INPUT"]:
                assert (user_id, owner, model) in {
                    ("gateway", "", BillingModel.PREPAY_USER),
                    ("root", "", BillingModel.PREPAY_USER),
                }
                assert nested == (None, [])
            else:
                assert nested == root, (user_id, owner)
            if user_id == "sven":
                assert nested == (None, [])
            if user_id == "alice" and owner not in ("", '(userId: "alice")'):
                assert nested == (None, ["FORBIDDEN"])


async def test_transactions_are_those_of_the_root(database: Database, api: Api) -> None:
    await add_two(database, BillingModel.PREPAY_MANDATE)
    counts: dict[str, list[Any]] = {}
    for user_id in PEOPLE:
        for arguments in ARGUMENTS:
            root, nested = await both(api, user_id, "transactions", arguments, PAGE)
            assert nested == root, (user_id, arguments)
            assert root[1] == []
            counts.setdefault(user_id, []).append(root[0] and root[0]["totalCount"])
    assert counts == {
        "sven": [None] * 6,
        "alice": [2] * 6,
        **{user_id: [3, 3, 3, 2, 3, 3] for user_id in ("ada", "gateway", "root")},
    }
    for arguments in ("(first: 0)", '(after: "x")', '(filter: { workflowId: "" })'):
        root, nested = await both(api, "ada", "transactions", arguments, PAGE)
        assert nested == root == (None, ["BAD_USER_INPUT"])


async def test_cursors_of_both_are_the_same(database: Database, api: Api) -> None:
    await add_two(database, BillingModel.PREPAY_MANDATE)
    root, _ = await both(api, "ada", "transactions", "(first: 1)", PAGE)
    after = f'(after: "{root[0]["edges"][0]["cursor"]}")'
    root, nested = await both(api, "ada", "transactions", after, PAGE)
    assert nested == root
    assert len(root[0]["edges"]) == 2


async def test_a_list_of_mandates_takes_one_batch_of_balances(database: Database, api: Api) -> None:
    await add_people(database, model=BillingModel.PREPAY_USER)
    query = """query($owner: ID) { mandates(first: 50) {
        nodes { id balance(userId: $owner) { balance account { id } } }
    } }"""
    sent_for: dict[str, list[int]] = {}
    for mandate_ids in (["m0"], [f"m{place}" for place in range(1, 12)]):
        for mandate_id in mandate_ids:
            await add_mandate(database, mandate_id, BillingModel.PREPAY_USER)
            await credit(database, 1, "alice", mandate_id=mandate_id)
        for user_id, owner in (("alice", None), ("alice", "alice"), ("gateway", "alice")):
            with statements() as sent:
                found = await api.read(user_id, query, owner=owner)
            sent_for.setdefault(f"{user_id} of {owner}", []).append(len(sent))
            held = {node["id"]: node["balance"] for node in found["nodes"]}
            assert all(held[mandate_id]["balance"] == "11" for mandate_id in mandate_ids)
            assert held.get(OTHER_MANDATE) is None
    assert len(held) == 14
    assert sent_for == {  # viewer, mandates, accounts; memberships where a user is named
        "alice of None": [4, 4],
        "alice of alice": [5, 5],
        "gateway of alice": [5, 5],
    }


async def test_one_refused_balance_spoils_no_list(database: Database, api: Api) -> None:
    await add_two(database, BillingModel.PREPAY_USER)
    await add_member(database, "ada", OTHER_MANDATE)
    query = '{ mandates { nodes { id balance(userId: "sven") { balance } } } }'
    answer = await api("ada", query)
    assert answer.codes == ["FORBIDDEN"]
    assert answer.data["mandates"]["nodes"] == [
        {"id": OTHER_MANDATE, "balance": None},
        {"id": MANDATE, "balance": None},
    ]
    nodes = (await api.read("gateway", "{ mandates { nodes { id balance { balance } } } }"))[
        "nodes"
    ]
    assert nodes == [
        {"id": OTHER_MANDATE, "balance": {"balance": "-9"}},
        {"id": MANDATE, "balance": None},
    ]


async def test_a_mandate_reached_by_a_row_shows_no_more(database: Database, api: Api) -> None:
    """The long way round: every path to a mandate meets the same scope."""
    await add_two(database, BillingModel.PREPAY_MANDATE)
    inner = (
        "mandate { id transactions(first: 9) { totalCount nodes { user { id } } } balance { id } }"
    )
    query = f"""query($id: ID!) {{
        balances {{ {inner} }}
        balance(mandateId: $id) {{ {inner} }}
        transactions(mandateId: $id) {{ nodes {{ {inner} account {{ {inner} }} }} }}
    }}"""
    answer = await api("alice", query, id=MANDATE)
    assert answer.errors == []
    reached = [
        answer.data["balances"][0]["mandate"],
        answer.data["balance"]["mandate"],
        *(node["mandate"] for node in answer.data["transactions"]["nodes"]),
        *(node["account"]["mandate"] for node in answer.data["transactions"]["nodes"]),
    ]
    assert len(reached) == 6
    for mandate in reached:
        assert mandate["id"] == MANDATE
        assert mandate["transactions"] == {
            "totalCount": 2,
            "nodes": [{"user": {"id": "alice"}}] * 2,
        }
    answer = await api("sven", query, id=MANDATE)
    assert (answer.data["balance"], answer.data["transactions"]) == (None, None)
    assert [entry["mandate"]["id"] for entry in answer.data["balances"]] == [OTHER_MANDATE]


async def test_who_has_left_sees_nothing_there(database: Database, api: Api) -> None:
    await add_two(database, BillingModel.PREPAY_USER)
    await remove_membership(database, OPERATOR, MANDATE, "alice")
    for field, fields in (("balance", BALANCE), ("transactions", PAGE)):
        assert await both(api, "alice", field, "", fields) == [(None, [])] * 2
    root, nested = await both(api, "ada", "balance", '(userId: "alice")', BALANCE)
    assert nested == root
    assert root[0]["balance"] == "6"


async def test_a_change_and_what_follows_it_in_one_request(database: Database, api: Api) -> None:
    await add_two(database, BillingModel.PREPAY_USER)
    await change_settings(database, default_user_credit=0)
    mutation = """mutation($key: String!) { addCredit(input: {
        mandateId: "acme", userId: "alice", amount: "5", description: "More", idempotencyKey: $key
    }) { transaction { mandate { balance(userId: "alice") { balance } } } userErrors { code } } }"""
    for key, balance in (("a", "11"), ("b", "16")):
        paid = await api.read("root", mutation, key=key)
        assert paid["transaction"]["mandate"]["balance"] == {"balance": balance}
