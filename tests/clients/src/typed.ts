// A query and a mutation by the generated types.
import assert from "node:assert/strict";

import { Client, fetchExchange } from "@urql/core";

import { AddCreditDocument, BalanceDocument } from "./generated/graphql.js";
import type { AddCreditMutationVariables } from "./generated/graphql.js";
import { mandateId, server, tokens, userId } from "./settings.js";

const client = new Client({
  url: `${server}/graphql`,
  exchanges: [fetchExchange],
  preferGetMethod: false,
  fetchOptions: { headers: { Authorization: `Bearer ${tokens.sysadmin}` } },
});
const credit: AddCreditMutationVariables = {
  input: {
    mandateId,
    userId,
    amount: "12.000000001",
    referenceType: "PAYMENT",
    description: "Typed",
    idempotencyKey: "typescript",
  },
};
// @ts-expect-error An amount is never a number.
credit.input.amount = 12.000000001;
credit.input.amount = "12.000000001";

const credited = await client.mutation(AddCreditDocument, credit).toPromise();
assert.ifError(credited.error);
const written = credited.data?.addCredit;
assert.deepEqual(written?.userErrors, []);
assert.equal(written.transaction?.amount, "12.000000001");

const read = await client.query(BalanceDocument, { mandateId, userId }).toPromise();
assert.ifError(read.error);
assert.equal(read.data?.balance?.balance, written.transaction.balanceAfter);
assert.match(read.data.balance.account?.createdAt ?? "", /^\d{4}-.*Z$/);
