// Builds the page of an example from its src/: `make page`, or in its folder `node ../../page.mjs [TARGET]`. The head of
// app.js has the hash of the sources.
import { createHash } from "node:crypto";
import { cpSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join, relative, resolve } from "node:path";
import { fileURLToPath } from "node:url";

const here = process.cwd();
const target = resolve(process.argv[2] ?? "dist");
const { build } = createRequire(join(here, "package.json"))("esbuild");
const { unused } = JSON.parse(readFileSync(join(here, "package.json"), "utf8"));

function hashOfSources() {
  const sources = ["package.json", "package-lock.json", ...readdirSync("src").sort().map((name) => `src/${name}`)];
  const hash = createHash("sha256").update(readFileSync(fileURLToPath(import.meta.url)));
  for (const name of sources) hash.update(`${name}\0${readFileSync(name, "utf8")}\0`);
  return hash.digest("hex");
}

// Modules that the SDK imports for what the page does not use.
const UNUSED = new RegExp(unused.join("|"));
const PACKAGES = /node_modules\/(langsmith|@langchain|p-queue|p-retry|zod|eventemitter3)\//;

const smaller = {
  name: "smaller",
  setup(bundle) {
    bundle.onResolve({ filter: /.*/ }, async ({ path, importer, resolveDir, kind, pluginData }) => {
      if (pluginData === "resolving" || kind === "entry-point") return undefined;
      const found = await bundle.resolve(path, { importer, resolveDir, kind, pluginData: "resolving" });
      // An import of these has no effect of its own: what is not used is left out.
      return PACKAGES.test(found.path) ? { ...found, sideEffects: false } : found;
    });
    bundle.onLoad({ filter: UNUSED }, () => ({ contents: "module.exports = {};", loader: "js" }));
  },
};

const { metafile } = await build({
  absWorkingDir: here,
  entryPoints: { app: "src/main.tsx" },
  entryNames: "[name]",
  outdir: target,
  bundle: true,
  minify: true,
  format: "esm",
  target: "es2022",
  jsx: "automatic",
  charset: "utf8",
  legalComments: "none",
  metafile: true,
  define: { "process.env.NODE_ENV": '"production"' },
  banner: { js: `/* sources: ${hashOfSources()}; licences: licences.txt */` },
  plugins: [smaller],
});

const { inputs } = metafile.outputs[relative(here, join(target, "app.js"))];
const bundled = Object.keys(inputs)
  .filter((path) => inputs[path].bytesInOutput > 0)
  .map((path) => path.match(/^node_modules\/((?:@[^/]+\/)?[^/]+)/)?.[1]);
const licences = [...new Set(bundled)].filter(Boolean).sort().map(licenceOf);
writeFileSync(join(target, "licences.txt"), licences.join("\n\n----\n\n"));
cpSync(join(here, "src/index.html"), join(target, "index.html"));

function licenceOf(name) {
  const folder = join(here, "node_modules", name);
  const { version, license } = JSON.parse(readFileSync(join(folder, "package.json"), "utf8"));
  const file = readdirSync(folder).find((one) => /^licen[cs]e/i.test(one));
  return `${name} ${version} (${license})\n\n${file ? readFileSync(join(folder, file), "utf8").trim() : ""}`;
}
