/** The settings as a form has them, and what of them was changed. */
import type { BillingModel, SettingsFieldsFragment, UpdateBillingSettingsInput } from "./gql/graphql";

export const ADDRESS = {
  company: "Company",
  name: "Addressee",
  street: "Street and number",
  postalCode: "Postal code",
  city: "City",
  region: "Region or canton",
  country: "Country, such as CH",
  vatNumber: "VAT number",
  email: "E-mail for invoices",
} as const;

type AddressField = keyof typeof ADDRESS;
const ADDRESS_FIELDS = Object.keys(ADDRESS) as AddressField[];

export interface SettingsForm {
  billingModel: BillingModel;
  defaultUserCredit: string;
  warningThresholdPercent: string;
  blockOnZeroBalance: boolean;
  notifyOnWarning: boolean;
  /** One a line. */
  notifyEmails: string;
  /** Blank is no limit. */
  creditLimit: string;
  allowsAll: boolean;
  /** One a line. */
  allowedProviders: string;
  billingAddress: Record<AddressField, string>;
}

/** The paths of userErrors that have a place in the form. */
export const FIELDS = [
  "billingModel",
  "defaultUserCredit",
  "warningThresholdPercent",
  "blockOnZeroBalance",
  "notifyOnWarning",
  "notifyEmails",
  "creditLimit",
  "allowedProviders",
  ...ADDRESS_FIELDS.map((field) => `billingAddress.${field}`),
];

/** Without settings, what the API gives to new ones. */
export function toForm(settings: SettingsFieldsFragment | null): SettingsForm {
  return {
    billingModel: settings?.billingModel ?? "UNLIMITED",
    defaultUserCredit: settings?.defaultUserCredit ?? "10",
    warningThresholdPercent: settings?.warningThresholdPercent ?? "10",
    blockOnZeroBalance: settings?.blockOnZeroBalance ?? true,
    notifyOnWarning: settings?.notifyOnWarning ?? true,
    notifyEmails: settings?.notifyEmails.join("\n") ?? "",
    creditLimit: settings?.creditLimit ?? "",
    allowsAll: settings?.allowedProviders == null,
    allowedProviders: settings?.allowedProviders?.join("\n") ?? "",
    billingAddress: Object.fromEntries(
      ADDRESS_FIELDS.map((field) => [field, settings?.billingAddress?.[field] ?? ""]),
    ) as Record<AddressField, string>,
  };
}

export type Changes = Omit<UpdateBillingSettingsInput, "mandateId" | "expectedVersion">;

/** What is not changed is left out; what was emptied is null, which clears it. */
export function toChanges(form: SettingsForm, original: SettingsForm): Changes {
  const changed: Changes = {};
  if (form.billingModel !== original.billingModel) changed.billingModel = form.billingModel;
  for (const name of ["defaultUserCredit", "warningThresholdPercent"] as const) {
    if (form[name].trim() !== original[name]) changed[name] = form[name].trim();
  }
  for (const name of ["blockOnZeroBalance", "notifyOnWarning"] as const) {
    if (form[name] !== original[name]) changed[name] = form[name];
  }
  if (form.notifyEmails !== original.notifyEmails) changed.notifyEmails = lines(form.notifyEmails);
  if (form.creditLimit.trim() !== original.creditLimit) changed.creditLimit = form.creditLimit.trim() || null;
  if (form.allowsAll !== original.allowsAll || (!form.allowsAll && form.allowedProviders !== original.allowedProviders)) {
    changed.allowedProviders = form.allowsAll ? null : lines(form.allowedProviders);
  }
  if (ADDRESS_FIELDS.some((field) => form.billingAddress[field] !== original.billingAddress[field])) {
    const given = ADDRESS_FIELDS.filter((field) => form.billingAddress[field].trim());
    // A given address replaces the stored one as a whole.
    changed.billingAddress =
      given.length === 0
        ? null
        : Object.fromEntries(given.map((field) => [field, form.billingAddress[field].trim()]));
  }
  return changed;
}

function lines(text: string): string[] {
  return text.split("\n").map((line) => line.trim()).filter(Boolean);
}
