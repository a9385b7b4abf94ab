"""requirements.lock is what pyproject.toml asks for: pinned, hashed, and without any registry's address."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
LOCK = (ROOT / "requirements.lock").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
WANTED = [
    Requirement(text)
    for group in (PROJECT["dependencies"], *PROJECT["optional-dependencies"].values())
    for text in group
]
ENTRIES = re.split(r"\n(?=\S)", LOCK.replace(" \\\n", " ").strip())
"""A pinned requirement with its hashes, and behind it comments that say who needs it."""


def pins() -> dict[str, list[Requirement]]:
    """What is locked, by name: more than once where platforms differ."""
    found: dict[str, list[Requirement]] = {}
    for entry in ENTRIES:
        requirement = Requirement(entry.split(" --hash", 1)[0])
        found.setdefault(canonicalize_name(requirement.name), []).append(requirement)
    return found


@pytest.mark.parametrize("wanted", WANTED, ids=str)
def test_a_requirement_is_locked_at_a_version_it_allows(wanted: Requirement) -> None:
    for locked in pins()[canonicalize_name(wanted.name)]:
        [version] = locked.specifier
        assert version.operator == "=="
        assert wanted.specifier.contains(version.version, prereleases=True)


def test_nothing_is_locked_that_nobody_wants() -> None:
    ours = f"{PROJECT['name']} (pyproject.toml)"
    direct = {
        canonicalize_name(Requirement(entry.split(" --hash", 1)[0]).name)
        for entry in ENTRIES
        if ours in entry
    }
    assert direct == {canonicalize_name(wanted.name) for wanted in WANTED}


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.split("==")[0])
def test_an_entry_is_pinned_and_hashed(entry: str) -> None:
    requirement = entry.split("\n", 1)[0]
    assert re.fullmatch(
        r"[a-z0-9._-]+==[^ ;]+( ; [^\\]+?)?( --hash=sha256:[0-9a-f]{64})+",
        re.sub(r" +", " ", requirement),
    )


def test_no_address_stands_in_it() -> None:
    assert "://" not in LOCK
    assert "--index" not in LOCK
