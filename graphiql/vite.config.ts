import react from "@vitejs/plugin-react";
import { defineConfig } from "vite";

const api = process.env["API"] ?? "http://127.0.0.1:8000";

export default defineConfig({
  base: "/graphiql/",
  plugins: [react()],
  build: {
    outDir: "../app/static/graphiql",
    emptyOutDir: true,
    // The icons are labelled by the names of their functions.
    rolldownOptions: { output: { keepNames: true } },
  },
  server: {
    proxy: {
      "/graphql": { target: api, ws: true, changeOrigin: true },
      "/demo": api,
    },
  },
});
