/** Counts what makes shown data old: a change made here, and a connection that was away. */
import { useSyncExternalStore } from "react";

/** What becomes old in one moment, for several reasons, is read again once. */
const MOMENT = 50;
const listeners = new Set<() => void>();
let revision = 0;
let pending: ReturnType<typeof setTimeout> | undefined;

export function outdate(): void {
  pending ??= setTimeout(() => {
    pending = undefined;
    revision += 1;
    for (const listener of listeners) listener();
  }, MOMENT);
}

function subscribe(listener: () => void): () => void {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

export const useRevision = () => useSyncExternalStore(subscribe, () => revision);
