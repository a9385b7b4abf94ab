import { expect, test } from "vitest";

import { sortErrors } from "./userErrors";

const FIELDS = ["amount", "notifyEmails", "billingAddress.country"];

test("an error stands at the field that its path names", () => {
  const sorted = sortErrors(
    [
      { field: ["amount"], message: "Too much." },
      { field: ["billingAddress", "country"], message: "No such country." },
    ],
    FIELDS,
  );
  expect(sorted).toEqual({
    byField: { amount: "Too much.", "billingAddress.country": "No such country." },
    general: [],
  });
});

test("an error of a list's entry stands at the list, and several stand together", () => {
  const sorted = sortErrors(
    [
      { field: ["notifyEmails", "0"], message: "No address." },
      { field: ["notifyEmails", "2"], message: "No address either." },
    ],
    FIELDS,
  );
  expect(sorted.byField).toEqual({ notifyEmails: "No address. No address either." });
});

test("an error of no field, or of one that the form has not, stands above it", () => {
  const sorted = sortErrors(
    [
      { field: null, message: "Not now." },
      { field: ["amountOfSomethingElse"], message: "Unknown." },
    ],
    FIELDS,
  );
  expect(sorted).toEqual({ byField: {}, general: ["Not now.", "Unknown."] });
});

test("a key that was used before tells that the first attempt was booked", () => {
  const sorted = sortErrors([{ code: "IDEMPOTENCY_CONFLICT", field: ["idempotencyKey"], message: "Other content." }], FIELDS);
  expect(sorted.byField).toEqual({});
  expect(sorted.general.join(" ")).toMatch(/first attempt was booked.*transactions/);
});
