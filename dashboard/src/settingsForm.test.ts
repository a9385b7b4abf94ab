import { expect, test } from "vitest";

import { toChanges, toForm } from "./settingsForm";

const FORM = toForm({
  id: "demo",
  version: 3,
  billingModel: "PREPAY_USER",
  defaultUserCredit: "10",
  warningThresholdPercent: "10",
  blockOnZeroBalance: true,
  notifyOnWarning: true,
  notifyEmails: ["a@example.com"],
  creditLimit: "500",
  allowedProviders: ["openai"],
  billingAddress: {
    company: "Demo",
    name: null,
    street: null,
    postalCode: null,
    city: null,
    region: null,
    country: "CH",
    vatNumber: null,
    email: null,
  },
});

test("what is not changed is left out", () => {
  expect(toChanges(FORM, FORM)).toEqual({});
  expect(toChanges({ ...FORM, warningThresholdPercent: " 20 " }, FORM)).toEqual({ warningThresholdPercent: "20" });
});

test("what is emptied is cleared with null", () => {
  expect(toChanges({ ...FORM, creditLimit: " " }, FORM)).toEqual({ creditLimit: null });
  expect(toChanges({ ...FORM, allowsAll: true }, FORM)).toEqual({ allowedProviders: null });
});

test("an empty list is not null: it allows no provider, and warns nobody", () => {
  expect(toChanges({ ...FORM, allowedProviders: "", notifyEmails: " \n" }, FORM)).toEqual({
    allowedProviders: [],
    notifyEmails: [],
  });
});

test("an address is replaced as a whole, and one without lines is cleared", () => {
  const address = { ...FORM.billingAddress, city: "Bern " };
  expect(toChanges({ ...FORM, billingAddress: address }, FORM)).toEqual({
    billingAddress: { company: "Demo", country: "CH", city: "Bern" },
  });
  const blank = { ...FORM.billingAddress, company: "", country: "" };
  expect(toChanges({ ...FORM, billingAddress: blank }, FORM)).toEqual({ billingAddress: null });
});

test("a mandate without settings starts from what the API gives to new ones", () => {
  const form = toForm(null);
  expect(form).toMatchObject({ billingModel: "UNLIMITED", defaultUserCredit: "10", allowsAll: true, creditLimit: "" });
  expect(toChanges({ ...form, defaultUserCredit: "0" }, form)).toEqual({ defaultUserCredit: "0" });
});
