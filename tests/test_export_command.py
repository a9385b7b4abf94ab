"""`billing export`: the same files on stdout or on disk, and never a part of one."""

import os
from pathlib import Path
from typing import Any

import pytest
from rich.progress import Progress

from app.billing.enums import BillingModel
from app.database import DatabaseUnavailable
from tests.conftest import Billing, OnDatabase
from tests.exports import RANGE, failing_at, read
from tests.world import (
    MANDATE,
    add_mandate,
    record,
    usage_event,
)


@pytest.fixture
def spent(on_database: OnDatabase) -> None:
    on_database(add_mandate, users=("alice", "bob"), model=BillingModel.UNLIMITED)
    on_database(record, usage_event(5), usage_event(7, user_id="bob"), usage_event(1))


@pytest.mark.usefixtures("spent")
def test_export_to_stdout(billing: Billing) -> None:
    code, out, error = billing("export", "transactions", MANDATE)
    assert (code, error) == (0, "")
    assert [row["amount"] for row in read(out)] == ["1", "7", "5"]
    asked = ["userId=alice", "orderBy=AMOUNT", "direction=ASC", "search=a"]
    code, out, _ = billing("export", "transactions", MANDATE, *asked)
    assert (code, [row["amount"] for row in read(out)]) == (0, ["1", "5"])
    asked = [*(f"{name}={value}" for name, value in RANGE.items()), "groupBy=USER"]
    code, out, _ = billing("export", "usage", MANDATE, *asked)
    assert code == 0
    assert {(row["user"], row["cost"]) for row in read(out) if row["cost"] != "0"} == {
        ("alice", "6"),
        ("bob", "7"),
    }


@pytest.mark.usefixtures("spent")
def test_export_to_a_file(billing: Billing, tmp_path: Path) -> None:
    """It takes the place of one of that name, and its mode, and touches nothing else."""
    file = tmp_path / "acme.csv"
    done = (0, f"3 rows are in {file}.\n", "")
    bystander = file.with_name("acme.csv.part")
    bystander.symlink_to(tmp_path / "precious")
    (tmp_path / "precious").write_text("precious")
    for before, mode in ((None, 0o666 & ~current_umask()), ("before", 0o600), ("before", 0o664)):
        if before:
            file.write_text(before)
            file.chmod(mode)
        assert billing("export", "transactions", MANDATE, "--output", str(file)) == done
        assert len(read(file.read_bytes().decode())) == 3
        assert file.stat().st_mode & 0o777 == mode
    assert {one.name for one in tmp_path.iterdir()} >= {"acme.csv", "acme.csv.part", "precious"}
    assert not [one for one in tmp_path.iterdir() if one.name.startswith(".acme")]
    assert (tmp_path / "precious").read_text() == "precious"


def current_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.usefixtures("spent")
def test_export_that_cannot_be(
    billing: Billing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def said(*arguments: str) -> str:
        code, out, error = billing("export", *arguments)
        assert (code, out, error.count("\n")) == (1, "", 1)
        return error.removeprefix("billing: ").rstrip()

    assert said("transactions", "none") == "There is no such mandate."
    assert said("transactions", MANDATE, "user") == "user must be NAME=VALUE."
    assert said("transactions", MANDATE, "minAmount=x").startswith("minAmount must be plain digits")
    assert said("transactions", MANDATE, "mandateId=x") == "mandateId must be given once."
    assert said("usage", MANDATE) == "from must be given."
    assert said("transactions", MANDATE, "--output", str(tmp_path)) == f"{tmp_path} is not a file."
    missing = tmp_path / "none" / "x.csv"
    told = said("transactions", MANDATE, "--output", str(missing))
    assert told == f"There is no directory {missing.parent}."
    assert billing("export", "accounts", MANDATE)[0] == 2

    monkeypatch.setattr("app.export.MAX_PAGE", 1)
    file = tmp_path / "acme.csv"
    file.write_text("before")
    gone = DatabaseUnavailable()
    gone.__cause__ = OSError("gone")
    monkeypatch.setattr("app.export.list_transactions", failing_at(3, gone))
    asked = ("transactions", MANDATE, "--output", str(file))
    assert said(*asked) == "The database cannot be reached: gone"
    assert file.read_text() == "before"
    assert not [one for one in tmp_path.iterdir() if one.name.startswith(".acme")]


@pytest.mark.usefixtures("spent")
def test_export_shows_how_far_it_is(
    billing: Billing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[Any] = []
    monkeypatch.setattr(Progress, "start", lambda self: None)
    monkeypatch.setattr(Progress, "update", lambda self, task, completed: shown.append(completed))
    totals: list[Any] = []
    add_task = Progress.add_task

    def note(self: Progress, text: str, total: Any) -> Any:
        totals.append(total)
        return add_task(self, text, total=total)

    monkeypatch.setattr(Progress, "add_task", note)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    for asked in ([], ["userId=alice"]):
        billing("export", "transactions", MANDATE, *asked, "--output", str(tmp_path / "acme.csv"))
    assert (totals, shown) == ([3, 2], [0, 3, 0, 2])
