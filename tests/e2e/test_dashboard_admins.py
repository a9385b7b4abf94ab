"""The dashboard of those who look after a mandate."""

import json
import uuid

from playwright.sync_api import Route, expect

from tests.e2e.conftest import OpenPage
from tests.e2e.dashboard import UNIVERSITY, as_person, book, part, rows, sign_in


def test_an_admin_sees_users_accounts_and_audit_log(open_page: OpenPage) -> None:
    page = sign_in(open_page, "university-admin")
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
    expect(form.get_by_label("For")).to_be_focused()
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


def test_a_retry_after_a_lost_answer_adds_credit_once(open_page: OpenPage) -> None:
    page = sign_in(open_page, "demo-sysadmin")
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


def test_settings_show_userErrors_at_their_fields(open_page: OpenPage) -> None:  # noqa: N802
    page = sign_in(open_page, "demo-sysadmin", f"{UNIVERSITY}/settings")
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


def test_a_change_of_somebody_else_wipes_no_edits(open_page: OpenPage, address: str) -> None:
    page = sign_in(open_page, "demo-sysadmin", f"{UNIVERSITY}/settings")
    company = page.get_by_label("Company")
    company.fill("Typed for a long time")
    query = (
        "mutation($input: UpdateBillingSettingsInput!)"
        " { updateBillingSettings(input: $input) { settings { version } } }"
    )
    addressee = f"Addressee {uuid.uuid4()}"
    others = {"mandateId": "demo-university", "billingAddress": {"name": addressee}}
    as_person(address, "demo-sysadmin", query, others)
    page.get_by_role("button", name="Save settings").click()
    load = page.get_by_role("button", name="load the new settings")
    expect(load).to_be_visible()
    expect(company).to_have_value("Typed for a long time")
    load.click()
    expect(page.get_by_label("Addressee")).to_have_value(addressee)
    expect(company).to_have_value("")
    company.fill("Typed again")
    page.get_by_role("button", name="Save settings").click()
    expect(page.get_by_text("The settings are saved.")).to_be_visible()


def test_a_sysadmin_undoes_a_booking_after_a_confirmation(
    open_page: OpenPage, address: str
) -> None:
    description = f"Mistake {uuid.uuid4()}"
    book(address, "0.75", description)
    page = sign_in(open_page, "demo-sysadmin")
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
    expect(part(page, "Transactions").locator("caption")).to_be_focused()
