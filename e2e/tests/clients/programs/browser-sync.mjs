// Prints the files for which browser-sync reloads the pages of browsers.
import browserSync from "browser-sync";

const server = browserSync.create();
server.emitter.on("file:changed", ({ path }) => console.log("word-changed", path));
server.init({ files: ["."], server: ".", watchEvents: ["change", "add"], open: false, ui: false, port: 8000, notify: false });
