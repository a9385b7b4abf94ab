import uuid
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import literal, select, true, union_all

from app.billing.models import mandates, users
from app.billing.money import from_nano
from app.billing.types import (
    ID_LENGTH,
    Identifier,
    Instant,
    Key,
    Nano,
    exact_sum,
    first_key,
    last_key,
    new_key,
)
from app.database import Database
from tests.world import add_mandate, add_user, read_rows

pytestmark = pytest.mark.anyio

LARGEST = 2**63 - 1


async def read_value(database: Database, expression: Any) -> Any:
    async with database.read() as connection:
        return (await connection.execute(select(expression))).scalar_one()


@pytest.mark.parametrize("nano", [0, 1, -1, 12_500_000_000, LARGEST, -LARGEST - 1])
async def test_an_amount_is_stored_to_the_last_digit(database: Database, nano: int) -> None:
    amount = from_nano(nano)
    found = await read_value(database, literal(amount, Nano))
    assert (found, type(found)) == (amount, Decimal)


async def test_an_amount_of_ten_digits_is_not_stored(database: Database) -> None:
    with pytest.raises(Exception, match="more than 9 digits"):
        await read_value(database, literal(Decimal("0.0000000001"), Nano))


@pytest.mark.parametrize(
    "values",
    [
        [],
        [0],
        [1, -1],
        [LARGEST] * 5,
        [-LARGEST - 1] * 5,
        [LARGEST, -1, 999_999_999, -999_999_999, -LARGEST],
        [-1_500_000_000, 1, -999_999_999],
    ],
    ids=len,
)
async def test_sums_beyond_64_bits_are_exact(database: Database, values: list[int]) -> None:
    rows = union_all(
        select(literal(Decimal(0), Nano).label("amount")).where(~true()),
        *(select(literal(from_nano(value), Nano)) for value in values),
    ).subquery()
    assert await read_value(database, exact_sum(rows.c.amount)) == from_nano(sum(values))


async def test_sums_of_a_column_are_exact_by_group(database: Database) -> None:
    values = {"azure": [LARGEST, LARGEST, -5], "openai": [7, -1_000_000_008]}
    rows = union_all(
        *(
            select(literal(name).label("name"), literal(from_nano(value), Nano).label("amount"))
            for name, group in values.items()
            for value in group
        )
    ).subquery()
    async with database.read() as connection:
        found = await connection.execute(
            select(rows.c.name, exact_sum(rows.c.amount))
            .group_by(rows.c.name)
            .order_by(rows.c.name)
        )
        assert [tuple(row) for row in found] == [
            (name, from_nano(sum(group))) for name, group in values.items()
        ]


@pytest.mark.parametrize(
    "instant",
    [
        datetime(2026, 3, 29, 1, 30, 0, 123456, tzinfo=UTC),
        datetime(2026, 3, 29, 3, 30, tzinfo=timezone(timedelta(hours=2))),
        datetime(1, 1, 2, tzinfo=UTC),
        datetime(9999, 12, 30, 23, 59, 59, 999999, tzinfo=UTC),
    ],
)
async def test_an_instant_comes_back_in_utc(database: Database, instant: datetime) -> None:
    found = await read_value(database, literal(instant, Instant))
    assert (found, found.utcoffset()) == (instant, timedelta(0))


async def test_a_missing_instant_stays_missing(database: Database) -> None:
    assert await read_value(database, literal(None, Instant)) is None


async def test_instants_of_other_zones_compare_by_time(database: Database) -> None:
    await add_mandate(database)
    [mandate] = await read_rows(database, mandates)
    same = mandate.created_at.astimezone(timezone(timedelta(hours=-11)))
    assert await read_rows(database, mandates, created_at=same) == [mandate]


@pytest.mark.parametrize("value", ["nobody", "", "a\0b", "x" * 100_000])
async def test_an_identifier_that_cannot_exist_equals_nothing(
    database: Database, value: str
) -> None:
    await add_user(database, "alice")
    assert await read_rows(database, users, id=value) == []
    async with database.read() as connection:
        found = await connection.execute(select(users.c.id).where(users.c.id.in_([value, "alice"])))
        assert found.scalars().all() == ["alice"]


async def test_an_identifier_of_full_length_is_kept(database: Database) -> None:
    widest = "\U0001f4b6" * ID_LENGTH
    await add_user(database, widest)
    assert [row.id for row in await read_rows(database, users)] == [widest]
    assert await read_value(database, literal(widest, Identifier)) == widest


@pytest.mark.parametrize("text", ["", "1", "a\0b", "not-a-uuid", "x" * 100_000])
async def test_text_that_is_no_key_equals_nothing(database: Database, text: str) -> None:
    assert await read_value(database, literal(text, Key)) is None


async def test_a_key_has_one_form(database: Database) -> None:
    key = "01a20377-07fc-789b-90cf-1670f0b86657"
    assert await read_value(database, literal(key, Key)) == key
    for form in (key.upper(), key.replace("-", ""), f"{{{key}}}", f"{key}\n"):
        assert await read_value(database, literal(form, Key)) is None


@given(
    st.lists(
        st.datetimes(datetime(1970, 1, 1), datetime(9000, 1, 1), timezones=st.just(UTC)),
        unique=True,
        max_size=20,
    )
)
def test_keys_are_ordered_as_their_instants(instants: list[datetime]) -> None:
    keys = [new_key(instant) for instant in sorted(instants)]
    assert keys == sorted(keys)
    assert all(uuid.UUID(key).version == 7 for key in keys)
    assert all(uuid.UUID(key).variant == uuid.RFC_4122 for key in keys)


def test_keys_of_one_instant_differ() -> None:
    now = datetime.now(UTC)
    assert len({new_key(now) for _ in range(10_000)}) == 10_000


@given(st.datetimes(datetime(1970, 1, 1), datetime(9999, 12, 31), timezones=st.just(UTC)))
def test_an_instant_has_a_first_and_a_last_key(instant: datetime) -> None:
    later = instant + timedelta(microseconds=1)
    assert first_key(instant) <= new_key(instant) <= last_key(instant) < first_key(later)


@pytest.mark.parametrize(
    "instant",
    [datetime.min.replace(tzinfo=UTC), datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)],
)
def test_before_1970_no_key_was_given(instant: datetime) -> None:
    first = datetime(1970, 1, 1, 0, 0, 0, 1, tzinfo=UTC)
    assert first_key(instant) <= last_key(instant) < first_key(first)


def test_the_last_instant_of_all_has_keys() -> None:
    last = datetime.max.replace(tzinfo=UTC)
    assert new_key(datetime.now(UTC)) < first_key(last) < last_key(last)
    assert all(Key().can_be(key) for key in (first_key(last), last_key(last)))
