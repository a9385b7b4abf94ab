"""Billing settings of a mandate, and the providers it may use."""

from datetime import datetime
from decimal import Decimal
from typing import Any

import strawberry

from app.billing import settings
from app.billing.enums import BillingModel
from schema.context import Info
from schema.errors import UserError, mutation, user_errors
from schema.inputs import MandateId, given
from schema.keys import by_key
from schema.mandates import Mandate


@strawberry.type(description="Where invoices go.")
class BillingAddress:
    company: str | None = strawberry.field(description="Company.", default=None)
    name: str | None = strawberry.field(description="Addressee.", default=None)
    street: str | None = strawberry.field(description="Street and number.", default=None)
    postal_code: str | None = strawberry.field(description="Postal code.", default=None)
    city: str | None = strawberry.field(description="City.", default=None)
    region: str | None = strawberry.field(description="Region, state or canton.", default=None)
    country: str | None = strawberry.field(description="ISO 3166-1 alpha-2.", default=None)
    vat_number: str | None = strawberry.field(description="VAT number.", default=None)
    email: str | None = strawberry.field(description="E-mail address for invoices.", default=None)


@strawberry.type(description="How a mandate pays.")
class BillingSettings:
    mandate_id: strawberry.Private[str]
    billing_address: strawberry.Private[dict[str, Any] | None]

    billing_model: BillingModel = strawberry.field(description="Who pays.")
    default_user_credit: Decimal = strawberry.field(
        description="What a user's account receives when it is opened, once; 0 is none."
    )
    warning_threshold_percent: Decimal = strawberry.field(
        description="Percent of the balance right after the latest credit that is no reversal (of the credit limit under CREDIT_POSTPAY), 0 to 100, at which a balance is in warning."
    )
    block_on_zero_balance: bool = strawberry.field(
        description="Whether prepaid spending stops when the credit is used up."
    )
    notify_on_warning: bool = strawberry.field(
        description="Whether a balance that runs low is told, by e-mail to notifyEmails and by webhook."
    )
    notify_emails: list[str] = strawberry.field(description="Who is to be warned.")
    credit_limit: Decimal | None = strawberry.field(
        description="The most that may be owed under CREDIT_POSTPAY; null is no limit."
    )
    allowed_providers: list[str] | None = strawberry.field(
        description="The providers members may use; null allows every registered one, an empty list none."
    )
    version: int = strawberry.field(description="Grows by 1 with each change.")
    updated_at: datetime = strawberry.field(description="When they were last changed.")

    @strawberry.field(description="The mandate's id: there is one for each.")
    def id(self) -> strawberry.ID:
        return strawberry.ID(self.mandate_id)

    mandate = by_key(Mandate, "mandate", "mandate_id", description="The mandate.")

    @strawberry.field(name="billingAddress", description="Where invoices go.")
    def address(self) -> BillingAddress | None:
        return BillingAddress(**self.billing_address) if self.billing_address else None


@strawberry.type
class SettingsQuery:
    @strawberry.field(
        description="For mandate admins: how the mandate pays; null while it has no settings and so behaves as UNLIMITED."
    )
    async def billing_settings(self, info: Info, mandate_id: MandateId) -> BillingSettings | None:
        return await settings.find_settings(info.context.database, info.context.viewer, mandate_id)

    @strawberry.field(description="The AI providers that the viewer may use in this mandate.")
    async def providers(self, info: Info, mandate_id: MandateId) -> list[str] | None:
        context = info.context
        found = await settings.list_providers(
            context.database, context.viewer, mandate_id, context.providers
        )
        return None if found is None else list(found)


@strawberry.input(description="A given address replaces the stored one as a whole.")
class BillingAddressInput:
    company: str | None = strawberry.field(description="Company.", default=None)
    name: str | None = strawberry.field(description="Addressee.", default=None)
    street: str | None = strawberry.field(description="Street and number.", default=None)
    postal_code: str | None = strawberry.field(description="Postal code.", default=None)
    city: str | None = strawberry.field(description="City.", default=None)
    region: str | None = strawberry.field(description="Region, state or canton.", default=None)
    country: str | None = strawberry.field(
        description="ISO 3166-1 alpha-2, such as CH.", default=None
    )
    vat_number: str | None = strawberry.field(description="VAT number.", default=None)
    email: str | None = strawberry.field(description="E-mail address for invoices.", default=None)


@strawberry.input(
    description="Settings to create or change: what is left out stays as it is, null clears."
)
class UpdateBillingSettingsInput:
    mandate_id: strawberry.ID = strawberry.field(description="The mandate.")
    billing_model: BillingModel | None = strawberry.field(
        description="Who pays. Refused while money or an open hold would be left behind on an account that the new model does not use.",
        default=strawberry.UNSET,
    )
    default_user_credit: Decimal | None = strawberry.field(
        description="What a user's account receives when it is opened: 0 to 1,000,000.",
        default=strawberry.UNSET,
    )
    warning_threshold_percent: Decimal | None = strawberry.field(
        description="0 to 100.", default=strawberry.UNSET
    )
    block_on_zero_balance: bool | None = strawberry.field(
        description="Whether prepaid spending stops when the credit is used up.",
        default=strawberry.UNSET,
    )
    notify_on_warning: bool | None = strawberry.field(
        description="Whether a balance that runs low is told, by e-mail to notifyEmails and by webhook.",
        default=strawberry.UNSET,
    )
    notify_emails: list[str] | None = strawberry.field(
        description="Who is to be warned: at most 20 e-mail addresses.", default=strawberry.UNSET
    )
    billing_address: BillingAddressInput | None = strawberry.field(
        description="Where invoices go; null clears it.", default=strawberry.UNSET
    )
    credit_limit: Decimal | None = strawberry.field(
        description="The most that may be owed under CREDIT_POSTPAY, 0 to 1,000,000,000; null is no limit.",
        default=strawberry.UNSET,
    )
    allowed_providers: list[str] | None = strawberry.field(
        description="Registered providers; null allows every one, an empty list none.",
        default=strawberry.UNSET,
    )
    expected_version: int | None = strawberry.field(
        description="Refuses with VERSION_CONFLICT when the stored version is another; 0 for none yet.",
        default=None,
    )


@strawberry.type(description="The settings as they are now.")
class UpdateBillingSettingsPayload:
    settings: BillingSettings | None = strawberry.field(
        description="Null when refused.", default=None
    )
    user_errors: list[UserError] = user_errors()


@strawberry.type
class SettingsMutation:
    @mutation("Sysadmin. Creates or changes a mandate's billing settings.")
    async def update_billing_settings(
        self, info: Info, input: UpdateBillingSettingsInput
    ) -> UpdateBillingSettingsPayload:
        context = info.context
        row = await settings.update_settings(
            context.database,
            context.viewer,
            input.mandate_id,
            given(input, "mandate_id", "expected_version"),
            expected_version=input.expected_version,
            registered=context.providers,
        )
        return UpdateBillingSettingsPayload(settings=row)
