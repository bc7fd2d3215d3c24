// Prints what chokidar emits: `chokidar.mjs PACKAGE DIRECTORY`.
import { relative } from "node:path";

const [name, dir] = process.argv.slice(2);
const module = await import(name);
const watcher = (module.default ?? module).watch(dir, { ignoreInitial: true });
// chokidar leaves out a second change of the same file within 50 ms. The test goes on when it has read the
// first one, so it reads it later.
const THROTTLED = 100;
watcher.on("all", (event, path) => setTimeout(() => console.log(event, relative(dir, path)), THROTTLED));
watcher.on("error", (error) => console.log("error", error.message));
watcher.on("ready", () => console.log("ready"));
