// The audits of GraphQL over HTTP against the server of a URL, with a token unless it is "", without
// those of the ids behind it.
import { serverAudits } from "graphql-http";

const [url, token, ...without] = process.argv.slice(2);
const headers = token ? { Authorization: `Bearer ${token}` } : {};
const fetchFn = (input, init) => fetch(input, { ...init, headers: { ...init?.headers, ...headers } });
const audits = serverAudits({ url, fetchFn }).filter(({ id }) => !without.includes(id));
const results = await Promise.all(audits.map(({ fn }) => fn()));
const failures = results.filter(({ status }) => status !== "ok");
for (const { id, name, status, reason } of failures) {
  console.error(`${status}: ${id} ${name}: ${reason}`);
}
console.log(`${results.length - failures.length} of ${results.length} audits`);
process.exitCode = failures.length || results.length + without.length < 61 ? 1 : 0;
