"""The proof as it is asked for: the ledger check, balances of any instant, and the audit trail."""

import asyncio
import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import event

from app.billing import audit
from app.billing.models import audit_events
from app.billing.transactions import balances_at
from app.database import Database
from tests.api import Api, add_people, statements
from tests.operations import MUTATIONS, VALID, add_world, brief, document, replaced
from tests.proof import forge, keep_books
from tests.world import (
    MANDATE,
    OTHER_MANDATE,
    PREPAY_MANDATE,
    PREPAY_USER,
    SYSADMIN,
    add_mandate,
    add_member,
    change_settings,
    credit,
    dump,
    hold,
    ledger_rows,
    read_rows,
    record,
    reverse,
    run_sql,
    settle,
    transfer,
    usage_event,
)

pytestmark = pytest.mark.anyio

CHECK = """query($id: ID!) { ledgerCheck(mandateId: $id) {
    ok accountsChecked transactionsChecked checkedAt
    mismatches { account { id balance user { id } } storedBalance ledgerBalance problems }
} }"""
AUDIT = """query(
    $id: ID, $actor: ID, $subject: String, $from: DateTime, $to: DateTime,
    $first: Int, $after: String, $last: Int, $before: String
) { auditLog(
    mandateId: $id, actorId: $actor, subject: $subject, from: $from, to: $to,
    first: $first, after: $after, last: $last, before: $before
) {
    nodes { id actor { id } action subject before after createdAt }
    pageInfo { hasNextPage hasPreviousPage startCursor endCursor }
    totalCount
} }"""
STEP = timedelta(microseconds=1)


def as_text(instant: datetime) -> str:
    return instant.astimezone(UTC).isoformat()


# The ledger check


async def test_sound_books_are_ok(database: Database, api: Api) -> None:
    await add_people(database)
    await keep_books(database)
    before = datetime.now(UTC)
    check = await api.read("ada", CHECK, id=MANDATE)
    assert before <= datetime.fromisoformat(check.pop("checkedAt")) <= datetime.now(UTC)
    assert check == {
        "ok": True,
        "accountsChecked": 2,
        "transactionsChecked": 10,
        "mismatches": [],
    }


async def test_a_wrong_balance_is_shown_with_the_right_one(database: Database, api: Api) -> None:
    await add_people(database)
    books = await keep_books(database)
    await run_sql(
        database,
        "UPDATE account SET balance = balance + 1, credited = credited + 1 WHERE user_id = 'alice'",
    )
    check = await api.read("root", CHECK, id=MANDATE)
    assert not check["ok"]
    assert check["mismatches"] == [
        {
            "account": {"id": books.alice, "balance": "45.500000001", "user": {"id": "alice"}},
            "storedBalance": "45.500000001",
            "ledgerBalance": "45.5",
            "problems": [
                "balance is 45.500000001 and must be 45.5",
                "credited is 62.000000001 and must be 62",
            ],
        }
    ]


@pytest.mark.parametrize(
    ("statement", "users", "words"),
    [
        ("UPDATE account SET sequence = 1 WHERE user_id = 'bob'", ["bob"], "sequence is 1 "),
        ("UPDATE account SET funding_base = 0 WHERE user_id = 'bob'", ["bob"], "funding_base"),
        ("UPDATE daily_usage SET cost = cost + 1 WHERE cost > 0", ["alice"], "the usage of "),
        ("DELETE FROM hold WHERE status = 'SETTLED'", ["alice"], "the hold of transaction 7 "),
        (
            """UPDATE "transaction" SET reversed_type = NULL""",
            ["alice"],
            "the reversed type of transaction 4 ",
        ),
        (
            """UPDATE "transaction" SET counterpart_id = NULL""",
            ["alice", "bob"],
            "the other leg of transaction ",
        ),
    ],
)
async def test_any_wrong_figure_is_not_ok(
    database: Database, api: Api, statement: str, users: list[str], words: str
) -> None:
    await add_people(database)
    await keep_books(database)
    await forge(database, statement)
    check = await api.read("ada", CHECK, id=MANDATE)
    assert not check["ok"]
    assert [wrong["account"]["user"]["id"] for wrong in check["mismatches"]] == users
    for wrong in check["mismatches"]:
        assert wrong["storedBalance"] == wrong["ledgerBalance"] == wrong["account"]["balance"]
        assert any(problem.startswith(words) for problem in wrong["problems"]), wrong


async def test_a_thousand_problems_of_one_account_are_shortened(
    database: Database, api: Api
) -> None:
    await add_people(database)
    await keep_books(database)
    await run_sql(
        database,
        f"WITH place(n) AS (VALUES {', '.join(f'({n})' for n in range(1000))})"
        " INSERT INTO daily_usage SELECT mandate_id, '2026-01-01', user_id, id, 'p',"
        f" CAST(n AS VARCHAR), '', 5, 1 FROM account, place WHERE mandate_id = '{MANDATE}'"
        " AND user_id = 'bob'",
    )
    check = await api.read("ada", CHECK, id=MANDATE)
    [wrong] = check["mismatches"]
    assert len(wrong["problems"]) == 101
    assert wrong["problems"][-1] == "and 900 more"


async def test_one_mandate_is_checked_alone(database: Database, api: Api) -> None:
    await add_people(database)
    await keep_books(database)
    await add_mandate(database, OTHER_MANDATE, PREPAY_MANDATE)
    await credit(database, 5, mandate_id=OTHER_MANDATE)
    await run_sql(database, f"UPDATE account SET sequence = 7 WHERE mandate_id = '{OTHER_MANDATE}'")
    assert (await api.read("ada", CHECK, id=MANDATE))["ok"]
    check = await api.read("sven", CHECK, id=OTHER_MANDATE)
    assert (check["ok"], check["accountsChecked"], check["transactionsChecked"]) == (False, 1, 1)


async def test_a_check_while_others_write(database: Database, api: Api) -> None:
    await add_people(database, model=PREPAY_USER)
    await add_member(database, "bob")
    writing = True

    async def write(user_id: str, other: str) -> None:
        while writing:
            await credit(database, 10, user_id)
            calls = [usage_event("0.1", user_id=user_id) for _ in range(5)]
            [first, *_] = await record(database, *calls)
            await reverse(database, first.transaction.id)
            await settle(database, await hold(database, 2, user_id=user_id), "1.5")
            await transfer(database, 1, user_id, other)

    writers = [asyncio.create_task(write(*names)) for names in (("alice", "bob"), ("bob", "alice"))]
    seen = []
    for _ in range(8):
        check = await api.read("ada", CHECK, id=MANDATE)
        assert (check["ok"], check["mismatches"]) == (True, [])
        seen.append(check["transactionsChecked"])
    writing = False
    await asyncio.gather(*writers)
    assert seen == sorted(seen)
    assert seen[0] < seen[-1] <= len(await ledger_rows(database))


# The balance of an instant


AT = "query($id: ID!, $at: DateTime!) { accounts(mandateId: $id) { nodes { balanceAt(at: $at) user { id } } } }"


async def balance_at(api: Api, at: str | datetime, user_id: str = "alice") -> str:
    instant = as_text(at) if isinstance(at, datetime) else at
    page = await api.read("ada", AT, id=MANDATE, at=instant)
    [found] = [node["balanceAt"] for node in page["nodes"] if node["user"]["id"] == user_id]
    return str(found)


async def test_the_balance_after_each_transaction(database: Database, api: Api) -> None:
    await add_people(database)
    await keep_books(database)
    rows = [row for row in await ledger_rows(database) if row.user_id == "alice"]
    before = "0"
    for row in rows:
        assert await balance_at(api, row.created_at - STEP) == before
        before = f"{row.balance_after.normalize():f}"
        assert await balance_at(api, row.created_at) == before
    assert len(rows) == 8
    assert before == "45.5"


async def test_the_balance_of_any_instant(database: Database, api: Api) -> None:
    await add_people(database)
    await keep_books(database)
    for at, expected in (
        ("0001-01-01T00:00:00Z", "0"),
        ("1969-12-31T23:59:59.999999Z", "0"),
        ("1970-01-01T00:00:00Z", "0"),
        ("2026-01-01T00:00:00Z", "0"),
        (as_text(datetime.now(UTC)), "45.5"),
        ("9999-12-31T23:59:59.999999Z", "45.5"),
        ("9999-12-31T23:59:59.999999999Z", "45.5"),
    ):
        assert (at, await balance_at(api, at)) == (at, expected)
    row = (await ledger_rows(database, sequence=3, user_id="alice"))[0]
    zurich = row.created_at.astimezone().isoformat()
    assert await balance_at(api, zurich) == "47"


@pytest.mark.parametrize("at", ["", "2026-01-01", "2026-01-01T00:00:00", 5, None])
async def test_an_instant_that_is_none_is_refused(database: Database, api: Api, at: Any) -> None:
    await add_people(database)
    answer = await api("ada", AT, id=MANDATE, at=at)
    assert (answer.codes, answer.data) == (["BAD_USER_INPUT"], None)
    assert "$at" in answer.errors[0]["message"]


async def test_balances_of_many_accounts_and_instants(database: Database, api: Api) -> None:
    await add_people(database, model=PREPAY_USER, default_user_credit=0)
    rows = []
    for amount in range(1, 6):
        await add_member(database, f"u{amount}")
        await credit(database, amount, f"u{amount}")
    for amount in range(1, 6):
        rows.append(await credit(database, 10 * amount, f"u{amount}"))
    query = """query($id: ID!, $first: Int, $a: DateTime!, $b: DateTime!) {
        accounts(mandateId: $id, first: $first) { nodes {
            then: balanceAt(at: $a) later: balanceAt(at: $b) again: balanceAt(at: $b)
        } }
    }"""
    instants = {"a": as_text(rows[1].created_at), "b": as_text(rows[3].created_at)}
    sent_by_size = []
    for size in (1, 5):
        with statements() as sent:
            page = await api.read("ada", query, id=MANDATE, first=size, **instants)
        sent_by_size.append(len(sent))
    assert sent_by_size[0] == sent_by_size[1]
    assert page["nodes"] == [
        {"then": then, "later": later, "again": later}
        for then, later in (("5", "5"), ("4", "44"), ("3", "33"), ("22", "22"), ("11", "11"))
    ]


async def test_a_member_sees_the_past_of_what_pays_for_them(database: Database, api: Api) -> None:
    await add_people(database, model=PREPAY_MANDATE)
    first = await credit(database, 5)
    await credit(database, 7)
    query = """query($id: ID!, $at: DateTime!) {
        balance(mandateId: $id) { balance account { balanceAt(at: $at) } }
    }"""
    found = await api.read("alice", query, id=MANDATE, at=as_text(first.created_at))
    assert found == {"balance": "12", "account": {"balanceAt": "5"}}
    assert await api.read("sven", query, id=MANDATE, at=as_text(first.created_at)) is None


async def test_a_balance_is_found_by_index(database: Database) -> None:
    """However many transactions the mandate and the account have."""
    await add_mandate(database, users=("alice", "bob"))
    await change_settings(database, billing_model=PREPAY_USER, default_user_credit=0)
    for _ in range(5):
        events = [usage_event(user_id=("alice", "bob")[place % 2]) for place in range(1000)]
        await record(database, *events)
    rows = await ledger_rows(database, user_id="alice")
    asked: list[tuple[str, Any]] = []

    def note(*arguments: Any) -> None:
        asked.append(arguments[2:4])

    engine = database.engine.sync_engine
    explain = "EXPLAIN QUERY PLAN " if database.is_sqlite else "EXPLAIN "
    async with database.engine.begin() as connection:
        await connection.exec_driver_sql("ANALYZE")
        event.listen(engine, "before_cursor_execute", note)
        try:
            keys = [(MANDATE, rows[0].account_id, rows[700].created_at)]
            assert await balances_at(connection, keys) == [rows[700].balance_after]
        finally:
            event.remove(engine, "before_cursor_execute", note)
        [(statement, parameters)] = asked
        plan = await connection.exec_driver_sql(explain + statement, parameters)
        said = "\n".join(str(row[-1]) for row in plan)
    if database.is_sqlite:
        assert "transaction_of_account (mandate_id=? AND account_id=? AND id<?)" in said
        assert "TEMP B-TREE" not in said
    else:
        assert "Index Scan Backward using transaction_of_account" in said
        condition = said.split("transaction_of_account")[1].split("Index Cond")[1]
        assert all(name in condition for name in ("mandate_id", "account_id", "id <="))
        assert "Filter" not in condition


# The audit trail


async def test_an_admin_reads_what_was_changed_by_whom(database: Database, api: Api) -> None:
    await add_people(database, model=PREPAY_USER, default_user_credit=0)
    row = await credit(database, "12.50", "alice", viewer=SYSADMIN)
    page = await api.read("ada", AUDIT, id=MANDATE, first=1)
    [node] = page["nodes"]
    assert datetime.fromisoformat(node.pop("createdAt")) == row.created_at
    assert node.pop("id")
    assert node == {
        "actor": {"id": "root"},
        "action": "credit.added",
        "subject": f"transaction:{row.id}",
        "before": '{"balance":"0"}',
        "after": '{"amount":"12.5","balance":"12.5","user_id":"alice"}',
    }
    [created] = (await api.read("ada", AUDIT, id=MANDATE, last=1))["nodes"]
    assert (created["action"], created["subject"]) == ("mandate.created", f"mandate:{MANDATE}")
    assert (created["actor"], created["before"]) == (None, None)
    assert json.loads(created["after"]) == {"currency": "CHF", "name": "Acme", "time_zone": "UTC"}


async def test_what_concerns_no_mandate_is_for_sysadmins(database: Database, api: Api) -> None:
    await add_people(database)
    events = await read_rows(database, audit_events, mandate_id="")
    page = await api.read("root", AUDIT)
    assert [node["id"] for node in page["nodes"]] == [event.id for event in events[::-1]]
    assert page["totalCount"] == len(events) >= 4
    assert {node["subject"].split(":")[0] for node in page["nodes"]} == {"user"}
    assert (await api.read("root", AUDIT, id=None))["nodes"] == page["nodes"]
    for user_id in ("sven", "alice", "ada", "gateway"):
        for given in ({}, {"id": None}):
            answer = await api(user_id, AUDIT, **given)
            assert (answer.codes, answer.data) == (["FORBIDDEN"], {"auditLog": None})


async def test_an_empty_id_is_a_mandate_that_does_not_exist(database: Database, api: Api) -> None:
    await add_people(database)
    for user_id in ("sven", "alice", "ada", "gateway", "root"):
        for mandate_id in ("", "nowhere", "a\0b"):
            assert await api.read(user_id, AUDIT, id=mandate_id) is None


async def test_events_of_one_mandate_alone(database: Database, api: Api) -> None:
    await add_people(database)
    of_other = await api.read("sven", AUDIT, id=OTHER_MANDATE)
    assert {
        event.id for event in await read_rows(database, audit_events, mandate_id=OTHER_MANDATE)
    } == {node["id"] for node in of_other["nodes"]}
    for foreign in ({"subject": f"mandate:{MANDATE}"}, {"subject": "user:alice"}):
        page = await api.read("sven", AUDIT, id=OTHER_MANDATE, **foreign)
        assert (page["nodes"], page["totalCount"]) == ([], 0)


async def test_filters_of_the_trail(database: Database, api: Api) -> None:
    await add_people(database, model=PREPAY_USER, default_user_credit=0)
    for amount in (1, 2, 3):
        await credit(database, amount, "alice", viewer=SYSADMIN)
    events = await read_rows(database, audit_events, mandate_id=MANDATE)
    first, middle, last = (as_text(event.created_at) for event in events[-3:])
    beyond = as_text(events[-1].created_at + STEP)
    trail = [event.action for event in events]
    for given, expected in (
        ({}, len(events)),
        ({"actor": "root"}, 3),
        ({"actor": "ada"}, 0),
        ({"actor": ""}, 0),
        ({"subject": "user:alice"}, trail.count("membership.created") - 1),
        ({"subject": "user:ALICE"}, 0),
        ({"subject": "user:%"}, 0),
        ({"subject": f"mandate:{MANDATE}"}, 2),
        ({"subject": events[-1].subject, "actor": "root"}, 1),
        ({"from": first}, 3),
        ({"from": first, "to": last}, 2),
        ({"from": middle, "to": middle}, 0),
        ({"from": last, "to": first}, 0),
        ({"to": middle}, len(events) - 2),
        ({"from": beyond}, 0),
        ({"to": beyond}, len(events)),
        ({"from": "0001-01-01T00:00:00Z", "to": "9999-12-31T23:59:59.999999Z"}, len(events)),
        ({"to": "1970-01-01T00:00:00Z"}, 0),
    ):
        page = await api.read("ada", AUDIT, id=MANDATE, **given)
        assert (given, len(page["nodes"]), page["totalCount"]) == (given, expected, expected)


async def test_a_subject_that_cannot_be(database: Database, api: Api) -> None:
    await add_people(database)
    for subject in ("", "a\0b", "x" * 141):
        answer = await api("ada", AUDIT, id=MANDATE, subject=subject)
        assert answer.codes == ["BAD_USER_INPUT"]
        assert answer.errors[0]["message"].startswith("subject must be 1 to 140 characters")
    longest = f"mandate:{'i' * 128}"
    assert (await api.read("ada", AUDIT, id=MANDATE, subject=longest))["nodes"] == []


async def test_pages_of_the_trail(database: Database, api: Api) -> None:
    await add_people(database, model=PREPAY_USER)
    for amount in range(1, 8):
        await credit(database, amount, "alice")
    whole = [node["id"] for node in (await api.read("ada", AUDIT, id=MANDATE))["nodes"]]
    for size, ends in ((3, ("first", "after")), (4, ("last", "before"))):
        found: list[str] = []
        info: dict[str, Any] = {}
        more = "hasNextPage" if ends[0] == "first" else "hasPreviousPage"
        while not info or info[more]:
            cursor = info.get("endCursor" if ends[0] == "first" else "startCursor")
            page = await api.read("ada", AUDIT, id=MANDATE, **{ends[0]: size, ends[1]: cursor})
            info = page["pageInfo"]
            ids = [node["id"] for node in page["nodes"]]
            found = found + ids if ends[0] == "first" else ids + found
        assert found == whole
    for other in (
        {"id": OTHER_MANDATE},
        {"id": None},
        {"id": MANDATE, "actor": "root"},
        {"id": MANDATE, "subject": "user:alice"},
        {"id": MANDATE, "from": "2026-01-01T00:00:00Z"},
    ):
        answer = await api("root", AUDIT, **other, after=info["startCursor"])
        assert answer.codes == ["BAD_USER_INPUT"]


async def test_actors_take_the_same_selects_however_many(database: Database, api: Api) -> None:
    await add_people(database, model=PREPAY_USER)
    for amount in range(1, 6):
        await credit(database, amount, "alice", viewer=SYSADMIN)
    counts = []
    for size in (1, 5):
        with statements() as sent:
            await api.read("ada", AUDIT, id=MANDATE, first=size)
        counts.append(len(sent))
    assert counts[0] == counts[1]


# Every admin change, in the trail


ADMIN_CHANGES = [
    name
    for name in VALID
    if name in MUTATIONS and (MUTATIONS[name].description or "").startswith("Sysadmin.")
]
REFUSED: dict[str, tuple[tuple[str, str], str]] = {
    "upsertMandate": (("input", "name"), ""),
    "upsertUser": (("input", "email"), "nobody"),
}


def test_these_are_admin_changes() -> None:
    assert set(ADMIN_CHANGES) >= {
        "addCredit",
        "updateBillingSettings",
        "updateAccount",
        "upsertMandate",
        "upsertUser",
        "upsertMembership",
        "removeMembership",
    }


@pytest.mark.parametrize("name", ADMIN_CHANGES)
async def test_an_accepted_change_leaves_one_event_and_a_refused_one_none(
    database: Database, api: Api, name: str
) -> None:
    world = await add_world(database)
    variables = VALID[name](world)
    before = await read_rows(database, audit_events)
    for user_id in ("sven", "alice", "ada", "gateway"):
        answer = await api(user_id, brief(name), **variables)
        assert answer.errors or answer.data[name]["userErrors"]
    path, value = REFUSED.get(name, (("input", "mandateId"), "nowhere"))
    payload = await api.read("root", brief(name), **replaced(variables, path, value))
    assert payload["userErrors"]
    assert await read_rows(database, audit_events) == before

    payload = await api.read("root", brief(name), **variables)
    assert payload["userErrors"] == []
    known = {event.id for event in before}
    [left] = [event for event in await read_rows(database, audit_events) if event.id not in known]
    assert left.actor_id == "root"
    assert re.fullmatch(r"[a-z]+\.[a-z]+", left.action)
    assert re.fullmatch(r"(user|mandate|account|transaction):.+", left.subject)
    is_new, is_gone = left.action.endswith(".created"), left.action.endswith(".removed")
    assert (left.before is None, left.after is None) == (is_new, is_gone)
    assert left.before != left.after


@pytest.mark.parametrize("name", ADMIN_CHANGES)
async def test_a_change_whose_event_cannot_be_written_is_not_made(
    database: Database, api: Api, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = await add_world(database)
    before = await dump(database)

    def fail(*_: Any, **__: Any) -> None:
        raise OverflowError

    monkeypatch.setattr(audit, "audit_event", fail)
    answer = await api("root", document(name), **VALID[name](world))
    assert answer.codes == ["INTERNAL"]
    assert await dump(database) == before
