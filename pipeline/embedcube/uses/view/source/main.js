/** The page of `embedcube view`: what the controls, the map and the keys do. */

import {$, asked, cells, path, run, say, state, stop, time, windowPath} from './shown.js';
import {STATUS, paintColours, paintCounts, paintStatus} from './paint.js';
import {addCorner, clearPolygon, finishPolygon, geometry} from './polygon.js';
import {Refused, getJson, getNumbers, part, postJson, postNumbers} from './server.js';
import {decoderShown, drawScores, offer, scoreOf, showChange, showDecoded} from './scores.js';
import {download} from './download.js';
import {inWords, placesOf} from './places.js';
import {make, provenance, series, seriesChart} from './words.js';
import {showLegend} from './legend.js';

const HITS = 10;
const MOST_CELLS = 4e6;

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
  const {zones, model, features, decoders} = state.about.layers[name];
  $('about').textContent = `version ${state.about.version}, layer ${name}: ${model}, ${features} features`;
  fill($('zone'), zones.map((zone) => zone.zone));
  $('zone').closest('label').hidden = zones.length === 1;
  offer(decoders);
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
  stop('scores', 'hits', 'look', 'polygon');
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
  stop('scores', 'hits');
  const {status, step} = state;
  const what = $('show').value;
  if (what === 'similar' || what === 'change') {
    await (what === 'similar' ? findSimilar() : showChange());
    return;
  }
  if (decoderShown()) {
    await showDecoded();
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
  const {status} = state;
  const at = status && Math.floor(cell.y / state.step) * status.columns + Math.floor(cell.x / state.step);
  say(`Row ${cell.y}, column ${cell.x}: ${status ? STATUS[status.values[at]]?.words : ''}${scoreOf(cell)}.`);
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
  cells.onClick = act;
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
