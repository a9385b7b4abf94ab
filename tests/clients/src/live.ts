// Subscriptions by the clients that people use: each sees a balance move and a transaction come.
// With `trusted` they ask by hash, as a server wants it that runs trusted documents alone.
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { argv } from "node:process";
import { setTimeout as sleep } from "node:timers/promises";
import { inspect } from "node:util";

import { ApolloClient, InMemoryCache } from "@apollo/client";
import { PersistedQueryLink } from "@apollo/client/link/persisted-queries";
import { GraphQLWsLink } from "@apollo/client/link/subscriptions";
import type { TypedDocumentNode } from "@graphql-typed-document-node/core";
import { Client, CombinedError, subscriptionExchange } from "@urql/core";
import { persistedExchange } from "@urql/exchange-persisted";
import type { DocumentNode } from "graphql";
import { print } from "graphql";
import { createClient as createEventClient } from "graphql-sse";
import type { Client as EventClient } from "graphql-sse";
import { createClient as createSocketClient } from "graphql-ws";
import type { Client as SocketClient, Sink as GraphQLWsSink } from "graphql-ws";
import { WebSocket } from "ws";

import {
  BalanceChangedDocument,
  RecordUsageDocument,
  TransactionAddedDocument,
} from "./generated/graphql.js";
import type { RecordUsageMutation } from "./generated/graphql.js";
import { hashInManifest } from "./manifest.js";
import { mandateId, otherServer, server, tokens, userId } from "./settings.js";

const isTrusted = argv[2] === "trusted";
const url = `${server}/graphql`;
const DEADLINE = 15_000;

interface Sink<Data> {
  next: (data: Data) => void;
  error: (fault: unknown) => void;
}
interface Watcher {
  subscribe: <Data, Variables extends Record<string, unknown>>(
    document: TypedDocumentNode<Data, Variables>,
    variables: Variables,
    sink: Sink<Data>,
  ) => void;
  close: () => void | Promise<void>;
}

function request(document: DocumentNode) {
  return isTrusted
    ? { query: "", extensions: { persistedQuery: { version: 1, sha256Hash: hashInManifest(document) } } }
    : { query: print(document) };
}

/** Takes results as they come over the wire, errors among them. */
function into<Data>(sink: Sink<Data>) {
  return {
    next: ({ data, errors }: { data?: unknown; errors?: readonly unknown[] }) => {
      if (errors) sink.error(errors);
      else sink.next(data as Data);
    },
    error: sink.error,
    complete: () => undefined,
  };
}

function connect(token: string): SocketClient {
  return createSocketClient({
    url: url.replace("http", "ws"),
    webSocketImpl: WebSocket,
    connectionParams: { Authorization: `Bearer ${token}` },
    retryAttempts: 0,
  });
}

function ofGraphqlWs(token: string): Watcher {
  const client = connect(token);
  return {
    subscribe: (document, variables, sink) => {
      client.subscribe({ ...request(document), variables }, into(sink));
    },
    close: () => client.dispose(),
  };
}

function listen(token: string): EventClient {
  return createEventClient({
    url,
    headers: { Authorization: `Bearer ${token}` },
    retryAttempts: 0,
  });
}

function ofGraphqlSse(token: string): Watcher {
  const client = listen(token);
  return {
    subscribe: (document, variables, sink) => {
      client.subscribe({ ...request(document), variables }, into(sink));
    },
    close: () => {
      client.dispose();
    },
  };
}

function ofApollo(token: string): Watcher {
  const socket = connect(token);
  // The link sends the text beside the hash, and not as it stands in the manifest.
  const byHash: SocketClient = {
    ...socket,
    subscribe: (payload, sink) => socket.subscribe({ ...payload, query: "" }, sink),
  };
  const client = new ApolloClient({
    cache: new InMemoryCache(),
    link: isTrusted
      ? new PersistedQueryLink({ generateHash: hashInManifest }).concat(new GraphQLWsLink(byHash))
      : new GraphQLWsLink(socket),
  });
  return {
    subscribe: (query, variables, sink) => {
      client.subscribe({ query, variables }).subscribe({
        next: ({ data, error }) => {
          if (error) sink.error(error);
          else sink.next(data as never);
        },
        error: sink.error,
      });
    },
    close: () => {
      client.stop();
      return socket.dispose();
    },
  };
}

function ofUrql(token: string): Watcher {
  const socket = connect(token);
  const persisted = persistedExchange({
    generateHash: (_, document) => Promise.resolve(hashInManifest(document)),
    enforcePersistedQueries: true,
    enableForSubscriptions: true,
  });
  const live = subscriptionExchange({
    forwardSubscription: ({ query = "", ...others }) => ({
      subscribe: (sink) => ({
        unsubscribe: socket.subscribe({ query, ...others }, sink as GraphQLWsSink),
      }),
    }),
  });
  const client = new Client({
    url,
    exchanges: isTrusted ? [persisted, live] : [live],
    preferGetMethod: false,
  });
  return {
    subscribe: (document, variables, sink) => {
      client.subscription(document, variables).subscribe(({ data, error }) => {
        if (error) sink.error(error);
        else if (data) sink.next(data);
      });
    },
    close: () => socket.dispose(),
  };
}

/** Usage of the member, booked by the gateway. */
async function book() {
  const event = { mandateId, userId, amount: "0.000000001", idempotencyKey: randomUUID() };
  const response = await fetch(`${otherServer}/graphql`, {
    method: "POST",
    headers: { "Content-Type": "application/json", Authorization: `Bearer ${tokens.gateway}` },
    body: JSON.stringify({
      ...request(RecordUsageDocument),
      variables: { input: { events: [event] } },
    }),
  });
  const { data } = (await response.json()) as { data: RecordUsageMutation };
  const written = data.recordUsage.results[0]?.transaction;
  assert(written, "the gateway booked nothing");
  return written;
}

async function eventually(what: string, faults: unknown[], holds: () => boolean): Promise<void> {
  const deadline = Date.now() + DEADLINE;
  while (!holds()) {
    assert(faults.length === 0, `${what}: ${inspect(faults[0])}`);
    assert(Date.now() < deadline, `${what}: not within ${String(DEADLINE / 1000)} s`);
    await sleep(10);
  }
}

async function watch(name: string, watcher: Watcher): Promise<void> {
  const balances: string[] = [];
  const transactions: string[] = [];
  const faults: unknown[] = [];
  const error = (fault: unknown) => faults.push(fault);
  watcher.subscribe(TransactionAddedDocument, { mandateId }, {
    next: ({ transactionAdded }) => transactions.push(transactionAdded.id),
    error,
  });
  watcher.subscribe(BalanceChangedDocument, { mandateId, userId }, {
    next: ({ balanceChanged }) => balances.push(balanceChanged.balance),
    error,
  });
  await eventually(`${name} sees the first balance`, faults, () => balances.length === 1);
  await sleep(300); // the other one tells nothing when it has begun
  const { id, balanceAfter } = await book();
  assert.notEqual(balances[0], balanceAfter);
  await eventually(`${name} sees the new balance`, faults, () => balances.at(-1) === balanceAfter);
  await eventually(`${name} sees the transaction`, faults, () => transactions.includes(id));
  await watcher.close();
}

/** What a client tells of a connection that failed. */
function said(fault: unknown): string {
  if (fault instanceof CombinedError) return said(fault.networkError);
  if (fault instanceof Error) return fault.message;
  const { code, reason } = fault as CloseEvent;
  return `${String(code)} ${reason}`;
}

async function beRefused(name: string, watcher: Watcher): Promise<void> {
  const faults: unknown[] = [];
  const seen: unknown[] = [];
  watcher.subscribe(BalanceChangedDocument, { mandateId, userId }, {
    next: (data) => seen.push(data),
    error: (fault) => faults.push(fault),
  });
  await eventually(`${name} is told of a refusal`, seen, () => faults.length > 0);
  assert.match(said(faults[0]), /401|4403 The token is malformed/, name);
  await watcher.close();
}

/** Over both protocols: the text of a trusted document is another one than what a client prints. */
async function textIsRefused(): Promise<void> {
  const asked = { query: print(BalanceChangedDocument), variables: { mandateId, userId } };
  for (const client of [connect(tokens.member), listen(tokens.member)]) {
    const faults: unknown[] = [];
    const seen: unknown[] = [];
    client.subscribe(
      asked,
      into({ next: (data) => seen.push(data), error: (fault) => faults.push(fault) }),
    );
    await eventually("a text is refused", seen, () => faults.length > 0);
    assert.match(inspect(faults[0]), /trusted documents alone|400/);
    await client.dispose();
  }
}

const clients = {
  "graphql-ws": ofGraphqlWs,
  "graphql-sse": ofGraphqlSse,
  "Apollo Client": ofApollo,
  urql: ofUrql,
};
for (const [name, create] of Object.entries(clients)) {
  await watch(name, create(tokens.member));
  await beRefused(name, create("none.of.ours"));
}
if (isTrusted) await textIsRefused();
