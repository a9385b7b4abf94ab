/** The GraphQL client: one for each token, so that nothing read by one person is shown to another. */
import { cacheExchange, Client, CombinedError, fetchExchange, mapExchange, subscriptionExchange, type ExecutionResult } from "urql";

import { graphql } from "./gql";
import { openLive } from "./live";
import { outdate } from "./revision";
import { signOut } from "./session";

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
        onResult: ({ operation, error }) => {
          if (operation.kind === "mutation" && !error) outdate();
        },
        onError: (error) => {
          if (hasCode(error, "UNAUTHENTICATED")) {
            signOut("Your sign-in is no longer valid. Sign in again.");
          }
        },
      }),
      cacheExchange,
      fetchExchange,
      subscriptionExchange({
        forwardSubscription: ({ query, variables }) => ({
          subscribe: (sink) => ({
            unsubscribe: live.subscribe(
              { query: query ?? "", variables },
              { ...sink, next: (result) => { sink.next(result as ExecutionResult); } },
            ),
          }),
        }),
      }),
    ],
  });
  return { client, close: () => void live.dispose() };
}

function hasCode(error: CombinedError, code: string): boolean {
  return error.graphQLErrors.some(({ extensions }) => extensions["code"] === code);
}

/** For people: what went wrong, and what to do next. */
export function explain(error: CombinedError): string {
  if (error.networkError) return "The server could not be reached. Check your connection and try again.";
  return error.graphQLErrors.map(({ message }) => message).join(" ");
}
