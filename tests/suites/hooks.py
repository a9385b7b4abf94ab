"""What schemathesis is told: values that reach behind the scalars, and what counts as a failure."""

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
AMOUNTS = ("0", "0.000000001", "1", "12.50", "1000000", "1000000000000", "-1", "1e9", "NaN", "")


def often(known: st.SearchStrategy[str]) -> st.SearchStrategy[object]:
    """Mostly what exists, sometimes any text."""
    return st.one_of(known, known, known, st.text(max_size=300)).map(nodes.String)


scalar("ID", often(st.sampled_from(IDS)))
scalar("Decimal", often(st.sampled_from(AMOUNTS) | st.decimals(places=9).map(str)))
scalar("Date", often(st.dates().map(str)))
scalar("DateTime", often(st.datetimes().map(lambda time: f"{time.isoformat()}Z")))
scalar("CurrencyCode", often(st.sampled_from(["CHF", "EUR", "XXX"])))
scalar("TimeZone", often(st.sampled_from(["UTC", "Europe/Zurich", "Asia/Kathmandu"])))


@schemathesis.check
def no_fault_of_the_server(
    _: schemathesis.CheckContext, response: schemathesis.Response, __: schemathesis.Case
) -> None:
    """A refusal is an answer; a 5xx, an INTERNAL, and what is no JSON are none."""
    assert response.status_code < 500, f"HTTP {response.status_code}"
    for error in response.json().get("errors", ()):
        assert error["extensions"]["code"] != "INTERNAL", error["message"]
