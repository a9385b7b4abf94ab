from typing import Any

import pytest

from app.billing.enums import BillingModel
from app.database import Database
from tests.api import Api, add_people
from tests.world import MANDATE, OTHER_MANDATE, add_user, change_settings, credit, dump

pytestmark = pytest.mark.anyio

FIELDS = """{
    id mandate { id } billingModel defaultUserCredit warningThresholdPercent blockOnZeroBalance
    notifyOnWarning notifyEmails creditLimit allowedProviders version
    billingAddress { company name street postalCode city region country vatNumber email }
}"""
READ = f"query($id: ID!) {{ billingSettings(mandateId: $id) {FIELDS} }}"
UPDATE = f"""mutation($input: UpdateBillingSettingsInput!) {{
    updateBillingSettings(input: $input) {{ settings {FIELDS} userErrors {{ code field message }} }}
}}"""
PROVIDERS = "query($id: ID!) { providers(mandateId: $id) }"
REGISTERED = ["anthropic", "azure", "google", "mistral", "openai"]
NEW = {
    "id": MANDATE,
    "mandate": {"id": MANDATE},
    "billingModel": "UNLIMITED",
    "defaultUserCredit": "10",
    "warningThresholdPercent": "10",
    "blockOnZeroBalance": True,
    "notifyOnWarning": True,
    "notifyEmails": [],
    "creditLimit": None,
    "allowedProviders": None,
    "billingAddress": None,
    "version": 1,
}
ADDRESS = {
    "company": "Acme AG",
    "name": "Ada",
    "street": "Weg 1",
    "postalCode": "8000",
    "city": "Z\N{LATIN SMALL LETTER U WITH DIAERESIS}rich",
    "region": "ZH",
    "country": "CH",
    "vatNumber": "CHE-1",
    "email": "post@example.com",
}


async def update(api: Api, **changes: Any) -> tuple[Any, list[Any]]:
    payload = await api.read("root", UPDATE, input={"mandateId": MANDATE, **changes})
    return payload["settings"], payload["userErrors"]


async def test_settings_are_created_with_defaults(database: Database, api: Api) -> None:
    await add_people(database)
    assert await api.read("ada", READ, id=MANDATE) is None
    assert await update(api, expectedVersion=0) == (NEW, [])
    assert await api.read("ada", READ, id=MANDATE) == NEW


async def test_what_is_given_changes_and_the_rest_stays(database: Database, api: Api) -> None:
    await add_people(database)
    expected: dict[str, Any] = dict(NEW)
    steps: list[dict[str, Any]] = [
        {"billingModel": "CREDIT_POSTPAY", "creditLimit": "250.000000001"},
        {"defaultUserCredit": "0", "warningThresholdPercent": "0", "creditLimit": "0"},
        {"blockOnZeroBalance": False, "notifyOnWarning": False},
        {"notifyEmails": ["a@example.com", "b@example.com"], "billingAddress": ADDRESS},
        {"allowedProviders": ["openai", "azure"]},
        {"allowedProviders": [], "notifyEmails": []},
        {"billingAddress": {"city": "Bern"}},
        {"allowedProviders": None, "billingAddress": None, "creditLimit": None},
        {"warningThresholdPercent": "99.999999999", "blockOnZeroBalance": True},
    ]
    for version, changes in enumerate(steps, start=1):
        expected |= changes | {"version": version}
        if address := changes.get("billingAddress"):
            expected["billingAddress"] = dict.fromkeys(ADDRESS) | dict(address)
        assert await update(api, **changes, expectedVersion=version - 1) == (expected, [])
        assert await api.read("root", READ, id=MANDATE) == expected
    assert await update(api) == (expected, [])
    assert await update(api, blockOnZeroBalance=True) == (expected, [])


EMAIL = "ada@example.com"


async def test_a_wrong_value_is_refused_by_field(database: Database, api: Api) -> None:
    await add_people(database, model=BillingModel.PREPAY_MANDATE)
    before = await dump(database)
    for changes, code, field in (
        ({"warningThresholdPercent": "100.000000001"}, "INVALID", "warningThresholdPercent"),
        ({"warningThresholdPercent": "-1"}, "INVALID", "warningThresholdPercent"),
        ({"warningThresholdPercent": None}, "INVALID", "warningThresholdPercent"),
        ({"defaultUserCredit": "-0.000000001"}, "INVALID", "defaultUserCredit"),
        ({"defaultUserCredit": "1000000.000000001"}, "LIMIT_EXCEEDED", "defaultUserCredit"),
        ({"creditLimit": "-1"}, "INVALID", "creditLimit"),
        ({"creditLimit": "1000000001"}, "LIMIT_EXCEEDED", "creditLimit"),
        ({"billingModel": None}, "INVALID", "billingModel"),
        ({"blockOnZeroBalance": None}, "INVALID", "blockOnZeroBalance"),
        ({"notifyOnWarning": None}, "INVALID", "notifyOnWarning"),
        ({"notifyEmails": None}, "INVALID", "notifyEmails"),
        ({"notifyEmails": [EMAIL] * 21}, "INVALID", "notifyEmails"),
        ({"notifyEmails": [EMAIL, "ada"]}, "INVALID", "notifyEmails.1"),
        ({"notifyEmails": [f"{EMAIL}\n"]}, "INVALID", "notifyEmails.0"),
        ({"notifyEmails": [f"{EMAIL}\r\nBcc: {EMAIL}"]}, "INVALID", "notifyEmails.0"),
        ({"allowedProviders": ["openai", "OpenAI"]}, "INVALID", "allowedProviders.1"),
        ({"allowedProviders": [""]}, "INVALID", "allowedProviders.0"),
        ({"billingAddress": {"country": "XX"}}, "INVALID", "billingAddress.country"),
        ({"billingAddress": {"country": "ch"}}, "INVALID", "billingAddress.country"),
        ({"billingAddress": {"email": "ada"}}, "INVALID", "billingAddress.email"),
        ({"billingAddress": {"postalCode": ""}}, "INVALID", "billingAddress.postalCode"),
        ({"billingAddress": {"vatNumber": "x" * 201}}, "INVALID", "billingAddress.vatNumber"),
        ({"expectedVersion": 0}, "VERSION_CONFLICT", "expectedVersion"),
        ({"expectedVersion": 2}, "VERSION_CONFLICT", "expectedVersion"),
    ):
        settings, errors = await update(api, **changes)
        assert settings is None
        assert [(changes, e["code"], ".".join(e["field"])) for e in errors] == [
            (changes, code, field)
        ]
        assert "_" not in errors[0]["message"]
    assert await dump(database) == before


async def test_money_stays_where_the_model_can_reach_it(database: Database, api: Api) -> None:
    await add_people(database, model=BillingModel.PREPAY_USER)
    await credit(database, 1, "alice")
    before = await dump(database)
    for model in ("PREPAY_MANDATE", "CREDIT_POSTPAY", "UNLIMITED"):
        _, [error] = await update(api, billingModel=model)
        assert (error["code"], error["field"]) == ("BALANCE_NOT_ZERO", ["billingModel"])
    assert await dump(database) == before


async def test_providers(database: Database, api: Api) -> None:
    await add_people(database)
    for user_id in ("alice", "ada", "gateway", "root"):
        assert await api.read(user_id, PROVIDERS, id=MANDATE) == REGISTERED
    for allowed, expected in (
        (["openai", "azure"], ["azure", "openai"]),
        ([], []),
        (None, REGISTERED),
    ):
        await change_settings(database, allowed_providers=allowed)
        for user_id in ("alice", "ada", "gateway", "root"):
            assert await api.read(user_id, PROVIDERS, id=MANDATE) == expected
    assert await api.read("sven", PROVIDERS, id=MANDATE) is None


async def test_admin_of_another_mandate(database: Database, api: Api) -> None:
    await add_people(database, model=BillingModel.PREPAY_MANDATE)
    await add_user(database, "nina")
    assert await api.read("sven", READ, id=MANDATE) is None
    assert await api.read("sven", READ, id=OTHER_MANDATE) is None  # it has no settings yet
    assert await api.read("nina", READ, id=MANDATE) is None
