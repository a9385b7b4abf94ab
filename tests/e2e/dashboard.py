"""The dashboard's parts, and how people and the gateway come to it."""

import re
import uuid
from collections.abc import Callable
from typing import Any

import httpx
from playwright.sync_api import Locator, Page, expect

from tests.e2e.conftest import OpenPage

UNIVERSITY = "/#/mandates/demo-university"


def sign_in(
    open_page: OpenPage,
    person: str,
    path: str = UNIVERSITY,
    before: Callable[[Page], None] = lambda page: None,
    **options: Any,
) -> Page:
    """As a demo person, on a screen of the university."""
    page = open_page(path, **{"locale": "en-GB"} | options)
    before(page)
    page.get_by_role("button", name=person).click()
    expect(page.get_by_role("heading", level=1, name="Demo University")).to_be_visible()
    return page


def part(page: Page, name: str | re.Pattern[str]) -> Locator:
    return page.get_by_role("region", name=name)


def rows(page: Page) -> Locator:
    return part(page, "Transactions").locator("tbody tr")


def bars(page: Page) -> Locator:
    return page.locator("path.recharts-rectangle").locator("visible=true")


def as_gateway(address: str, query: str, given: dict[str, Any]) -> dict[str, Any]:
    return as_person(address, "gateway", query, given)


def as_person(address: str, user_id: str, query: str, given: dict[str, Any]) -> dict[str, Any]:
    people = httpx.get(f"{address}/demo/people").json()
    [token] = [person["token"] for person in people if person["id"] == user_id]
    answer = httpx.post(
        f"{address}/graphql",
        headers={"Authorization": f"Bearer {token}"},
        json={"query": query, "variables": {"input": given}},
    )
    data: dict[str, Any] = answer.json()["data"]
    return data


def book(address: str, amount: str, *descriptions: str) -> None:
    """Calls of member-one's, as the gateway does."""
    events = [
        {
            "mandateId": "demo-university",
            "userId": "member-one",
            "amount": amount,
            "description": description,
            "aicoreProvider": "openai",
            "idempotencyKey": str(uuid.uuid4()),
        }
        for description in descriptions
    ]
    query = (
        "mutation($input: RecordUsageInput!) { recordUsage(input: $input) { results { outcome } } }"
    )
    answer = as_gateway(address, query, {"events": events})
    assert answer["recordUsage"]["results"] == [{"outcome": "RECORDED"}] * len(events)
