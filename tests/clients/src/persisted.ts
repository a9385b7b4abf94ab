// Documents by their hash, with the links that Apollo Client and urql have for it: `automatic` or `trusted`.
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { argv } from "node:process";

import { ApolloClient, HttpLink, InMemoryCache } from "@apollo/client";
import { PersistedQueryLink } from "@apollo/client/link/persisted-queries";
import { Client, fetchExchange } from "@urql/core";
import { persistedExchange } from "@urql/exchange-persisted";
import { parse } from "graphql";
import type { DocumentNode } from "graphql";

import { BalanceDocument } from "./generated/graphql.js";
import { hashInManifest } from "./manifest.js";
import { mandateId, server, tokens } from "./settings.js";

const isTrusted = argv[2] === "trusted";
const url = `${server}/graphql`;
const headers = { Authorization: `Bearer ${tokens.member}` };
const variables = { mandateId };
const foreign = Object.assign(parse("query Foreign { viewer { isSysAdmin } }"), {
  __meta__: { hash: "0".repeat(64) },
}) as unknown as typeof BalanceDocument;
let sent: string[] = [];

const noting: typeof fetch = (input, init) => {
  const { url, ...options } = { ...init, url: input instanceof Request ? input.url : input };
  sent.push(new URL(url).search + (typeof options.body === "string" ? options.body : ""));
  return fetch(url, options);
};

function sha256(text: string): string {
  return createHash("sha256").update(text).digest("hex");
}

interface Answer {
  balance: string | undefined;
  error: string | undefined;
}
type Asked = typeof BalanceDocument;
type Ask = (document: Asked) => Promise<Answer>;

function newApollo(): Ask {
  const hashes = isTrusted ? { generateHash: hashInManifest } : { sha256 };
  const client = new ApolloClient({
    cache: new InMemoryCache(),
    link: new PersistedQueryLink({ ...hashes, useGETForHashedQueries: true }).concat(
      new HttpLink({ uri: url, headers, fetch: noting }),
    ),
  });
  return async (query) => {
    const { data, error } = await client.query({ query, variables, errorPolicy: "all" });
    return { balance: data?.balance?.balance, error: error?.message };
  };
}

function newUrql(): Ask {
  const hashes = isTrusted
    ? { generateHash: (_: string, document: DocumentNode) => Promise.resolve(hashInManifest(document)) }
    : {};
  const client = new Client({
    url,
    exchanges: [persistedExchange({ ...hashes, enforcePersistedQueries: isTrusted }), fetchExchange],
    preferGetMethod: "within-url-limit",
    fetch: noting,
    fetchOptions: { headers },
    requestPolicy: "network-only",
  });
  return async (document) => {
    const { data, error } = await client.query(document, variables).toPromise();
    return { balance: data?.balance?.balance, error: error?.message };
  };
}

/** How many requests it takes, and how many of them carry the document itself. */
async function counted(ask: Ask, document: Asked): Promise<[Answer, number, number]> {
  sent = [];
  const answer = await ask(document);
  return [answer, sent.length, sent.filter((request) => /["&?]query["=]/.test(request)).length];
}

for (const [name, create] of Object.entries({ apollo: newApollo, urql: newUrql })) {
  const [first, requests, texts] = await counted(create(), BalanceDocument);
  assert.equal(first.error, undefined, name);
  assert.match(first.balance ?? "", /^-?\d+(\.\d+)?$/, name);
  assert.deepEqual([requests, texts], isTrusted ? [1, 0] : [2, 1], name);
  const again = await counted(create(), BalanceDocument);
  assert.deepEqual(again, [first, 1, 0], name);
  if (isTrusted) {
    const [refused, attempts] = await counted(create(), foreign);
    assert.match(refused.error ?? "", /runs trusted documents alone/, name);
    assert.equal(attempts, 1, name);
  }
}
