"""How much an operation may ask for, and that what is legitimate may."""

import time
from typing import Any

import pytest
from graphql import GraphQLError, get_introspection_query
from pydantic import SecretStr

from app.billing.errors import BadInput
from app.config import Environment, Settings
from app.database import Database
from schema import schema
from schema.limits import MAX_COST, TooComplex, check_variables, measure
from schema.validation import parse_document, select_operation, validate_document
from tests.api import Api, add_people, serving
from tests.test_readme import OPERATIONS

pytestmark = pytest.mark.anyio

PAGE = """query ($first: Int) {
    transactions(mandateId: "acme", first: $first) {
        nodes { id amount balanceAfter user { displayName } mandate { name } account { balance } }
    }
}"""
INTROSPECTION = get_introspection_query(
    descriptions=True,
    specified_by_url=True,
    directive_is_repeatable=True,
    schema_description=True,
    input_value_deprecation=True,
)


def cost(document: str, name: str | None = None, **variables: Any) -> int:
    parsed = parse_document(document)
    return measure(schema._schema, parsed, select_operation(parsed, name), variables)


def refusal(document: str, **variables: Any) -> str:
    with pytest.raises(TooComplex) as error:
        cost(document, **variables)
    return str(error.value)


def nested(levels: int, leaf: str = "id") -> str:
    """So many levels of fields, of which the last is the leaf."""
    middle = "mandate { transactions(first: 1) { nodes { " * ((levels - 2) // 3)
    rest = ("", "user { ", "account { user { ")[(levels - 2) % 3]
    document = f'{{ transaction(mandateId: "a", id: "b") {{ {middle}{rest}{leaf} '
    return document + "}" * (document.count("{") - document.count("}"))


@pytest.mark.parametrize(
    ("document", "points"),
    [
        ("{ __typename }", 0),
        ("{ viewer { isSysAdmin } }", 1),
        ("{ viewer { user { id } memberships { id } } }", 3),
        ("{ mandates { nodes { id } } }", 50),
        ("{ mandates { edges { cursor node { id } } } }", 50),
        ("{ mandates(first: 7) { nodes { id } edges { cursor node { id } } } }", 14),
        ("{ mandates(first: 7) { totalCount pageInfo { endCursor } } }", 8),
        ("{ mandates(first: 7) { edges { cursor } } }", 7),
        ("{ mandates(last: 7) { nodes { id balance { id user { id } } } } }", 21),
        ("{ mandates(first: 7) { nodes { transactions(last: 3) { nodes { id } } } } }", 98),
        ("{ mandates(first: -7) { nodes { id } } }", 0),
        (f"{{ mandates(first: -{'9' * 400}) {{ nodes {{ id }} }} }}", 0),
        ('{ statistics(mandateId: "a", period: YEAR, year: 2026) { totalCost } }', 51),
        ('{ ledgerCheck(mandateId: "a") { ok } }', 1001),
        ("{ mandates(first: null) { nodes { id } } }", 50),
        ("{ mandates(first: 100000) { nodes { id } } }", 500),
        (f"{{ mandates(first: {'9' * 400}) {{ nodes {{ id }} }} }}", 500),
        ("{ mandates(first: 7) { ...F } } fragment F on MandateConnection { nodes { id } }", 7),
        (
            "{ a: mandates(first: 7) { ...F } b: mandates(first: 3) { ...F } }"
            " fragment F on MandateConnection { ... on MandateConnection { nodes { ...M } } }"
            " fragment M on Mandate { balance { id } }",
            20,
        ),
        ("query($n: Int = 9) { mandates(first: $n) { nodes { id } } }", 9),
        ('mutation { upsertUser(input: {id: "a"}) { user { id } userErrors { code } } }', 3),
    ],
)
def test_cost(document: str, points: int) -> None:
    assert cost(document) == points


def test_a_variable_sizes_the_page() -> None:
    assert cost(PAGE, first=500) == 2000
    assert cost(PAGE) == cost(PAGE, first=None) == 200
    assert cost(PAGE, first=-5) == cost(PAGE, first=-1e300) == cost(PAGE, first=-(10**30)) == 0
    assert cost(PAGE, first=1e300) == 2000


@pytest.mark.parametrize(
    ("document", "limit"),
    [
        (nested, (12, "at most 12 levels of fields")),
        (
            lambda n: "{ " + " ".join(f"a{i}: __typename" for i in range(n)) + " }",
            (30, "30 aliases"),
        ),
        (lambda n: "{ " + "__typename " * n + "}", (1000, "1,000 fields")),
        (lambda n: "{ __typename " + "@skip(if: true) " * n + "}", (9, "at most 9 directives")),
        (lambda n: "query " + "@skip(if: true) " * n + "{ __typename }", (9, "9 directives")),
        (
            lambda n: "{ ...F } fragment F on Query " + "@a " * n + "{ __typename }",
            (9, "9 directives"),
        ),
        (lambda n: "{ ... " + "@a " * n + "{ __typename } }", (9, "9 directives")),
        (lambda n: "query($a: Int " + "@a " * n + ") { __typename }", (9, "9 directives")),
        (lambda n: "mutation { " + "upsertUser " * n + "}", (10, "at most 10 mutations")),
        (lambda n: "{ a(b: [" + "1 " * (n - 9) + "]) }", (2000, "more than 2000 tokens")),
    ],
    ids=[
        "depth",
        "aliases",
        "fields",
        "field",
        "operation",
        "fragment",
        "inline",
        "variable",
        "mutations",
        "tokens",
    ],
)
def test_each_limit_is_exact(document: Any, limit: tuple[int, str]) -> None:
    most, told = limit
    cost(document(most))
    assert told in refusal(document(most + 1))


def test_the_limit_of_the_cost_is_exact() -> None:
    rows = "mandates(first: 500) { nodes { " + "balance { id } " * 9 + "} }"
    assert cost(f"{{ {rows} }}") == 5000
    assert refusal(f"{{ {rows} viewer {{ isSysAdmin }} }}") == (
        "The operation costs 5,001 points, of at most 5,000: ask for smaller pages, or for fewer"
        " objects of each row."
    )


def test_fragments_count_wherever_they_are_spread() -> None:
    assert "levels" in refusal(
        nested(10, "user { ...F }") + " fragment F on User { a { b { c } } }"
    )
    spread = " ".join(["...F"] * 16)
    assert "aliases" in refusal(f"{{ {spread} }} fragment F on Query {{ a: x b: x }}")
    assert "fields" in refusal(f"{{ {spread} }} fragment F on Query {{ {'x ' * 63} }}")
    changes = "mutation { ...F ...F } fragment F on Mutation { " + "upsertUser " * 6 + "}"
    assert "10 mutations" in refusal(changes)


DOUBLED = (
    "{ ...F0 ...F0 } "
    + " ".join(f"fragment F{i} on Query {{ ...F{i + 1} ...F{i + 1} }}" for i in range(21))
    + " fragment F21 on Query { viewer { isSysAdmin } }"
)
CHAIN = (
    "{ ...F0 } "
    + " ".join(f"fragment F{i} on Query {{ ...F{i + 1} }}" for i in range(280))
    + " fragment F280 on Query { __typename }"
)
HOSTILE = {
    "doubled": DOUBLED,
    "chain": CHAIN,
    "deep": "{ viewer " * 900,
    "deep list": "{ mandates(first: " + "[" * 1900,
    "repeated": "{ viewer { " + "user { id } " * 300 + "} }",
    "repeated scalars": "{ viewer { " + "isSysAdmin " * 990 + "} }",
    "text": "{ viewer { isSysAdmin } }#" + "x" * 70_000,
    "alias": f"{{ {'x' * 129}: __typename }}",
    "ledger checks": "{"
    + " ".join(f'a{n}: ledgerCheck(mandateId: "acme") {{ ok }}' for n in range(5))
    + "}",
    "reports": "{"
    + " ".join(
        f'a{n}: usage(mandateId: "acme", from: "2026-01-01", to: "2026-02-01", granularity: DAY)'
        " { totalCost }"
        for n in range(10)
    )
    + "}",
    "statistics of each row": """{ transactions(mandateId: "acme", first: 500) { nodes { mandate {
        statistics(period: YEAR, year: 2026) { totalCost } } } } }""",
    "pages of each row": """{ transactions(mandateId: "acme", first: 500) { nodes { mandate {
        transactions(first: 1) { totalCount } } } } }""",
    "comments": "{ viewer { isSysAdmin } }" + "\n#" * 3000,
}


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_hostile_documents_are_refused_at_once(database: Database, api: Api) -> None:
    await add_people(database)
    for name, document in HOSTILE.items():
        answer = await api("root", document)
        assert (name, answer.codes) == (name, ["OPERATION_TOO_COMPLEX"])
    for document in (DOUBLED, DOUBLED.replace("{ viewer { isSysAdmin } }", "{ }")):
        times = []
        for place in range(5):
            start = time.perf_counter()
            await api("root", document + f"#{place}")  # which is not kept
            times.append(time.perf_counter() - start)
        assert min(times) < 0.05


def test_a_fragment_that_spreads_itself_ends() -> None:
    document = "{ ...A } fragment A on Query { __typename ...B } fragment B on Query { ...A }"
    assert cost(document) == 0
    assert "itself" in validate_document(schema._schema, document, True)[0].message


def test_only_the_operation_that_runs_is_measured() -> None:
    document = "query A { __typename } query B { " + "__typename " * 1001 + "}"
    assert cost(document, "A") == 0
    with pytest.raises(TooComplex):
        cost(document, "B")
    with pytest.raises(BadInput, match="several operations"):
        cost(document)
    with pytest.raises(BadInput, match="no operation 'C'"):
        cost(document, "C")


def test_the_operations_of_the_readme_stay_far_below() -> None:
    for _, document in OPERATIONS:
        assert cost(document) < 1100
        assert validate_document(schema._schema, document, False) == []


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_legitimate_work_passes(database: Database, api: Api) -> None:
    await add_people(database)
    answer = await api("root", INTROSPECTION)
    assert (answer.status, answer.errors) == (200, [])
    assert len(answer.data["__schema"]["types"]) > 50
    answer = await api("root", PAGE, first=500)
    assert (answer.status, answer.errors) == (200, [])


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_an_answer_says_what_it_cost(database: Database, api: Api) -> None:
    await add_people(database)
    for document, variables, requested in (
        (PAGE, {"first": 500}, 2000),
        (PAGE, {"first": 10}, 40),
        ("{ mandates(first: 501) { totalCount } }", {}, 500),
    ):
        response = await api.client.post(
            "/graphql",
            json={"query": document, "variables": variables},
            headers=api.bearer("root"),
        )
        assert response.json()["extensions"] == {"cost": {"requested": requested, "limit": 5000}}


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_what_was_checked_once_is_not_checked_again(database: Database, api: Api) -> None:
    await add_people(database)
    caches = (parse_document, validate_document)
    for cache in caches:
        cache.cache_clear()
    for _ in range(5):
        assert (await api("root", PAGE, first=3)).errors == []
        assert (await api("ada", PAGE, first=3)).errors == []
    for cache in caches:
        info = cache.cache_info()
        assert (cache, info.misses, info.currsize) == (cache, 1, 1)
        assert info.hits >= 9
    for first in range(5):
        await api("root", PAGE, first=first)
    assert parse_document.cache_info().misses == validate_document.cache_info().misses == 1
    for _ in range(3):  # whatever else is sent with a document is not kept
        assert (await api("root", "{ __typename }", **{str(n): n for n in range(9)})).errors == []
    for place in range(200):
        await api("root", f"{{ a{place}: __typename }}")
    assert parse_document.cache_info().currsize <= 128


def production(database_url: str) -> Settings:
    return Settings(
        environment=Environment.PRODUCTION,
        database_url=database_url,
        jwt_secret=SecretStr("a secret of production that is long enough"),
        jwt_audience="billing",
        jwt_issuer="billing",
        rate_limits=False,
    )


SUGGESTED: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("{ viewr { isSysAdmin } }", {}, "viewer"),
    ("{ viewer { isSysAdmi } }", {}, "isSysAdmin"),
    ("{ mandates(frist: 1) { totalCount } }", {}, "first"),
    ("{ ... on Qery { __typename } }", {}, "Query"),
    ("query($i: Strin) { __typename }", {}, "String"),
    ('mutation { upsertUser(input: {idd: "a"}) { user { id } } }', {}, "id"),
    ('{ holds(mandateId: "a", status: OPN) { totalCount } }', {}, "OPEN"),
    (
        'query($s: HoldStatus) { holds(mandateId: "a", status: $s) { totalCount } }',
        {"s": "OPN"},
        "OPEN",
    ),
    (
        "mutation($i: UpsertUserInput!) { upsertUser(input: $i) { user { id } } }",
        {"i": {"id": "a", "emial": "a"}},
        "email",
    ),
)


@pytest.mark.parametrize("environment", Environment)
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_the_schema_is_shown_in_development_alone(
    database: Database, database_url: str, environment: Environment
) -> None:
    await add_people(database)
    settings = production(database_url).model_copy(update={"environment": environment})
    shown = environment is Environment.DEVELOPMENT
    async with serving(settings) as api:
        for document, variables, name in SUGGESTED:
            answer = await api("root", document, **variables)
            assert set(answer.codes) == {"BAD_USER_INPUT"}
            told = " ".join(error["message"] for error in answer.errors)
            assert (document, "Did you mean" in told) == (document, shown)
            assert f"'{name}'" in told or not shown
        for document in (INTROSPECTION, '{ __type(name: "Query") { name } }'):
            answer = await api("root", document)
            assert (answer.codes == []) == shown
            assert (answer.data is not None) == shown
        assert (await api("root", "{ __typename }")).data == {"__typename": "Query"}
        for headers in ({}, api.bearer("root")):
            page = await api.client.get("/graphql", headers={"Accept": "text/html", **headers})
            assert ("<html" in page.text) == shown
            assert (page.status_code in (200, 503)) == shown  # 503 where it is not built


def test_a_document_that_is_none_is_refused() -> None:
    for text in ("{", "query", "}"):
        with pytest.raises(GraphQLError, match="Syntax Error"):
            cost(text)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_variables_hold_no_more_than_a_batch_of_usage(database: Database, api: Api) -> None:
    await add_people(database)
    event = {f"field{place}": None for place in range(11)}
    check_variables({"input": {"events": [event] * 1000}})
    hostile: list[dict[str, Any]] = [
        {"a": [[]] * 20_000},
        {"a": [{}] * 20_000},
        {"a": [[[1] * 100] * 100] * 2},
        {str(place): 1 for place in range(20_001)},
    ]
    for variables in hostile:
        answer = await api("root", "{ __typename }", **variables)
        assert answer.codes == ["OPERATION_TOO_COMPLEX"]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_nobody_is_told_anything_in_production(database_url: str) -> None:
    async with serving(production(database_url)) as api:
        for document in ("{ __typename }", INTROSPECTION, "{ viewer }", "{"):
            answer = await api(None, document)
            assert (answer.status, answer.codes, answer.data) == (401, ["UNAUTHENTICATED"], None)


def test_the_cost_stays_a_number_of_json() -> None:
    """Also where it is refused."""
    deep = "{ mandates(first: 500) { nodes { " + "transactions(first: 500) { nodes { mandate { " * 3
    document = deep + "id" + "}" * deep.count("{")
    assert "1,000,000,000 points" in refusal(document)
    assert MAX_COST == 5000
