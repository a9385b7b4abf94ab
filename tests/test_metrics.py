"""What Prometheus is told, by one process and by several, and that nobody is named in it."""

import asyncio
import os
import re
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import select, update

from app import metrics
from app.billing.enums import Channel
from app.billing.models import accounts
from app.billing.verify import drift
from app.config import Settings
from app.database import Database, DatabaseUnavailable
from app.dispatcher import _observe
from app.lease import Leadership
from app.observer import Observer
from app.server.door import Doorkeeper
from tests.api import Api, add_people, serving, statements
from tests.outbox import WEBHOOK, put
from tests.servers import running
from tests.world import PREPAY_USER, add_mandate, credit, hold

pytestmark = pytest.mark.anyio

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

Figures = dict[tuple[str, tuple[tuple[str, str], ...]], float]


@pytest.fixture
async def measured(database_url: str) -> AsyncIterator[Api]:
    async with serving(Settings(database_url=database_url, metrics=True)) as api:
        yield api


def figures(text: str) -> Figures:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def scraped(api: Api) -> Figures:
    response = await api.client.get("/metrics")
    assert response.status_code == 200
    assert response.headers["Content-Type"].startswith("text/plain; version=")
    return figures(response.text)


def rise(before: Figures, after: Figures, name: str, **labels: str) -> float:
    key = (name, tuple(sorted(labels.items())))
    return after.get(key, 0) - before.get(key, 0)


@on_sqlite
async def test_there_are_none_unless_wanted(api: Api) -> None:
    assert (await api.client.get("/metrics")).status_code == 404


@on_sqlite
async def test_requests_fields_and_errors_are_counted(
    database: Database, measured: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    await add_people(database)
    before = await scraped(measured)
    await measured("alice", "{ a: viewer { isSysAdmin } b: viewer { isSysAdmin } }")
    await measured("alice", '{ accounts(mandateId: "acme") { totalCount } nothing }')
    await measured("alice", '{ accounts(mandateId: "acme") { totalCount } }')
    await measured(None, "{ viewer { isSysAdmin } }")
    for path in ("/one", "/two", "/graphql/three", "/export/four.csv"):
        await measured.client.get(path)
    await measured.client.get("/export/usage.csv")

    async def away(*_: Any) -> Any:
        raise DatabaseUnavailable

    monkeypatch.setattr(Doorkeeper, "viewer", away)
    await measured("alice", "{ viewer { isSysAdmin } }")
    after = await scraped(measured)
    requests, fields = "billing_request_seconds_count", "billing_root_field_seconds_count"
    assert rise(before, after, requests, route="/graphql", status="200") == 3
    assert rise(before, after, requests, route="/graphql", status="401") == 1
    assert rise(before, after, requests, route="/graphql", status="503") == 1
    assert rise(before, after, requests, route="/export/usage.csv", status="401") == 1
    assert rise(before, after, requests, route="unmatched", status="404") == 4
    assert rise(before, after, fields, field="viewer") == 2
    assert rise(before, after, fields, field="accounts") == 1
    errors = {
        dict(labels)["code"]: rise(before, after, name, **dict(labels))
        for name, labels in after
        if name == "billing_errors_total"
    }
    assert {code: count for code, count in errors.items() if count} == {
        "BAD_USER_INPUT": 1,
        "FORBIDDEN": 1,
        "UNAUTHENTICATED": 2,
        "UNAVAILABLE": 1,
    }


@on_sqlite
async def test_labels_name_nobody(database: Database, measured: Api) -> None:
    await add_people(database)
    query = 'query Sesame { balance(mandateId: "acme", userId: "alice") { held } }'
    await measured("alice", query)
    await measured("alice", "{ nothing }")
    await measured.client.get("/alice/acme?mandateId=acme", headers=measured.bearer("alice"))
    await Observer(database).look()
    found = await scraped(measured)
    labels = {name for _, pairs in found for name, _ in pairs}
    assert labels == {"route", "status", "field", "code", "le", "pool", "state", "channel"}
    values = {value for _, pairs in found for _, value in pairs}
    assert not values & {"alice", "acme", "Sesame", "/alice/acme"}


@on_sqlite
async def test_a_scrape_asks_the_database_nothing(measured: Api) -> None:
    with statements() as sent:
        await scraped(measured)
    assert sent == []


async def test_retries_are_counted(database: Database, measured: Api) -> None:
    before = await scraped(measured)
    attempts = 0

    async def unit(connection: Any) -> None:
        nonlocal attempts
        attempts += 1
        if attempts < 4:
            await connection.exec_driver_sql("CREATE TEMPORARY TABLE once (id INTEGER UNIQUE)")
            await connection.exec_driver_sql("INSERT INTO once VALUES (1), (1)")

    await database.write(unit)
    assert rise(before, await scraped(measured), "billing_write_retries_total") == attempts - 1 == 3


async def test_the_pools_are_told(database: Database, measured: Api) -> None:
    found = await scraped(measured)
    pools = {dict(labels)["pool"] for name, labels in found if name.endswith("_connections")}
    assert {"writer"} <= pools <= {"writer", "reader"}
    name = "reader" if database.is_sqlite else "writer"
    async with database.read(), database.read():
        metrics.observe_pools(database.engines, database.connections_in_use)
        assert metrics.CONNECTIONS.labels(name, "in_use")._value.get() == 2
        assert metrics.CONNECTIONS.labels(name, "size")._value.get() == 20


async def test_holds_and_the_outbox_are_looked_at(database: Database) -> None:
    await add_mandate(database, billing_model=PREPAY_USER, users=("alice",))
    observer = Observer(database)
    await observer.look()
    assert metrics.OPEN_HOLDS._value.get() == 0
    assert metrics.OUTBOX.labels(Channel.EMAIL)._value.get() == 0
    await hold(database, amount=1)
    await put(database, WEBHOOK)
    await asyncio.sleep(0.01)
    await observer.look()
    assert metrics.OPEN_HOLDS._value.get() == 1
    assert metrics.OUTBOX.labels(Channel.WEBHOOK)._value.get() == 1
    assert 0 < metrics.OUTBOX_AGE.labels(Channel.WEBHOOK)._value.get() < 60
    assert metrics.OUTBOX.labels(Channel.EMAIL)._value.get() == 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"balance": accounts.c.balance + 1, "credited": accounts.c.credited + 1},
        {"sequence": accounts.c.sequence - 1},
        {"sequence": accounts.c.sequence + 1},
    ],
)
async def test_drift_is_found_and_its_end(
    database: Database, monkeypatch: pytest.MonkeyPatch, wrong: dict[str, Any]
) -> None:
    monkeypatch.setattr(drift, "PAGE", 2)
    users = ("alice", "bob", "carol", "dave", "eve")
    await add_mandate(database, billing_model=PREPAY_USER, users=users)
    for user in users:
        await credit(database, 5, user_id=user)
    observer = Observer(database)
    checked = metrics.CHECKED._value.get()
    await observer.look()
    assert (metrics.DRIFT._value.get(), metrics.CHECKED._value.get() - checked) == (0, 5)

    async with database.read() as connection:
        right = (
            await connection.execute(select(accounts).where(accounts.c.user_id == "dave"))
        ).one()

    async def change(values: dict[str, Any]) -> None:
        async def unit(connection: Any) -> None:
            of_dave = accounts.c.user_id == "dave"
            await connection.execute(update(accounts).where(of_dave).values(values))

        await database.write(unit)

    await change(wrong)
    await observer.look()
    assert metrics.DRIFT._value.get() == 1
    await change({name: getattr(right, name) for name in wrong})
    await observer.look()
    assert metrics.DRIFT._value.get() == 0


@on_sqlite
async def test_a_look_is_bounded_and_goes_on(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drift, "PAGE", 1)
    monkeypatch.setattr("app.observer.DRIFT_SECONDS", 0)
    users = ("alice", "bob", "carol")
    await add_mandate(database, billing_model=PREPAY_USER, users=users)
    for user in users:
        await credit(database, 5, user_id=user)
    observer = Observer(database)
    looked = []
    for _ in range(5):
        before = metrics.CHECKED._value.get()
        await observer.look()
        looked.append(metrics.CHECKED._value.get() - before)
    assert looked == [1, 1, 1, 0, 1]  # the fourth finds the end, the next begins anew


@on_sqlite
async def test_what_one_looks_at_the_others_do_not_tell(database: Database) -> None:
    await add_mandate(database, billing_model=PREPAY_USER, users=("alice",))
    await hold(database, amount=1)
    await put(database, WEBHOOK)
    leadership, observer = Leadership(database), Observer(database)
    figures = (metrics.OPEN_HOLDS, metrics.OUTBOX.labels(Channel.WEBHOOK))
    await leadership.seek()
    await _observe(observer, leadership)
    assert [figure._value.get() for figure in (metrics.LEADER, *figures)] == [1, 1, 1]
    await leadership.give_up()
    await _observe(observer, leadership)
    assert [figure._value.get() for figure in (metrics.LEADER, *figures)] == [0, 0, 0]
    assert metrics.OUTBOX_AGE.labels(Channel.WEBHOOK)._value.get() == 0


@on_sqlite
async def test_the_background_looks(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.dispatcher.OBSERVE_SECONDS", 0.01)
    monkeypatch.setattr("app.lease.RENEW_SECONDS", 0.01)
    looked = asyncio.Event()

    async def look(_: Observer) -> None:
        looked.set()

    monkeypatch.setattr(Observer, "look", look)
    async with serving(Settings(database_url=database_url)):
        await asyncio.sleep(0.05)
        assert not looked.is_set()
    async with serving(Settings(database_url=database_url, metrics=True)):
        await asyncio.wait_for(looked.wait(), 5)


@on_sqlite
async def test_processes_put_their_figures_together(database_url: str, tmp_path: Path) -> None:
    """Whichever worker is asked tells of both; one that was killed counts no longer as there."""
    options, asked, output = ("--workers", "2", "--drain", "0"), 0, tmp_path / "log"
    with running(database_url, 1, None, *options, output=output, BILLING_METRICS="on") as [server]:

        async def ask(path: str) -> httpx.Response:  # each on a connection of its own
            async with httpx.AsyncClient(base_url=server.address) as client:
                return await client.get(path)

        async def until(pids: int) -> Figures:
            """Each worker reads its own pools when it is asked."""
            size = ("billing_database_connections", (("pool", "writer"), ("state", "size")))
            async with asyncio.timeout(60):
                while True:
                    nonlocal asked
                    asked += 1
                    found = figures((await ask("/metrics")).text)
                    if found[size] == pids:
                        return found
                    await asyncio.sleep(0.05)

        await until(2)
        for _ in range(10):
            assert (await ask("/nothing")).status_code == 404
        found = await until(2)
        count = "billing_request_seconds_count"
        assert found[count, (("route", "unmatched"), ("status", "404"))] == 10
        assert found[count, (("route", "/metrics"), ("status", "200"))] == asked - 1
        assert "pid" not in {name for _, labels in found for name, _ in labels}
        [worker, _] = re.findall(r"Started server process \[(\d+)\]", output.read_text())
        os.kill(int(worker), signal.SIGKILL)
        await until(1)
