import { type SyntheticEvent, useEffect, useState, useSyncExternalStore } from "react";

import { currentSession, signIn, signOut, subscribe } from "./session";

interface DemoPerson {
  id: string;
  role: string;
  token: string;
}

async function loadDemoPeople(): Promise<DemoPerson[]> {
  const response = await fetch("/demo/people");
  return response.ok ? ((await response.json()) as DemoPerson[]) : [];
}

export function SignIn() {
  const { viewer, problem } = useSyncExternalStore(subscribe, currentSession);
  const [people, setPeople] = useState<DemoPerson[]>([]);
  const [pasted, setPasted] = useState("");
  useEffect(() => {
    loadDemoPeople().then(setPeople, () => { setPeople([]); });
  }, []);

  const submit = (event: SyntheticEvent) => {
    event.preventDefault();
    void signIn(pasted.trim());
    setPasted("");
  };

  return (
    <header>
      <h1>Mandate billing</h1>
      {people.length > 0 && (
        <div className="people" role="group" aria-label="Sign in as">
          <span aria-hidden="true">Sign in as</span>
          {people.map((person) => (
            <button
              key={person.id}
              type="button"
              title={person.role}
              aria-pressed={person.id === viewer?.user.id}
              onClick={() => void signIn(person.token)}
            >
              {person.id}
            </button>
          ))}
        </div>
      )}
      <form onSubmit={submit}>
        <input
          type="password"
          aria-label="Token"
          placeholder={people.length > 0 ? "or paste a token" : "Paste a token"}
          autoComplete="off"
          required
          value={pasted}
          onChange={(event) => { setPasted(event.target.value); }}
        />
        <button type="submit">Sign in</button>
      </form>
      <div className="session">
        {problem && <p role="alert">{problem}</p>}
        <p role="status">
          {viewer
            ? `${viewer.user.displayName}${viewer.isSysAdmin ? ", sysadmin" : ""}`
            : "Nobody is signed in"}
        </p>
        {viewer && (
          <button type="button" onClick={() => { signOut(); }}>
            Sign out
          </button>
        )}
      </div>
    </header>
  );
}
