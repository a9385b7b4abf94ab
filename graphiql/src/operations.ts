// The tabs that GraphiQL opens with: a file each, in the order of their names.

const texts = import.meta.glob<string>("./operations/*.graphql", {
  query: "?raw",
  import: "default",
  eager: true,
});
const variables = import.meta.glob<string>("./operations/*.json", {
  query: "?raw",
  import: "default",
  eager: true,
});

export const operations = Object.entries(texts)
  .sort(([one], [other]) => one.localeCompare(other))
  .map(([path, query]) => ({ query, variables: variables[path.replace(/graphql$/, "json")] }));
