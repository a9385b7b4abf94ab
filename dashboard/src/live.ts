/** The WebSocket that subscriptions share: opened by the first of them, and again whenever it breaks. */
import { createClient } from "graphql-ws";
import { useSyncExternalStore } from "react";

import { outdate } from "./revision";
import { keepUp, type Result } from "./stream";

/** Idle where nothing on the screen is live. */
export type LiveState = "idle" | "connecting" | "live" | "offline";

const DONE = 1000;
const REFUSED = [4401, 4403];
const PING = 10_000;
const listeners = new Set<() => void>();
/** Streams that have ended and wait to be begun again. */
const waiting = new Set<symbol>();
let socketState: LiveState = "idle";
let state: LiveState = "idle";

function become(next: LiveState): void {
  socketState = next;
  state = waiting.size > 0 ? "offline" : socketState;
  for (const listener of listeners) listener();
}

function subscribe(listener: () => void): () => void {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

export const useLiveState = () => useSyncExternalStore(subscribe, () => state);

export interface Live {
  subscribe: (request: { query: string; variables: Record<string, unknown> | undefined }, next: (result: Result) => void) => () => void;
  close: () => void;
}

/** `refused` is called where the server does not take the token, or cannot tell at the moment. */
export function openLive(token: string, refused: () => void): Live {
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
        if (socketState === "idle") become("connecting");
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
  return {
    subscribe: (request, next) => {
      const stream = Symbol();
      return keepUp({
        begin: (sink) => client.subscribe(request, sink),
        next,
        missed: outdate,
        down: (isDown) => {
          if (isDown) waiting.add(stream);
          else waiting.delete(stream);
          become(socketState);
        },
      });
    },
    close: () => void client.dispose(),
  };
}
