/** Draw a preview store with stock OpenLayers from a server of files; prints the colours that were drawn. */

import {createRequire} from 'node:module';
import {mkdirSync, writeFileSync} from 'node:fs';
import {dirname} from 'node:path';
import {launch, open} from './chromium.mjs';

const [address, folder, group, wanted] = process.argv.slice(2);
const modules = process.env.NODE_MODULES;
const {build} = createRequire(`${modules}/`)('esbuild');

const CODE = `
import Map from 'ol/Map.js';
import View from 'ol/View.js';
import TileLayer from 'ol/layer/WebGLTile.js';
import GeoZarr from 'ol/source/GeoZarr.js';
import {register} from 'ol/proj/proj4.js';
import proj4 from 'proj4';

const about = await (await fetch('${group}/zarr.json')).json();
proj4.defs(about.attributes['proj:code'], about.attributes['proj:wkt2']);
register(proj4);
const source = new GeoZarr({
  url: new URL('${group}', location.href).href, variable: 'rgb', dimensions: {time: 1, band: [0, 1, 2]}, transition: 0,
  resample: 'nearest',
});
await new Promise((done) => source.on('change', () => {
  if (source.getState() === 'error') {
    console.error(String(source.error_));
    window.failed = true;
  }
  done();
}));
const layer = new TileLayer({
  source, style: {color: ['color', ['band', 1], ['band', 2], ['band', 3], ['band', 4]]},
});
const map = new Map({target: 'map', layers: [layer], controls: []});
const extent = about.attributes['spatial:bbox'];
map.setView(new View({projection: source.projection, center: [(extent[0] + extent[2]) / 2, (extent[1] + extent[3]) / 2],
  resolution: (extent[2] - extent[0]) / Number(new URLSearchParams(location.search).get('width'))}));
window.drawn = () => new Promise((done) => {
  map.once('postrender', () => {
    const canvas = document.querySelector('#map canvas');
    const copy = document.createElement('canvas');
    [copy.width, copy.height] = [canvas.width, canvas.height];
    copy.getContext('2d').drawImage(canvas, 0, 0);
    const {data} = copy.getContext('2d').getImageData(0, 0, copy.width, copy.height);
    done({width: copy.width, height: copy.height, data: btoa(Array.from(data, (v) => String.fromCharCode(v)).join(''))});
  });
  map.render();
});
window.tiles = () => layer.getData([10, 10]);
`;

mkdirSync(`${folder}/page`, {recursive: true});
await build({
  stdin: {contents: CODE, resolveDir: dirname(modules)}, outfile: `${folder}/page/page.js`, bundle: true, format: 'esm',
  target: 'es2022', nodePaths: [modules],
});
writeFileSync(`${folder}/page/index.html`, `<!doctype html><title>static</title><link rel="icon" href="data:,">
<style>body { margin: 0 } #map { width: 640px; height: 480px }</style><div id="map"></div><script type="module" src="page.js"></script>`);

const browser = await launch('--use-angle=swiftshader', '--enable-unsafe-swiftshader');
const told = {};
for (const width of wanted.split(',')) {
  const {page, seen} = await open(browser, {width: 640, height: 480});
  await page.goto(`${address}/page/index.html?width=${width}`);
  await page.waitForFunction(() => window.drawn || window.failed);
  // tiles come one after the other: until the map has stayed the same, and something is drawn in its middle
  let [last, same] = ['', 0];
  while (same < 4) {
    await page.waitForTimeout(500);
    const {data} = await page.evaluate(() => window.drawn());
    const middle = Buffer.from(data, 'base64')[4 * (640 * 300 + 200) + 3];
    [last, same] = [data, data === last && middle ? same + 1 : 0];
  }
  told[width] = {...(await page.evaluate(() => window.drawn())), seen};
  await page.screenshot({path: `${folder}/static-${width}.png`});
  await page.close();
}
await browser.close();
console.log(JSON.stringify(told));
