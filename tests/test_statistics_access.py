"""Who sees which usage, and what is refused."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, cast

import pytest

from app.billing.errors import BadInput
from app.billing.statistics import UsageDimension
from app.billing.viewer import OPERATOR, Viewer
from app.database import Database
from tests.statistics import DAY, MONTH, READERS, YEAR, ask, both, find, total, use_some, write
from tests.world import (
    ADMIN,
    GATEWAY,
    MEMBER,
    OTHER_MANDATE,
    STRANGER,
    SYSADMIN,
    add_mandate,
    dump,
    usage_event,
)

pytestmark = pytest.mark.anyio

PROVIDER, USER = UsageDimension.PROVIDER, UsageDimension.USER


@pytest.fixture
async def used_world(database: Database) -> Database:
    await use_some(database)
    return database


@both
@pytest.mark.parametrize("viewer", [ADMIN, GATEWAY, SYSADMIN, OPERATOR])
async def test_all_of_the_mandate(
    used_world: Database, viewer: Viewer, reader: dict[str, Any]
) -> None:
    assert await total(used_world, DAY, 2026, 3, viewer=viewer, **reader) == (
        Decimal("6.200000001"),
        3,
    )
    assert await total(used_world, DAY, 2026, 3, viewer=viewer, user_id="bob", **reader) == (5, 1)


@both
async def test_member_sees_own_usage(used_world: Database, reader: dict[str, Any]) -> None:
    view = await find(used_world, DAY, 2026, 3, viewer=MEMBER, **reader)
    assert await view.total_cost() == Decimal("1.200000001")
    assert [part.key for part in await view.cost_by(USER)] == ["alice"]
    assert None not in [part.key for part in await view.cost_by(PROVIDER)]
    assert sum(part.cost for part in await view.buckets()) == Decimal("1.200000001")


@both
async def test_member_finds_nothing_of_another(
    used_world: Database, reader: dict[str, Any]
) -> None:
    for user_id in ("bob", "nobody", "", "x" * 100_000, "\0"):
        asked = {"viewer": MEMBER, "user_id": user_id, **reader}
        assert await total(used_world, DAY, 2026, 3, **asked) == (0, 0)
    assert await total(used_world, DAY, 2026, 3, viewer=MEMBER, workflow_id="flow") == (
        Decimal("1.000000001"),
        1,
    )


async def test_absent_and_foreign_are_alike(used_world: Database) -> None:
    await add_mandate(used_world, OTHER_MANDATE, users=("sven",))
    for zone in (None, "UTC"):
        assert await ask(used_world, DAY, 2026, 3, viewer=STRANGER, time_zone=zone) is None
        for mandate_id in ("absent", "", "\0", "x" * 100_000):
            for viewer in (STRANGER, SYSADMIN):
                asked: dict[str, Any] = {
                    "viewer": viewer,
                    "mandate_id": mandate_id,
                    "time_zone": zone,
                }
                assert await ask(used_world, DAY, 2026, 3, **asked) is None
    # A refusal that only a mandate's own zone explains must not tell that there is one.
    assert await ask(used_world, YEAR, 2026, viewer=STRANGER, time_zone="UTC") is None


async def test_mandates_are_apart(used_world: Database) -> None:
    await add_mandate(used_world, OTHER_MANDATE, users=("alice",), time_zone="Europe/Zurich")
    moment = datetime(2026, 3, 10, 12, tzinfo=UTC)
    await write(used_world, usage_event(7, mandate_id=OTHER_MANDATE, occurred_at=moment))
    for reader in READERS:
        asked = {"mandate_id": OTHER_MANDATE, **reader}
        assert await total(used_world, DAY, 2026, 3, **asked) == (7, 1)
        assert await total(used_world, DAY, 2026, 3, **reader) == (Decimal("6.200000001"), 3)


@both
@pytest.mark.parametrize(
    ("wanted", "cost"),
    [
        ({"aicore_provider": "azure"}, "0.2"),
        ({"aicore_provider": "Azure"}, "0"),
        ({"aicore_model": "gpt"}, "1.200000001"),
        ({"feature_code": "chat", "aicore_provider": "openai"}, "1.000000001"),
        ({"workflow_id": "flow"}, "1.000000001"),
        ({"workflow_id": "flow", "user_id": "bob"}, "0"),
        ({"aicore_provider": "' OR ''='"}, "0"),
    ],
)
async def test_filters(
    used_world: Database, wanted: dict[str, Any], cost: str, reader: dict[str, Any]
) -> None:
    assert (await total(used_world, DAY, 2026, 3, **reader, **wanted))[0] == Decimal(cost)


async def test_workflow_has_no_cap(used_world: Database) -> None:
    for zone in (None, "Europe/Zurich", "Asia/Kathmandu"):
        for period in (MONTH, YEAR):
            asked = {"time_zone": zone, "workflow_id": "flow"}
            assert (await total(used_world, period, 2026, **asked))[1] == 1


async def test_other_zones_have_a_cap(used_world: Database) -> None:
    before = await dump(used_world)
    for period in (MONTH, YEAR):
        with pytest.raises(BadInput, match=r"timeZone.*Europe/Zurich.*at most 93 days"):
            await ask(used_world, period, 2026, time_zone="UTC")
        assert (await total(used_world, period, 2026, time_zone="Europe/Zurich"))[1] == 3
    assert await dump(used_world) == before


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ((DAY, 2026, None), "month is required"),
        ((DAY, 2026, 0), "month must"),
        ((DAY, 2026, 13), "month must"),
        ((DAY, 2026, -1), "month must"),
        ((MONTH, 2026, 3), "month must be left out with period MONTH"),
        ((YEAR, 2026, 12), "month must be left out with period YEAR"),
        ((YEAR, 0, None), "year must"),
        ((YEAR, -1, None), "year must"),
        ((YEAR, 1969, None), "year must"),
        ((YEAR, 9999, None), "year must"),
        ((MONTH, 10000, None), "year must"),
        ((DAY, 2**31 - 1, 1), "year must"),
    ],
)
async def test_bad_range(database: Database, asked: tuple[Any, ...], name: str) -> None:
    await add_mandate(database)
    for viewer in (SYSADMIN, STRANGER):
        with pytest.raises(BadInput, match=f"^{name}"):
            await ask(database, *asked, viewer=viewer)


@pytest.mark.parametrize(
    "zone",
    ["", "Mars/Olympus", "europe/zurich", "../etc/passwd", "/etc/localtime", "\0", "x" * 9999],
)
async def test_unknown_time_zone(database: Database, zone: str) -> None:
    await add_mandate(database)
    with pytest.raises(BadInput, match=r"^timeZone must be an IANA name"):
        await ask(database, DAY, 2026, 3, time_zone=zone)


@pytest.mark.parametrize("value", ["", "x" * 129, "x" * 100_000, "a\0b"])
@pytest.mark.parametrize(
    ("field", "name"),
    [
        ("aicore_provider", "aicoreProvider"),
        ("aicore_model", "aicoreModel"),
        ("feature_code", "featureCode"),
        ("workflow_id", "workflowId"),
    ],
)
async def test_impossible_name(database: Database, field: str, name: str, value: str) -> None:
    await add_mandate(database)
    with pytest.raises(BadInput, match=rf"^filter\.{name} must"):
        await ask(database, DAY, 2026, 3, **cast("Any", {field: value}))
