// Prints what @parcel/watcher tells: `parcel-watcher.mjs DIRECTORY`.
import { realpathSync } from "node:fs";
import { relative } from "node:path";
import { subscribe } from "@parcel/watcher";

const dir = realpathSync(process.argv[2]);
await subscribe(
  dir,
  (error, events) => {
    if (error) console.log("error", error.message);
    for (const { type, path } of events) console.log(type, relative(dir, path));
  },
  { backend: "inotify" },
);
console.log("ready");
// The subscription alone does not keep the process alive in every version.
process.stdin.resume();
setInterval(() => {}, 1 << 30);
