// Runs in the root of the project, where schema.graphql lies.
import graphql from "@graphql-eslint/eslint-plugin";
import { defineConfig } from "eslint/config";
import typescript from "typescript-eslint";

const operations = "tests/clients/operations.graphql";

export default defineConfig(
  { ignores: ["tests/clients/*/generated/", "tests/clients/dist/"] },
  {
    files: ["tests/clients/src/**/*.ts"],
    extends: [typescript.configs.strictTypeChecked],
    languageOptions: {
      parserOptions: { projectService: true, tsconfigRootDir: import.meta.dirname },
    },
  },
  {
    files: ["**/*.graphql"],
    languageOptions: {
      parser: graphql.parser,
      parserOptions: { graphQLConfig: { schema: "schema.graphql", documents: operations } },
    },
    plugins: { "@graphql-eslint": graphql },
  },
  {
    files: ["schema.graphql"],
    rules: {
      ...graphql.configs["flat/schema-recommended"].rules,
      // Balance.balance and Account.accountType are the platform's own words, and in use.
      "@graphql-eslint/no-typename-prefix": "off",
      // Pages, payloads and figures are no things that a cache would know again by an id.
      "@graphql-eslint/strict-id-in-types": "off",
    },
  },
  { files: [operations], rules: graphql.configs["flat/operations-recommended"].rules },
);
