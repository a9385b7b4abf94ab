import { expect, test } from "vitest";

import { insertNewest } from "./newest";

const rows = (ids: string) => Array.from(ids).map((id) => ({ id }));
const insert = (ids: string, id: string, hasMore = false) =>
  insertNewest(rows(ids), { id }, hasMore).map((row) => row.id).join("");

test("what was written last comes first, and what comes late stands where it belongs", () => {
  expect(insert("dcb", "e")).toBe("edcb");
  expect(insert("edb", "c")).toBe("edcb");
  expect(insert("", "a")).toBe("a");
});

test("nothing is shown twice", () => {
  expect(insert("dcb", "c")).toBe("dcb");
  expect(insert("dcb", "d")).toBe("dcb");
});

test("what lies behind the end waits for its page", () => {
  expect(insert("dcb", "a", true)).toBe("dcb");
  expect(insert("dcb", "a", false)).toBe("dcba");
});
