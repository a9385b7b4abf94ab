import { expect, test } from "vitest";

import { changes } from "./audit";

test("each value stands before and after", () => {
  expect(changes('{"enabled":true}', '{"enabled":false}')).toEqual([{ name: "enabled", before: "true", after: "false" }]);
});

test("amounts stay the text that they are, and lists are written out", () => {
  expect(changes(null, '{"amount":"20.000000001","emails":["a@example.com"]}')).toEqual([
    { name: "amount", before: null, after: "20.000000001" },
    { name: "emails", before: null, after: '["a@example.com"]' },
  ]);
});

test("an event may carry no values at all", () => {
  expect(changes(null, null)).toEqual([]);
});
