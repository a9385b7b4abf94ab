"""Rate limits counted in Redis: one count for several processes, and what holds while Redis is away."""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from app import rate_limit
from app.billing.errors import RateLimited
from app.billing.viewer import Viewer
from app.config import Settings
from app.database import Database
from app.rate_limit import RateLimiter
from tests.api import serving
from tests.redis_server import RedisServer, redis_running
from tests.servers import balance_of, connected, inhabited, running
from tests.world import add_mandate

pytestmark = pytest.mark.anyio
on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

ALICE = Viewer("alice")
LIMIT = 5


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with redis_running() as server:
        yield server


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine must not look like an outage."""
    monkeypatch.setattr(rate_limit, "REDIS_SECONDS", 30)


@pytest.fixture
def brief_pause(monkeypatch: pytest.MonkeyPatch) -> float:
    """How long Redis is left alone, in these tests."""
    monkeypatch.setattr(rate_limit, "PAUSE_SECONDS", 0.3)
    return 0.3


@asynccontextmanager
async def limiting(redis: RedisServer) -> AsyncIterator[RateLimiter]:
    async with RateLimiter(Settings(redis_url=redis.url, rate_limit_balance=LIMIT)) as limiter:
        yield limiter


async def passed(limiter: RateLimiter, calls: int, viewer: Viewer = ALICE) -> int:
    """How many of so many calls pass."""
    count = 0
    for _ in range(calls):
        try:
            await limiter.admit(viewer, "balance", is_write=False)
            count += 1
        except RateLimited:
            pass
    return count


def clients(redis: RedisServer) -> int:
    """Connections, the one that asks left out."""
    return redis.ask("CLIENT LIST").count("addr=127.0.0.1") // 2 - 1


def figure(redis: RedisServer, name: str) -> int:
    lines = redis.ask("INFO stats").splitlines()
    [line] = [line for line in lines if line.startswith(f"{name}:")]
    return int(line.split(":")[1])


@on_sqlite
async def test_two_processes_share_one_count(database_url: str, redis: RedisServer) -> None:
    settings: dict[str, Any] = {
        "BILLING_RATE_LIMITS": "on",
        "BILLING_REDIS_URL": redis.url,
        "BILLING_RATE_LIMIT_BALANCE": "30",
    }
    patient = "from app import rate_limit; rate_limit.REDIS_SECONDS = 30"
    async with inhabited(database_url) as database:
        await add_mandate(database)
    with running(database_url, processes=2, before=patient, **settings) as processes:
        async with connected(processes, database_url) as servers:
            answers = await asyncio.gather(
                *(servers.post(balance_of("acme", "alice"), place) for place in range(40))
            )
            codes = Counter(
                error["extensions"]["code"]
                for answer in answers
                for error in answer.json().get("errors", ())
            )
            assert codes == {"RATE_LIMITED": 10}
            for place in range(2):
                late = await servers.post(balance_of("acme", "alice"), place)
                assert 0 < late.json()["errors"][0]["extensions"]["retryAfter"] <= 60


async def test_a_limit_outlives_a_process(redis: RedisServer) -> None:
    async with limiting(redis) as limiter:
        assert await passed(limiter, 3) == 3
    async with limiting(redis) as limiter:
        assert await passed(limiter, 3) == LIMIT - 3


async def test_the_connections_are_closed_at_the_end(redis: RedisServer) -> None:
    async with limiting(redis) as limiter:
        await asyncio.gather(*(passed(limiter, 1) for _ in range(100)))
        assert 0 < clients(redis) <= 20
    assert clients(redis) == 0


async def test_a_limit_holds_while_redis_is_away(
    redis: RedisServer, brief_pause: float, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "billing")
    async with limiting(redis) as limiter:
        assert await passed(limiter, 2) == 2
        for _ in range(2):
            await limiter._memory.reset()  # which counts along
            caplog.clear()
            redis.kill()
            assert await passed(limiter, 2) == 2
            await asyncio.sleep(brief_pause)  # and is tried again
            assert await passed(limiter, 20) == LIMIT - 2
            assert len(await limiter.allowances(ALICE, [("balance", False)])) == 1
            assert [record.levelname for record in caplog.records] == ["WARNING"]
            assert "each process counts rate limits for itself" in caplog.text
            assert "127.0.0.1" not in caplog.text
            redis.start()
            caplog.clear()
            await asyncio.sleep(brief_pause)
            bob = Viewer("bob")
            assert await passed(limiter, 20, bob) == LIMIT
            assert redis.ask("DBSIZE") == ":1"
            assert [record.getMessage() for record in caplog.records] == [
                "Redis is back: rate limits are counted for all processes"
            ]


async def test_a_redis_that_hangs_delays_calls_once(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(rate_limit, "PAUSE_SECONDS", 1.0)
    async with limiting(redis) as limiter:
        assert await passed(limiter, 1) == 1
        redis.pause()
        try:
            monkeypatch.setattr(rate_limit, "REDIS_SECONDS", 0.5)
            begun = time.monotonic()
            await asyncio.gather(*(passed(limiter, 1) for _ in range(50)))
            first = time.monotonic() - begun
            assert await passed(limiter, 50) == 0
            assert 0.5 <= first < 2  # not 50 times as long
            assert time.monotonic() - begun - first < 0.5
        finally:
            redis.resume()
        monkeypatch.setattr(rate_limit, "REDIS_SECONDS", 30)
        assert len(caplog.records) == 1
        await asyncio.sleep(1)
        assert await passed(limiter, 20, Viewer("bob")) == LIMIT
        assert redis.ask("EXISTS billing:LIMITER/balance/bob/5/1/minute") == ":1"


async def test_only_one_call_tries_again(
    redis: RedisServer, brief_pause: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rate_limit, "REDIS_SECONDS", 0.6)
    async with limiting(redis) as limiter:
        redis.pause()
        try:
            assert await passed(limiter, 1) == 1
            await asyncio.sleep(brief_pause)
            trial = asyncio.create_task(passed(limiter, 1))
            await asyncio.sleep(0)
            begun = time.monotonic()
            await passed(limiter, 20)
            assert time.monotonic() - begun < rate_limit.REDIS_SECONDS
            assert not trial.done()
            await trial
        finally:
            redis.resume()


@on_sqlite
async def test_the_service_starts_without_redis(
    database: Database, database_url: str, redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    redis.kill()
    async with inhabited(database_url):
        pass
    settings = Settings(database_url=database_url, redis_url=redis.url, rate_limit_reads=2)
    async with serving(settings) as api:
        for _ in range(2):
            assert (await api("root", "{ viewer { isSysAdmin } }")).errors == []
        assert (await api("root", "{ viewer { isSysAdmin } }")).codes == ["RATE_LIMITED"]
        left = await api.read("root", "{ rateLimit { field remaining } }")
        assert {"field": "viewer", "remaining": 0} in left
    assert [record.name for record in caplog.records if record.name.startswith("billing")] == [
        "billing.rate_limit"
    ]


async def test_a_redis_that_refuses_is_away(
    redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    assert redis.ask("CONFIG SET requirepass hunter2") == "+OK"
    url = redis.url.replace("redis://", "redis://:hunter3@")
    async with RateLimiter(Settings(redis_url=url, rate_limit_balance=LIMIT)) as limiter:
        assert await passed(limiter, 20) == LIMIT
    assert "AuthenticationError" in caplog.text
    assert "hunter" not in caplog.text
    url = redis.url.replace("redis://", "redis://:hunter2@")
    async with RateLimiter(Settings(redis_url=url, rate_limit_balance=LIMIT)) as limiter:
        assert await passed(limiter, 20) == LIMIT
        assert not limiter._is_lost


async def test_a_process_that_was_busy_does_not_take_redis_for_lost(
    redis: RedisServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who can keep it busy could else double what everybody may ask."""
    monkeypatch.setattr(rate_limit, "REDIS_SECONDS", 0.25)
    caplog.set_level(logging.INFO, "billing")
    async with limiting(redis) as limiter:
        asked = asyncio.create_task(passed(limiter, LIMIT + 2))
        await asyncio.sleep(0)
        time.sleep(rate_limit.REDIS_SECONDS * 2)  # noqa: ASYNC251  (that is the busy process)
        assert await asked == LIMIT
    assert caplog.messages == []


async def test_what_was_asked_before_counts_while_redis_is_away(
    redis: RedisServer, brief_pause: float
) -> None:
    async with limiting(redis) as limiter:
        assert await passed(limiter, 3) == 3
        redis.kill()
        assert await passed(limiter, 9) == LIMIT - 3
