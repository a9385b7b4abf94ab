"""Mandates: who may see them, and the changes the platform makes."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime
from functools import cache
from typing import Any
from zoneinfo import available_timezones

import pycountry
from sqlalchemy import insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from app.billing.audit import write_audit_event
from app.billing.checks import check_name, check_text, difference, invalid, refuse_null
from app.billing.models import accounts, mandates, settings
from app.billing.paging import Keyset, Page, PageArguments, contains, fetch_page, pattern_of
from app.billing.roll_up import rebuild_next_week
from app.billing.settings import (
    find_and_lock_settings,
    lock_settings,
    no_settings_yet,
    read_terms,
)
from app.billing.types import is_among
from app.billing.viewer import Viewer
from app.database import Database
from app.statements import Source, Statement

NEW_MANDATE = {"currency": "CHF", "time_zone": "UTC"}
"""What a new mandate has where nothing else is given."""


_BY_ID = Statement(select(mandates).where(is_among(mandates.c.id, "ids")))


async def mandates_by_id(source: Source, mandate_ids: Sequence[str]) -> list[Any]:
    """Mandates that the caller may see, in the order asked; None for one that does not exist."""
    rows = await _BY_ID.rows(source, ids=list(set(mandate_ids)))
    found = {row.id: row for row in rows}
    return [found.get(mandate_id) for mandate_id in mandate_ids]


async def mandate_ids(database: Database) -> Sequence[str]:
    """Of every mandate, in order: for the operator's work on each."""
    query = select(mandates.c.id).order_by(mandates.c.id)
    async with database.read() as connection:
        return (await connection.execute(query)).scalars().all()


async def find_mandate(database: Database, viewer: Viewer, mandate_id: str) -> Any:
    """The mandate, or None where it does not exist or is not the viewer's."""
    return await find_visible_mandate(database, viewer, mandate_id)


async def find_visible_mandate(source: Source, viewer: Viewer, mandate_id: str) -> Any:
    """As find_mandate, for what is read together with it."""
    if not viewer.may_see(mandate_id):
        return None
    if mandate_id in viewer.mandates and not isinstance(source, AsyncConnection):
        return viewer.mandates[mandate_id]
    return (await mandates_by_id(source, [mandate_id]))[0]


async def list_mandates(
    database: Database, viewer: Viewer, *, search: str | None, page: PageArguments
) -> Page:
    """The mandates the viewer may see, newest first; `search` looks at ids and names."""
    query = select(mandates)
    if not viewer.sees_every_mandate:
        query = query.where(mandates.c.id.in_(viewer.roles))
    if search is not None:
        query = query.where(contains(pattern_of(search), mandates.c.id, mandates.c.name))
    keyset = Keyset(
        (mandates.c.created_at, mandates.c.id), descending=True, binding=("mandates", search)
    )

    async def read(connection: AsyncConnection) -> Page:
        return await fetch_page(database, connection, query, keyset, page)

    return await database.reader.consult(read)


async def upsert_mandate(
    database: Database, viewer: Viewer, mandate_id: str, changes: Mapping[str, Any]
) -> str:
    """Creates a mandate (CHF, UTC) or changes name, currency or time_zone; returns its id.

    Currency and time zone are fixed once an account exists.
    """
    viewer.require_sys_admin()
    check_name(mandate_id, "id")
    refuse_null(changes, mandates)
    check_text(changes.get("name"), "name", most=200)
    if "currency" in changes:
        check_currency(changes["currency"])
    if "time_zone" in changes:
        check_time_zone(changes["time_zone"])

    async def unit(connection: AsyncConnection) -> None:
        now = datetime.now(UTC)
        terms = await find_and_lock_settings(connection, mandate_id, change=True)
        if terms is None:
            created = {**NEW_MANDATE, **changes}
            await connection.execute(
                insert(mandates).values(id=mandate_id, created_at=now, **created)
            )
            await connection.execute(insert(settings).values(no_settings_yet(mandate_id, now)))
            before, after = None, created
        else:
            row = (await mandates_by_id(connection, [mandate_id]))[0]
            before, after = difference(row, changes)
            if not after:
                return
            fixed = next((name for name in ("currency", "time_zone") if name in after), None)
            if fixed and await _has_account(connection, mandate_id):
                raise invalid(f"{fixed} is fixed once the mandate has an account.", fixed)
            await connection.execute(
                update(mandates).where(mandates.c.id == mandate_id).values(**after)
            )
        await write_audit_event(
            connection,
            viewer,
            now,
            "mandate.updated" if before else "mandate.created",
            f"mandate:{mandate_id}",
            mandate_id=mandate_id,
            before=before,
            after=after,
        )

    await database.write(unit)
    return mandate_id


async def set_time_zone(
    database: Database,
    viewer: Viewer,
    mandate_id: str,
    time_zone: str,
    advance: Callable[[float], object],
) -> None:
    """Changes a mandate's time zone at any time and counts its usage anew by the days of that zone.

    The mandate's spends wait meanwhile. `advance` is told how much is done, up to 1.
    """
    viewer.require_sys_admin(mandate_id)
    check_time_zone(time_zone)

    async def unit(connection: AsyncConnection) -> None:
        before = (await lock_settings(connection, mandate_id, change=True)).time_zone
        if before == time_zone:
            return
        await connection.execute(
            update(mandates).where(mandates.c.id == mandate_id).values(time_zone=time_zone)
        )
        terms = await read_terms(connection, mandate_id)
        day: date | None = date.min
        while day is not None:
            day, done = await rebuild_next_week(connection, terms, day)
            advance(done)
        await write_audit_event(
            connection,
            viewer,
            datetime.now(UTC),
            "mandate.updated",
            f"mandate:{mandate_id}",
            mandate_id=mandate_id,
            before={"time_zone": before},
            after={"time_zone": time_zone},
        )

    await database.write(unit)


async def _has_account(connection: AsyncConnection, mandate_id: str) -> bool:
    found = await connection.execute(
        select(accounts.c.id).where(accounts.c.mandate_id == mandate_id).limit(1)
    )
    return found.first() is not None


def check_currency(code: str) -> None:
    if code not in _currencies():
        raise invalid("currency must be an ISO 4217 code, such as CHF.", "currency")


def check_time_zone(name: str) -> None:
    if name not in time_zones():
        raise invalid("time_zone must be an IANA name, such as Europe/Zurich.", "time_zone")


@cache
def time_zones() -> frozenset[str]:
    """Every IANA name this machine knows of a place or an offset."""
    return frozenset(available_timezones() - {"Factory", "localtime"})


@cache
def _currencies() -> frozenset[str]:
    return frozenset(currency.alpha_3 for currency in pycountry.currencies)
