"""What the application sends to PostgreSQL in a test: each statement names its mandate, or may cross.

`CROSSING` is the one place that names the functions whose statements go to all shards.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from types import FrameType
from typing import Any

import asyncpg  # type: ignore[import-untyped]
import pytest
from asyncpg.prepared_stmt import PreparedStatement  # type: ignore[import-untyped]

from tests.shards import unnamed

CROSSING: dict[str, str] = {
    "app.billing.held.count_open": "A metric of the whole service.",
    "app.billing.holds._mandates_with_overdue": "The sweeper looks in which mandates it has work.",
    "app.billing.outbox._mandates_with": "Housekeeping looks in which mandates it has work.",
    "app.billing.outbox.next_due": "What has been due for longest goes first, whoever's it is.",
    "app.billing.outbox.waiting": "A metric of the whole service.",
    "app.billing.roll_up._mandates_to_total": "Housekeeping looks in which mandates it has work.",
    "app.billing.verify.drift.DriftCheck.go_on": "It goes round and round all accounts.",
}
"""By name of a function: why it may look at the shards of all mandates. It may change none."""

_WHOLE = "app.copying."
"""Of the operator's command that reads and fills whole databases."""
_ROOT = Path(__file__).parents[1]
_APPLICATION = tuple(f"{_ROOT / name}/" for name in ("app", "schema"))
_TESTS = f"{_ROOT / 'tests'}/"
_CARRIERS = {
    "app.billing.bulk",
    "app.billing.paging",
    "app.billing.verify.check",
    "app.database",
    "app.lending",
    "app.postgresql",
    "app.replica",
    "app.statements",
}
"""Modules that send what others have written."""


class Sent:
    """The statements of the application that name no mandate."""

    def __init__(self) -> None:
        self.faults: list[str] = []
        """Those that should."""
        self.crossing: set[str] = set()
        """The functions of CROSSING that have sent one."""

    def note(self, statement: str) -> None:
        """Judges a statement that is being sent."""
        problems = unnamed(statement)
        if not problems:
            return
        sender = _sender(sys._getframe(2))
        if sender is None or sender.startswith(_WHOLE):
            return
        if sender in CROSSING and statement.startswith("SELECT"):
            self.crossing.add(sender)
        else:
            self.faults.append(
                f"{sender} sends a statement that would go to every shard, because"
                f" {' and '.join(problems)}:\n\n{statement}\n\n"
                "Compare the mandate_id of each table with a value, or with that of a table which"
                " is. If it looks at all mandates, name the function in CROSSING of tests/sent.py."
            )

    def check(self) -> None:
        """Fails the test that sent what it should not."""
        if self.faults:
            faults, self.faults = list(dict.fromkeys(self.faults)), []
            pytest.fail("\n\n".join(faults), pytrace=False)


def _sender(frame: FrameType | None) -> str | None:
    """The application's function that has written the statement; None where a test has."""
    carrier = None
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith(_TESTS) and file != __file__:
            return None
        if file.startswith(_APPLICATION):
            module = frame.f_globals["__name__"]
            name = f"{module}.{frame.f_code.co_qualname.partition('.<locals>')[0]}"
            if module not in _CARRIERS:
                return name
            carrier = name
        frame = frame.f_back
    return carrier or "Nobody who is known"


def _records_copied(_: Any, table: str, *, columns: Any = None, **__: Any) -> str:
    names = ", ".join(f'"{name}"' for name in columns or ())
    return f'COPY "{table}" {names and f"({names})"} FROM STDIN'


@contextmanager
def watching() -> Iterator[Sent]:
    """What is sent meanwhile, by whichever way of the driver."""
    sent = Sent()
    with pytest.MonkeyPatch.context() as patch:

        def watch(owner: Any, name: str, text: Callable[..., str]) -> None:
            original = getattr(owner, name)

            @wraps(original)
            def noting(*arguments: Any, **options: Any) -> Any:
                sent.note(text(*arguments, **options))
                return original(*arguments, **options)

            patch.setattr(owner, name, noting)

        # Through one of these leads each way but that of a statement which is prepared already.
        for name in ("execute", "_execute", "_executemany", "cursor", "_copy_in", "_copy_out"):
            watch(asyncpg.Connection, name, lambda _, statement, *__, **___: statement)
        watch(asyncpg.Connection, "copy_records_to_table", _records_copied)
        for name in ("fetch", "fetchmany", "fetchrow", "fetchval", "executemany", "cursor"):
            watch(PreparedStatement, name, lambda prepared, *_, **__: prepared.get_query())
        yield sent
