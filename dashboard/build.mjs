// Builds src/ into the folder that is given, or into dist/, which is committed and lies in the binary.
import { mkdir, readFile, rm, writeFile } from "node:fs/promises";
import { brotliCompressSync, constants, gzipSync } from "node:zlib";
import { build } from "esbuild";

const dist = process.argv[2] ?? "dist";
const packages = ["preact", "@preact/signals", "@preact/signals-core", "uplot"];

await rm(dist, { recursive: true, force: true });
await mkdir(dist, { recursive: true });
await build({
  entryPoints: { app: "src/main.tsx" },
  outdir: dist,
  bundle: true,
  minify: true,
  format: "esm",
  target: ["es2022"],
  jsx: "automatic",
  jsxImportSource: "preact",
  legalComments: "none",
  charset: "utf8",
});
for (const name of ["index.html", "icon.svg"]) {
  await writeFile(`${dist}/${name}`, await readFile(`src/${name}`));
}
for (const name of ["app.js", "app.css", "icon.svg"]) {
  const bytes = await readFile(`${dist}/${name}`);
  const params = { [constants.BROTLI_PARAM_QUALITY]: 11, [constants.BROTLI_PARAM_SIZE_HINT]: bytes.length };
  await writeFile(`${dist}/${name}.br`, brotliCompressSync(bytes, { params }));
  await writeFile(`${dist}/${name}.gz`, gzipSync(bytes, { level: 9 }));
}
const licenses = await Promise.all(packages.map(async (name) => {
  const { version, license } = JSON.parse(await readFile(`node_modules/${name}/package.json`, "utf8"));
  const text = await readFile(`node_modules/${name}/LICENSE`, "utf8");
  return `${name} ${version} (${license})\n\n${text.trim()}\n`;
}));
await writeFile(`${dist}/licenses.txt`, licenses.join("\n----\n\n"));
