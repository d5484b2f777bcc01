/** What answers say, as elements of the page. Text is only ever set as text, never as markup. */

const SVG = 'http://www.w3.org/2000/svg';

/** An element with attributes and children; children that are text stay text. */
export function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    element.setAttribute(key, value);
  }
  element.append(...children.filter((child) => child !== null && child !== ''));
  return element;
}

function draw(name, attributes, text = '') {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) {
    element.setAttribute(key, value);
  }
  element.append(text);
  return element;
}

function scenes(list) {
  return make('ul', {}, ...list.map((scene) => make('li', {},
    `${scene.id} (${scene.archive}, ${scene.time.slice(0, 16).replace('T', ' ')} UTC)`,
    scene.processing ? `; ${scene.processing}` : '', scene.reason ? `: ${scene.reason}` : '')));
}

/** Provenance of a cell, from the answer of `explain`. */
export function provenance(told, status, where) {
  const {cell, made} = told;
  const seen = `${told.n_obs} acquisition${told.n_obs === 1 ? '' : 's'}`;
  const parts = [
    make('p', {}, make('strong', {}, `Row ${cell.y}, column ${cell.x}`), `, zone ${cell.zone}, ${where}.`),
    make('p', {}, `In the window ${cell.window} it is ${status}, seen by ${seen}`,
      told.norm === null ? '.' : `; its vector has the length ${told.norm.toPrecision(4)}.`),
    ...told.reasons.map((reason) => make('p', {}, reason)),
    make('p', {}, told.scenes.length === 1 ? 'Made from one scene:' : `Made from ${told.scenes.length} scenes:`),
    scenes(told.scenes),
  ];
  if (told.scenes_not_used.length) {
    const count = told.scenes_not_used.length;
    parts.push(make('details', {}, make('summary', {}, `${count} planned scene${count === 1 ? '' : 's'} not used`),
      scenes(told.scenes_not_used)));
  }
  const model = [told.backbone.name, told.backbone.model].filter(Boolean).join(' ');
  parts.push(make('details', {}, make('summary', {}, 'How it was made'),
    make('p', {}, `Model ${model}, weights ${told.weights_sha256.slice(0, 12)}`,
      told.weights_fitted_on ? `, fitted on ${told.weights_fitted_on}` : '', `; stored as ${told.encoding}.`),
    make('p', {}, `Computed by embedcube ${made.code_version} on ${made.host} (${made.device}), finished ${made.finished}`,
      made.job ? `, job ${made.job}` : '', made.container ? `, container ${made.container}` : '', '.'),
    make('p', {}, `Recipe ${told.recipe.slice(0, 12)}, campaign ${told.campaign_digest.slice(0, 12)}.`)));
  return parts;
}

function cosine(a, b) {
  let [ab, aa, bb] = [0, 0, 0];
  for (let i = 0; i < a.length; i++) {
    ab += a[i] * b[i];
    aa += a[i] * a[i];
    bb += b[i] * b[i];
  }
  return aa && bb ? ab / Math.sqrt(aa * bb) : null;
}

/** Cosine of the vector of each window with that of window `t`; null where one of them has none. */
export function series(windows, t) {
  const own = windows.find((one) => one.t === t)?.vector;
  return windows.map(({vector, window, status}) => ({
    window, status, cosine: own && vector ? cosine(own, vector) : null,
  }));
}

/** A chart of a series, and the same numbers as a table. */
export function seriesChart(points, t) {
  const known = points.filter((point) => point.cosine !== null);
  if (!known.length) {
    return [make('p', {}, 'This window has no vector here.')];
  }
  const [width, height, left, bottom] = [340, 110, 40, 18];
  const low = Math.min(0.9, ...known.map((point) => point.cosine));
  const x = (i) => left + ((width - left - 8) * (points.length === 1 ? 0.5 : i / (points.length - 1)));
  const y = (value) => 6 + ((1 - value) / (1 - low)) * (height - bottom - 10);
  const label = `Cosine of each window with ${points[t].window}: lowest ${low.toFixed(3)}`;
  const chart = draw('svg', {viewBox: `0 0 ${width} ${height}`, class: 'series', role: 'img', 'aria-label': label});
  for (const value of [1, low]) {
    chart.append(draw('line', {x1: left, x2: width - 8, y1: y(value), y2: y(value), class: 'grid'}));
    chart.append(draw('text', {x: left - 4, y: y(value) + 4, 'text-anchor': 'end'}, value.toFixed(2)));
  }
  chart.append(draw('line', {x1: x(t), x2: x(t), y1: 4, y2: height - bottom, class: 'now'}));
  const places = points.map((point, i) => (point.cosine === null ? null : [x(i), y(point.cosine)]));
  chart.append(draw('path', {d: places.map((at, i) => (at ? `${i && places[i - 1] ? 'L' : 'M'}${at}` : '')).join(' ')}));
  places.forEach((at) => at && chart.append(draw('circle', {cx: at[0], cy: at[1], r: 2.5})));
  chart.append(draw('text', {x: left, y: height - 3}, points[0].window.slice(0, 10)));
  if (points.length > 1) {
    const last = points[points.length - 1].window.slice(0, 10);
    chart.append(draw('text', {x: width - 8, y: height - 3, 'text-anchor': 'end'}, last));
  }
  const rows = points.map((point) => [point.window, point.status.replace('_', ' '), point.cosine?.toFixed(4) ?? '–']);
  return [chart, make('details', {}, make('summary', {}, 'The numbers'), table(['window', 'status', 'cosine'], rows, [2]))];
}

/** A table; the columns of `numbers` are aligned to the right. */
export function table(heads, rows, numbers = []) {
  const kind = (i) => (numbers.includes(i) ? {class: 'n'} : {});
  return make('table', {},
    make('thead', {}, make('tr', {}, ...heads.map((head, i) => make('th', {scope: 'col', ...kind(i)}, head)))),
    make('tbody', {}, ...rows.map((row) => make('tr', {}, ...row.map((cell, i) => make('td', kind(i), String(cell)))))));
}
