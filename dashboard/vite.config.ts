import react from "@vitejs/plugin-react";
import { defineConfig } from "vite";

const api = process.env["API"] ?? "http://127.0.0.1:8000";

export default defineConfig({
  plugins: [react()],
  build: { outDir: "../app/static/dashboard", emptyOutDir: true, assetsInlineLimit: 0 },
  server: {
    proxy: {
      "/graphql": { target: api, ws: true, changeOrigin: true },
      "/export": api,
      "/demo": api,
    },
  },
});
