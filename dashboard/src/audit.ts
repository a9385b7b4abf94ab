/** What an audit event changed: each name with its value before and after. */

export interface Change {
  name: string;
  before: string | null;
  after: string | null;
}

export function changes(before?: string | null, after?: string | null): Change[] {
  const [old, now] = [values(before), values(after)];
  const names = [...new Set([...old.keys(), ...now.keys()])];
  return names.map((name) => ({ name, before: old.get(name) ?? null, after: now.get(name) ?? null }));
}

function values(json?: string | null): Map<string, string> {
  const object: unknown = json == null ? {} : JSON.parse(json);
  const entries = typeof object === "object" && object !== null ? Object.entries(object) : [];
  return new Map(entries.map(([name, value]) => [name, typeof value === "string" ? value : JSON.stringify(value)]));
}
