"""The rows of the outbox: which is next, who may send it, and when it is gone."""

from datetime import timedelta

import pytest

from app.billing import outbox
from app.database import Database
from tests.outbox import ALERT, EMAIL, WEBHOOK, make_due, put, waiting
from tests.world import add_mandate

pytestmark = pytest.mark.anyio

CLAIM = timedelta(minutes=1)


async def test_the_longest_due_comes_first_on_its_channel_alone(database: Database) -> None:
    await add_mandate(database)
    assert await outbox.next_due(database, EMAIL) is None
    newer = await put(database, age=timedelta(seconds=5))
    older = await put(database, age=timedelta(seconds=10))
    await put(database, WEBHOOK, age=timedelta(seconds=20))
    await put(database, age=timedelta(seconds=-60))
    for expected in (older, newer):
        notice = await outbox.next_due(database, EMAIL)
        assert (notice.id, notice.data) == (expected, ALERT)
        await outbox.delivered(database, notice)
    assert await outbox.next_due(database, EMAIL) is None
    assert len(await waiting(database)) == 2


async def test_a_notice_is_claimed_by_one(database: Database) -> None:
    await add_mandate(database)
    await put(database)
    one, other = [await outbox.next_due(database, EMAIL) for _ in range(2)]
    assert await outbox.claim(database, one, CLAIM)
    assert not await outbox.claim(database, other, CLAIM)
    assert not await outbox.claim(database, one, CLAIM)
    [row] = await waiting(database)
    assert (row.attempts, row.due_at) == (1, one.now + CLAIM)
    assert await outbox.next_due(database, EMAIL) is None


async def test_what_a_dead_process_has_claimed_is_due_again(database: Database) -> None:
    await add_mandate(database)
    await put(database)
    dead = await outbox.next_due(database, EMAIL)
    assert await outbox.claim(database, dead, CLAIM)
    await make_due(database)
    alive = await outbox.next_due(database, EMAIL)
    assert not await outbox.claim(database, dead, CLAIM)
    assert await outbox.claim(database, alive, CLAIM)
    before = await waiting(database)
    await outbox.failed(database, dead, "it was not dead at all", timedelta(0))
    assert await waiting(database) == before
    await outbox.delivered(database, alive)
    assert await waiting(database) == []


async def test_a_failure_is_put_off(database: Database) -> None:
    await add_mandate(database)
    await put(database)
    notice = await outbox.next_due(database, EMAIL)
    await outbox.claim(database, notice, CLAIM)
    hour = timedelta(hours=1)
    await outbox.failed(database, notice, "a\0\ud800\n" + "b" * 1000, hour)
    [row] = await waiting(database)
    assert hour <= row.due_at - notice.now < hour + CLAIM
    assert row.last_error == ("a " + "b" * 1000)[: outbox.MAX_ERROR]


async def test_old_webhooks_are_dropped_and_mail_never(database: Database) -> None:
    await add_mandate(database)
    old, young = (outbox.MAX_WEBHOOK_AGE + timedelta(minutes=sign) for sign in (1, -1))
    kept = {
        await put(database, WEBHOOK, age=young),
        await put(database, age=old),
        await put(database, age=young),
    }
    for _ in range(2):
        await put(database, WEBHOOK, age=old)
    assert await outbox.drop_old_webhooks(database) == 2
    assert await outbox.drop_old_webhooks(database) == 0
    assert {row.id for row in await waiting(database)} == kept
