/** Counts what makes shown data old: a change made here, and a connection that was away. */
import { useSyncExternalStore } from "react";

const listeners = new Set<() => void>();
let revision = 0;

export function outdate(): void {
  revision += 1;
  for (const listener of listeners) listener();
}

function subscribe(listener: () => void): () => void {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

export const useRevision = () => useSyncExternalStore(subscribe, () => revision);
