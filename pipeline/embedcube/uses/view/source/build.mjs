/** Build the page: `node build.mjs FOLDER` writes index.html, view.js, view.css and LICENSES.txt. */

import {copyFileSync, mkdirSync, readFileSync, readdirSync, writeFileSync} from 'node:fs';
import {dirname, join} from 'node:path';
import {fileURLToPath} from 'node:url';
import {build} from 'esbuild';

const here = dirname(fileURLToPath(import.meta.url));
const out = process.argv[2] ?? join(here, '..', 'page');
mkdirSync(out, {recursive: true});
const made = await build({
  absWorkingDir: here,
  entryPoints: {view: 'main.js'},
  outdir: out,
  bundle: true,
  minify: true,
  format: 'esm',
  target: 'es2022',
  legalComments: 'none',
  metafile: true,
});
// not by esbuild, which would make names of files out of the size of its output
copyFileSync(join(here, 'style.css'), join(out, 'view.css'));
copyFileSync(join(here, 'index.html'), join(out, 'index.html'));

const packages = new Set();
for (const input of Object.keys(made.metafile.inputs)) {
  const found = input.match(/node_modules\/((?:@[^/]+\/)?[^/]+)\//);
  if (found) {
    packages.add(found[1]);
  }
}
const texts = [...packages].sort().map((name) => {
  const folder = join(here, 'node_modules', name);
  const {version, license} = JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8'));
  const file = readdirSync(folder).find((one) => /^licen[cs]e/i.test(one));
  const text = file ? readFileSync(join(folder, file), 'utf8').replace(/\r/g, '').trim() : `Licence: ${license}`;
  return `${name} ${version} (${license})\n${'-'.repeat(72)}\n${text}\n`;
});
writeFileSync(join(out, 'LICENSES.txt'), `Packages that are part of view.js:\n\n${texts.join('\n\n')}`);
