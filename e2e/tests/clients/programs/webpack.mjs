// webpack in watch mode: `webpack.mjs DIRECTORY OUTPUT`. After each build it prints what the built program
// prints.
import { execFileSync } from "node:child_process";
import { join } from "node:path";
import webpack from "webpack";

const [context, path] = process.argv.slice(2);
const compiler = webpack({
  context,
  entry: "./main.js",
  mode: "development",
  target: "node",
  output: { path, filename: "built.cjs" },
  cache: false,
});
compiler.watch({ aggregateTimeout: 20 }, (error, stats) => {
  if (error) console.log("error", error.message);
  else if (stats.hasErrors()) console.log("errors", stats.toJson({ errors: true }).errors[0].message.split(" in ")[0]);
  else process.stdout.write(execFileSync(process.execPath, [join(path, "built.cjs")]));
});
