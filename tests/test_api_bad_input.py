"""Hostile values in every place of the schema that takes input: refused by name, and nothing written."""

from collections.abc import Iterator
from typing import Any

import pytest
from graphql import is_enum_type, is_list_type

from app.database import Database
from tests.api import Answer, Api
from tests.operations import MUTATIONS, QUERIES, VALID, add_world, brief, document, inputs, replaced
from tests.world import MANDATE, dump

pytestmark = pytest.mark.anyio

LONG = "x" * 100_000
TEXT = ["", " ", "a\0b", "\0", LONG, 5, 1.5, True, [["a"]], {"a": 1}]
HOSTILE: dict[str, list[Any]] = {
    "ID": ["", "a\0b", LONG, 1.5, True, {"a": 1}],
    "String": TEXT,
    "TimeZone": [*TEXT, "Mars/Olympus", "../../etc/passwd", "/etc/localtime"],
    "CurrencyCode": [*TEXT, "XXXX", "chf", "C1F"],
    "Decimal": [
        *TEXT,
        *("NaN", "sNaN", "Infinity", "-Infinity", "1e5", "1E999999", "1_000", "+1", " 1", "1 "),
        *("1.", ".5", "0x10", "1,5", "1.0000000001", "1" * 31, "--1", "1.5.2"),
        *("\N{FULLWIDTH DIGIT ONE}\N{FULLWIDTH DIGIT TWO}", "\N{ARABIC-INDIC DIGIT FIVE}", "²"),
    ],
    "DateTime": [
        *TEXT,
        *("yesterday", "2026-01-01", "2026-01-01T00:00:00", "2026-13-01T00:00:00Z"),
        *("2026-02-30T00:00:00Z", "2026-01-01T25:00:00Z", "2026-01-01T00:00:00+25:00"),
        *("0000-01-01T00:00:00Z", "10000-01-01T00:00:00Z", "0001-01-01T00:00:00+14:00"),
        *("9999-12-31T23:59:59-14:00", "20260101T000000Z", "2026-01-01 00:00:00Z", "1767225600"),
    ],
    "Date": [
        *TEXT,
        *("2026-1-1", "20260101", "2026-02-30", "2026-13-01", "2026-W01-1", "2026-01-01T00:00:00Z"),
        *(
            "0000-01-01",
            "10000-01-01",
            "1969-12-31",
            "\N{FULLWIDTH DIGIT NINE}999-01-01",
            "2026-01-01 ",
            "9999-01-02",
        ),
    ],
    "Int": [2**31, -(2**31) - 1, 2**63, 1.5, "1", "", True, [[1]]],
    "Boolean": [0, 1, "true", "", [[True]]],
}
# What only this place refuses, whatever the type's own text allows.
OF_PLACE: dict[str, list[Any]] = {
    "amount": ["0", "-1", "-0.000000001", "1000000.000000001", "9223372036.9", "9" * 30],
    "defaultUserCredit": ["-1", "1000000.1", "9223372036.9", "9" * 30],
    "creditLimit": ["-0.1", "1000000000.000000001", "9223372036.9", "9" * 30],
    "warningThresholdPercent": ["-0.1", "100.000000001", "9" * 30],
    "first": [0, -1],
    "last": [0, -1, 501, 2**31 - 1],
    "after": ["WyJhIl0=", "bnVsbA==", "W1tbW1tb", "{}", "e30="],
    "before": ["WyJhIl0=", "bnVsbA==", "W1tbW1tb", "{}", "e30="],
    "month": [0, -1, 13],
    "year": [0, -1, 1969, 9999, 10_000, 2**31 - 1],
    "expectedVersion": [-1, 0, 2, 2**31 - 1],
    "input.referenceType": ["SYSTEM", "USAGE", "REVERSAL", "TRANSFER"],
    "occurredAt": ["0001-01-01T00:00:00Z", "2020-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z"],
    "notifyEmails": [["ada@example.com"] * 21, [None]],
    "allowedProviders": [["openai", "OpenAI"], [None]],
    "country": ["XX", "ch", "CHE", "Switzerland"],
    "email": ["alice", "a@b", "a@example.com\r\nBcc: b@example.com", "a@exa mple.com"],
    "events": [[], [None], "x", None],
    "ttlSeconds": [0, -1, 86_401, 2**31 - 1],
    "input.spendLimit.amount": ["-0.1", "1000000000.000000001", "9" * 30],
}
# What such a place refuses elsewhere: a free call is counted and asked for, a limit may be 0.
ACCEPTED = {
    **dict.fromkeys(("recordUsage", "settleHold", "spendCheck"), ("0",)),
    "upsertMembership": ("0", "1000000.000000001"),
}
TOO_LONG = {
    **dict.fromkeys(("description", "reason"), 1001),
    **dict.fromkeys(("idempotencyKey",), 256),
    **dict.fromkeys(("name", "firstName", "lastName", "search"), 201),
    **dict.fromkeys(("workflowId", "featureCode", "aicoreProvider", "aicoreModel"), 129),
    "provider": 129,
}


def hostile(path: tuple[str | int, ...], kind: Any) -> Iterator[Any]:
    """Values that may never be accepted there."""
    name = next(step for step in reversed(path) if isinstance(step, str))
    if is_enum_type(kind):
        yield from ("", "NONE", LONG, "a\0b", 1, True, [["a"]])
    elif not is_list_type(kind):
        yield from HOSTILE[kind.name]
    if path[-1] != 0:
        yield from OF_PLACE.get(name, [])
        yield from OF_PLACE.get(".".join(map(str, path)), [])
    if name in TOO_LONG:
        yield "x" * TOO_LONG[name]


def complaints(answer: Answer) -> str:
    """All that is said about what is wrong, field paths included."""
    said = [error["message"] for error in answer.errors]
    for payload in (answer.data or {}).values():
        if isinstance(payload, dict):
            results = [result["error"] for result in payload.get("results", ())]
            for error in filter(None, [*payload.get("userErrors", ()), *results]):
                assert error["field"], error
                said.append(f"{error['code']} {'.'.join(error['field'])}: {error['message']}")
    return "\n".join(said)


def finds_nothing(payload: Any) -> bool:
    """What an id that names nothing may answer instead of a complaint."""
    return payload is None or any(
        payload.get(name) in (0, False) for name in ("totalCount", "transactionCount", "removed")
    )


@pytest.mark.parametrize(
    "name", [name for name in VALID if (QUERIES.get(name) or MUTATIONS[name]).args]
)
async def test_a_hostile_value_is_refused_by_name_and_nothing_is_written(
    database: Database, api: Api, name: str
) -> None:
    world = await add_world(database)
    field = QUERIES.get(name) or MUTATIONS[name]
    valid, request = VALID[name], brief(name)
    before = await dump(database)
    accepted = []
    for path, kind in inputs(field.args):
        place = next(step for step in reversed(path) if isinstance(step, str))
        for value in hostile(path, kind):
            if place == "amount" and value in ACCEPTED.get(name, ()):
                continue
            if value == " " and name in QUERIES:
                continue  # text to look for
            answer = await api("root", request, **replaced(valid(world), path, value))
            context = (path, str(value)[:40], answer)
            assert answer.status in (200, 400), context
            assert set(answer.codes) <= {"BAD_USER_INPUT"}, context
            said = complaints(answer)
            assert len(said) < 2000, context
            if not said and getattr(kind, "name", "") == "ID" and finds_nothing(answer.data[name]):
                continue
            if place not in said:
                accepted.append((*path, str(value)[:40], said[:200] or answer.data))
    assert accepted == []
    assert await dump(database) == before


async def test_null_is_accepted_or_refused_by_name(database: Database, api: Api) -> None:
    world = await add_world(database)
    before = await dump(database)
    for name, valid in VALID.items():
        request = brief(name)
        for path, _ in inputs((QUERIES.get(name) or MUTATIONS[name]).args):
            answer = await api("root", request, **replaced(valid(world), path, None))
            context = (name, path, answer)
            assert set(answer.codes) <= {"BAD_USER_INPUT"}, context
            place = next(step for step in reversed(path) if isinstance(step, str))
            said = complaints(answer)
            assert not said or place in said, context
            if name in MUTATIONS:
                after = await dump(database)
                assert after == before or not said, context
                before = after
    assert await dump(database) == before


LITERALS = ["5", "-1", "12.5", "1e5", "true", "NaN", "[1]", "{a: 1}", '"1e5"', '"NaN"', '"1_000"']


async def test_an_amount_written_into_the_request_is_refused_by_name(
    database: Database, api: Api
) -> None:
    await add_world(database)
    before = await dump(database)
    for literal in LITERALS:
        for place, request in {
            "input .amount": """mutation { addCredit(input: {
                mandateId: "acme", userId: "alice", idempotencyKey: "k", amount: $
            }) { transaction { id } } }""",
            "input .events[1].amount": """mutation { recordUsage(input: {events: [
                {mandateId: "acme", userId: "alice", idempotencyKey: "k", amount: "1"},
                {mandateId: "acme", userId: "alice", idempotencyKey: "l", amount: $}
            ]}) { results { outcome } } }""",
            "filter .minAmount": """{
                transactions(mandateId: "acme", filter: {minAmount: $}) { totalCount }
            }""",
        }.items():
            answer = await api("root", request.replace("$", literal))
            argument, field = place.split()
            assert (answer.codes, answer.data) == (["BAD_USER_INPUT"], None)
            assert f"'{argument}' has invalid value at {field}: " in answer.errors[0]["message"]
            assert answer.errors[0]["locations"]
    assert await dump(database) == before


async def test_a_malformed_event_refuses_the_whole_batch_by_its_index(
    database: Database, api: Api
) -> None:
    world = await add_world(database)
    before = await dump(database)
    [event] = VALID["recordUsage"](world)["input"]["events"]
    events = [event, event | {"amount": 1.5}, event | {"occurredAt": "today"}]
    answer = await api("gateway", document("recordUsage"), input={"events": events})
    assert answer.data is None
    assert answer.codes == ["BAD_USER_INPUT"] * 2
    for error, place in zip(
        answer.errors, (".events[1].amount", ".events[2].occurredAt"), strict=True
    ):
        assert error["message"].startswith(f"Variable '$input' has invalid value at {place}: ")
    assert await dump(database) == before


async def test_the_widest_values_are_accepted(database: Database, api: Api) -> None:
    world = await add_world(database)
    for name, path, values in (
        ("addCredit", "amount", ["0.000000001", "1000000", "0001.50", "1.000000000"]),
        ("addCredit", "description", ["x" * 1000, "a\nb", "\N{PILE OF POO}", "<b>&'\"%_\\"]),
        ("addCredit", "idempotencyKey", ["k" * 255, "\N{PILE OF POO}" * 255, "-- '"]),
        ("updateBillingSettings", "warningThresholdPercent", ["0", "100", "33.333333333"]),
        ("updateBillingSettings", "defaultUserCredit", ["0", "1000000"]),
        ("updateBillingSettings", "creditLimit", ["0", "1000000000", None]),
        ("updateBillingSettings", "notifyEmails", [[], ["a@example.com"] * 20]),
        ("updateBillingSettings", "allowedProviders", [[], ["openai"], None]),
        ("upsertMandate", "id", ["i" * 128, "\N{PILE OF POO}" * 128, "a/b?c=d&e f", "%2F"]),
        ("upsertMandate", "name", ["n" * 200, "\N{PILE OF POO}" * 200]),
        ("createHold", "ttlSeconds", [1, 86_400]),
        ("createHold", "aicoreProvider", ["azure", None]),
        ("createHold", "workflowId", ["\N{PILE OF POO}" * 128, None]),
        ("upsertUser", "firstName", ["n" * 200, None]),
        (
            "upsertUser",
            "email",
            [
                f"{'a' * 64}@example.com",
                "\N{LATIN SMALL LETTER U WITH DIAERESIS}@example.com",
                None,
            ],
        ),
    ):
        for value in values:
            variables = replaced(VALID[name](world), ("input", path), value)
            payload = await api.read("root", document(name), **variables)
            assert (path, value, payload["userErrors"]) == (path, value, [])
    for name in ("transactions", "holds", "accounts", "mandateUsers", "mandates"):
        arguments = "" if name == "mandates" else f'mandateId: "{MANDATE}", '
        for size in ("first: 1", "first: 500", "last: 1", "last: 500"):
            query = f"{{ {name}({arguments}{size}) {{ nodes {{ __typename }} }} }}"
            assert (await api.read("root", query))["nodes"]


async def test_a_number_of_any_length_is_refused_by_name(database: Database, api: Api) -> None:
    digits = "9" * 5000
    for request, name in (
        (f"{{ mandates(first: {digits}) {{ totalCount }} }}", "first"),
        (f'{{ statistics(mandateId: "acme", period: YEAR, year: {digits}) {{ to }} }}', "year"),
        (f"query($n: Int = {digits}) {{ mandates(first: $n) {{ totalCount }} }}", "n"),
        (
            'mutation { updateBillingSettings(input: {mandateId: "acme", expectedVersion:'
            f" {digits}}}) {{ userErrors {{ code }} }} }}",
            "expectedVersion",
        ),
    ):
        answer = await api(None, request)
        assert (answer.codes, answer.data) == (["BAD_USER_INPUT"], None)
        assert name in answer.errors[0]["message"]


@pytest.mark.parametrize("number", ["123456789012345678901234567", "1.0", "1e3"])
async def test_an_id_that_has_lost_digits_is_refused(
    database: Database, api: Api, number: str
) -> None:
    await add_world(database)
    before = await dump(database)
    request = "mutation($id: ID!) { upsertUser(input: {id: $id}) { user { id } } }"
    answer = await api.client.post(
        "/graphql",
        content=f'{{"query": "{request}", "variables": {{"id": {number}}}}}',
        headers=api.bearer("root") | {"Content-Type": "application/json"},
    )
    [error] = answer.json()["errors"]
    assert error["extensions"]["code"] == "BAD_USER_INPUT"
    assert "$id" in error["message"]
    assert await dump(database) == before
