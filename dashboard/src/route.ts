/** Which screen: #/mandates/ID/SCREEN?user=ID, so that back, reload and bookmarks work. */
import { useSyncExternalStore } from "react";

export const SCREENS = ["overview", "users", "accounts", "audit", "settings"] as const;
export type Screen = (typeof SCREENS)[number];

export interface Route {
  mandateId: string | null;
  screen: Screen;
  userId: string | null;
}

export function parseRoute(hash: string): Route {
  const [path = "", query = ""] = hash.replace(/^#/, "").split("?");
  const [, root, id, name] = path.split("/");
  return {
    mandateId: root === "mandates" && id ? decode(id) : null,
    screen: SCREENS.find((screen) => screen === name) ?? "overview",
    userId: new URLSearchParams(query).get("user"),
  };
}

function decode(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

export function href(mandateId: string, screen: Screen = "overview", userId?: string): string {
  const query = userId === undefined ? "" : `?${new URLSearchParams({ user: userId }).toString()}`;
  return `#/mandates/${encodeURIComponent(mandateId)}/${screen}${query}`;
}

function subscribe(listener: () => void): () => void {
  window.addEventListener("hashchange", listener);
  return () => { window.removeEventListener("hashchange", listener); };
}

export function useRoute(): Route {
  return parseRoute(useSyncExternalStore(subscribe, () => location.hash));
}
