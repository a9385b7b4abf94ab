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

const KEY = "token";
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

export function signOut(problem = ""): void {
  become(null, { viewer: null, problem });
}

export async function signIn(newToken: string): Promise<void> {
  if (!TOKEN.test(newToken)) {
    signOut(REFUSED);
    return;
  }
  try {
    const response = await fetch("/graphql", {
      method: "POST",
      headers: { "Content-Type": "application/json", Authorization: `Bearer ${newToken}` },
      body: JSON.stringify({ query: VIEWER }),
    });
    const answer = (await response.json()) as {
      data?: { viewer: Viewer | null } | null;
      errors?: { message: string }[];
    };
    const viewer = answer.data?.viewer;
    if (viewer) become(newToken, { viewer, problem: "" });
    else if (response.status === 401) signOut(REFUSED);
    else signOut(answer.errors?.[0]?.message ?? `The server answered ${String(response.status)}.`);
  } catch {
    signOut("The server cannot be reached. Sign in again.");
  }
}

/** Signs in with the token that this browser tab has kept. */
export async function resume(): Promise<void> {
  if (token !== null) await signIn(token);
}

/** Fetches as who is signed in; who is refused is signed out, and told so. */
export async function authorizedFetch(
  input: RequestInfo | URL,
  init: RequestInit = {},
): Promise<Response> {
  const headers = new Headers(init.headers);
  for (const [name, value] of Object.entries(authorization())) headers.set(name, value);
  const response = await fetch(input, { ...init, headers });
  if (response.status === 401)
    signOut(token === null ? "This needs a token: sign in first." : REFUSED);
  return response;
}
