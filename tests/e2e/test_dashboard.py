"""The dashboard of a member."""

import csv
import json
import re
import uuid
from decimal import Decimal

from playwright.sync_api import Page, WebSocketRoute, expect

from tests.e2e.conftest import OpenPage, until
from tests.e2e.dashboard import as_gateway, as_person, bars, book, part, rows, sign_in


def balance(page: Page) -> Decimal:
    shown = page.get_by_test_id("balance")
    expect(shown).to_contain_text(re.compile(r"\d"))
    return Decimal(re.sub(r"[^\d.-]", "", shown.inner_text()))


def test_a_member_sees_balance_chart_and_transactions(open_page: OpenPage) -> None:
    page = sign_in(open_page, "member-one")
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
    open_page: OpenPage, address: str
) -> None:
    page = sign_in(open_page, "member-one")
    before = balance(page)
    expect(page.get_by_text("Live", exact=True)).to_be_visible()
    expect(rows(page)).to_have_count(50)
    description = f"Live {uuid.uuid4()}"
    book(address, "0.000000001", description)
    expect(rows(page).first).to_contain_text(description)
    expect(rows(page)).to_have_count(51)
    after = before - Decimal("0.000000001")
    expect(page.get_by_test_id("balance")).to_contain_text(f"{after:.9f}".rstrip("0")[-4:])
    assert balance(page) == after


def test_a_hold_is_shown_while_its_call_runs(open_page: OpenPage, address: str) -> None:
    page = sign_in(open_page, "member-one", before=lambda page: page.clock.install())
    expect(page.get_by_text("Live", exact=True)).to_be_visible()
    held = part(page, "Held for running calls")
    expect(held).to_contain_text("Nothing is held")
    query = "mutation($input: CreateHoldInput!) { createHold(input: $input) { hold { id } } }"
    call = {"mandateId": "demo-university", "userId": "member-one"}
    key = str(uuid.uuid4())
    answer = as_gateway(
        address,
        query,
        call | {"amount": "0.375", "featureCode": "chat", "idempotencyKey": key},
    )
    expect(held.get_by_role("listitem")).to_contain_text("0.375")
    expect(held.get_by_role("listitem")).to_contain_text("chat")
    expect(part(page, "Balance of Member One")).to_contain_text("0.375")
    query = "mutation($input: ReleaseHoldInput!) { releaseHold(input: $input) { hold { id } } }"
    hold_id = answer["createHold"]["hold"]["id"]
    as_gateway(address, query, {"mandateId": "demo-university", "holdId": hold_id})
    page.clock.fast_forward(15_000)
    expect(held).to_contain_text("Nothing is held")


def test_what_was_missed_while_offline_is_there_after_the_reconnect(
    open_page: OpenPage, address: str
) -> None:
    sockets: list[WebSocketRoute] = []
    is_down = False

    def connect(socket: WebSocketRoute) -> None:
        sockets.append(socket)
        if is_down:
            socket.close(code=1012)
        else:
            socket.connect_to_server()

    page = sign_in(
        open_page, "member-one", before=lambda page: page.route_web_socket("**/graphql", connect)
    )
    expect(page.get_by_text("Live", exact=True)).to_be_visible()
    expect(rows(page)).to_have_count(50)
    is_down = True
    sockets[-1].close(code=1012)
    expect(page.get_by_text("Offline", exact=True)).to_be_visible()
    description = f"Missed {uuid.uuid4()}"
    book(address, "0.01", description)
    is_down = False
    expect(page.get_by_text("Live", exact=True)).to_be_visible()
    expect(rows(page).first).to_contain_text(description)
    until(page, lambda: len(sockets) > 1)


def test_a_stream_that_ends_on_an_open_socket_is_begun_again(
    open_page: OpenPage, address: str
) -> None:
    sockets: list[WebSocketRoute] = []
    streams: list[str] = []

    def watch(socket: WebSocketRoute) -> None:
        sockets.append(socket)
        server = socket.connect_to_server()

        def pass_on(message: str | bytes) -> None:
            told = json.loads(message)
            if told["type"] == "subscribe":
                streams.append(told["id"])
            server.send(message)

        socket.on_message(pass_on)

    page = sign_in(
        open_page, "member-one", before=lambda page: page.route_web_socket("**/graphql", watch)
    )
    expect(page.get_by_text("Live", exact=True)).to_be_visible()
    expect(rows(page)).to_have_count(50)
    until(page, lambda: len(streams) == 2)
    before = list(streams)
    fault = [{"message": "Subscribe again.", "extensions": {"code": "UNAVAILABLE"}}]
    for stream in before:
        sockets[-1].send(json.dumps({"id": stream, "type": "error", "payload": fault}))
    expect(page.get_by_text("Offline", exact=True)).to_be_visible()
    missed, later = f"Missed {uuid.uuid4()}", f"Later {uuid.uuid4()}"
    book(address, "0.01", missed)
    expect(page.get_by_text("Live", exact=True)).to_be_visible()
    expect(rows(page).first).to_contain_text(missed)
    book(address, "0.01", later)
    expect(rows(page).first).to_contain_text(later)
    until(page, lambda: len(streams) == 4)


def test_who_belongs_to_a_mandate_no_longer_is_told(open_page: OpenPage, address: str) -> None:
    page = sign_in(open_page, "member-one")
    expect(page.get_by_text("Live", exact=True)).to_be_visible()
    expect(rows(page)).not_to_have_count(0)
    membership = {"mandateId": "demo-university", "userId": "member-one"}
    remove = (
        "mutation($input: RemoveMembershipInput!)"
        " { removeMembership(input: $input) { userErrors { code } } }"
    )
    add = (
        "mutation($input: UpsertMembershipInput!)"
        " { upsertMembership(input: $input) { userErrors { code } } }"
    )
    as_person(address, "demo-sysadmin", remove, membership)
    try:
        expect(page.get_by_text("There is no such mandate")).to_be_visible()
        expect(page.get_by_text("Live", exact=True)).to_have_count(0)
    finally:
        as_person(address, "demo-sysadmin", add, membership | {"role": "MEMBER"})


def test_a_busy_list_keeps_every_row_in_order(open_page: OpenPage, address: str) -> None:
    page = sign_in(open_page, "member-one", before=lambda page: page.clock.install())
    expect(page.get_by_text("Live", exact=True)).to_be_visible()
    expect(rows(page)).to_have_count(50)
    mark = uuid.uuid4()
    booked = [f"Busy {number:03} {mark}" for number in range(140)]
    booked_at_once = 20
    for start in range(0, len(booked), booked_at_once):
        book(address, "0.000001", *booked[start : start + booked_at_once])
    expect(rows(page)).to_have_count(150)
    page.clock.fast_forward(20_000)
    expect(rows(page).first).to_contain_text(booked[-1])
    shown = rows(page).locator("td:first-child .strong").all_inner_texts()
    assert shown[: len(booked)] == booked[::-1]
    assert len(shown) == 150


def test_a_socket_that_is_refused_while_the_token_is_good_signs_nobody_out(
    open_page: OpenPage,
) -> None:
    sockets: list[WebSocketRoute] = []

    def refuse(socket: WebSocketRoute) -> None:
        sockets.append(socket)
        socket.close(code=4403, reason="The database is away.")

    page = sign_in(
        open_page, "member-one", before=lambda page: page.route_web_socket("**/graphql", refuse)
    )
    expect(page.get_by_text("Offline", exact=True)).to_be_visible()
    expect(rows(page)).to_have_count(50)
    page.wait_for_timeout(500)
    assert sockets
    expect(page.get_by_text("Offline", exact=True)).to_be_visible()


def test_typing_asks_once(open_page: OpenPage) -> None:
    page = sign_in(open_page, "member-one")
    expect(rows(page)).to_have_count(50)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.post_data or ""))
    page.get_by_label("Search").press_sequentially("no such transaction", delay=20)
    expect(page.get_by_text("Nothing matches.")).to_be_visible()
    assert len([query for query in asked if "query Transactions" in query]) == 1


def test_filters_and_endless_scrolling(open_page: OpenPage, address: str) -> None:
    page = sign_in(open_page, "member-one")
    expect(rows(page)).to_have_count(50)
    rows(page).last.scroll_into_view_if_needed()
    expect(rows(page).nth(99)).to_be_attached()
    ids = rows(page).all_inner_texts()
    assert len(ids) == len(set(ids))

    description = f"Needle {uuid.uuid4()}"
    book(address, "0.25", description)
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


def test_csv_is_what_is_filtered(open_page: OpenPage, address: str) -> None:
    description = f"For the file {uuid.uuid4()}"
    book(address, "0.5", description)
    page = sign_in(open_page, "member-one")
    page.get_by_label("Search").fill(description)
    expect(rows(page)).to_have_count(1)
    with page.expect_download() as download:
        page.get_by_role("button", name="Download CSV").click()
    assert download.value.suggested_filename == "transactions-demo-university.csv"
    [row] = csv.DictReader(download.value.path().read_text().splitlines())
    assert (row["description"], Decimal(row["amount"])) == (description, Decimal("0.5"))
