"""GraphiQL: the daily work of an admin."""

import json
import re
import uuid
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Locator, Page, Route, expect

from tests.e2e.conftest import OpenPage, until
from tests.e2e.dashboard import book

OPERATIONS = Path(__file__).parent.parent.parent / "graphiql" / "src" / "operations"
TITLES = [
    "FindUser",
    "SeeBalance",
    "AddCredit",
    "ChangeSettings",
    "Transactions",
    "UndoBooking",
]
CREDIT = {"mandateId": "demo-university", "userId": "member-one", "amount": "25.5"}


@pytest.fixture
def page(open_page: OpenPage) -> Page:
    page = open_page("/graphql", viewport={"width": 1280, "height": 800})
    wait_until_it_is_ready(page)
    return page


def wait_until_it_is_ready(page: Page) -> None:
    expect(page.get_by_role("region", name="Operation Editor")).to_contain_text("query FindUser")


def sign_in(page: Page, user_id: str, name: str) -> None:
    page.get_by_role("button", name=user_id, exact=True).click()
    expect(page.get_by_role("status")).to_have_text(name)


def open_tab(page: Page, title: str) -> None:
    page.get_by_role("tab").filter(has_text=title).click()
    expect(page.get_by_role("region", name="Operation Editor")).to_contain_text(title)
    settle(page)


def settle(page: Page) -> None:
    """GraphiQL takes up what an editor holds 100 ms after the last change."""
    page.evaluate("new Promise(done => setTimeout(done, 200))")


def write(page: Page, editor: str, text: str) -> None:
    """In the place of what the editor holds."""
    page.get_by_role("region", name=editor).click()
    page.keyboard.press("ControlOrMeta+a")
    page.keyboard.press("Delete")
    page.keyboard.insert_text(text)
    settle(page)


def run(page: Page) -> Locator:
    """Where the answer is shown."""
    page.get_by_role("button", name="Execute query").click()
    return page.get_by_role("region", name="Result Window")


def answer(page: Page) -> Any:
    """All of it; what is out of sight is not in the page."""
    with page.expect_response("**/graphql") as response:
        run(page)
    return response.value.json()


def problem(page: Page) -> Locator:
    return page.get_by_role("banner").get_by_role("alert")


def test_it_opens_with_the_operations_of_the_daily_work(page: Page) -> None:
    expect(page.get_by_role("tab")).to_contain_text(TITLES)
    expect(page.get_by_role("status")).to_have_text("Nobody is signed in")
    expect(page.get_by_role("region", name="Operation Editor")).to_contain_text(
        "# as university-admin"
    )
    open_tab(page, "AddCredit")
    expect(page.get_by_role("region", name="Variables")).to_contain_text('"amount": "25.00"')
    expect(page.get_by_role("img", name="play icon")).to_be_visible()
    until(page, lambda: len(page.workers) >= 2)  # else the editors work without their helpers


def test_the_docs_and_the_explorer_open(page: Page) -> None:
    page.get_by_role("button", name="Show Documentation Explorer").click()
    docs = page.locator(".graphiql-plugin")
    docs.get_by_role("link", name="Mutation", exact=True).click()
    docs.get_by_role("link", name="reverseTransaction", exact=True).click()
    expect(docs).to_contain_text("ReverseTransactionPayload")
    page.get_by_role("button", name="Show GraphiQL Explorer").click()
    page.locator(".graphiql-plugin").get_by_text("totalCount").click()
    expect(page.get_by_role("region", name="Operation Editor")).not_to_contain_text("totalCount")


def test_what_is_seen_depends_on_who_is_signed_in(page: Page) -> None:
    sign_in(page, "university-admin", "University Admin")
    expect(run(page)).to_contain_text('"id": "member-four"')
    sign_in(page, "member-one", "Member One")
    expect(run(page)).to_contain_text('"code": "FORBIDDEN"')
    sign_in(page, "demo-sysadmin", "Demo Sysadmin, sysadmin")
    expect(run(page)).to_contain_text('"id": "member-four"')

    page.reload()
    expect(page.get_by_role("status")).to_have_text("Demo Sysadmin, sysadmin")
    token = page.evaluate("sessionStorage.getItem('billing-token')")
    assert token
    kept = page.evaluate("JSON.stringify([localStorage, document.cookie])")
    assert token not in kept
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("status")).to_have_text("Nobody is signed in")
    assert page.evaluate("sessionStorage.getItem('billing-token')") is None
    wait_until_it_is_ready(page)
    run(page)
    expect(problem(page)).to_have_text("This needs a token: sign in first.")


def test_who_is_clicked_last_is_signed_in_however_slow_the_answers_are(page: Page) -> None:
    slow: list[Route] = []

    def hold_back_the_first(route: Route) -> None:
        if "query Viewer" in (route.request.post_data or "") and not slow:
            slow.append(route)
        else:
            route.continue_()

    page.route("**/graphql", hold_back_the_first)
    page.get_by_role("button", name="demo-sysadmin", exact=True).click()
    sign_in(page, "member-one", "Member One")
    with page.expect_response("**/graphql"):
        slow[0].continue_()
    settle(page)
    expect(page.get_by_role("status")).to_have_text("Member One")
    expect(run(page)).to_contain_text('"code": "FORBIDDEN"')


def test_one_sign_in_serves_both_pages_and_outlasts_a_busy_server(page: Page) -> None:
    sign_in(page, "member-one", "Member One")

    def refuse(route: Route) -> None:
        error = {"message": "Ask later.", "extensions": {"code": "RATE_LIMITED"}}
        if route.request.method == "POST":
            route.fulfill(status=429, json={"errors": [error]})
        else:
            route.continue_()

    page.route("**/graphql", refuse)
    page.reload()
    expect(problem(page)).to_have_text("Ask later.")
    page.unroute("**/graphql", refuse)
    page.reload()
    expect(page.get_by_role("status")).to_have_text("Member One")
    page.goto("/#/mandates/demo-university")
    expect(page.get_by_test_id("balance")).to_contain_text("CHF")


def test_a_credit_is_added(page: Page) -> None:
    sign_in(page, "demo-sysadmin", "Demo Sysadmin, sysadmin")
    open_tab(page, "SeeBalance")
    before = Decimal(answer(page)["data"]["balance"]["balance"])
    open_tab(page, "AddCredit")
    credit = CREDIT | {"idempotencyKey": str(uuid.uuid4())}
    write(page, "Variables", json.dumps({"input": credit}))
    booked = answer(page)["data"]["addCredit"]
    assert booked["userErrors"] == []
    assert Decimal(booked["transaction"]["balanceAfter"]) == before + Decimal("25.5")
    expect(page.get_by_role("region", name="Result Window")).to_contain_text('"amount": "25.5"')
    open_tab(page, "SeeBalance")
    assert Decimal(answer(page)["data"]["balance"]["balance"]) == before + Decimal("25.5")


def test_a_wrong_amount_shows_its_error(page: Page) -> None:
    sign_in(page, "demo-sysadmin", "Demo Sysadmin, sysadmin")
    open_tab(page, "AddCredit")
    wrong = CREDIT | {"amount": "25,50", "idempotencyKey": str(uuid.uuid4())}
    write(page, "Variables", json.dumps({"input": wrong}))
    shown = run(page)
    expect(shown).to_contain_text('"code": "BAD_USER_INPUT"')
    expect(shown).to_contain_text("Decimal must be plain digits")
    wrong["amount"] = "-1"
    write(page, "Variables", json.dumps({"input": wrong}))
    shown = run(page)
    expect(shown).to_contain_text("amount must be more than 0.")


def test_a_bad_token_is_told(page: Page) -> None:
    sign_in(page, "member-one", "Member One")
    for wrong in ("nonsense", "schlüssel…"):
        page.get_by_label("Token").fill(wrong)
        page.get_by_role("button", name="Sign in", exact=True).click()
        expect(problem(page)).to_contain_text("not valid")
        expect(page.get_by_role("status")).to_have_text("Nobody is signed in")
        assert wrong not in page.evaluate("JSON.stringify(sessionStorage)")
        sign_in(page, "member-one", "Member One")
        expect(problem(page)).to_be_hidden()


def test_a_token_that_has_expired_is_told_and_hides_no_docs(page: Page) -> None:
    asked: list[Route] = []

    def hold_back(route: Route) -> None:
        if "query Viewer" in (route.request.post_data or ""):
            asked.append(route)
        else:
            route.continue_()

    page.evaluate("sessionStorage.setItem('billing-token', 'expired')")
    page.route("**/graphql", hold_back)
    page.reload()
    page.get_by_role("button", name="Show Documentation Explorer").click()
    expect(page.locator(".graphiql-plugin")).to_contain_text("Mutation")
    asked[0].continue_()
    expect(problem(page)).to_contain_text("not valid")


def test_a_subscription_runs_as_who_is_signed_in(page: Page) -> None:
    watch = 'subscription { balanceChanged(mandateId: "demo-university") { user { id } } }'
    write(page, "Operation Editor", watch)
    sign_in(page, "member-one", "Member One")
    shown = run(page)
    expect(shown).to_contain_text('"id": "member-one"')
    sign_in(page, "university-admin", "University Admin")
    expect(shown).to_contain_text('"id": "university-admin"')


def test_every_operation_runs_as_whom_it_names(address: str) -> None:
    tokens = {
        person["id"]: person["token"] for person in httpx.get(f"{address}/demo/people").json()
    }
    book(address, "0.01", "To be undone")
    transaction_id = ""
    for path in sorted(OPERATIONS.glob("*.graphql")):
        query = path.read_text()
        [user_id] = re.findall(r"^# as ([\w-]+):", query)
        file = path.with_suffix(".json")
        variables = file.read_text() if file.exists() else "{}"
        variables = variables.replace("TRANSACTION-ID", transaction_id)
        for name in re.findall(r"^(?:query|mutation) (\w+)", query, re.MULTILINE):
            response = httpx.post(
                f"{address}/graphql",
                json={
                    "query": query,
                    "variables": json.loads(variables),
                    "operationName": name,
                },
                headers={"Authorization": f"Bearer {tokens[user_id]}"},
            )
            told = response.json()
            assert "errors" not in told, (name, told)
            [field] = told["data"].values()
            assert field.get("userErrors", []) == [], name
            if "nodes" in field:
                assert field["nodes"], name
            if name == "Transactions":
                transaction_id = field["nodes"][0]["id"]
