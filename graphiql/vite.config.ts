import react from "@vitejs/plugin-react";
import { defineConfig, loadEnv } from "vite";

const { API: api = "http://127.0.0.1:8000" } = loadEnv("development", ".", "API");

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
