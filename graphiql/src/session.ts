// Who is signed in. The token is kept for this browser tab alone, and nowhere else.

interface Viewer {
  user: { displayName: string; id: string };
  isSysAdmin: boolean;
}

interface Session {
  viewer: Viewer | null;
  /** Why nobody is signed in any more, or not yet. */
  problem: string;
}

/** The same as of the dashboard: one sign-in serves both. */
const KEY = "billing-token";
const TOKEN = /^[\w.-]+$/;
const VIEWER = "query Viewer { viewer { isSysAdmin user { id displayName } } }";
const REFUSED = "The token is not valid, or it has expired. Sign in again.";

let token = sessionStorage.getItem(KEY);
let session: Session = { viewer: null, problem: "" };
const listeners = new Set<() => void>();

export function subscribe(listener: () => void): () => void {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

export function currentSession(): Session {
  return session;
}

export function authorization(): Record<string, string> {
  return token === null ? {} : { Authorization: `Bearer ${token}` };
}

function become(newToken: string | null, newSession: Session): void {
  token = newToken;
  if (token === null) sessionStorage.removeItem(KEY);
  else sessionStorage.setItem(KEY, token);
  session = newSession;
  for (const listener of listeners) listener();
}

/** Only the latest counts: who clicks again has changed their mind. */
let attempts = 0;

export function signOut(): void {
  attempts += 1;
  become(null, { viewer: null, problem: "" });
}

/** With the token that this browser tab has kept, unless it is refused: a server that is busy is no reason to forget it. */
export async function resume(): Promise<void> {
  if (token !== null) await signIn(token, true);
}

export async function signIn(newToken: string, isKept = false): Promise<void> {
  attempts += 1;
  const attempt = attempts;
  const { viewer, problem } = await ask(newToken);
  if (attempt !== attempts) return;
  if (viewer || (isKept && problem !== REFUSED)) become(newToken, { viewer, problem });
  else become(null, { viewer, problem });
}

async function ask(asked: string): Promise<Session> {
  if (!TOKEN.test(asked)) return { viewer: null, problem: REFUSED };
  try {
    const response = await fetch("/graphql", {
      method: "POST",
      headers: { "Content-Type": "application/json", Authorization: `Bearer ${asked}` },
      body: JSON.stringify({ query: VIEWER }),
    });
    const answer = (await response.json()) as {
      data?: { viewer: Viewer | null } | null;
      errors?: { message: string }[];
    };
    const viewer = answer.data?.viewer;
    if (viewer) return { viewer, problem: "" };
    if (response.status === 401) return { viewer: null, problem: REFUSED };
    const told = answer.errors?.[0]?.message ?? `The server answered ${String(response.status)}.`;
    return { viewer: null, problem: told };
  } catch {
    return { viewer: null, problem: "The server cannot be reached. Try again." };
  }
}

/** Fetches as who is signed in; who is refused is signed out, and told so. */
export async function authorizedFetch(
  input: RequestInfo | URL,
  init: RequestInit = {},
): Promise<Response> {
  const used = token;
  const headers = new Headers(init.headers);
  for (const [name, value] of Object.entries(authorization())) headers.set(name, value);
  const response = await fetch(input, { ...init, headers });
  // Somebody else may have signed in meanwhile.
  if (response.status === 401 && used === token) {
    become(null, {
      viewer: null,
      problem: used === null ? "This needs a token: sign in first." : REFUSED,
    });
  }
  return response;
}
