"""Calls that come at once share a database transaction, and each has an outcome of its own."""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from typing import Any

import pytest
from sqlalchemy import event

from app.billing import group
from app.billing.directory import upsert_membership
from app.billing.enums import NoticeType, PeriodType
from app.billing.errors import BillingError, UserErrorCode
from app.billing.group import in_group
from app.billing.ledger import Ledger
from app.billing.models import accounts, holds, transactions
from app.billing.viewer import OPERATOR
from app.database import Database
from tests.groups import ALICE, codes, commits, post
from tests.proof import prove
from tests.world import (
    MANDATE,
    OTHER_MANDATE,
    PREPAY_MANDATE,
    PREPAY_USER,
    add_mandate,
    credit,
    expire,
    hold,
    hold_status,
    notices,
    outcomes,
    read_rows,
    record,
    release,
    settle,
    spend,
    usage_event,
)

pytestmark = pytest.mark.anyio


async def test_calls_at_once_share_a_transaction(database: Database) -> None:
    await add_mandate(database, model=PREPAY_MANDATE)
    await credit(database, 100)
    with commits(database) as seen:
        await asyncio.gather(*(hold(database, 1) for _ in range(30)))
    assert len(seen) <= 3
    assert len(await read_rows(database, holds)) == 30


async def test_each_call_has_its_own_outcome(database: Database) -> None:
    await add_mandate(database, model=PREPAY_MANDATE)
    await credit(database, 100)
    first = await hold(database, 10)
    with commits(database) as seen:
        found = await codes(
            hold(database, 80),
            hold(database, 20),
            hold(database, 10),
            settle(database, first, 5),
            settle(database, "00000000-0000-7000-8000-000000000000", 5),
            hold(database, 5, user_id="nobody"),
            hold(database, 0),
            hold(database, 5),
        )
    refused = "INSUFFICIENT_FUNDS"
    assert found == ["OK", refused, "OK", "OK", "NOT_FOUND", "NOT_FOUND", "INVALID", "OK"]
    assert len(seen) == 1
    assert (await prove(database)).ok


async def test_nobody_overspends_in_a_group(database: Database) -> None:
    await add_mandate(database, model=PREPAY_MANDATE)
    await credit(database, 100)
    with commits(database) as seen:
        found = await asyncio.gather(*(record(database, spend(10)) for _ in range(50)))
    results = Counter(outcomes(result)[0] for result in found)
    assert results == {"RECORDED": 10, "INSUFFICIENT_FUNDS": 40}
    assert len(seen) < 50
    [account] = await read_rows(database, accounts)
    assert account.balance == 0


async def test_nobody_overspends_through_groups_of_two_processes(
    database: Database, database_url: str
) -> None:
    async with Database(database_url) as other:
        for mandate_id in ("one", "two", "three", "four", "five"):
            await add_mandate(database, mandate_id, PREPAY_MANDATE)
            await credit(database, 100, mandate_id=mandate_id)
            await record(other, usage_event(0, mandate_id=mandate_id))  # it is connected by now
            calls = [
                hold(used, 10, mandate_id=mandate_id)
                for _ in range(15)
                for used in (database, other)
            ]
            assert Counter(await codes(*calls)) == {"OK": 10, "INSUFFICIENT_FUNDS": 20}


async def test_one_key_in_a_group_is_booked_once(database: Database) -> None:
    await add_mandate(database, model=PREPAY_USER)
    with commits(database) as seen:
        found = await asyncio.gather(
            *(record(database, usage_event(1, key="same")) for _ in range(5)),
            record(database, usage_event(2, key="same")),
        )
        held = await asyncio.gather(*(hold(database, 1, key="same") for _ in range(5)))
        settled = await asyncio.gather(*(settle(database, held[0], 1) for _ in range(5)))
    assert len(seen) == 3
    assert [outcomes(result)[0] for result in found] == [
        "RECORDED",
        *["DUPLICATE"] * 4,
        "IDEMPOTENCY_CONFLICT",
    ]
    assert len({result[0].transaction.id for result in found[:5]}) == 1
    assert len(set(held)) == 1
    assert len({row.id for row in settled}) == 1
    assert await codes(settle(database, held[0], 2), release(database, held[0])) == [
        "IDEMPOTENCY_CONFLICT",
        "HOLD_NOT_OPEN",
    ]
    assert (await prove(database)).ok


LIMIT = {"spend_limit": {"amount": Decimal(9), "period": PeriodType.DAY}}


async def series(
    database: Database, mandate_id: str, chance: random.Random
) -> list[Callable[[], Awaitable[Any]]]:
    """A mandate with open, expired and closed holds, and calls that depend on each other."""
    users = ("alice", "bob", "carol")
    await add_mandate(
        database, mandate_id, chance.choice([PREPAY_USER, PREPAY_MANDATE]), users=users
    )
    await upsert_membership(database, OPERATOR, mandate_id, "alice", LIMIT)
    here: dict[str, Any] = {"mandate_id": mandate_id}
    made = []
    for user_id in users:
        try:
            made += [await hold(database, 2, user_id=user_id, **here) for _ in range(3)]
        except BillingError:  # there is no credit under PREPAY_MANDATE
            await credit(database, 20, **here)
            made += [await hold(database, 2, user_id=user_id, **here) for _ in range(3)]
    await expire(database, made[1], made[4], **here)
    calls: list[Callable[[], Awaitable[Any]]] = []
    for _ in range(40):
        user_id, amount = chance.choice(users), chance.randint(0, 4)
        key, hold_id = f"sent-{chance.randrange(25)}", chance.choice(made)
        sent = usage_event(amount, key=key, user_id=user_id, **here)
        wanted = spend(amount, key=key, user_id=user_id, **here)

        possible: list[Callable[[], Awaitable[Any]]] = [
            partial(hold, database, amount, user_id=user_id, key=key, **here),
            partial(settle, database, hold_id, amount, **here),
            partial(release, database, hold_id, **here),
            partial(record, database, sent),
            partial(record, database, wanted),
            partial(record, database, wanted, replace(sent, idempotency_key="x")),
        ]
        calls.append(chance.choice(possible))
    return calls


def words(outcome: Any) -> Any:
    """What an outcome says, whichever mandate it is of."""
    if isinstance(outcome, list):
        return [(r.outcome, r.error.message if r.error else words(r.transaction)) for r in outcome]
    if isinstance(outcome, BillingError):
        return outcome.code, outcome.message, outcome.field
    if isinstance(outcome, BaseException):
        raise outcome
    if outcome is None or isinstance(outcome, str):
        return type(outcome)
    return outcome.sequence, outcome.amount, outcome.balance_after


async def alerts(database: Database, mandate_id: str) -> list[tuple[Any, ...]]:
    rows = await notices(database, mandate_id=mandate_id)
    told = (NoticeType.BALANCE_WARNING, NoticeType.BALANCE_DEPLETED)
    return [
        (r.notice_type, r.data["balance"], r.data["userId"]) for r in rows if r.notice_type in told
    ]


@pytest.mark.parametrize("seed", range(6))
async def test_a_group_does_what_its_calls_do_one_after_the_other(
    database: Database, seed: int
) -> None:
    together = await series(database, MANDATE, random.Random(seed))
    with commits(database) as seen:
        at_once = await asyncio.gather(*(call() for call in together), return_exceptions=True)
    assert len(seen) == 1
    one_by_one = []
    for call in await series(database, OTHER_MANDATE, random.Random(seed)):
        try:
            one_by_one.append(await call())
        except BillingError as error:
            one_by_one.append(error)
    assert [words(outcome) for outcome in at_once] == [words(outcome) for outcome in one_by_one]
    assert await alerts(database, MANDATE) == await alerts(database, OTHER_MANDATE) != []
    assert (await prove(database)).ok


async def test_what_is_dated_in_a_group_is_as_it_was_sent(database: Database) -> None:
    await add_mandate(database, model=PREPAY_USER)
    first = await hold(database, 1)
    at = datetime.now(UTC)
    await asyncio.gather(
        settle(database, first, 1, occurred_at=at), hold(database, 1), hold(database, 2)
    )
    assert await hold_status(database, first) == "SETTLED"
    [row] = [row for row in await read_rows(database, transactions) if row.hold_id]
    assert (row.hold_id, row.occurred_at) == (first, at)


# What goes wrong


def broken(_: Ledger) -> None:
    raise RuntimeError("a bug")


def posts_and_refuses(ledger: Ledger) -> None:
    post(5)(ledger)
    raise BillingError(UserErrorCode.INVALID, "No.")


def tells_and_refuses(ledger: Ledger) -> None:
    ledger.notify(NoticeType.CREDIT_ADDED, {})
    raise BillingError(UserErrorCode.INVALID, "No.")


@pytest.mark.parametrize(
    ("bad", "outcome"),
    [
        pytest.param(broken, "RuntimeError", id="bug"),
        pytest.param(post(description=None), "IntegrityError", id="refused by the database"),
        pytest.param(posts_and_refuses, "INVALID", id="refuses after posting"),
        pytest.param(tells_and_refuses, "INVALID", id="refuses after telling"),
    ],
)
async def test_a_call_that_fails_takes_no_other_with_it(
    database: Database, bad: Callable[[Ledger], Any], outcome: str
) -> None:
    await add_mandate(database)
    good = [in_group(database, MANDATE, ALICE, post()) for _ in range(3)]
    found = await codes(good[0], in_group(database, MANDATE, ALICE, bad), *good[1:])
    assert found == ["OK", outcome, "OK", "OK"]
    assert [row.amount for row in await read_rows(database, transactions)] == [1, 1, 1]
    assert not await notices(database)
    assert (await prove(database)).ok


async def test_a_call_that_fails_alone_fails_alone(database: Database) -> None:
    await add_mandate(database)
    assert await codes(in_group(database, MANDATE, ALICE, posts_and_refuses)) == ["INVALID"]
    assert await codes(in_group(database, MANDATE, ALICE, broken)) == ["RuntimeError"]
    assert not await read_rows(database, transactions)


async def test_a_mandate_that_does_not_exist(database: Database) -> None:
    found = await codes(*(hold(database, 1, mandate_id="nowhere") for _ in range(3)))
    assert found == ["NOT_FOUND"] * 3


async def test_nobody_is_told_before_the_commit(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await add_mandate(database)
    happened: list[str] = []
    end = group._Call.end

    def tell(call: Any, outcome: Any) -> None:
        happened.append("told")
        end(call, outcome)

    monkeypatch.setattr(group._Call, "end", tell)
    event.listen(database.engine.sync_engine, "commit", lambda _: happened.append("commit"))
    await asyncio.gather(*(record(database, usage_event()) for _ in range(5)))
    assert happened == ["commit", *["told"] * 5]


async def test_a_commit_that_fails_fails_for_all(database: Database) -> None:
    await add_mandate(database)

    def fail(_: Any) -> None:
        raise ConnectionResetError("the server has gone")

    event.listen(database.engine.sync_engine, "commit", fail)
    found = await codes(*(record(database, usage_event()) for _ in range(5)))
    event.remove(database.engine.sync_engine, "commit", fail)
    assert found == ["DatabaseUnavailable"] * 5
    assert not await read_rows(database, transactions)
    assert await codes(record(database, usage_event())) == ["OK"]
