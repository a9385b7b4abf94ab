// All audits of GraphQL over HTTP against the server of the URL that is given.
import { auditServer } from "graphql-http";

const results = await auditServer({ url: process.argv[2] });
const failures = results.filter((result) => result.status !== "ok");
for (const { id, name, status, reason } of failures) {
  console.error(`${status}: ${id} ${name}: ${reason}`);
}
console.log(`${results.length - failures.length} of ${results.length} audits`);
process.exitCode = failures.length || results.length < 61 ? 1 : 0;
