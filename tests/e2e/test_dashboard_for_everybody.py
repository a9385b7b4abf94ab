"""The dashboard in light and dark, on a phone, in other languages, and when something fails."""

import re
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, Route, expect

from tests.e2e.conftest import OpenPage
from tests.e2e.dashboard import UNIVERSITY, bars, book, part, rows, sign_in

_AXE = Path(__file__).parents[2] / "dashboard/node_modules/axe-core/axe.min.js"
PHONE = {"width": 360, "height": 740}


def test_an_error_of_the_api_is_shown_with_a_retry(open_page: OpenPage) -> None:
    page = sign_in(open_page, "member-one")
    expect(rows(page)).to_have_count(50)
    error = {"message": "The database is away.", "extensions": {"code": "UNAVAILABLE"}}

    def fail(route: Route) -> None:
        route.fulfill(status=503, json={"errors": [error]})

    page.route("**/graphql", fail)
    page.get_by_label("Type").select_option("CREDIT")
    problem = part(page, "Transactions").get_by_role("alert")
    expect(problem).to_contain_text("The database is away.")
    page.unroute("**/graphql", fail)
    problem.get_by_role("button", name="Try again").click()
    expect(problem).to_have_count(0)
    expect(rows(page).filter(has_text="Top-up").first).to_be_visible()


def _limit_once(page: Page, operation: str, data: object = None) -> list[str]:
    """What was refused so far."""
    refused: list[str] = []
    error = {"message": "Too often.", "extensions": {"code": "RATE_LIMITED", "retryAfter": 1}}

    def refuse(route: Route) -> None:
        if operation in (route.request.post_data or "") and not refused:
            refused.append(operation)
            route.fulfill(status=429, json={"data": data, "errors": [error]})
        else:
            route.continue_()

    page.route("**/graphql", refuse)
    return refused


def test_what_is_asked_too_often_stays_and_is_read_again_later(
    open_page: OpenPage, address: str
) -> None:
    page = sign_in(open_page, "member-one")
    expect(bars(page).first).to_be_visible()
    total = page.locator(".chart-total")
    before = total.inner_text()
    refused = _limit_once(page, "query Usage(")
    with page.expect_response(lambda response: response.status == 429):
        book(address, "0.5", "Asked too often")
    expect(bars(page).first).to_be_visible()
    expect(part(page, "Cost").get_by_role("alert")).to_have_count(0)
    expect(total).not_to_have_text(before, use_inner_text=True)
    assert len(refused) == 1


def test_a_credit_is_not_asked_for_before_its_payers_are_known(open_page: OpenPage) -> None:
    page = sign_in(open_page, "demo-sysadmin")
    half: dict[str, Any] = {"billingSettings": None, "mandateUsers": {"nodes": []}}
    _limit_once(page, "query Payers(", half)
    page.get_by_role("button", name="Add credit").click()
    form = page.get_by_role("dialog")
    expect(form.get_by_role("alert")).to_contain_text("Too often.")
    expect(form.get_by_label("Amount")).to_have_count(0)
    expect(form.get_by_label("For")).to_be_focused()


@pytest.mark.parametrize("token", ["not-a-token", "eyJhbGciOiJIUzI1NiJ9.e30.x"])
def test_a_wrong_token_is_told_where_one_signs_in(open_page: OpenPage, token: str) -> None:
    page = open_page("/")
    page.get_by_role("textbox", name="Token").fill(token)
    page.get_by_role("button", name="Sign in", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("no longer valid")
    expect(page.get_by_role("heading", name="Sign in with a token")).to_be_visible()


def test_signing_out_forgets_the_token(open_page: OpenPage) -> None:
    page = sign_in(open_page, "member-one")
    kept = "[...Object.values(sessionStorage), ...Object.values(localStorage), document.cookie].join('')"
    assert page.evaluate(kept) != ""
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("heading", name="Sign in with a token")).to_be_visible()
    assert page.evaluate(kept) == ""


@pytest.mark.parametrize("color_scheme", ["light", "dark"])
def test_axe_finds_nothing_serious_on_any_screen(open_page: OpenPage, color_scheme: str) -> None:
    page = sign_in(open_page, "demo-sysadmin", color_scheme=color_scheme)
    expect(rows(page)).to_have_count(50)
    expect(bars(page).first).to_be_visible()
    page.get_by_text("Show as a table").click()
    _examine(page, "overview")
    page.get_by_role("button", name="Add credit").click()
    page.get_by_role("dialog").get_by_role("button", name="Add credit").click()
    expect(page.get_by_text("plain digits")).to_be_visible()
    _examine(page, "credit")
    page.keyboard.press("Escape")
    rows(page).get_by_role("button", name="Undo").first.click()
    _examine(page, "undo")
    page.keyboard.press("Escape")
    for screen in ("users", "accounts", "audit", "settings"):
        page.goto(f"{UNIVERSITY}/{screen}")
        expect(page.locator(".panel li, .panel td, .panel select").first).to_be_visible()
        _examine(page, screen)
    page.goto("/#/")
    expect(page.locator(".choice")).not_to_have_count(0)
    _examine(page, "mandates")
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("textbox", name="Token")).to_be_visible()
    _examine(page, "sign-in")


def _examine(page: Page, screen: str) -> None:
    page.evaluate(_AXE.read_text())
    found = page.evaluate("axe.run(document)")["violations"]
    serious = [
        (fault["id"], node["html"], node["failureSummary"])
        for fault in found
        if fault["impact"] in ("serious", "critical")
        for node in fault["nodes"]
    ]
    assert serious == [], screen


def test_a_phone_has_no_sideways_scrolling(open_page: OpenPage) -> None:
    page = sign_in(open_page, "demo-sysadmin", viewport=PHONE)
    for screen in ("overview", "users", "accounts", "audit", "settings"):
        page.goto(f"{UNIVERSITY}/{screen}")
        expect(page.locator(".panel li, .panel td, .panel select").first).to_be_visible()
        assert _width(page) <= PHONE["width"], screen
    page.goto(UNIVERSITY)
    page.get_by_text("Show as a table").click()
    assert _width(page) <= PHONE["width"]
    page.get_by_role("button", name="Add credit").click()
    expect(page.get_by_label("Amount")).to_be_visible()
    assert _width(page) <= PHONE["width"]
    page.goto("/#/")
    expect(page.locator(".choice")).not_to_have_count(0)
    assert _width(page) <= PHONE["width"]


def _width(page: Page) -> int:
    return int(page.evaluate("document.documentElement.scrollWidth"))


@pytest.mark.parametrize(
    ("locale", "shown"), [("de-DE", r"\d,\d\d.*CHF"), ("en-GB", r"CHF.*\d\.\d\d")]
)
def test_amounts_are_written_as_the_reader_does(
    open_page: OpenPage, locale: str, shown: str
) -> None:
    page = open_page(UNIVERSITY, locale=locale)
    page.get_by_role("button", name="member-one").click()
    expect(page.get_by_test_id("balance")).to_contain_text(re.compile(shown, re.DOTALL))
