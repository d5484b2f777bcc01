/** A polygon on the map: its corners, its cells by status, and the statistics of its vectors. */

import {$, cells, path, run, say, state, stop, time} from './shown.js';
import {STATUS} from './paint.js';
import {inside} from './places.js';
import {make, table} from './words.js';
import {Refused, postJson, postNumbers} from './server.js';

export function addCorner(cell) {
  if (state.closed) {
    clearPolygon();
  }
  state.polygon.push(cells.centre(cell));
  Object.assign(cells.marks, {polygon: state.polygon, closed: false});
  const count = state.polygon.length;
  $('corners').textContent = `${count} corner${count === 1 ? '' : 's'}; at least three make a polygon.`;
  say($('corners').textContent);
  cells.redraw();
}

export function clearPolygon() {
  stop('polygon');
  Object.assign(state, {polygon: [], closed: false, statistics: null});
  Object.assign(cells.marks, {polygon: [], closed: false});
  $('corners').textContent = 'No corner yet.';
  $('statistics').replaceChildren();
  cells.redraw();
}

/** The polygon in degrees, as GeoJSON; null before it has three corners or where degrees are not known. */
export function geometry() {
  const ring = state.polygon.map((xy) => state.places.degrees(xy));
  return ring.length < 3 || ring.includes(null) ? null : {type: 'Polygon', coordinates: [[...ring, ring[0]]]};
}

export async function finishPolygon() {
  const polygon = geometry();
  if (!polygon) {
    say('A polygon needs at least three corners.', true);
    return;
  }
  [state.closed, cells.marks.closed] = [true, true];
  cells.redraw();
  const counts = STATUS.map(() => 0);
  const [rows, columns] = state.zone.shape;
  for (let y = 0; y < rows; y += state.step) {
    for (let x = 0; x < columns; x += state.step) {
      if (inside(cells.centre({y, x}), state.polygon)) {
        counts[state.status.values[Math.floor(y / state.step) * state.status.columns + Math.floor(x / state.step)]] += 1;
      }
    }
  }
  const total = counts.reduce((sum, count) => sum + count, 0);
  const shares = STATUS.map(({words}, i) => [words, counts[i], `${((100 * counts[i]) / (total || 1)).toFixed(1)} %`]);
  const parts = [table(['status', 'cells', 'share'], shares.filter(([, count]) => count), [1, 2])];
  const made = {type: 'Feature', geometry: polygon, properties: {window: time(), cells: total}};
  const done = await run('polygon', async (signal) => {
    const body = {type: 'FeatureCollection', features: [{type: 'Feature', geometry: polygon}]};
    const {features: [{properties}]} = await postJson(path('parcels'), body, signal);
    Object.assign(made.properties, properties);
    const alike = await cosinesWithMean(polygon, signal);
    if (alike) {
      Object.assign(made.properties, alike);
      parts.push(make('p', {}, `Cosine of its ${alike.vectors} vectors with their mean: ${
        alike.mean_cosine.toFixed(3)} on average, ${alike.least_cosine.toFixed(3)} at least.`));
    }
    parts.push(...statistics(properties));
    return true;
  });
  // removed meanwhile, or another polygon was begun
  if (!state.closed) {
    return;
  }
  state.statistics = made;
  $('statistics').replaceChildren(...parts);
  if (done) {
    say(`${total} cells in the polygon.`);
  }
}

/** How alike the vectors of this window in the polygon are; null where it has none, or where the server refuses it. */
async function cosinesWithMean(polygon, signal) {
  try {
    const asked = {like: [polygon], time: time(), zone: state.zone.zone};
    return alikeInside(await postNumbers(path('similar'), asked, signal));
  } catch (error) {
    if (error instanceof Refused) {
      return null;
    }
    throw error;
  }
}

/** How alike the vectors in the polygon are: their cosines with their mean; null where there is no vector. */
function alikeInside({values, rows, columns, low, high}) {
  let [count, sum, least] = [0, 0, 1];
  for (let i = 0; i < rows * columns; i++) {
    if (values[i] && inside(cells.centre({y: Math.floor(i / columns), x: i % columns}), state.polygon)) {
      const cosine = low + ((values[i] - 1) / 254) * (high - low);
      [count, sum, least] = [count + 1, sum + cosine, Math.min(least, cosine)];
    }
  }
  return count ? {vectors: count, mean_cosine: sum / count, least_cosine: least} : null;
}

/** Statistics of the vectors in a polygon, window by window. */
function statistics(properties) {
  const {windows} = properties;
  const length = (vector) => Math.hypot(...vector);
  const rows = windows.map((one) => [one.window, one.count, one.count ? length(one.mean).toPrecision(4) : '–',
    one.count ? length(one.std).toPrecision(4) : '–']);
  return [table(['window', 'vectors', 'length of the mean', 'of the spread'], rows, [1, 2, 3])];
}
