"""Demo data: what it shows, that its books are sound, and that it is the same each time."""

import shutil
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from app import demo
from app.billing.accounts import balances_by_user
from app.billing.enums import BillingModel, MembershipRole, ReferenceType, UserKind
from app.billing.models import accounts, mandates, memberships, settings, transactions, users
from app.billing.money import ZERO
from app.billing.verify import verify_ledger
from app.database import Database
from app.demo import NotEmpty, seed_demo
from tests.world import add_mandate, dump, read_rows

pytestmark = pytest.mark.anyio

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


async def test_a_year_in_five_mandates(database: Database) -> None:
    told = []
    booked = await seed_demo(database, NOW, advance=lambda *progress: told.append(progress))
    assert told[-1] == (booked, booked)

    terms = await read_rows(database, settings)
    assert {row.billing_model for row in terms if row.version} == set(BillingModel)
    assert [row.version for row in terms].count(0) == 1
    assert len(await read_rows(database, mandates)) == 5

    people = {row.id: row for row in await read_rows(database, users)}
    assert len(people) == 12
    assert [row.id for row in people.values() if row.is_sys_admin] == [demo.SYSADMIN]
    assert [row.id for row in people.values() if row.kind == UserKind.SERVICE] == [demo.GATEWAY]
    roles = {(row.user_id, row.role) for row in await read_rows(database, memberships)}
    assert (demo.ADMIN, MembershipRole.ADMIN) in roles
    assert (demo.MEMBER, MembershipRole.MEMBER) in roles

    events = [row for row in await read_rows(database, transactions) if row.aicore_model]
    assert len(events) == booked > 10_000
    first, last = (pick(row.occurred_at for row in events) for pick in (min, max))
    assert timedelta(days=363) < NOW - first <= timedelta(days=366)
    assert timedelta(0) <= NOW - last < timedelta(days=1)
    by_weekday = Counter(row.occurred_at.weekday() for row in events)
    assert by_weekday[1] > 3 * by_weekday[6]
    by_hour = Counter(row.occurred_at.hour for row in events)
    assert by_hour[9] > 5 * by_hour[2]

    keys = [(row.mandate_id, row.user_id) for row in await read_rows(database, memberships)]
    async with database.read() as connection:
        shown = {
            (balance.mandate_id, balance.user_id): balance
            for balance in await balances_by_user(connection, keys)
            if balance
        }
    empty, low = [], []
    for balance in shown.values():
        if balance.available is not None and balance.available <= ZERO:
            empty.append(balance.user_id)
        elif balance.is_warning:
            low.append(balance.user_id)
    assert (empty, low) == ([demo.BLOCKED], [demo.IN_WARNING])

    for row in await read_rows(database, mandates):
        async with database.snapshot() as connection:
            assert (await verify_ledger(connection, row.id)).ok

    before = await dump(database)
    with pytest.raises(NotEmpty, match="mandates already"):
        await seed_demo(database, NOW)
    assert await dump(database) == before


async def test_a_database_with_a_mandate_is_left_alone(database: Database) -> None:
    await add_mandate(database)
    before = await dump(database)
    with pytest.raises(NotEmpty):
        await seed_demo(database, NOW)
    assert await dump(database) == before


async def booked(database: Database) -> list[tuple[object, ...]]:
    """All that was booked, without what is new each time."""
    accounts_of = {row.id: row.user_id for row in await read_rows(database, accounts)}
    varying = {"id", "account_id", "created_at"}
    return sorted(
        (
            str(accounts_of[row.account_id]),
            *(str(value) for name, value in row._asdict().items() if name not in varying),
        )
        for row in await read_rows(database, transactions, reference_type=ReferenceType.USAGE)
    )


async def test_the_same_seed_gives_the_same_year(
    database: Database, sqlite_template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "_DAYS", 20)
    await seed_demo(database, NOW)
    for seed in (demo.SEED, demo.SEED + 1):
        path = tmp_path / f"{seed}.db"
        shutil.copyfile(sqlite_template, path)
        async with Database(f"sqlite:///{path}") as other:
            await seed_demo(other, NOW, seed=seed)
            assert (await booked(other) == await booked(database)) == (seed == demo.SEED)
