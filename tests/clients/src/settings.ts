// What the runner tells each program: the addresses of servers, and a token for each role.
import { env } from "node:process";

function given(name: string): string {
  const value = env[name];
  if (value === undefined) throw new Error(`${name} is not set: run python -m tests.clients`);
  return value;
}

export const server = given("SERVER");
export const otherServer = given("OTHER_SERVER");
export const tokens = {
  gateway: given("GATEWAY"),
  member: given("MEMBER"),
  sysadmin: given("SYSADMIN"),
};
export const mandateId = "demo-university";
export const userId = "member-one";
