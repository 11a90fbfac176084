// Drives the real matrix-js-sdk on behalf of the tests: each line of stdin is one call, each line of stdout its answer.
//
//   {"client": "alice", "homeserver": URL, "identityServer": URL, "session": {...} | null, "lenient": false}   makes a client
//   {"client": "alice", "identityToken": TOKEN}                 gives it a token to hand on to its homeserver
//   {"client": "alice", "method": "getOpenIdToken", "args": []}                              calls a method of it
//
// Answers are {"result": ...} or {"error": {"errcode", "status", "message"}}. A method may be dotted ("http.idServerRequest").
// Node's fetch knows no same-origin rule; `browserFetch` adds it, so that a server without CORS fails here as it does on the web.
// A lenient client takes "*" for any header, as browsers still do, although the Fetch standard doesn't want them to.

import { createInterface } from "node:readline";
import { createClient, Room } from "matrix-js-sdk";

const ORIGIN = "https://app.example.org";
const SIMPLE_HEADERS = new Set(["accept", "accept-language", "content-language"]);
const SIMPLE_METHODS = new Set(["GET", "HEAD", "POST"]);

class BlockedByCors extends Error {}

function listed(response, header) {
  return (response.headers.get(header) ?? "").toLowerCase().split(",").map((item) => item.trim());
}

function assertReadable(response, url) {
  const allowed = response.headers.get("access-control-allow-origin");
  if (allowed !== "*" && allowed !== ORIGIN) throw new BlockedByCors(`no CORS on the answer of ${new URL(url).pathname}`);
}

async function preflight(url, method, headerNames, lenient) {
  const asked = [...headerNames].sort().join(",");
  const response = await fetch(url, {
    method: "OPTIONS",
    headers: { Origin: ORIGIN, "Access-Control-Request-Method": method, ...(asked && { "Access-Control-Request-Headers": asked }) },
  });
  await response.arrayBuffer();
  const path = new URL(url).pathname;
  if (!response.ok) throw new BlockedByCors(`preflight of ${path} was answered ${response.status}`);
  assertReadable(response, url);
  // A "*" covers every header but Authorization (Fetch, "CORS-preflight fetch").
  const allowed = listed(response, "access-control-allow-headers");
  for (const name of headerNames) {
    if (!allowed.includes(name) && !(allowed.includes("*") && (lenient || name !== "authorization"))) {
      throw new BlockedByCors(`preflight of ${path} does not allow ${name}`);
    }
  }
  const methods = listed(response, "access-control-allow-methods");
  if (!SIMPLE_METHODS.has(method) && !methods.includes(method.toLowerCase()) && !methods.includes("*")) {
    throw new BlockedByCors(`preflight of ${path} does not allow ${method}`);
  }
}

async function browserFetch(url, options = {}, lenient = false) {
  const headers = new Headers(options.headers);
  const unusual = [...headers.keys()].filter((name) => !SIMPLE_HEADERS.has(name));
  const method = (options.method ?? "GET").toUpperCase();
  if (unusual.length > 0 || !SIMPLE_METHODS.has(method)) await preflight(url, method, unusual, lenient);
  headers.set("Origin", ORIGIN);
  const response = await fetch(url, { ...options, headers });
  assertReadable(response, url);
  return response;
}

const silent = { trace() {}, debug() {}, info() {}, warn() {}, error() {}, getChild: () => silent };
const clients = new Map();
const identityTokens = new Map();

function makeClient({ client, homeserver, identityServer, session, lenient }) {
  clients.set(client, createClient({
    baseUrl: homeserver,
    idBaseUrl: identityServer,
    identityServer: { getAccessToken: async () => identityTokens.get(client) ?? null },
    fetchFn: (url, options) => browserFetch(url, options, lenient),
    logger: silent,
    userId: session?.user_id,
    accessToken: session?.access_token,
    deviceId: session?.device_id,
  }));
  return null;
}

function keepToken({ client, identityToken }) {
  identityTokens.set(client, identityToken);
  return null;
}

async function callMethod({ client, method, args }) {
  const path = method.split(".");
  const name = path.pop();
  const owner = path.reduce((object, key) => object[key], clients.get(client));
  // JSON has no `undefined`, which is how the SDK's optional parameters are left out.
  const result = await owner[name](...args.map((argument) => argument ?? undefined));
  // A room is a web of objects, which JSON can't hold.
  return result instanceof Room ? { roomId: result.roomId } : result;
}

async function answer(line) {
  try {
    const request = JSON.parse(line);
    const act = request.method ? callMethod : request.identityToken ? keepToken : makeClient;
    return { result: (await act(request)) ?? null };
  } catch (error) {
    const { errcode = null, httpStatus = null, message, name, cause } = error;
    return { error: { errcode, status: httpStatus, message: `${name}: ${message}${cause ? ` (${cause.message ?? cause})` : ""}` } };
  }
}

for await (const line of createInterface({ input: process.stdin })) {
  process.stdout.write(JSON.stringify(await answer(line)) + "\n");
}
process.exit(0);
