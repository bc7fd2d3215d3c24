// Prints what Node's own fs.watch tells of one directory: `fs-watch.mjs DIRECTORY`.
import { watch } from "node:fs";

watch(process.argv[2], (event, name) => console.log(event, name));
console.log("ready");
