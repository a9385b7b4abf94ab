/** Who is signed in: the bearer token, kept in sessionStorage and nowhere else. */
import { useSyncExternalStore } from "react";

const KEY = "billing-token";
const listeners = new Set<() => void>();
let reason: string | null = null;

function changed(): void {
  for (const listener of listeners) listener();
}

function subscribe(listener: () => void): () => void {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

export function signIn(token: string): void {
  reason = null;
  sessionStorage.setItem(KEY, token);
  changed();
}

/** `why` is shown where one signs in again. */
export function signOut(why: string | null = null): void {
  if (sessionStorage.getItem(KEY) === null) return;
  reason = why;
  sessionStorage.removeItem(KEY);
  changed();
}

export const useToken = () => useSyncExternalStore(subscribe, () => sessionStorage.getItem(KEY));

export const useReason = () => useSyncExternalStore(subscribe, () => reason);
