"""What `make check` makes of pip-audit's answers: a vulnerability fails, a service out of reach does not."""

import json
from typing import Any

import pytest

from tests.suites.vulnerabilities import UNREACHABLE, verdict

SOUND = {"name": "jinja2", "version": "3.1.6", "vulns": []}
FAULTY = {
    "name": "jinja2",
    "version": "2.4.1",
    "vulns": [{"id": "PYSEC-2014-8", "fix_versions": ["2.7.3", "3.0"]}],
}
UNKNOWN = {"name": "jinja2", "skip_reason": "Dependency not found on PyPI"}


@pytest.mark.parametrize(
    ("packages", "said", "is_well"),
    [
        ([SOUND, SOUND], "2 of 2 packages audited: no known vulnerability.", True),
        ([SOUND, UNKNOWN], "1 of 2 packages audited: no known vulnerability.", True),
        ([SOUND, FAULTY], "jinja2 2.4.1: PYSEC-2014-8, mended in 2.7.3, 3.0", False),
        ([UNKNOWN, UNKNOWN], UNREACHABLE, True),
    ],
)
def test_a_known_vulnerability_fails(
    packages: list[dict[str, Any]], said: str, is_well: bool
) -> None:
    assert verdict(json.dumps({"dependencies": packages, "fixes": []}), "") == (said, is_well)


@pytest.mark.parametrize(
    "complaint",
    [
        "ERROR:pip_audit._cli:Could not connect to PyPI's vulnerability feed",
        "requests.exceptions.ConnectionError: HTTPSConnectionPool(…): Max retries exceeded",
        "requests.exceptions.ReadTimeout: Read timed out.",
    ],
)
def test_a_service_out_of_reach_does_not_fail(complaint: str) -> None:
    assert verdict("", complaint) == (UNREACHABLE, True)


def test_any_other_fault_fails() -> None:
    said, is_well = verdict("", "ERROR:pip_audit._cli:invalid requirements input: none.lock")
    assert not is_well
    assert "none.lock" in said
