import { createGraphiQLFetcher } from "@graphiql/toolkit";
import { createClient } from "graphql-ws";

import { authorization, authorizedFetch, subscribe } from "./session";

const URL = "/graphql";

const wsClient = createClient({
  url: `${location.origin.replace(/^http/, "ws")}${URL}`,
  connectionParams: authorization,
});
// What is under way goes on as who is signed in now.
subscribe(() => { wsClient.terminate(); });

export const fetcher = createGraphiQLFetcher({
  url: URL,
  fetch: authorizedFetch,
  wsClient,
  enableIncrementalDelivery: false,
});
