/** The WebSocket that subscriptions share: opened by the first of them, and again whenever it breaks. */
import { createClient, type Client } from "graphql-ws";
import { useSyncExternalStore } from "react";

import { outdate } from "./revision";

/** Idle where nothing on the screen is live. */
export type LiveState = "idle" | "connecting" | "live" | "offline";

const DONE = 1000;
const REFUSED = [4401, 4403];
const PING = 10_000;
const listeners = new Set<() => void>();
let state: LiveState = "idle";

function become(next: LiveState): void {
  state = next;
  for (const listener of listeners) listener();
}

function subscribe(listener: () => void): () => void {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

export const useLiveState = () => useSyncExternalStore(subscribe, () => state);

/** `refused` is called where the server does not take the token, or cannot tell at the moment. */
export function openLive(token: string, refused: () => void): Client {
  let unanswered: ReturnType<typeof setTimeout> | undefined;
  const client = createClient({
    url: `${location.origin.replace(/^http/, "ws")}/graphql`,
    connectionParams: { Authorization: `Bearer ${token}` },
    keepAlive: PING,
    retryAttempts: Infinity,
    shouldRetry: () => true,
    retryWait: async (retries) => {
      const seconds = Math.min(2 ** retries, 15) * (0.5 + Math.random());
      await new Promise((resolve) => setTimeout(resolve, seconds * 1000));
    },
    on: {
      connecting: () => {
        if (state === "idle") become("connecting");
      },
      connected: (_socket, _payload, wasRetry) => {
        become("live");
        if (wasRetry) outdate();
      },
      ping: (received) => {
        if (!received) unanswered = setTimeout(() => { client.terminate(); }, PING);
      },
      pong: () => { clearTimeout(unanswered); },
      closed: (event) => {
        clearTimeout(unanswered);
        become(event instanceof CloseEvent && event.code === DONE ? "idle" : "offline");
        if (event instanceof CloseEvent && REFUSED.includes(event.code)) refused();
      },
    },
  });
  return client;
}
