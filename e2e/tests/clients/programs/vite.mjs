// Vite's development server and, in place of a browser, a program that speaks its protocol for hot
// replacement: `vite.mjs DIRECTORY CACHE`. Prints what the browser would be told, and what it gets when it
// then asks for the module.
import { createServer } from "vite";
import WebSocket from "ws";

const [root, cacheDir] = process.argv.slice(2);
const server = await createServer({
  root,
  cacheDir,
  configFile: false,
  logLevel: "error",
  server: { host: "127.0.0.1", port: 0, strictPort: false },
});
await server.listen();
const { port } = server.httpServer.address();
const get = async (path) => (await fetch(`http://127.0.0.1:${port}${path}`)).text();
// chokidar, which is in Vite, leaves out a second change of the same file within 50 ms. The test goes on when
// it has read of the first one, so it reads of it later.
const THROTTLED = 100;
const say = (...line) => setTimeout(() => console.log(...line), THROTTLED);
// A module, and that which it imports.
const getModule = async (path) => {
  const text = await get(path);
  const imported = text.match(/"(\/word\.js[^"]*)"/);
  return imported ? text + (await get(imported[1])) : text;
};
// Of a module only the words that the test writes matter.
const words = (text) => [...new Set(text.match(/word-[a-z]+/g))].join(" ");

// As a page with this script does, so that the server knows the modules.
await get("/index.html");
console.log("served", words(await getModule("/main.js")), words(await get("/style.css?direct")));

const socket = new WebSocket(`ws://127.0.0.1:${port}/?token=${server.config.webSocketToken}`, "vite-hmr");
socket.on("error", (error) => console.log("error", error.message));
socket.on("message", async (data) => {
  const message = JSON.parse(data);
  if (message.type === "connected") say("ready");
  else if (message.type === "full-reload") say("full-reload", message.path ?? "*");
  else if (message.type === "update") {
    for (const { type, path, timestamp } of message.updates) {
      const query = `${path.includes("?") ? "&" : "?"}t=${timestamp}`;
      say(type, path, words(await getModule(path + query)));
    }
  } else if (message.type !== "ping") say(message.type, JSON.stringify(message.err?.message ?? ""));
});
