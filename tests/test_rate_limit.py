"""Rate limits: what counts as a call, who has which count, and that no more than the limit ever passes."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from app import rate_limit
from app.billing.errors import RateLimited
from app.billing.viewer import Viewer
from app.config import Settings
from app.database import Database
from app.rate_limit import RateLimiter
from tests.api import Answer, Api, add_people, serving
from tests.operations import MUTATIONS, QUERIES
from tests.redis_server import RedisServer, redis_running
from tests.servers import ADD_CREDIT, RECORD_USAGE
from tests.world import MANDATE, dump, fresh

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.parametrize("database_url", ["sqlite"], indirect=True),
]
on_both = pytest.mark.parametrize("redis_url", ["memory", "redis"], indirect=True)

ALICE = Viewer("alice")
ROOT = Viewer("root", is_sys_admin=True)
GATEWAY = Viewer("gateway", is_service=True)
SPENDS = {"recordUsage", "createHold", "settleHold", "releaseHold", "spendCheck"}
PROVIDERS = f'providers(mandateId: "{MANDATE}")'
BALANCE = f'balance(mandateId: "{MANDATE}") {{ balance }}'
LEFT = "{ rateLimit { field limit remaining resetsAt } }"


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with redis_running() as server:
        yield server


@pytest.fixture
def redis_url(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str | None:
    """None where calls are counted in memory."""
    if request.param == "memory":
        return None
    # A busy machine must not look like an outage.
    monkeypatch.setattr(rate_limit, "REDIS_SECONDS", 30)
    server: RedisServer = request.getfixturevalue("redis")
    server.forget()
    return server.url


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> "Clock":
    clock = Clock()
    monkeypatch.setattr(time, "time", lambda: clock.now)
    return clock


class Clock:
    def __init__(self) -> None:
        self.now = time.time()


async def passes(limiter: RateLimiter, field: str = "balance", viewer: Viewer = ALICE) -> bool:
    return await wait(limiter, field, viewer) == 0


async def wait(limiter: RateLimiter, field: str = "balance", viewer: Viewer = ALICE) -> int:
    """Seconds until a refused call may be made again; 0 for one that passes."""
    try:
        await limiter.admit(viewer, field, is_write=field in MUTATIONS)
    except RateLimited as error:
        assert error.retry_after > 0
        return error.retry_after
    return 0


@asynccontextmanager
async def limited(database: Database, database_url: str, **settings: Any) -> AsyncIterator[Api]:
    """The server with its rate limits, and the people who ask it."""
    await add_people(database)
    async with serving(Settings(database_url=database_url, **settings)) as api:
        yield api


def remaining(answer: Answer) -> dict[str, int]:
    assert answer.errors == []
    return {one["field"]: one["remaining"] for one in answer.data["rateLimit"]}


async def test_every_root_field_has_the_limit_of_its_kind(
    database: Database, database_url: str
) -> None:
    fields = (
        dict.fromkeys(QUERIES, 30) | {"balance": 60, "providers": 60} | dict.fromkeys(MUTATIONS, 10)
    )
    fields.pop("rateLimit")
    of_services = {name: limit for name, limit in fields.items() if name not in SPENDS}
    async with limited(database, database_url) as api:
        for user_id, expected in (("alice", fields), ("root", fields), ("gateway", of_services)):
            found = await api.read(user_id, LEFT)
            assert {one["field"]: one["limit"] for one in found} == expected
            assert {one["field"]: one["remaining"] for one in found} == expected


async def test_each_number_is_a_setting(database: Database, database_url: str) -> None:
    settings: dict[str, Any] = {
        "rate_limit_balance": 1,
        "rate_limit_reads": 2,
        "rate_limit_writes": 0,
        "rate_limit_spends": 4,
    }
    async with limited(database, database_url, **settings) as api:
        found = {one["field"]: one["limit"] for one in await api.read("gateway", LEFT)}
    reads = dict.fromkeys(QUERIES.keys() - {"rateLimit"}, 2) | {"balance": 1, "providers": 1}
    assert found == reads | dict.fromkeys(SPENDS, 4)


async def test_no_limits(database: Database, database_url: str) -> None:
    async with limited(database, database_url, rate_limits=False, rate_limit_balance=1) as api:
        assert await api.read("alice", LEFT) == []
        answer = await api("alice", f"{{ a: {BALANCE} b: {BALANCE} }}")
        assert answer.errors == []


@on_both
async def test_each_alias_is_a_call_and_one_too_many_is_refused_alone(
    database: Database, database_url: str, redis_url: str | None
) -> None:
    async with limited(database, database_url, redis_url=redis_url, rate_limit_balance=2) as api:
        answer = await api("alice", f"{{ a: {BALANCE} {PROVIDERS} b: {BALANCE} c: {BALANCE} }}")
        [error] = answer.errors
        [refused] = error["path"]
        assert [name for name in answer.data if not answer.data[name]] == [refused]
        assert refused in ("a", "b", "c")
        seconds = error["extensions"].pop("retryAfter")
        assert error["extensions"] == {"code": "RATE_LIMITED"}
        assert seconds in (59, 60)
        assert (answer.status, answer.headers["Retry-After"]) == (200, str(seconds))
        assert error["message"] == (
            f"You may ask for balance 2 times a minute: try again in {seconds} s."
        )
        assert (await api("ada", f"{{ {BALANCE} }}")).errors == []
        alone = await api("alice", f"{{ {BALANCE} }}")
        assert (alone.status, alone.codes) == (429, ["RATE_LIMITED"])
        assert int(alone.headers["Retry-After"]) in (59, 60)
        left = remaining(await api("alice", LEFT))
        assert (left["balance"], left["providers"], left["balances"]) == (0, 1, 30)


async def test_what_is_not_resolved_is_not_counted(database: Database, database_url: str) -> None:
    async with limited(database, database_url, rate_limit_balance=5) as api:
        for query, codes in (
            (f"{{ {BALANCE} {PROVIDERS} @skip(if: true) }}", []),
            (f"{{ {BALANCE} {PROVIDERS} @include(if: false) }}", []),
            (f"{{ {PROVIDERS} nonsense }}", ["BAD_USER_INPUT"]),
            (f"{{ a: {PROVIDERS} a: {PROVIDERS} }}", []),  # one field of the answer
        ):
            assert (await api("alice", query)).codes == codes
        assert remaining(await api("alice", LEFT))["providers"] == 4
        assert (await api(None, f"{{ {PROVIDERS} }}")).codes == ["UNAUTHENTICATED"]
        assert (await api(None, LEFT)).codes == ["UNAUTHENTICATED"]


async def test_a_refused_change_is_not_made(database: Database, database_url: str) -> None:
    def credit() -> dict[str, Any]:
        given = {"mandateId": MANDATE, "userId": "alice", "amount": "1"}
        return given | {"idempotencyKey": fresh()}

    async with limited(database, database_url, rate_limit_writes=1) as api:
        for _ in range(2):  # what the domain refuses is a call, too
            before = await dump(database)
            answer = await api("root", ADD_CREDIT, input=credit())
        assert answer.codes == ["RATE_LIMITED"]
        assert answer.data is None
        assert await dump(database) == before


async def test_services_spend_without_a_limit_and_nobody_else(
    database: Database, database_url: str
) -> None:
    event = {"mandateId": MANDATE, "userId": "alice", "amount": "1"}
    async with limited(database, database_url, rate_limit_writes=1, rate_limit_reads=1) as api:

        async def record(user_id: str) -> list[str]:
            batch = {"events": [event | {"idempotencyKey": fresh()}]}
            return (await api(user_id, RECORD_USAGE, input=batch)).codes

        check = (
            f'{{ spendCheck(mandateId: "{MANDATE}", userId: "alice", amount: "1") {{ allowed }} }}'
        )
        for _ in range(3):
            assert await record("gateway") == []
            assert (await api("gateway", check)).codes == []
        assert [await record("root") for _ in range(2)] == [[], ["RATE_LIMITED"]]
        assert [(await api("root", check)).codes for _ in range(2)] == [[], ["RATE_LIMITED"]]


@on_both
async def test_what_is_left(database: Database, database_url: str, redis_url: str | None) -> None:
    async with limited(database, database_url, redis_url=redis_url, rate_limit_balance=3) as api:
        begun = datetime.now(UTC)
        await api.read("alice", f"{{ a: {BALANCE} b: {BALANCE} }}")
        ended = datetime.now(UTC)
        for _ in range(5):  # which counts for nothing
            found = {one.pop("field"): one for one in await api.read("alice", LEFT)}
        minute, rounded = timedelta(minutes=1), timedelta(milliseconds=1)
        resets_at = datetime.fromisoformat(found["balance"].pop("resetsAt"))
        assert begun + minute - rounded <= resets_at <= ended + minute + rounded
        assert found["balance"] == {"limit": 3, "remaining": 1}
        untouched = datetime.fromisoformat(found["providers"].pop("resetsAt"))
        assert ended - rounded <= untouched <= datetime.now(UTC)
        assert found["providers"] == {"limit": 3, "remaining": 3}


@on_both
async def test_of_many_at_once_exactly_the_limit_passes(
    database: Database, database_url: str, redis_url: str | None, clock: Clock
) -> None:
    many = " ".join(f"p{place}: {PROVIDERS}" for place in range(20))
    async with limited(database, database_url, redis_url=redis_url, rate_limit_balance=50) as api:
        answers = await asyncio.gather(*(api("alice", f"{{ {many} }}") for _ in range(5)))
    codes = [code for answer in answers for code in answer.codes]
    assert codes == ["RATE_LIMITED"] * 50
    assert sum(bool(value) for answer in answers for value in answer.data.values()) == 50


@on_both
async def test_the_window_moves(redis_url: str | None, clock: Clock, database_url: str) -> None:
    """Never more than the limit in any minute, and the wait told is the wait there is."""
    async with RateLimiter(Settings(redis_url=redis_url, rate_limit_balance=3)) as limiter:
        begun = clock.now
        for second in (0, 50, 55.5):
            clock.now = begun + second
            assert await passes(limiter)
        assert await wait(limiter) == 5  # 4.5 s, in whole seconds
        for second in (58, 59, 59.9):  # each refused, none of them counted
            clock.now = begun + second
            assert not await passes(limiter)
        clock.now = begun + 60.01
        assert await passes(limiter)
        assert await wait(limiter) == 50
        clock.now += 49
        assert not await passes(limiter)
        clock.now += 1
        assert await passes(limiter)
        assert not await passes(limiter)


@on_both
async def test_each_viewer_and_field_has_a_count_of_its_own(
    redis_url: str | None, clock: Clock, database_url: str
) -> None:
    async with RateLimiter(Settings(redis_url=redis_url, rate_limit_balance=1)) as limiter:
        for user_id in ("alice", "Alice", "a/b", "a", "b", "alice/1", "*", "\N{SNOWMAN}", "a b"):
            for field in ("balance", "providers"):
                assert await passes(limiter, field, Viewer(user_id))
                assert not await passes(limiter, field, Viewer(user_id))


async def test_memory_gives_back_what_has_expired(
    clock: Clock, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rate_limit, "SWEEP_SECONDS", 0.01)
    async with RateLimiter(Settings(rate_limit_balance=100)) as limiter:
        memory = limiter._memory
        for place in range(1000):
            assert await passes(limiter, viewer=Viewer(f"user-{place}"))
        clock.now += 40
        await asyncio.sleep(0.1)
        assert len(memory.events) == 1000
        assert await passes(limiter)
        clock.now += 21
        await asyncio.sleep(0.1)
        assert (len(memory.events), len(memory.locks)) == (1, 1)
        for _ in range(5):
            assert await passes(limiter)
            clock.now += 70
            await asyncio.sleep(0.05)
        assert (len(memory.events), len(memory.locks)) == (0, 0)


async def test_the_storage_does_not_sweep_after_every_call(database_url: str) -> None:
    """It would visit each of its keys in a thread: with 10,000 that is a processor's whole time."""
    async with RateLimiter(Settings()) as limiter:
        for place in range(2000):
            await limiter.admit(Viewer(f"user-{place}"), "balance", is_write=False)
        used = time.process_time()
        for _ in range(20):
            await limiter.admit(ALICE, "balance", is_write=False)
            await asyncio.sleep(0.01)
        assert time.process_time() - used < 0.1
