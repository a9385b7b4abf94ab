"""The import of usage: every good row once, every bad row named, and never one because of another."""

import csv
import os
from collections import defaultdict
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from app import imports
from app.billing.directory import (
    remove_membership,
    set_time_zone,
    upsert_mandate,
    upsert_membership,
    upsert_user,
)
from app.billing.enums import MembershipRole
from app.billing.models import audit_events, mandates, memberships, settings, users
from app.billing.periods import Granularity
from app.billing.roll_up import total_days
from app.billing.statistics import UsageDimension, UsageFilter, find_usage
from app.billing.usage import UsageOutcome, record_usage
from app.billing.verify import verify_ledger
from app.billing.viewer import OPERATOR
from app.database import Database, DatabaseUnavailable
from app.imports import HEADER, ImportReport, WrongHeader, import_usage
from tests.api import Api
from tests.world import (
    MANDATE,
    OTHER_MANDATE,
    PROVIDERS,
    add_mandate,
    add_member,
    dump,
    ledger_rows,
    read_rows,
    record,
    usage_event,
)

pytestmark = pytest.mark.anyio

LINE = {
    "mandate_id": MANDATE,
    "user_id": "alice",
    "occurred_at": "2026-08-01T12:00:00Z",
    "amount": "1.5",
    "provider": "openai",
    "model": "gpt-4o",
    "feature": "chat",
    "workflow_id": "",
    "description": "a call",
}


def line(key: str, **cells: str) -> str:
    """A good row, with some cells changed."""
    values = LINE | {"idempotency_key": key} | cells
    return ",".join(values[name] for name in HEADER) + "\n"


async def run(
    database: Database, *lines: str, create_missing: bool = False, header: str = ",".join(HEADER)
) -> ImportReport:
    return await import_usage(
        database, [header + "\n", *lines], PROVIDERS, create_missing=create_missing
    )


def counts(report: ImportReport) -> tuple[int, int, int]:
    """How many rows were recorded, duplicate and rejected."""
    recorded, duplicate, rejected = (report.outcomes[outcome] for outcome in UsageOutcome)
    return recorded, duplicate, rejected


async def imports_audited(database: Database) -> list[Any]:
    return await read_rows(database, audit_events, action="usage.imported")


async def test_rows_are_booked_as_they_stand(database: Database) -> None:
    await add_mandate(database)
    report = await run(
        database,
        line("a", workflow_id="w-1", occurred_at="2026-08-01T14:00:00.123456789+02:00"),
        line("b", provider="", model="", feature="", description="", amount="0"),
    )
    assert counts(report) == (2, 0, 0)
    assert report.rows == 2
    full, bare = await ledger_rows(database)
    assert (full.idempotency_key, full.amount, full.user_id) == ("a", Decimal("1.5"), "alice")
    assert full.occurred_at == datetime(2026, 8, 1, 12, 0, 0, 123456, tzinfo=UTC)
    assert (full.aicore_provider, full.aicore_model) == ("openai", "gpt-4o")
    assert (full.feature_code, full.workflow_id, full.description) == ("chat", "w-1", "a call")
    assert full.actor_id is None
    assert (bare.aicore_provider, bare.aicore_model, bare.feature_code) == (None, None, None)
    assert (bare.workflow_id, bare.description) == (None, "AI usage")


async def test_a_second_run_changes_nothing(database: Database) -> None:
    await add_mandate(database)
    await add_mandate(database, OTHER_MANDATE, users=["bob"])
    lines = [line("a"), line("b"), line("a", mandate_id=OTHER_MANDATE, user_id="bob")]
    assert counts(await run(database, *lines)) == (3, 0, 0)
    before = await dump(database)
    assert counts(await run(database, *lines)) == (0, 3, 0)
    assert counts(await run(database, *lines, create_missing=True)) == (0, 3, 0)
    assert await dump(database) == before


async def test_each_mandate_touched_has_an_audit_event(database: Database) -> None:
    await add_mandate(database)
    await add_mandate(database, OTHER_MANDATE, users=["bob"])
    await run(database, line("a"))
    await run(
        database,
        line("a"),
        line("b"),
        line("c", user_id="nobody"),
        line("d", mandate_id=OTHER_MANDATE),
    )
    events = await imports_audited(database)
    assert [(event.mandate_id, event.subject, event.actor_id) for event in events] == [
        (MANDATE, f"mandate:{MANDATE}", None),
        (MANDATE, f"mandate:{MANDATE}", None),
    ]
    assert events[0].after == {"recorded": 1, "duplicate": 0, "rejected": 0}
    assert events[1].after == {"recorded": 1, "duplicate": 1, "rejected": 1}


async def test_the_order_of_the_file_is_that_of_the_history(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(imports, "CHUNK", 7)
    monkeypatch.setattr(imports, "MAX_EVENTS", 3)
    await add_mandate(database)
    await add_mandate(database, OTHER_MANDATE, users=["alice"])
    lines = [line(f"{n:02}", mandate_id=(MANDATE, OTHER_MANDATE)[n % 2]) for n in range(40)]
    assert counts(await run(database, *lines)) == (40, 0, 0)
    for place, mandate_id in enumerate((MANDATE, OTHER_MANDATE)):
        rows = await ledger_rows(database, mandate_id=mandate_id)
        assert [row.idempotency_key for row in rows] == [f"{n:02}" for n in range(place, 40, 2)]
        assert [row.sequence for row in rows] == list(range(1, 21))
        audited = [e for e in await imports_audited(database) if e.mandate_id == mandate_id]
        assert sum(event.after["recorded"] for event in audited) == 20


async def test_names_that_do_not_exist_are_rejected(database: Database) -> None:
    await add_mandate(database)
    before = await dump(database)
    report = await run(database, line("a", mandate_id="nowhere"), line("b", user_id="nobody"))
    assert counts(report) == (0, 0, 2)
    assert [(row.line, row.reason) for row in report.rejected] == [
        (2, "There is no such mandate."),
        (3, "There is no such user in this mandate."),
    ]
    assert await dump(database) == before


async def test_missing_names_are_created_as_the_directory_would(database: Database) -> None:
    report = await run(database, line("a", mandate_id="one", user_id="zoe"), create_missing=True)
    assert counts(report) == (1, 0, 0)
    await upsert_mandate(database, OPERATOR, "two", {"name": "two"})
    await upsert_user(database, OPERATOR, "yan", {})
    await upsert_membership(database, OPERATOR, "two", "yan", {})

    async def made(mandate_id: str, user_id: str) -> list[str]:
        rows = [
            await read_rows(database, mandates, id=mandate_id),
            await read_rows(database, settings, mandate_id=mandate_id),
            await read_rows(database, users, id=user_id),
            await read_rows(database, memberships, mandate_id=mandate_id),
            await read_rows(
                database, audit_events, action="mandate.created", mandate_id=mandate_id
            ),
            await read_rows(
                database, audit_events, action="user.created", subject=f"user:{user_id}"
            ),
            await read_rows(
                database, audit_events, action="membership.created", mandate_id=mandate_id
            ),
        ]
        varying = {"id", "created_at", "updated_at"}
        return [
            str({name: value for name, value in row._asdict().items() if name not in varying})
            for [row] in rows
        ]

    assert await made("one", "zoe") == [
        row.replace("two", "one").replace("yan", "zoe") for row in await made("two", "yan")
    ]


async def test_missing_names_are_created_once(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(imports, "CHUNK", 2)
    lines = [line(str(n), mandate_id=f"m{n % 2}", user_id=f"u{n % 3}") for n in range(12)]
    assert counts(await run(database, *lines, create_missing=True)) == (12, 0, 0)
    assert len(await read_rows(database, mandates)) == 2
    assert len(await read_rows(database, users)) == 3
    assert len(await read_rows(database, memberships)) == 6
    events = await read_rows(database, audit_events)
    assert sum(event.action.endswith(".created") for event in events) == 2 + 3 + 6


async def test_what_exists_is_left_as_it_is(database: Database) -> None:
    await add_mandate(database, users=["alice", "bob"], time_zone="Europe/Zurich")
    await upsert_user(database, OPERATOR, "alice", {"first_name": "Alice", "is_sys_admin": True})
    await add_member(database, "alice", role=MembershipRole.ADMIN)
    await remove_membership(database, OPERATOR, MANDATE, "bob")
    before = await dump(database)
    report = await run(database, line("a"), line("b", user_id="bob"), create_missing=True)
    assert counts(report) == (2, 0, 0)
    after = await dump(database)
    for table in (mandates, users, memberships, settings):
        assert after[table.name] == before[table.name]


BAD = {
    "an amount that is no number": (line("x", amount="NaN"), "amount must be plain digits"),
    "an exponent": (line("x", amount="1e5"), "amount must be plain digits"),
    "digits that are not ASCII": (
        line("x", amount="\N{FULLWIDTH DIGIT ONE}"),
        "amount must be plain digits",
    ),
    "ten digits": (line("x", amount="1.0000000001"), "amount must be plain digits"),
    "no amount": (line("x", amount=""), "amount must be plain digits"),
    "a negative amount": (line("x", amount="-1"), "amount must be 0 or more"),
    "too much": (line("x", amount="1000000.1"), "amount must be at most"),
    "no offset": (line("x", occurred_at="2026-08-01T12:00:00"), "occurred_at must be RFC 3339"),
    "no time": (line("x", occurred_at="2026-08-01"), "occurred_at must be RFC 3339"),
    "no such day": (line("x", occurred_at="2026-02-30T12:00:00Z"), "occurred_at must be RFC 3339"),
    "before all time": (line("x", occurred_at="0001-01-01T00:00:00+14:00"), "occurred_at must be"),
    "long ago": (line("x", occurred_at="1999-12-31T23:59:59Z"), "occurred_at must be from 2000"),
    "in the future": (
        line("x", occurred_at=(datetime.now(UTC) + timedelta(hours=1)).isoformat()),
        "occurred_at must be from 2000 on and at most 5 minutes ahead",
    ),
    "no mandate": (line("x", mandate_id=""), "mandate_id must not be empty"),
    "no user": (line("x", user_id=""), "user_id must not be empty"),
    "a long user": (line("x", user_id="u" * 129), "user_id must have at most 128"),
    "a NUL": (line("x", description="a\0b"), "description must not contain a NUL"),
    "a NUL in a name": (line("x", user_id="a\0b"), "user_id must not contain a NUL"),
    "no key": (line(""), "idempotency_key must not be empty"),
    "a long key": (line("k" * 256), "idempotency_key must have at most 255"),
    "a long description": (line("x", description="d" * 1001), "description must have at most"),
    "a blank model": (line("x", model=" "), "aicore_model must not be"),
    "a column too few": (line("x").replace(",chat", ""), "The row has 9 columns instead of 10"),
    "a column too many": (line("x,y"), "The row has 11 columns instead of 10"),
    "one word": ("word\n", "The row has 1 columns instead of 10"),
    "an open quote": (line("x", description='"open'), "The row is no CSV"),
    "a quote that ends too early": (line("x", description='"a"b'), "The row is no CSV"),
    "a field without end": (line("x", description="d" * 200_000), "The row is no CSV"),
    "bytes that are no UTF-8": (line("x", description="\udcff"), "The row is not UTF-8"),
    "a key with other content": (line("00", amount="2"), "This idempotency_key was used"),
}


@pytest.mark.parametrize("create_missing", [False, True])
async def test_a_bad_row_stops_no_other(
    database: Database, create_missing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(imports, "MAX_SHOWN", len(BAD))
    await add_mandate(database)
    lines = [
        text for number, (bad, _) in enumerate(BAD.values()) for text in (line(f"{number:02}"), bad)
    ]
    report = await run(database, *lines, create_missing=create_missing)
    assert counts(report) == (len(BAD), 0, len(BAD))
    for number, (name, (_, reason)) in enumerate(BAD.items()):
        rejected = report.rejected[number]
        assert rejected.line == 3 + 2 * number, name
        assert rejected.reason.startswith(reason), name
    assert len(await read_rows(database, users)) == 1
    rows = await ledger_rows(database)
    assert [row.idempotency_key for row in rows] == [f"{n:02}" for n in range(len(BAD))]


async def test_lines_are_counted_as_an_editor_does(database: Database) -> None:
    await add_mandate(database)
    report = await run(
        database,
        line("a", description='"two\n').removesuffix("\n"),
        'lines"\n',
        "\n",
        line("b", amount="none"),
        line("c", description='"open'),
        line("d"),
        line("e", amount="none", description='"a ""quote"", and a comma"'),
    )
    assert counts(report) == (2, 0, 3)
    assert [row.line for row in report.rejected] == [5, 6, 8]
    assert {row.description for row in await ledger_rows(database)} == {"two\nlines", "a call"}


async def test_only_the_first_rejected_rows_are_kept(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(imports, "CHUNK", 10)
    await add_mandate(database)
    bad = [
        line(str(n), mandate_id=f"unknown-{40 - n}", amount="none" if n % 2 else "1")
        for n in range(40)
    ]
    report = await run(database, *bad)
    assert counts(report) == (0, 0, 40)
    assert [row.line for row in report.rejected] == list(range(2, 22))


@pytest.mark.parametrize(
    "header",
    [
        "",
        "a,b,c",
        ",".join(HEADER[:-1]),
        ",".join([*HEADER, "more"]),
        ",".join(reversed(HEADER)),
        ";".join(HEADER),
        '"open',
    ],
)
async def test_another_header_is_refused(database: Database, header: str) -> None:
    await add_mandate(database)
    before = await dump(database)
    with pytest.raises(WrongHeader, match="idempotency_key,mandate_id,user_id,occurred_at"):
        await run(database, line("a"), header=header)
    assert await dump(database) == before


async def test_an_empty_file_is_refused(database: Database) -> None:
    with pytest.raises(WrongHeader):
        await import_usage(database, [], PROVIDERS, create_missing=True)


async def test_a_header_alone_is_an_empty_import(database: Database) -> None:
    assert counts(await run(database)) == (0, 0, 0)
    assert await imports_audited(database) == []


async def test_an_event_of_the_gateway_is_not_booked_again(database: Database) -> None:
    await add_mandate(database)
    occurred_at = datetime.now(UTC)
    event = usage_event("1.50", key="a", occurred_at=occurred_at, aicore_provider="openai")
    await record(database, event)
    cells = {"model": "", "feature": "", "description": ""}
    report = await run(database, line("a", occurred_at=occurred_at.isoformat(), **cells))
    assert counts(report) == (0, 1, 0)


async def test_what_was_booked_before_a_failure_is_audited(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await add_mandate(database)
    await add_mandate(database, OTHER_MANDATE)

    async def fails_for_the_other(
        _: Database, viewer: Any, events: Any, *args: Any, **options: Any
    ) -> Any:
        if events[0].mandate_id == OTHER_MANDATE:
            raise DatabaseUnavailable
        return await record_usage(database, viewer, events, *args, **options)

    monkeypatch.setattr("app.imports.record_usage", fails_for_the_other)
    with pytest.raises(DatabaseUnavailable):
        await run(database, line("a"), line("b", mandate_id=OTHER_MANDATE))
    [event] = await imports_audited(database)
    assert (event.mandate_id, event.after["recorded"]) == (MANDATE, 1)


TOTALS = """query($id: ID!) {
    accounts(mandateId: $id) { totalBalance }
    all: transactions(mandateId: $id, first: 1) { totals { debits } }
    debits: transactions(mandateId: $id, first: 1, filter: {transactionType: DEBIT}) {
        totals { debits }
    }
}"""
COST = """query($id: ID!, $year: Int!) {
    statistics(mandateId: $id, period: YEAR, year: $year) { totalCost }
}"""


@pytest.fixture
def trace() -> list[str]:
    """The lines of a file of real usage."""
    path = Path(os.environ.get("BILLING_TEST_TRACE", ""))
    if not path.is_file():
        pytest.skip("BILLING_TEST_TRACE names no file")
    with path.open(encoding="utf-8", newline="") as lines:
        return list(lines)


KATHMANDU = timedelta(hours=5, minutes=45)


async def test_a_real_trace_is_booked_to_the_last_digit(
    database: Database, api: Api, trace: list[str]
) -> None:
    rows = list(csv.DictReader(trace))
    expected: dict[str, Decimal] = defaultdict(Decimal)
    for row in rows:
        expected[row["mandate_id"]] += Decimal(row["amount"])
    first = await import_usage(database, trace, PROVIDERS, create_missing=True)
    assert counts(first) == (len(rows), 0, 0)
    second = await import_usage(database, trace, PROVIDERS, create_missing=True)
    assert counts(second) == (0, len(rows), 0)
    assert {event.mandate_id for event in await imports_audited(database)} == {*expected}
    await upsert_user(database, OPERATOR, "root", {"is_sys_admin": True})
    years = {row["occurred_at"][:4] for row in rows}
    for mandate_id, total in expected.items():
        shown = await api.read("root", TOTALS, id=mandate_id)
        assert Decimal(shown["accounts"]["totalBalance"]) == -total
        assert Decimal(shown["all"]["totals"]["debits"]) == total
        assert Decimal(shown["debits"]["totals"]["debits"]) == total
        costs = [
            Decimal((await api.read("root", COST, id=mandate_id, year=int(year)))["totalCost"])
            for year in years
        ]
        assert sum(costs) == total
        async with database.snapshot() as connection:
            assert (await verify_ledger(connection, mandate_id)).ok
    # And by group, when its days are totalled, in another time zone than that of its import.
    await total_days(database, datetime.now(UTC))
    for mandate_id in expected:
        await set_time_zone(database, OPERATOR, mandate_id, "Asia/Kathmandu", lambda _: None)
        report = await find_usage(
            database,
            OPERATOR,
            mandate_id,
            from_=date(2026, 1, 1),
            to=date(2027, 1, 1),
            granularity=Granularity.MONTH,
            group_by=[UsageDimension.USER, UsageDimension.MODEL, UsageDimension.FEATURE],
            first=None,
            time_zone=None,
            usage_filter=UsageFilter(),
        )
        assert report is not None
        groups: dict[tuple[str | None, ...], list[Decimal]] = defaultdict(list)
        months: dict[int, Decimal] = defaultdict(Decimal)
        for row in rows:
            if row["mandate_id"] == mandate_id:
                amount = Decimal(row["amount"])
                groups[row["user_id"], row["model"] or None, row["feature"] or None].append(amount)
                local = datetime.fromisoformat(row["occurred_at"]) + KATHMANDU
                months[local.month] += amount
        assert {
            tuple(key.value for key in group.keys): (group.cost, group.transaction_count)
            for group in report.groups
        } == {key: (sum(amounts), len(amounts)) for key, amounts in groups.items()}
        for place in range(12):
            course = sum(group.buckets[place].cost for group in report.groups)
            assert course == months[place + 1]
        async with database.snapshot() as connection:
            assert (await verify_ledger(connection, mandate_id)).ok
