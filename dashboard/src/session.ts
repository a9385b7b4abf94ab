/** Who is signed in: the bearer token, kept in sessionStorage and nowhere else. */
import { useSyncExternalStore } from "react";

/** The same as of the GraphiQL page: one sign-in serves both. */
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

export function signOut(): void {
  leave(null);
}

/** The API does not take this token; another may have come in its place meanwhile. */
export function refuse(token: string): void {
  if (sessionStorage.getItem(KEY) === token) leave("Your sign-in is no longer valid. Sign in again.");
}

/** `why` is shown where one signs in again. */
function leave(why: string | null): void {
  reason = why;
  sessionStorage.removeItem(KEY);
  changed();
}

export const useToken = () => useSyncExternalStore(subscribe, () => sessionStorage.getItem(KEY));

export const useReason = () => useSyncExternalStore(subscribe, () => reason);
