"""The dashboard, as each role meets it."""

import csv
import json
import re
import uuid
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Locator, Page, Route, WebSocketRoute, expect

from tests.e2e.conftest import OpenPage

_AXE = Path(__file__).parents[2] / "dashboard/node_modules/axe-core/axe.min.js"
UNIVERSITY = "/#/mandates/demo-university"
PHONE = {"width": 360, "height": 740}

Book = Callable[..., None]


@pytest.fixture
def tokens(address: str) -> dict[str, str]:
    people = httpx.get(f"{address}/demo/people").json()
    return {person["id"]: person["token"] for person in people}


@pytest.fixture
def book(address: str, tokens: dict[str, str]) -> Book:
    """Books a call as the gateway does."""

    def book(amount: str, description: str, user_id: str = "member-one") -> None:
        event = {
            "mandateId": "demo-university",
            "userId": user_id,
            "amount": amount,
            "description": description,
            "aicoreProvider": "openai",
            "idempotencyKey": str(uuid.uuid4()),
        }
        query = "mutation($input: RecordUsageInput!) { recordUsage(input: $input) { results { outcome } } }"
        answer = _as_gateway(address, tokens, query, {"events": [event]})
        assert answer["recordUsage"]["results"] == [{"outcome": "RECORDED"}]

    return book


def _as_gateway(
    address: str, tokens: dict[str, str], query: str, given: dict[str, Any]
) -> dict[str, Any]:
    answer = httpx.post(
        f"{address}/graphql",
        headers={"Authorization": f"Bearer {tokens['gateway']}"},
        json={"query": query, "variables": {"input": given}},
    )
    data: dict[str, Any] = answer.json()["data"]
    return data


@pytest.fixture
def signed_in(open_page: OpenPage) -> Callable[..., Page]:
    """Signs in as a demo person, and opens a screen."""

    def sign_in(
        person: str,
        path: str = UNIVERSITY,
        before: Callable[[Page], None] = lambda page: None,
        **options: Any,
    ) -> Page:
        page = open_page(path, **{"locale": "en-GB"} | options)
        before(page)
        page.get_by_role("button", name=person).click()
        expect(page.get_by_role("heading", level=1, name="Demo University")).to_be_visible()
        return page

    return sign_in


def part(page: Page, name: str | re.Pattern[str]) -> Locator:
    return page.get_by_role("region", name=name)


def rows(page: Page) -> Locator:
    return part(page, "Transactions").locator("tbody tr")


def bars(page: Page) -> Locator:
    return page.locator("path.recharts-rectangle").locator("visible=true")


def balance(page: Page) -> Decimal:
    shown = page.get_by_test_id("balance")
    expect(shown).to_contain_text(re.compile(r"\d"))
    return Decimal(re.sub(r"[^\d.-]", "", shown.inner_text()))


def test_a_member_sees_balance_chart_and_transactions(signed_in: Callable[..., Page]) -> None:
    page = signed_in("member-one")
    expect(page.get_by_test_id("balance")).to_contain_text("CHF")
    expect(part(page, "Balance of Member One")).to_contain_text(
        re.compile("Lasts until|Nothing was")
    )
    expect(part(page, "Held for running calls")).to_be_visible()
    cost = part(page, "Cost")
    cost.get_by_role("radio", name="Month").check()
    expect(bars(page).first).to_be_visible()
    cost.get_by_role("radio", name="Feature").check()
    cost.get_by_text("Show as a table").click()
    expect(cost.get_by_role("columnheader", name="summarise")).to_be_visible()
    expect(cost.get_by_role("row")).to_have_count(13)
    expect(rows(page)).to_have_count(50)
    for name in ("Users", "Audit log", "Add credit", "Undo"):
        expect(page.get_by_text(name, exact=True)).to_have_count(0)


def test_a_booking_moves_balance_and_list_without_a_reload(
    signed_in: Callable[..., Page], book: Book
) -> None:
    page = signed_in("member-one")
    before = balance(page)
    expect(page.get_by_text("Live", exact=True)).to_be_visible()
    expect(rows(page)).to_have_count(50)
    description = f"Live {uuid.uuid4()}"
    book("0.000000001", description)
    expect(rows(page).first).to_contain_text(description)
    expect(rows(page)).to_have_count(51)
    after = before - Decimal("0.000000001")
    expect(page.get_by_test_id("balance")).to_contain_text(f"{after:.9f}".rstrip("0")[-4:])
    assert balance(page) == after


def test_a_hold_is_shown_while_its_call_runs(
    signed_in: Callable[..., Page], address: str, tokens: dict[str, str]
) -> None:
    page = signed_in("member-one")
    expect(page.get_by_text("Live", exact=True)).to_be_visible()
    held = part(page, "Held for running calls")
    expect(held).to_contain_text("Nothing is held")
    query = "mutation($input: CreateHoldInput!) { createHold(input: $input) { hold { id } } }"
    call = {"mandateId": "demo-university", "userId": "member-one"}
    key = str(uuid.uuid4())
    answer = _as_gateway(
        address,
        tokens,
        query,
        call | {"amount": "0.375", "featureCode": "chat", "idempotencyKey": key},
    )
    expect(held.get_by_role("listitem")).to_contain_text("0.375")
    expect(held.get_by_role("listitem")).to_contain_text("chat")
    expect(part(page, "Balance of Member One")).to_contain_text("0.375")
    query = "mutation($input: ReleaseHoldInput!) { releaseHold(input: $input) { hold { id } } }"
    hold_id = answer["createHold"]["hold"]["id"]
    _as_gateway(address, tokens, query, {"mandateId": "demo-university", "holdId": hold_id})
    expect(held).to_contain_text("Nothing is held")


def test_what_was_missed_while_offline_is_there_after_the_reconnect(
    signed_in: Callable[..., Page], book: Book
) -> None:
    sockets: list[WebSocketRoute] = []
    is_down = False

    def connect(socket: WebSocketRoute) -> None:
        sockets.append(socket)
        if is_down:
            socket.close(code=1012)
        else:
            socket.connect_to_server()

    page = signed_in("member-one", before=lambda page: page.route_web_socket("**/graphql", connect))
    expect(page.get_by_text("Live", exact=True)).to_be_visible()
    expect(rows(page)).to_have_count(50)
    is_down = True
    sockets[-1].close(code=1012)
    expect(page.get_by_text("Offline", exact=True)).to_be_visible()
    description = f"Missed {uuid.uuid4()}"
    book("0.01", description)
    is_down = False
    expect(page.get_by_text("Live", exact=True)).to_be_visible()
    expect(rows(page).first).to_contain_text(description)
    assert len(sockets) > 1


def test_a_socket_that_is_refused_while_the_token_is_good_signs_nobody_out(
    signed_in: Callable[..., Page],
) -> None:
    sockets: list[WebSocketRoute] = []

    def refuse(socket: WebSocketRoute) -> None:
        sockets.append(socket)
        socket.close(code=4403, reason="The database is away.")

    page = signed_in("member-one", before=lambda page: page.route_web_socket("**/graphql", refuse))
    expect(page.get_by_text("Offline", exact=True)).to_be_visible()
    expect(rows(page)).to_have_count(50)
    page.wait_for_timeout(500)
    assert sockets
    expect(page.get_by_text("Offline", exact=True)).to_be_visible()


def test_typing_asks_once(signed_in: Callable[..., Page]) -> None:
    page = signed_in("member-one")
    expect(rows(page)).to_have_count(50)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.post_data or ""))
    page.get_by_label("Search").press_sequentially("no such transaction", delay=20)
    expect(page.get_by_text("Nothing matches.")).to_be_visible()
    assert len([query for query in asked if "query Transactions" in query]) == 1


def test_filters_and_endless_scrolling(signed_in: Callable[..., Page], book: Book) -> None:
    page = signed_in("member-one")
    expect(rows(page)).to_have_count(50)
    rows(page).last.scroll_into_view_if_needed()
    expect(rows(page).nth(99)).to_be_attached()
    ids = rows(page).all_inner_texts()
    assert len(ids) == len(set(ids))

    description = f"Needle {uuid.uuid4()}"
    book("0.25", description)
    page.get_by_label("Search").fill(description)
    expect(rows(page)).to_have_count(1)
    page.get_by_label("Type").select_option("CREDIT")
    expect(page.get_by_text("Nothing matches.")).to_be_visible()
    page.get_by_role("button", name="Clear").click()
    part(page, "Transactions").get_by_label("Provider").select_option("mistral")
    expect(rows(page).filter(has_not_text="mistral")).to_have_count(0)
    expect(rows(page).first).to_contain_text("mistral-small")
    assert part(page, "Transactions").get_by_label("Model").locator("option").all_inner_texts() == [
        "All",
        "mistral-small",
    ]
    page.get_by_role("button", name="Clear").click()
    page.get_by_label("From").fill("2001-01-01")
    page.get_by_label("To").fill("2001-12-31")
    expect(page.get_by_text("Nothing matches.")).to_be_visible()


def test_csv_is_what_is_filtered(signed_in: Callable[..., Page], book: Book) -> None:
    description = f"For the file {uuid.uuid4()}"
    book("0.5", description)
    page = signed_in("member-one")
    page.get_by_label("Search").fill(description)
    expect(rows(page)).to_have_count(1)
    with page.expect_download() as download:
        page.get_by_role("button", name="Download CSV").click()
    assert download.value.suggested_filename == "transactions-demo-university.csv"
    [row] = csv.DictReader(download.value.path().read_text().splitlines())
    assert (row["description"], Decimal(row["amount"])) == (description, Decimal("0.5"))


def test_an_admin_sees_users_accounts_and_audit_log(signed_in: Callable[..., Page]) -> None:
    page = signed_in("university-admin")
    expect(page.get_by_role("button", name="Add credit")).to_have_count(0)
    page.get_by_role("link", name="Users").click()
    users = part(page, "Users")
    expect(users.locator("tbody tr")).to_have_count(5)
    users.get_by_label("Find a user").fill("three")
    expect(users.locator("tbody tr")).to_have_count(1)
    expect(users.locator("tbody tr")).to_contain_text("Low")
    page.get_by_role("link", name="Accounts").click()
    expect(part(page, "Accounts").locator("tbody tr")).to_have_count(5)
    page.get_by_role("link", name="Audit log").click()
    expect(part(page, "Audit log").locator("li").first).to_be_visible()
    page.get_by_role("link", name="Settings").click()
    expect(page.get_by_label("Billing model")).to_be_disabled()
    expect(page.get_by_role("button", name="Save settings")).to_have_count(0)
    page.go_back()
    expect(part(page, "Audit log")).to_be_visible()


def test_a_sysadmin_finds_a_mandate_and_adds_credit(open_page: OpenPage) -> None:
    page = open_page("/", locale="en-GB")
    page.get_by_role("button", name="demo-sysadmin").click()
    page.get_by_label("Find a mandate").fill("univ")
    expect(page.locator(".choice")).to_have_count(1)
    page.get_by_role("link", name="Demo University").click()
    page.get_by_role("button", name="Add credit").click()
    form = page.get_by_role("dialog")
    form.get_by_label("For").select_option("member-one")
    form.get_by_label("Amount").fill("1e3")
    form.get_by_role("button", name="Add credit").click()
    expect(form.get_by_label("Amount")).to_be_focused()
    expect(form.get_by_text("plain digits")).to_be_visible()
    form.get_by_label("Amount").fill("-1")
    form.get_by_role("button", name="Add credit").click()
    expect(form.get_by_text("amount must be more than 0.")).to_be_visible()
    description = f"Invoice {uuid.uuid4()}"
    form.get_by_label("Amount").fill("2.500000001")
    form.get_by_label("Description").fill(description)
    form.get_by_role("button", name="Add credit").click()
    expect(form).to_have_count(0)
    expect(page.get_by_role("button", name="Add credit")).to_be_focused()
    expect(rows(page).first).to_contain_text(description)
    expect(rows(page).first).to_contain_text("2.500000001")


def test_a_retry_after_a_lost_answer_adds_credit_once(signed_in: Callable[..., Page]) -> None:
    page = signed_in("demo-sysadmin")
    keys: list[str] = []

    def lose_the_first_answer(route: Route) -> None:
        asked = json.loads(route.request.post_data or "{}")
        if "mutation AddCredit" not in asked["query"]:
            route.continue_()
            return
        keys.append(asked["variables"]["input"]["idempotencyKey"])
        if len(keys) == 1:
            route.fetch()
            route.abort("connectionreset")
        else:
            route.continue_()

    page.route("**/graphql", lose_the_first_answer)
    page.get_by_role("button", name="Add credit").click()
    form = page.get_by_role("dialog")
    form.get_by_label("Amount").fill("3")
    form.get_by_role("button", name="Add credit").click()
    expect(form.get_by_text("Choose who receives it.")).to_be_visible()
    form.get_by_label("For").select_option("member-one")
    description = f"Once {uuid.uuid4()}"
    form.get_by_label("Description").fill(description)
    form.get_by_role("button", name="Add credit").click()
    expect(form.get_by_text("could not be reached")).to_be_visible()
    form.get_by_role("button", name="Add credit").click()
    expect(form).to_have_count(0)
    assert len(keys) == 2
    assert len(set(keys)) == 1
    page.get_by_label("Search").fill(description)
    expect(rows(page)).to_have_count(1)


def test_settings_show_userErrors_at_their_fields(signed_in: Callable[..., Page]) -> None:  # noqa: N802
    page = signed_in("demo-sysadmin", f"{UNIVERSITY}/settings")
    percent = page.get_by_label("Warn at (percent)")
    before = percent.input_value()
    percent.fill("200")
    page.get_by_role("button", name="Save settings").click()
    expect(page.get_by_text("warningThresholdPercent must be 0 to 100.")).to_be_visible()
    expect(percent).to_have_attribute("aria-invalid", "true")
    expect(percent).to_be_focused()
    percent.fill("15" if before != "15" else "16")
    with page.expect_request(
        lambda request: "UpdateBillingSettings" in (request.post_data or "")
    ) as sent:
        page.get_by_role("button", name="Save settings").click()
    given = json.loads(sent.value.post_data or "")["variables"]["input"]
    assert sorted(given) == ["expectedVersion", "mandateId", "warningThresholdPercent"]
    expect(page.get_by_text("The settings are saved.")).to_be_visible()
    page.reload()
    expect(percent).to_have_value("15" if before != "15" else "16")


def test_a_sysadmin_undoes_a_booking_after_a_confirmation(
    signed_in: Callable[..., Page], book: Book
) -> None:
    description = f"Mistake {uuid.uuid4()}"
    book("0.75", description)
    page = signed_in("demo-sysadmin")
    row = rows(page).filter(has_text=description)
    row.get_by_role("button", name="Undo").click()
    dialog = page.get_by_role("dialog", name="Undo this booking?")
    expect(dialog).to_contain_text("0.75")
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    row.get_by_role("button", name="Undo").click()
    dialog.get_by_label("Reason").fill(f"Undone {description}")
    dialog.get_by_role("button", name="Undo the booking").click()
    expect(dialog).to_have_count(0)
    expect(rows(page).first).to_contain_text("Undoes another")
    expect(row.filter(has_text="Undone").first).to_be_visible()
    expect(row.get_by_role("button", name="Undo")).to_have_count(0)


def test_an_error_of_the_api_is_shown_with_a_retry(signed_in: Callable[..., Page]) -> None:
    page = signed_in("member-one")
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


@pytest.mark.parametrize("token", ["not-a-token", "eyJhbGciOiJIUzI1NiJ9.e30.x"])
def test_a_wrong_token_is_told_where_one_signs_in(open_page: OpenPage, token: str) -> None:
    page = open_page("/")
    page.get_by_role("textbox", name="Token").fill(token)
    page.get_by_role("button", name="Sign in", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("no longer valid")
    expect(page.get_by_role("heading", name="Sign in with a token")).to_be_visible()


def test_signing_out_forgets_the_token(signed_in: Callable[..., Page]) -> None:
    page = signed_in("member-one")
    kept = "[...Object.values(sessionStorage), ...Object.values(localStorage), document.cookie].join('')"
    assert page.evaluate(kept) != ""
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("heading", name="Sign in with a token")).to_be_visible()
    assert page.evaluate(kept) == ""


@pytest.mark.parametrize("color_scheme", ["light", "dark"])
def test_axe_finds_nothing_serious_on_any_screen(
    signed_in: Callable[..., Page], color_scheme: str
) -> None:
    page = signed_in("demo-sysadmin", color_scheme=color_scheme)
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


def test_a_phone_has_no_sideways_scrolling(signed_in: Callable[..., Page]) -> None:
    page = signed_in("demo-sysadmin", viewport=PHONE)
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
