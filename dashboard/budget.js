// Fails the build when all scripts together, compressed, are larger than what a phone should load.
import { readFileSync, readdirSync } from "node:fs";
import { gzipSync } from "node:zlib";

const LIMIT = 250_000;
const folder = "../app/static/dashboard/assets";
const sizes = readdirSync(folder)
  .filter((name) => name.endsWith(".js"))
  .map((name) => gzipSync(readFileSync(`${folder}/${name}`)).length);
const total = sizes.reduce((sum, size) => sum + size, 0);
console.log(`Scripts: ${total.toLocaleString("en")} bytes compressed, of ${LIMIT.toLocaleString("en")} allowed.`);
if (total === 0 || total > LIMIT) process.exit(1);
