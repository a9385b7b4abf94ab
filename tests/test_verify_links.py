"""The proof of holds, reversals and transfers: every forged end of a link is found and named."""

import sqlite3
import uuid
from collections import Counter
from collections.abc import Sequence
from contextlib import closing

import pytest

from app.billing.verify import check_ledger
from app.database import Database
from app.migrate import migrate
from tests.proof import forge, keep_books, mismatches, prove
from tests.world import (
    MANDATE,
    PREPAY_MANDATE,
    SYSADMIN,
    add_mandate,
    credit,
    ledger_rows,
    run_sql,
)

pytestmark = pytest.mark.anyio

NOTHING = str(uuid.uuid4())
CHANGE = """UPDATE "transaction" SET """

# What is forged, and all that is said of links: by the names of `Books`.
FORGED: list[tuple[str, Sequence[str]]] = [
    # holds
    (
        "UPDATE hold SET settled_amount = 1 WHERE id = '{settled}'",
        ["the amount of transaction 7 (a settlement) is 2.5 and must be 0.000000001"],
    ),
    (
        "UPDATE hold SET status = 'OPEN', settled_amount = NULL WHERE id = '{settled}'",
        ["the status of the hold of transaction 7 (a settlement) is OPEN and must be SETTLED"],
    ),
    (
        "UPDATE hold SET status = 'SETTLED', settled_amount = 5000000000 WHERE id = '{open}'",
        ["the settlement of hold {open} is missing and must be a debit of 5"],
    ),
    (
        "UPDATE hold SET account_id = '{bob}' WHERE id = '{settled}'",
        ["the account of transaction 7 (a settlement) is {alice} and must be {bob}"],
    ),
    (
        "DELETE FROM hold WHERE id = '{settled}'",
        ["the hold of transaction 7 (a settlement) is missing and must be {settled}"],
    ),
    (
        CHANGE + "hold_id = NULL WHERE id = '{settlement}'",
        ["the settlement of hold {settled} is missing and must be a debit of 2.5"],
    ),
    (
        CHANGE + "hold_id = '{released}' WHERE id = '{settlement}'",
        [
            "the status of the hold of transaction 7 (a settlement) is RELEASED and must be SETTLED",
            "the settlement of hold {settled} is missing and must be a debit of 2.5",
        ],
    ),
    (
        CHANGE + "hold_id = '{open}' WHERE id = '{paid_in}'",
        [
            "the status of the hold of transaction 2 (a settlement) is OPEN and must be SETTLED",
            "the type of transaction 2 (a settlement) is CREDIT and must be DEBIT",
            "the reference type of transaction 2 (a settlement) is ADMIN and must be USAGE",
        ],
    ),
    (
        CHANGE + "amount = 3 WHERE id = '{settlement}'",
        ["the amount of transaction 7 (a settlement) is 0.000000003 and must be 2.5"],
    ),
    # reversals
    (
        CHANGE + "amount = 3 WHERE id = '{call_undone}'",
        ["the amount of transaction 4 (a reversal) is 0.000000003 and must be 4"],
    ),
    (
        CHANGE + "amount = 3 WHERE id = '{call}'",
        ["the amount of transaction 4 (a reversal) is 4 and must be 0.000000003"],
    ),
    (
        CHANGE + "transaction_type = 'DEBIT' WHERE id = '{call_undone}'",
        ["the type of transaction 4 (a reversal) is DEBIT and must be CREDIT"],
    ),
    (
        CHANGE + "reference_type = 'ADMIN' WHERE id = '{call_undone}'",
        ["the reference type of transaction 4 (a reversal) is ADMIN and must be REVERSAL"],
    ),
    (
        CHANGE + "reversed_type = 'ADMIN' WHERE id = '{call_undone}'",
        ["the reversed type of transaction 4 (a reversal) is ADMIN and must be USAGE"],
    ),
    (
        CHANGE + "reversed_type = NULL WHERE id = '{credit_undone}'",
        ["the reversed type of transaction 6 (a reversal) is missing and must be ADMIN"],
    ),
    (
        CHANGE + "reversed_type = 'USAGE' WHERE id = '{paid_in}'",
        ["what transaction 2 (a reversal) undoes is missing and must be named"],
    ),
    (
        CHANGE + "reverses_id = NULL WHERE id = '{call_undone}'",
        ["what transaction 4 (a reversal) undoes is missing and must be named"],
    ),
    (
        CHANGE + f"reverses_id = '{NOTHING}' WHERE id = '{{call_undone}}'",
        [f"what transaction 4 (a reversal) undoes is missing and must be {NOTHING}"],
    ),
    (
        CHANGE + "reverses_id = '{credit_undone}' WHERE id = '{call_undone}'",
        [
            "the amount of transaction 4 (a reversal) is 4 and must be 7",
            "the reversed type of transaction 4 (a reversal) is USAGE and must be REVERSAL",
            "the reference type of what transaction 4 (a reversal) undoes is REVERSAL"
            " and must be one that can be undone",
        ],
    ),
    (
        CHANGE + "reverses_id = '{received}' WHERE id = '{credit_undone}'",
        [
            "the account of transaction 6 (a reversal) is {alice} and must be {bob}",
            "the amount of transaction 6 (a reversal) is 7 and must be 3",
            "the reversed type of transaction 6 (a reversal) is ADMIN and must be TRANSFER",
            "the reference type of what transaction 6 (a reversal) undoes is TRANSFER"
            " and must be one that can be undone",
        ],
    ),
    # transfers
    (
        CHANGE + "amount = 2 WHERE id = '{received}'",
        [
            "the amount of transaction 2 (a leg of a transfer) is 0.000000002 and must be 3",
            "the amount of transaction 8 (a leg of a transfer) is 3 and must be 0.000000002",
        ],
    ),
    (
        CHANGE + "transaction_type = 'DEBIT' WHERE id = '{received}'",
        [
            "the type of transaction 2 (a leg of a transfer) is DEBIT and must be CREDIT",
            "the type of transaction 8 (a leg of a transfer) is DEBIT and must be CREDIT",
        ],
    ),
    (
        CHANGE + "reference_type = 'ADMIN' WHERE id = '{given}'",
        ["the reference type of transaction 8 (a leg of a transfer) is ADMIN and must be TRANSFER"],
    ),
    (
        CHANGE + "counterpart_id = NULL WHERE id = '{given}'",
        [
            "the counterpart of the other leg of transaction 2 (a leg of a transfer) is missing"
            " and must be {received}",
            "the other leg of transaction 8 (a leg of a transfer) is missing and must be named",
        ],
    ),
    (
        CHANGE + "counterpart_id = '{paid_in}' WHERE id = '{given}'",
        [
            "the amount of transaction 8 (a leg of a transfer) is 3 and must be 50",
            "the counterpart of the other leg of transaction 2 (a leg of a transfer) is {paid_in}"
            " and must be {received}",
            "the counterpart of the other leg of transaction 8 (a leg of a transfer) is missing"
            " and must be {given}",
            "the account of the other leg of transaction 8 (a leg of a transfer) is the same"
            " and must be another",
        ],
    ),
    (
        """DELETE FROM "transaction" WHERE id = '{received}'""",
        ["the other leg of transaction 8 (a leg of a transfer) is missing and must be {received}"],
    ),
    (
        CHANGE + "account_id = '{alice}', sequence = 9 WHERE id = '{received}'",
        [
            "the account of the other leg of transaction 8 (a leg of a transfer) is the same"
            " and must be another",
            "the account of the other leg of transaction 9 (a leg of a transfer) is the same"
            " and must be another",
        ],
    ),
]
LINKS = ("(a settlement)", "(a reversal)", "(a leg of a transfer)", "the settlement of")


async def test_sound_links(database: Database) -> None:
    await keep_books(database)
    check = await prove(database)
    assert (check.mismatches, check.accounts_checked, check.transactions_checked) == ([], 2, 10)
    kinds = Counter(row.reference_type for row in await ledger_rows(database))
    assert kinds == {"SYSTEM": 2, "ADMIN": 2, "USAGE": 2, "REVERSAL": 2, "TRANSFER": 2}


@pytest.mark.parametrize(("statement", "said"), FORGED)
async def test_a_forged_link(database: Database, statement: str, said: Sequence[str]) -> None:
    books = await keep_books(database)
    await add_mandate(database, "new")
    names = {name: getattr(books, name) for name in books.__slots__}
    await forge(database, statement.format(**names))
    found = await mismatches(database)
    of_links = [words for words in found if any(link in words for link in LINKS)]
    assert sorted(of_links) == sorted(words.format(**names) for words in said)
    assert await mismatches(database, "new") == []


@pytest.mark.parametrize(
    ("index", "column", "value", "words"),
    [
        (
            "transaction_settlement",
            "hold_id",
            "settled",
            "the number of settlements of the hold of transaction {} (a settlement)",
        ),
        (
            "transaction_reversal",
            "reverses_id",
            "call",
            "the number of reversals of what transaction {} (a reversal) undoes",
        ),
    ],
)
async def test_twice_the_same_link(
    blank_database_url: str, index: str, column: str, value: str, words: str
) -> None:
    """Which a unique index forbids while it is there."""
    async with Database(blank_database_url) as database:
        await migrate(database)
        books = await keep_books(database)
        await run_sql(database, f"DROP INDEX {index}")
        key = getattr(books, value)
        await forge(database, f"{CHANGE} {column} = '{key}' WHERE id = '{books.given}'")
        found = await mismatches(database)
        first = 7 if column == "hold_id" else 4
        for sequence in (first, 8):
            assert f"{words.format(sequence)} is 2 and must be 1" in found


async def test_a_link_into_another_mandate(database: Database) -> None:
    books = await keep_books(database)
    await add_mandate(database, "pool", PREPAY_MANDATE)
    foreign = await credit(database, 7, mandate_id="pool")
    await forge(
        database, f"{CHANGE} reverses_id = '{foreign.id}' WHERE id = '{books.credit_undone}'"
    )
    assert await mismatches(database) == [
        f"what transaction 6 (a reversal) undoes is missing and must be {foreign.id}"
    ]
    assert await mismatches(database, "pool") == []


async def test_an_account_that_is_missing(blank_database_url: str) -> None:
    """Which foreign keys forbid while they are on: SQLite's own shell has them off."""
    remove = "DELETE FROM account WHERE user_id = 'alice'"
    async with Database(blank_database_url) as database:
        await migrate(database)
        books = await keep_books(database)
        if database.is_sqlite:
            with closing(sqlite3.connect(str(database.engine.url.database))) as shell:
                shell.execute(remove)
                shell.commit()
        else:
            await run_sql(database, "ALTER TABLE account DROP CONSTRAINT account_pkey CASCADE")
            await run_sql(database, remove)
        said = await check_ledger(database, SYSADMIN, MANDATE)
    assert said is not None
    check, wrong = said
    assert [(found.account_id, found.problem) for found in check.mismatches] == [
        (books.alice, "the account of its transactions is missing and must be there")
    ]
    assert (check.ok, wrong) == (False, [])
