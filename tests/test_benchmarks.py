"""The benchmark's ledger can be proven like any other, its questions have answers, and the baseline's are ours."""

import subprocess
import sys
from argparse import Namespace
from collections import Counter
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from math import inf

import pytest
from rich.progress import Progress

from app.billing.models import transactions
from app.billing.verify import verify_ledger
from app.database import Database
from benchmarks.capacity import (
    Assumptions,
    Cost,
    Word,
    busiest_second,
    limits,
    need,
    own_cost,
    processes,
)
from benchmarks.comparison import compare
from benchmarks.contenders import OURS, RAW, STOCK, running
from benchmarks.load import MANDATE, PROVIDERS, USERS, load
from benchmarks.mandates import POOLED, fill, operations, viewers
from benchmarks.metering import processor_seconds, thread_seconds
from benchmarks.questions import ask, questions
from benchmarks.scale import bench_of, measure
from benchmarks.scale_tables import Round, cost, figure, show, spread
from benchmarks.work import all_work
from benchmarks.world import populate
from tests.world import read_rows

pytestmark = pytest.mark.anyio

ROWS = 2_000
SPEND = Cost(api=6, heard=0.01, database=3, told=0.02, commits=2.2, wal=5_000, disk=4_000)


async def test_a_loaded_ledger_is_sound_and_answers(postgresql_url: str) -> None:
    now = datetime.now(UTC)
    async with Database(postgresql_url) as database:
        await load(database, ROWS, now)
        async with database.snapshot() as connection:
            check = await verify_ledger(connection, MANDATE)
        assert (check.mismatches, check.transactions_checked) == ([], ROWS)
        rows = await read_rows(database, transactions)
        kinds = Counter(row.reference_type for row in rows)
        assert kinds["SYSTEM"] == len(USERS)
        assert kinds["USAGE"] > ROWS * 0.9
        assert min(kinds["PAYMENT"], kinds["REVERSAL"]) > 0
        assert {row.aicore_provider for row in rows} == {None, *PROVIDERS}
        written = [row.created_at for row in rows]  # by id
        assert written == sorted(set(written))
        assert all(row.occurred_at <= row.created_at < now for row in rows)

        answers = {
            question.name: await ask(database, question)
            for question in await questions(database, now)
        }
        assert all(found for data in answers.values() for found in data.values())
        everything = answers["totals and count of all"]["transactions"]
        assert everything["totalCount"] == ROWS
        middle = answers["a page in the middle"]["transactions"]["nodes"]
        place = [row.id for row in rows].index(middle[0]["id"])
        assert ROWS * 0.4 < place < ROWS * 0.6


async def test_hand_written_routes_answer_and_write_as_our_server_does(postgresql_url: str) -> None:
    now = datetime.now(UTC)
    works = all_work(now)
    [page] = [work for work in works if work.name == "page-50"]
    async with Database(postgresql_url) as database, AsyncExitStack() as stack:
        await load(database, ROWS, now)
        await populate(database)
        raw, ours, stock = [
            await stack.enter_async_context(running(name, postgresql_url, page))
            for name in (RAW, OURS, STOCK)
        ]
        await compare(page, [raw, stock])
        written = 0
        for work in works:
            await compare(work, [raw, ours])
            if work.expected is not None:
                outcome = await raw.answer(work, connections=8, most=8)
                assert outcome.answered == 8
                written += 10 * max(1, work.expected[1])
        async with database.snapshot() as connection:
            check = await verify_ledger(connection, MANDATE)
        assert (check.mismatches, check.transactions_checked) == ([], ROWS + written)


def test_nodes_are_reckoned_from_what_a_spend_costs() -> None:
    found = need(1_000, SPEND, Assumptions())
    assert found.api_cores == pytest.approx(10.1525, abs=1e-4)  # 5.99 / (0.6 - 0.01)
    assert (found.api_nodes, found.connections, found.polls) == (3, 231, 22)
    assert found.database_cores == pytest.approx(5.3384, abs=1e-4)  # (3 + 10.15 * 0.02) / 0.6
    assert (found.wal, found.commits) == (5e6, 2_200)
    assert found.disk == pytest.approx(4.32e12)  # 36 million a day
    unheard = need(10_000, SPEND.unheard(), Assumptions())
    assert (unheard.api_cores, unheard.api_nodes) == (100, 25)
    assert (unheard.database_cores, unheard.database_nodes) == (50, 4)


def test_no_number_of_processes_hears_more_than_each_can() -> None:
    given = Assumptions()
    assert processes(30_000, SPEND, given) == pytest.approx(599)
    assert processes(60_000, SPEND, given) == inf
    found = need(60_000, SPEND, given)
    assert (found.api_nodes, found.connections, found.database_nodes) == (inf, inf, inf)
    assert need(60_000, SPEND.unheard(), given).api_nodes == 150


def test_processes_that_only_hear_are_none_of_the_cost_of_who_answers() -> None:
    assert own_cost([(1, 6.0), (2, 6.05), (4, 6.9)], heard=0.1) == pytest.approx(6.6)


def test_a_million_dashboards_a_day_are_few_a_second() -> None:
    assert busiest_second(1_000_000, Assumptions()) == pytest.approx(27.78, abs=0.01)
    assert busiest_second(864_000, Assumptions(busiest_hour=1 / 24)) == pytest.approx(10)


def test_what_gives_way_first_comes_first() -> None:
    given = Assumptions()
    found = limits(need(10_000, SPEND, given), SPEND, 250, given)
    shares = [(limit.name.split(":")[0], round(limit.share, 3)) for limit in found]
    assert shares == [
        ("connections", 25.2),  # 120 processes
        ("one PostgreSQL of 16 cores", 5.621),
        ("a mandate with a tenth of all spends", 4.0),
        ("WAL", 0.25),
        ("what every process hears", 0.167),
    ]


def test_processor_time_is_that_of_a_known_load_also_when_it_has_ended() -> None:
    burn = "import time\nwhile time.process_time() < 0.5: pass"
    nest = f"import subprocess, sys, time\nsubprocess.run([sys.executable, '-c', {burn!r}])\n{burn}"
    parent = f"{nest}\nprint('done', flush=True)\nsys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout
        assert process.stdin
        process.stdout.readline()
        assert processor_seconds(process.pid) == pytest.approx(1.02, abs=0.1)
        assert thread_seconds(process.pid) == pytest.approx(0.5, abs=0.05)
        process.stdin.close()


def _round(done: int, api: float = 4.0) -> Round:
    return Round(done, 2.0, api, 2.0, 5_000 * done, 3 * done, 2 * done, 400, [3.0, 1.0])


def test_what_rounds_have_cost_is_told_by_operation() -> None:
    rounds = {
        1: [_round(500), _round(1_000), _round(800)],
        2: [_round(1_000, api=5.5)],
    }
    found = cost(rounds, Word(api=0.125, database=0.01))
    assert found == Cost(5.25, 0.25, 2.5, 0.02, 3, 5_000, disk=1_600 / 3_300)
    assert spread(rounds[1], lambda one: one.done / one.seconds) == "400 ±31%"
    assert [figure(value) for value in (inf, 1234.5, 12.345, 0.01234)] == [
        "none",
        "1,234",
        "12.3",
        "0.0123",
    ]


async def test_spends_and_dashboards_of_many_mandates_are_measured(
    postgresql_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    now = datetime.now(UTC)
    async with Database(postgresql_url) as database:
        copies = await fill(database, 2 * ROWS, 2, now, lambda *_: None)
        works = [work for work in operations(copies, now) if "by-user" not in work.name]
        async with bench_of(database, postgresql_url, viewers(copies), processes=1) as bench:
            rounds = await measure(bench, works, 1, 0.2, Progress(disable=True), processes=(1,))
            word = await bench.word()
        booked = 0
        for mandate_id in (*copies, POOLED):
            async with database.snapshot() as connection:
                check = await verify_ledger(connection, mandate_id)
            assert check.mismatches == []
            booked += check.transactions_checked
    found = {name: by_number[1][0] for name, by_number in rounds.items()}
    assert all(one.done > 0 and one.api > 0 and one.database > 0 for one in found.values())
    spends = sum(one.done for name, one in found.items() if name != "dashboard")
    assert booked >= 2 * ROWS + spends
    assert found["spend"].wal > 1_000 * found["spend"].done
    assert found["spend"].commits > 0 < found["spend"].words
    assert 0 < word.api < 1 > word.database > 0
    show(
        rounds, works, 1.5, word, Namespace(rows=0, rounds=1, seconds=0, markdown=True), now, load=0
    )
    assert "1,000,000 dashboards a day" in capsys.readouterr().out
