"""What schemathesis is told: values that reach behind the scalars, and what counts as a failure."""

from datetime import UTC, datetime, timedelta

import schemathesis
from hypothesis import strategies as st
from schemathesis.graphql import nodes, scalar

IDS = (
    "demo-university",
    "demo-agency",
    "demo-factory",
    "member-one",
    "university-admin",
    "gateway",
)
AMOUNTS = ("0", "0.000000001", "1", "12.50", "1000000", "1000000000000", "-1")
NOW = datetime.now(UTC).replace(tzinfo=None)


def mostly(known: st.SearchStrategy[str]) -> st.SearchStrategy[object]:
    """What gets past the scalar; now and then, any text."""
    strategies = [known] * 9 + [st.text(max_size=300)]
    return st.one_of(*strategies).map(nodes.String)


def times(most: int) -> st.SearchStrategy[datetime]:
    """Of so many days before and after now."""
    return st.datetimes(NOW - timedelta(most), NOW + timedelta(most))


scalar("ID", mostly(st.sampled_from(IDS)))
scalar("Decimal", mostly(st.sampled_from(AMOUNTS)))
scalar("Date", mostly(st.one_of(times(30), st.datetimes()).map(lambda time: str(time.date()))))
scalar(
    "DateTime",
    mostly(st.one_of(times(30), st.datetimes()).map(lambda time: f"{time.isoformat()}Z")),
)
scalar("CurrencyCode", mostly(st.sampled_from(["CHF", "EUR", "XXX"])))
scalar("TimeZone", mostly(st.sampled_from(["UTC", "Europe/Zurich", "Asia/Kathmandu"])))


@schemathesis.check
def no_fault_of_the_server(
    _: schemathesis.CheckContext, response: schemathesis.Response, __: schemathesis.Case
) -> None:
    """A refusal is an answer; a 5xx, an INTERNAL, and what is no JSON are none."""
    assert response.status_code < 500, f"HTTP {response.status_code}"
    for error in response.json().get("errors", ()):
        assert error["extensions"]["code"] != "INTERNAL", error["message"]
