import { expect, test } from "vitest";

import { NO_FILTER, toFilter } from "./filters";

test("nothing typed is no filter", () => {
  expect(toFilter(NO_FILTER, "UTC", null)).toBeNull();
  expect(toFilter({ ...NO_FILTER, search: "  " }, "UTC", null)).toBeNull();
});

test("the last day is included, by the mandate's clock", () => {
  expect(toFilter({ ...NO_FILTER, from: "2026-10-25", to: "2026-10-25" }, "Europe/Zurich", null)).toEqual({
    occurredFrom: "2026-10-24T22:00:00.000Z",
    occurredTo: "2026-10-25T23:00:00.000Z",
  });
});

test("all that is typed must hold", () => {
  const typed = { ...NO_FILTER, type: "DEBIT", provider: "openai", model: "gpt-4o", search: " tokens " } as const;
  expect(toFilter(typed, "UTC", "member-one")).toEqual({
    transactionType: "DEBIT",
    aicoreProvider: "openai",
    aicoreModel: "gpt-4o",
    search: "tokens",
    userId: "member-one",
  });
});

test("a year that is typed digit by digit filters nothing before it is one", () => {
  for (const day of ["0002-11-23", "0020-11-23", "0202-11-23", "20266-11-23"]) {
    expect(toFilter({ ...NO_FILTER, from: day, to: day }, "Europe/Zurich", null)).toBeNull();
  }
  expect(toFilter({ ...NO_FILTER, from: "1000-01-01", to: "2999-12-31" }, "UTC", null)).toEqual({
    occurredFrom: "1000-01-01T00:00:00.000Z",
    occurredTo: "3000-01-01T00:00:00.000Z",
  });
});
