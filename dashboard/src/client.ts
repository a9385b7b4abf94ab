/** The GraphQL client: one for each token, so that nothing read by one person is shown to another. */
import { cacheExchange, Client, CombinedError, fetchExchange, mapExchange, subscriptionExchange, type ExecutionResult } from "urql";

import { graphql } from "./gql";
import { openLive } from "./live";
import { outdate } from "./revision";
import { refuse } from "./session";
import { retryAfter } from "./stream";

const CHECK = graphql(`
  query Check {
    viewer { isSysAdmin }
  }
`);

export interface Connection {
  client: Client;
  close: () => void;
}

export function connect(token: string): Connection {
  // Asked by HTTP, where an invalid token and a server that is busy are told apart.
  const live = openLive(token, () => void client.query(CHECK, {}, { requestPolicy: "network-only" }).toPromise());
  const client: Client = new Client({
    url: "/graphql",
    preferGetMethod: false,
    requestPolicy: "cache-and-network",
    fetchOptions: { headers: { Authorization: `Bearer ${token}` } },
    exchanges: [
      mapExchange({
        onResult: (result) => {
          // A part of an answer is none: what is missing would look as if it were not there.
          if (result.error) return { ...result, data: undefined };
          if (result.operation.kind === "mutation" && hasChanged(result.data as object)) outdate();
          return result;
        },
        onError: (error) => {
          if (withCode(error, "UNAUTHENTICATED")) refuse(token);
        },
      }),
      cacheExchange,
      fetchExchange,
      subscriptionExchange({
        forwardSubscription: ({ query, variables }) => ({
          subscribe: (sink) => ({
            unsubscribe: live.subscribe({ query: query ?? "", variables }, (result) => {
              sink.next(result as ExecutionResult);
            }),
          }),
        }),
      }),
    ],
  });
  return { client, close: live.close };
}

/** What was done by an earlier attempt. */
const DONE_BEFORE = ["IDEMPOTENCY_CONFLICT", "ALREADY_REVERSED"];

/** Whether a mutation has done anything: what was refused leaves everything as it was. */
export function hasChanged(data: object): boolean {
  const payloads = Object.values(data) as ({ userErrors?: { code: string }[] } | null)[];
  return payloads.every((payload) => payload?.userErrors?.every(({ code }) => DONE_BEFORE.includes(code)) ?? true);
}

function withCode(error: CombinedError | null | undefined, code: string) {
  return error?.graphQLErrors.find(({ extensions }) => extensions["code"] === code);
}

/** Milliseconds after which what was asked too often may be asked again; null where that is not the fault. */
export function limitedFor(error: CombinedError | null | undefined): number | null {
  const limited = withCode(error, "RATE_LIMITED");
  return limited ? Math.max(retryAfter(limited), 1) * 1000 : null;
}

/** For people: what went wrong, and what to do next. */
export function explain(error: CombinedError): string {
  if (error.networkError) return "The server could not be reached. Check your connection and try again.";
  return error.graphQLErrors.map(({ message }) => message).join(" ");
}
