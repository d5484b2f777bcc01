/** The page of `embedcube view`: what the controls, the map and the keys do. */

import {Cells} from './cells.js';
import {download} from './download.js';
import {STATUS, paintColours, paintCounts, paintScores, paintStatus} from './paint.js';
import {inside, inWords, placesOf} from './places.js';
import {Refused, getJson, getNumbers, part, postJson, postNumbers} from './server.js';
import {showLegend} from './legend.js';
import {make, provenance, series, seriesChart, table} from './words.js';

const HITS = 10;
const MOST_CELLS = 4e6;
const WORDS = {similar: 'similarity', change: 'change'};
const $ = (id) => document.getElementById(id);

const state = {
  cubes: {}, cube: '', layer: '', zone: null, places: null, t: 0, mode: 'look',
  like: [], unlike: [], hits: [], polygon: [], closed: false,
  status: null, scores: null, told: null, statistics: null,
};
const cells = new Cells($('map'), (cell) => act(cell));
const running = {};

/** Path of the layer that is shown, below /v1. */
const path = (rest) => `cubes/${part(state.cube)}/layers/${part(state.layer)}/${rest}`;
const windowPath = (what) => path(`zones/${part(state.zone.zone)}/windows/${state.t}/${what}`);
const time = () => state.zone.windows[state.t];
const asked = (cell) => ({zone: state.zone.zone, t: cell.t ?? state.t, y: cell.y, x: cell.x});

function say(words, wrong = false) {
  $('said').textContent = words;
  $('said').classList.toggle('wrong', wrong);
}

/** Run a task; an earlier one of the same name is broken off. What goes wrong is told. */
async function run(name, task) {
  running[name]?.abort();
  const controller = new AbortController();
  running[name] = controller;
  try {
    return await task(controller.signal);
  } catch (error) {
    if (error.name !== 'AbortError') {
      say(error instanceof Refused ? error.message : `The server cannot be reached (${error.message}).`, true);
    }
    return null;
  }
}

// --- what is shown --------------------------------------------------------------------------------

async function openCube(name) {
  state.cube = name;
  state.about = await getJson(`cubes/${part(name)}`);
  $('title').textContent = `Cube ${name}`;
  document.title = `${name} – embedcube view`;
  fill($('layer'), Object.keys(state.about.layers));
  // the layer with the most cells shows the most
  const size = ([, {zones}]) => zones.reduce((sum, {shape: [rows, columns]}) => sum + rows * columns, 0);
  const [[largest]] = Object.entries(state.about.layers).sort((a, b) => size(b) - size(a));
  $('layer').value = largest;
  await openLayer(largest);
}

async function openLayer(name) {
  state.layer = name;
  const {zones, model, features} = state.about.layers[name];
  $('about').textContent = `version ${state.about.version}, layer ${name}: ${model}, ${features} features`;
  fill($('zone'), zones.map((zone) => zone.zone));
  $('zone').closest('label').hidden = zones.length === 1;
  await openZone(zones[0].zone);
}

async function openZone(name) {
  state.zone = state.about.layers[state.layer].zones.find((zone) => zone.zone === name);
  state.places = placesOf(state.zone);
  const [rows, columns] = state.zone.shape;
  state.step = Math.max(1, Math.ceil(Math.sqrt((rows * columns) / MOST_CELLS)));
  $('window').max = state.zone.windows.length - 1;
  [$('row').max, $('column').max] = [rows - 1, columns - 1];
  state.t = Math.min(state.t, state.zone.windows.length - 1);
  forget();
  cells.open(state.zone);
  // the arrays reach further than what is processed
  const [y, x] = state.zone.processed.map(([first, last]) => (first + last) >> 1);
  cells.marks.cursor = {y, x};
  await openWindow(state.t);
}

async function openWindow(t) {
  state.t = t;
  // hits are places of one window
  state.hits = [];
  listHits();
  $('window').value = t;
  $('days').textContent = time().replace('/', ' to ');
  $('window').setAttribute('aria-valuetext', $('days').textContent);
  await run('window', async (signal) => {
    state.status = await getNumbers(windowPath('status'), {step: state.step}, signal);
    await show(signal);
  });
}

/** Draw what `show` chooses. */
async function show(signal = undefined) {
  const {status, step} = state;
  const what = $('show').value;
  if (what === 'similar' || what === 'change') {
    await (what === 'similar' ? findSimilar() : showChange());
    return;
  }
  if (what === 'status') {
    cells.draw(status.rows, status.columns, (out) => paintStatus(status.values, out));
    showLegend($('legend'), 'status');
  } else {
    const {values} = await getNumbers(windowPath(what), {step}, signal);
    let most = 0;
    cells.draw(status.rows, status.columns, (out) => {
      most = what === 'colours' ? paintColours(values, status.values, out) : paintCounts(values, out);
    });
    showLegend($('legend'), what, 0, most);
  }
  performance.mark(`painted ${what}`);
}

function drawScores(scores, what) {
  const whole = state.step === 1 ? state.status.values : null;
  const {values, rows, columns, low, high} = scores;
  // a thinned status has fewer cells than the scores: then cells without a vector are shown as not processed
  cells.draw(rows, columns, (out) => paintScores(values, whole ?? new Uint8Array(values.length), out));
  state.scores = {...scores, what};
  showLegend($('legend'), what, low, high);
  performance.mark(`painted ${what}`);
}

async function showChange() {
  await run('scores', async (signal) => {
    if (state.t === 0) {
      throw new Refused('Change compares a window with earlier ones; this is the first.');
    }
    const [first] = state.zone.windows[0].split('/');
    const before = `${first}/${time().split('/')[0]}`;
    const scores = await postNumbers(path('change'), {before, after: time(), zone: state.zone.zone}, signal);
    drawScores(scores, 'change');
    say(scores.remarks || 'Change of every cell, compared with its own past.');
  });
}

// --- similar places -------------------------------------------------------------------------------

/** Paint how alike every cell is to the examples, then list the best places. */
async function findSimilar() {
  if (!state.like.length) {
    say('Choose a cell that others are to be like.');
    return;
  }
  const body = {like: state.like.map(exampleOf), unlike: state.unlike.map(exampleOf), time: time()};
  $('show').value = 'similar';
  const scores = await run('scores', (signal) => (
    postNumbers(path('similar'), {...body, zone: state.zone.zone}, signal)));
  if (!scores) {
    return;
  }
  drawScores(scores, 'similar');
  await run('hits', async (signal) => {
    const apart = 5 * Math.abs(state.zone.transform[0]);
    const apart_m = /^(GEOGCRS|GEODCRS)/.test(state.zone.wkt2) ? apart * 111000 : apart;
    const {hits} = await postJson(path('find'), {...body, k: HITS, apart_m}, signal);
    state.hits = hits;
    listHits();
  });
}

const exampleOf = (one) => one.geometry ?? asked(one);

function listHits() {
  const own = state.hits.filter((hit) => hit.zone === state.zone.zone);
  cells.marks.hits = own;
  $('hits').replaceChildren(...state.hits.map((hit) => {
    const button = make('button', {type: 'button'}, `${inWords([hit.lon, hit.lat])}, cosine ${hit.cosine.toFixed(3)}`);
    button.addEventListener('click', () => goTo(hit));
    return make('li', {}, button);
  }));
  cells.redraw();
}

function goTo(hit) {
  const move = () => {
    cells.marks.cursor = {y: hit.y, x: hit.x};
    cells.follow(hit);
    look(hit, false);
  };
  return hit.zone === state.zone.zone ? move() : openZone(hit.zone).then(move);
}

function listExamples() {
  const {like, unlike} = state;
  [cells.marks.like, cells.marks.unlike] = [like, unlike].map((ones) => ones.filter((one) => !one.geometry));
  const words = (ones) => ones.map((one) => (one.geometry ? 'the polygon' : `${one.y}/${one.x}`)).join(', ');
  $('examples').textContent = like.length
    ? `Like ${words(like)}${unlike.length ? `; unlike ${words(unlike)}` : ''} (row/column).` : 'No example yet.';
  cells.redraw();
}

function forget() {
  Object.assign(state, {like: [], unlike: [], hits: [], scores: null, told: null});
  listExamples();
  listHits();
  clearPolygon();
}

// --- a place --------------------------------------------------------------------------------------

/** What a click or Enter does with a cell. */
async function act(cell) {
  performance.mark('act');
  cells.marks.cursor = cell;
  [$('row').value, $('column').value] = [cell.y, cell.x];
  const example = {...cell, t: state.t};
  if (state.mode === 'polygon') {
    addCorner(cell);
  } else if (state.mode === 'look') {
    Object.assign(state, {like: [example], unlike: []});
    listExamples();
    await findSimilar();
    await look(cell);
  } else {
    const [to, from] = state.mode === 'like' ? ['like', 'unlike'] : ['unlike', 'like'];
    const same = (one) => one.y === cell.y && one.x === cell.x;
    state[from] = state[from].filter((one) => !same(one));
    state[to] = [...state[to].filter((one) => !same(one)), example];
    listExamples();
    await findSimilar();
    say(`Examples: ${state.like.length} to be like, ${state.unlike.length} to be unlike.`);
  }
}

/** Tell what a cell is made of, and how alike its windows are. */
async function look(cell, speak = true) {
  [$('row').value, $('column').value] = [cell.y, cell.x];
  const place = state.places.degrees(cells.centre(cell));
  if (!place) {
    say('The place of a cell in degrees is not known for this CRS.', true);
    return;
  }
  const [lon, lat] = place;
  await run('look', async (signal) => {
    const at = {lon, lat, time: time()};
    const {windows} = await getJson(path('point'), {lon, lat}, signal);
    const {status: name, n_obs} = windows.find((one) => one.t === state.t);
    const status = STATUS.find((one) => one.name === name)?.words ?? name;
    state.told = {lon, lat, ...cell, window: time(), status: name, n_obs, series: series(windows, state.t)};
    $('series').replaceChildren(...seriesChart(state.told.series, state.t));
    try {
      const told = await getJson(path('explain'), at, signal);
      Object.assign(state.told, told);
      $('place').replaceChildren(...provenance(told, status, inWords(place)));
    } catch (error) {
      if (!(error instanceof Refused)) {
        throw error;
      }
      // a cube without provenance, or a cell that no shard was planned for
      $('place').replaceChildren(make('p', {}, `${inWords(place)}: ${status}. ${error.message}`));
    }
    if (speak) {
      const best = state.hits.length ? `; ${state.hits.length} similar places, the best with cosine ${
        state.hits[0].cosine.toFixed(3)}` : '';
      say(`Row ${cell.y}, column ${cell.x}: ${status}${best}.`);
    }
  });
}

/** Move the marked cell by keys, and say what it is. */
function step(dy, dx) {
  const [rows, columns] = state.zone.shape;
  const {y, x} = cells.marks.cursor;
  const cell = {y: Math.min(Math.max(y + dy, 0), rows - 1), x: Math.min(Math.max(x + dx, 0), columns - 1)};
  cells.marks.cursor = cell;
  cells.follow(cell);
  const {status, scores} = state;
  const at = status && Math.floor(cell.y / state.step) * status.columns + Math.floor(cell.x / state.step);
  const score = scores && $('show').value === scores.what ? scores.values[cell.y * columns + cell.x] : 0;
  const value = score ? `, ${WORDS[scores.what]} ${(scores.low + ((score - 1) / 254) * (scores.high - scores.low)).toFixed(3)}` : '';
  say(`Row ${cell.y}, column ${cell.x}: ${status ? STATUS[status.values[at]]?.words : ''}${value}.`);
}

// --- a polygon ------------------------------------------------------------------------------------

function addCorner(cell) {
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

function clearPolygon() {
  Object.assign(state, {polygon: [], closed: false, statistics: null});
  Object.assign(cells.marks, {polygon: [], closed: false});
  $('corners').textContent = 'No corner yet.';
  $('statistics').replaceChildren();
  cells.redraw();
}

/** The polygon in degrees, as GeoJSON; null before it has three corners or where degrees are not known. */
function geometry() {
  const ring = state.polygon.map((xy) => state.places.degrees(xy));
  return ring.length < 3 || ring.includes(null) ? null : {type: 'Polygon', coordinates: [[...ring, ring[0]]]};
}

async function finishPolygon() {
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
  state.statistics = {type: 'Feature', geometry: polygon, properties: {window: time(), cells: total}};
  await run('polygon', async (signal) => {
    const own = await postNumbers(path('similar'), {like: [polygon], time: time(), zone: state.zone.zone}, signal);
    const alike = alikeInside(own);
    if (alike) {
      Object.assign(state.statistics.properties, alike);
      parts.push(make('p', {}, `Cosine of its ${alike.vectors} vectors with their mean: ${
        alike.mean_cosine.toFixed(3)} on average, ${alike.least_cosine.toFixed(3)} at least.`));
    }
    const body = {type: 'FeatureCollection', features: [{type: 'Feature', geometry: polygon}]};
    const {features: [{properties}]} = await postJson(path('parcels'), body, signal);
    Object.assign(state.statistics.properties, properties);
    parts.push(...statistics(properties));
  });
  $('statistics').replaceChildren(...parts);
  say(`${total} cells in the polygon.`);
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

// --- controls -------------------------------------------------------------------------------------

function fill(select, names) {
  select.replaceChildren(...names.map((name) => make('option', {value: name}, name)));
}

const KEYS = {ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1]};

function onKey(event) {
  const by = KEYS[event.key];
  if (by) {
    step(...by.map((one) => one * (event.shiftKey ? 10 : 1)));
  } else if (event.key === 'Enter') {
    act(cells.marks.cursor);
  } else if (event.key === '+' || event.key === '=' || event.key === '-') {
    cells.zoom(event.key === '-' ? -0.5 : 0.5);
  } else if (event.key === 'Escape') {
    clearPolygon();
  } else {
    return;
  }
  event.preventDefault();
}

function connect() {
  $('controls').addEventListener('submit', (event) => event.preventDefault());
  $('cube').addEventListener('change', () => run('open', () => openCube($('cube').value)));
  $('layer').addEventListener('change', () => run('open', () => openLayer($('layer').value)));
  $('zone').addEventListener('change', () => run('open', () => openZone($('zone').value)));
  $('show').addEventListener('change', () => run('window', (signal) => show(signal)));
  $('window').addEventListener('input', () => openWindow(Number($('window').value)));
  $('modes').addEventListener('change', (event) => (state.mode = event.target.value));
  $('map').addEventListener('keydown', onKey);
  $('forget').addEventListener('click', () => {
    forget();
    $('show').value = 'colours';
    run('window', (signal) => show(signal));
  });
  $('finish').addEventListener('click', finishPolygon);
  $('clear').addEventListener('click', clearPolygon);
  $('alike').addEventListener('click', () => {
    if (!geometry()) {
      say('A polygon needs at least three corners.', true);
      return;
    }
    Object.assign(state, {like: [{geometry: geometry()}], unlike: []});
    listExamples();
    findSimilar().then(() => say(`${state.hits.length} places like the polygon.`));
  });
  $('goto').addEventListener('submit', (event) => {
    event.preventDefault();
    goToCell({y: Number($('row').value), x: Number($('column').value)});
  });
  $('gotoplace').addEventListener('submit', (event) => {
    event.preventDefault();
    const xy = state.places.cells([Number($('lon').value), Number($('lat').value)]);
    goToCell(xy && cells.cellAt(xy));
  });
  document.querySelectorAll('[data-download]').forEach((button) => button.addEventListener('click', () => {
    const made = download(button.dataset.download, state, cells);
    made.then((name) => say(name ? `Saved ${name}.` : 'There is nothing of this kind to save yet.', !name));
  }));
}

function goToCell(cell) {
  if (!cell) {
    say('This place is outside of the zone.', true);
    return;
  }
  cells.marks.cursor = cell;
  cells.follow(cell);
  act(cell);
}

connect();
run('open', async () => {
  const {cubes} = await getJson('cubes');
  fill($('cube'), cubes.map((one) => one.name));
  $('cube').closest('label').hidden = cubes.length === 1;
  await openCube(cubes[0].name);
  performance.mark('ready');
  document.body.dataset.ready = 'yes';
  say('Choose a cell on the map, or with the arrow keys and Enter.');
});
