"""Streams of balances and transactions: what they show, to whom, and when they end."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pytest
from sqlalchemy import event, insert
from sqlalchemy.ext.asyncio import AsyncConnection

from app import feed, postgresql
from app.billing import changes
from app.billing.accounts import update_account
from app.billing.changes import added_transactions, balance_changes
from app.billing.directory import remove_membership
from app.billing.enums import MembershipRole, UserKind
from app.billing.errors import BadInput, Forbidden, Unauthenticated, Unavailable
from app.billing.models import accounts, mandates, transactions
from app.billing.viewer import OPERATOR, load_viewer
from app.database import Database
from schema import schema
from schema.context import Context
from tests.api import NO_LIMITS
from tests.world import (
    CREDIT_POSTPAY,
    MANDATE,
    OTHER_MANDATE,
    PREPAY_MANDATE,
    PREPAY_USER,
    PROVIDERS,
    SYSADMIN,
    add_mandate,
    add_member,
    add_user,
    change_settings,
    credit,
    expire,
    hold,
    read_rows,
    record,
    release,
    reverse,
    settle,
    spend,
    transfer,
    usage_event,
)

pytestmark = pytest.mark.anyio

SECONDS = 5


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Streams look as soon as they hear something, and only then."""
    monkeypatch.setattr(changes, "PACE_SECONDS", 0.01)
    monkeypatch.setattr(changes, "LOOK_SECONDS", 60)


@pytest.fixture
async def listening(database: Database) -> AsyncIterator[Database]:
    async with database.hearing():
        assert await database.feed.is_hearing(SECONDS)
        yield database


class Stream:
    """What somebody sees of a stream."""

    def __init__(self, source: Any) -> None:
        self._source = source

    async def next(self) -> Any:
        async with asyncio.timeout(SECONDS):
            return await anext(self._source)

    async def is_over(self) -> bool:
        async with asyncio.timeout(SECONDS):
            return await anext(self._source, "over") == "over"

    async def is_silent(self) -> bool:
        """It may not be asked again."""
        pending = asyncio.ensure_future(anext(self._source, None))
        done, _ = await asyncio.wait([pending], timeout=0.4)
        pending.cancel()
        await asyncio.gather(pending, return_exceptions=True)
        return not done


@asynccontextmanager
async def balance(
    database: Database, who: str, user_id: str | None = None, mandate_id: str = MANDATE
) -> AsyncIterator[Stream]:
    look = partial(load_viewer, database, who)
    async with aclosing(balance_changes(database, look, mandate_id, user_id)) as source:
        yield Stream(source)


@asynccontextmanager
async def added(database: Database, who: str, mandate_id: str = MANDATE) -> AsyncIterator[Stream]:
    """A stream that has begun: nothing older is still to be told."""
    with database.feed.watch("all before", who) as watch:
        database.feed.tell([feed.Word("all before")])
        await watch.wait(SECONDS if await database.feed.is_hearing(0) else 0)
    looked = asyncio.Event()

    async def look() -> Any:
        try:
            return await load_viewer(database, who)
        finally:
            looked.set()  # and in the same step it watches

    source = added_transactions(database, look, mandate_id)
    queue: asyncio.Queue[Any] = asyncio.Queue()

    async def read() -> None:
        try:
            async with aclosing(source):
                async for row in source:
                    queue.put_nowait(row)
        except Exception as error:
            queue.put_nowait(error)
        else:
            queue.put_nowait(StopAsyncIteration())

    task = asyncio.create_task(read())
    async with asyncio.timeout(SECONDS):
        await looked.wait()
    try:
        yield Stream(_items(queue))
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _items(queue: asyncio.Queue[Any]) -> AsyncIterator[Any]:
    while not isinstance(item := await queue.get(), StopAsyncIteration):
        if isinstance(item, Exception):
            raise item
        yield item


@pytest.fixture
async def acme(listening: Database) -> Database:
    """MANDATE under PREPAY_USER with alice and bob as members, ada as its admin, and root."""
    await add_user(listening, "root", is_sys_admin=True)
    await add_user(listening, "gateway", kind=UserKind.SERVICE)
    await add_mandate(listening, model=PREPAY_USER, users=("alice", "bob"), default_user_credit=0)
    await add_member(listening, "ada", role=MembershipRole.ADMIN)
    await add_mandate(listening, OTHER_MANDATE, users=("sven",))
    return listening


def test_what_can_be_watched_is_tested_here() -> None:
    root = schema._schema.subscription_type
    assert root and set(root.fields) == {"balanceChanged", "transactionAdded"}


async def test_a_balance_is_told_at_once_and_when_it_changes(acme: Database) -> None:
    async with balance(acme, "alice") as stream:
        assert (await stream.next()).balance == 0
        await credit(acme, 100, "alice")
        assert (await stream.next()).balance == 100
        await record(acme, spend(30, user_id="alice"))
        assert (await stream.next()).balance == 70
        made = await hold(acme, 50, user_id="alice")
        shown = await stream.next()
        assert (shown.balance, shown.held, shown.available) == (70, 50, 20)
        await settle(acme, made, 10)
        shown = await stream.next()
        assert (shown.balance, shown.held, shown.available) == (60, 0, 60)
        made = await hold(acme, 5, user_id="alice")
        assert (await stream.next()).held == 5
        await release(acme, made)
        assert (await stream.next()).held == 0


async def test_what_changes_the_limits_changes_the_balance(acme: Database) -> None:
    await change_settings(acme, billing_model=CREDIT_POSTPAY, credit_limit=10)
    async with balance(acme, "alice") as stream:
        assert (await stream.next()).available == 10
        await change_settings(acme, credit_limit=20)
        assert (await stream.next()).available == 20
        await record(acme, spend(5, user_id="bob"))
        assert (await stream.next()).available == 15
        [account] = await read_rows(acme, accounts, mandate_id=MANDATE)
        await update_account(acme, OPERATOR, MANDATE, account.id, {"credit_limit": 7})
        assert (await stream.next()).available == 2


async def test_what_does_not_change_the_balance_is_not_told(acme: Database) -> None:
    async with balance(acme, "alice") as stream:
        await stream.next()
        await credit(acme, 100, "bob")
        await change_settings(acme, notify_on_warning=False)
        await add_member(acme, "carol")
        assert await stream.is_silent()


async def test_a_refused_change_is_not_told(
    acme: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Any] = []
    monkeypatch.setattr(acme.feed, "tell", told.extend)

    async def fail(connection: AsyncConnection) -> None:
        feed.note(connection, MANDATE)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await acme.write(fail)
    assert told == []


async def test_a_unit_that_runs_again_tells_what_it_wrote_the_last_time(
    acme: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Any] = []
    monkeypatch.setattr(acme.feed, "tell", told.extend)
    attempts: Iterator[int] = iter(range(10))

    async def note_and_clash(connection: AsyncConnection) -> None:
        attempt = next(attempts)
        feed.note(connection, MANDATE, "alice", f"id-{attempt}")
        if attempt == 0:
            row = {"id": MANDATE, "name": "Again", "currency": "CHF", "time_zone": "UTC"}
            await connection.execute(insert(mandates).values(created_at=datetime.now(UTC), **row))

    await acme.write(note_and_clash)
    assert told == [feed.Word(MANDATE, "alice", ("id-1",))]


async def test_what_is_committed_is_told_whoever_has_left(
    acme: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[feed.Word] = []
    monkeypatch.setattr(acme.feed, "tell", told.extend)
    leaving = asyncio.create_task(credit(acme, 5, "alice"))
    event.listen(acme.engine.sync_engine, "commit", lambda _: leaving.cancel())
    with pytest.raises(asyncio.CancelledError):
        await leaving
    [row] = await read_rows(acme, transactions)
    assert row.id in [key for word in told for key in word.transaction_ids]


async def test_a_mutation_is_done_whoever_has_left(acme: Database) -> None:
    book = """mutation { addCredit(input: {mandateId: "acme", userId: "alice", amount: "5",
        description: "More", idempotencyKey: "k"}) { userErrors { message } } }"""
    context = Context(acme, PROVIDERS, SYSADMIN, "r", NO_LIMITS)
    results = schema.results(book, {}, context)
    leaving = asyncio.ensure_future(anext(results))
    event.listen(acme.engine.sync_engine, "begin", lambda _: leaving.cancel())
    with pytest.raises(asyncio.CancelledError):
        await leaving
    await asyncio.gather(*acme.under_way)
    assert len(await read_rows(acme, transactions)) == 1


async def test_a_hold_that_runs_out_is_seen_without_a_word(
    acme: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "LOOK_SECONDS", 0.05)
    await credit(acme, 100, "alice")
    made = await hold(acme, 50, user_id="alice")
    async with balance(acme, "alice") as stream:
        assert (await stream.next()).held == 50
        await expire(acme, made)
        assert (await stream.next()).held == 0


@pytest.mark.parametrize(
    ("who", "seen"),
    [
        ("alice", ["alice"]),
        ("ada", ["alice", "bob", None]),
        ("gateway", ["alice", "bob", None]),
        ("root", ["alice", "bob", None]),
    ],
)
async def test_transactions_are_told_to_those_who_may_see_them(
    acme: Database, who: str, seen: list[str | None]
) -> None:
    await change_settings(acme, billing_model=PREPAY_MANDATE)
    await credit(acme, 1)
    async with added(acme, who) as stream:
        await record(acme, usage_event(1, user_id="alice"))
        await record(acme, usage_event(2, user_id="bob"))
        await credit(acme, 3)
        assert [(await stream.next()).user_id for _ in seen] == seen
        assert await stream.is_silent()


async def test_every_kind_of_transaction_is_told_once_and_in_order(acme: Database) -> None:
    await credit(acme, 50, "alice")
    async with added(acme, "ada") as stream:
        booked = await credit(acme, 10, "alice")
        undone = await reverse(acme, booked.id)
        out, into = await transfer(acme, 5, "alice", "bob")
        made = await hold(acme, 5, user_id="alice")
        settled = await settle(acme, made, 1)
        [first, second] = await record(acme, *(usage_event(1, user_id="alice") for _ in range(2)))
        ids = [booked.id, undone.id, out.id, into.id, settled.id]
        ids += [first.transaction.id, second.transaction.id]
        assert [(await stream.next()).id for _ in ids] == ids
        assert await stream.is_silent()


async def test_a_large_batch_is_told_completely(acme: Database) -> None:
    await change_settings(acme, billing_model=PREPAY_MANDATE)
    async with added(acme, "ada") as stream:
        results = await record(acme, *(usage_event(1, user_id="alice") for _ in range(350)))
        assert [(await stream.next()).id for _ in results] == [r.transaction.id for r in results]


@pytest.mark.parametrize("mandate_id", [OTHER_MANDATE, "unknown"])
async def test_where_there_is_nothing_to_see_a_stream_ends_at_once(
    acme: Database, mandate_id: str
) -> None:
    async with balance(acme, "alice", mandate_id=mandate_id) as stream:
        assert await stream.is_over()
    async with balance(acme, "alice", "sven", mandate_id) as stream:
        assert await stream.is_over()
    async with added(acme, "alice", mandate_id) as stream:
        assert await stream.is_over()


async def test_an_unknown_mandate_ends_at_once_for_a_sysadmin_too(acme: Database) -> None:
    async with added(acme, "root", "unknown") as stream:
        assert await stream.is_over()
    async with balance(acme, "root", mandate_id="unknown") as stream:
        assert await stream.is_over()


async def test_who_may_not_name_another_user_is_told_so(acme: Database) -> None:
    async with balance(acme, "alice", "bob") as stream:
        with pytest.raises(Forbidden):
            await stream.next()
    async with balance(acme, "root") as stream:
        with pytest.raises(BadInput, match="userId is required"):
            await stream.next()


async def test_a_stream_ends_when_the_membership_does(acme: Database) -> None:
    async with balance(acme, "alice") as balances, added(acme, "alice") as rows:
        await balances.next()
        await remove_membership(acme, OPERATOR, MANDATE, "alice")
        assert await balances.is_over()
        assert await rows.is_over()


async def test_an_event_is_checked_when_it_is_told_not_when_it_happened(
    acme: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Booked while alice was a member, read by the stream when she is no more."""
    is_removed = asyncio.Event()
    monkeypatch.setattr(changes, "_next", lambda _: is_removed.wait())
    async with added(acme, "alice") as rows:
        await record(acme, usage_event(1, user_id="alice"))
        await remove_membership(acme, OPERATOR, MANDATE, "alice")
        await acme.feed.flush()
        is_removed.set()
        assert await rows.is_over()


async def _nothing(_: AsyncConnection) -> None:
    pass


async def test_what_is_heard_while_a_role_is_read_is_kept() -> None:
    """A look that begins before a role changes may end after the word of it."""
    watched = feed.Feed(None)
    with watched.watch(MANDATE, "alice") as watch:
        await watch.wait(0)
        watch.narrow("alice")
        watched.tell([feed.Word(MANDATE, "bob", ("1",))])
        assert watch.take(10) == []
        watched.tell([feed.Word(MANDATE)])
        watch.narrow("alice")
        watched.tell([feed.Word(MANDATE, "bob", ("2",))])
        assert watch.take(10) == ["2"]


async def test_the_rest_of_a_batch_is_not_shown_to_who_has_left(acme: Database) -> None:
    look = partial(load_viewer, acme, "alice")
    async with aclosing(added_transactions(acme, look, MANDATE)) as source:
        first = asyncio.ensure_future(anext(source))
        while not acme.feed.count("alice"):  # until it watches
            await acme.ask(_nothing)
        await record(acme, *(usage_event(1, user_id="alice") for _ in range(5)))
        async with asyncio.timeout(SECONDS):
            await first
            await remove_membership(acme, OPERATOR, MANDATE, "alice")
            assert await anext(source, None) is None


async def test_a_member_who_becomes_an_admin_misses_nothing(
    acme: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What others book is heard before the stream has looked again."""
    async with added(acme, "alice") as stream:
        await credit(acme, 1, "alice")
        assert (await stream.next()).user_id == "alice"
        monkeypatch.setattr(changes, "PACE_SECONDS", 1)
        await credit(acme, 2, "alice")
        assert (await stream.next()).amount == 2
        await add_member(acme, "alice", role=MembershipRole.ADMIN)
        await credit(acme, 3, "bob")
        assert (await stream.next()).user_id == "bob"


async def test_an_admin_who_becomes_a_member_sees_their_own_alone(acme: Database) -> None:
    async with added(acme, "ada") as stream:
        await credit(acme, 1, "alice")
        assert (await stream.next()).user_id == "alice"
        await add_member(acme, "ada", role=MembershipRole.MEMBER)
        await credit(acme, 2, "alice")
        await credit(acme, 3, "ada")
        assert (await stream.next()).user_id == "ada"


async def test_a_disabled_user_is_shut_out(acme: Database) -> None:
    async with balance(acme, "alice") as balances, added(acme, "alice") as rows:
        await balances.next()
        await add_user(acme, "alice", enabled=False)
        with pytest.raises(Unauthenticated):
            await balances.next()
        with pytest.raises(Unauthenticated):
            await rows.next()


async def test_who_falls_too_far_behind_is_dropped(
    acme: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "KEPT_IDS", 3)
    await change_settings(acme, billing_model=PREPAY_MANDATE)
    async with added(acme, "ada") as stream:
        await record(acme, *(usage_event(1, user_id="alice") for _ in range(4)))
        with pytest.raises(Unavailable, match="missing"):
            await stream.next()
    assert acme.feed.count("ada") == 0


async def test_nobody_has_more_than_so_many_streams(
    acme: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "MAX_STREAMS", 1)
    async with balance(acme, "alice") as first, balance(acme, "bob") as other:
        await first.next()
        await other.next()
        async with balance(acme, "alice") as second:
            with pytest.raises(BadInput, match="1 subscriptions"):
                await second.next()
    async with balance(acme, "alice") as again:
        await again.next()


async def test_the_end_of_the_server_is_told(acme: Database) -> None:
    async with balance(acme, "alice") as balances, added(acme, "alice") as rows:
        await balances.next()
        acme.feed.end()
        for stream in (balances, rows):
            with pytest.raises(Unavailable, match="ending"):
                await stream.next()
    async with balance(acme, "alice") as late:
        await late.next()
        with pytest.raises(Unavailable, match="ending"):
            await late.next()


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_other_processes_hear_what_is_committed(acme: Database) -> None:
    url = acme.engine.url.render_as_string(hide_password=False)
    async with added(acme, "alice") as stream:
        async with Database(url) as other:
            await credit(other, 5, "alice")
        assert (await stream.next()).amount == 5


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_where_words_may_be_lost_streams_of_transactions_end(
    acme: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgresql, "LISTEN_AGAIN_SECONDS", 0.05)
    async with balance(acme, "alice") as balances, added(acme, "alice") as rows:
        await balances.next()
        async with acme.read() as connection:
            await connection.exec_driver_sql(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE query LIKE 'LISTEN%' AND pid <> pg_backend_pid()"
                " AND datname = current_database()"
            )
        with pytest.raises(Unavailable, match="missing"):
            await rows.next()
        assert await acme.feed.is_hearing(SECONDS)
        await credit(acme, 5, "alice")
        assert (await balances.next()).balance == 5
    async with added(acme, "alice") as rows:
        await credit(acme, 6, "alice")
        assert (await rows.next()).amount == 6


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_without_a_way_to_hear_no_stream_of_transactions_begins(database: Database) -> None:
    await add_mandate(database)
    async with added(database, "alice") as rows:
        with pytest.raises(Unavailable):
            await rows.next()


async def test_words_that_cannot_be_sent_are_sent_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "RETRY_SECONDS", 0.01)
    monkeypatch.setattr(feed, "KEPT_WORDS", 3)
    sent: list[list[str]] = []
    is_away, has_failed = True, asyncio.Event()

    async def notify(payloads: list[str]) -> None:
        if is_away:
            has_failed.set()
            raise ConnectionError
        sent.append(payloads)

    there = feed.Feed(notify)
    there.tell([feed.Word("a", "u", ("1",)), feed.Word("a", "u", ("1",))])
    await has_failed.wait()
    is_away = False
    await there.flush()
    assert sent == [['["a","u",["1"]]']]
    is_away = True
    has_failed.clear()
    there.tell([feed.Word("a", None, (str(n),)) for n in range(4)])
    await has_failed.wait()
    is_away = False
    await there.flush()
    assert sent[1:] == [['["",null,[]]']]
    heard = feed.Feed(None)
    with heard.watch("b", "u") as watch:
        heard.hear(sent[-1][0])
        assert watch.is_behind
