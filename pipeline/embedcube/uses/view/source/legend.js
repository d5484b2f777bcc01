/** The legend below the map. */

import {STATUS, classColour, ramp} from './paint.js';
import {make} from './words.js';

function swatch([r, g, b]) {
  const canvas = make('canvas', {width: 22, height: 13});
  const context = canvas.getContext('2d');
  context.fillStyle = `rgb(${r} ${g} ${b})`;
  context.fillRect(0, 0, 22, 13);
  return canvas;
}

function gradient() {
  const canvas = make('canvas', {width: 160, height: 13});
  const context = canvas.getContext('2d');
  for (let x = 0; x < 160; x++) {
    context.fillStyle = `rgb(${ramp(x / 159).join(' ')})`;
    context.fillRect(x, 0, 1, 13);
  }
  return canvas;
}

const SCORES = {similar: 'cosine', change: 'change'};

/** Show what the colours of a map mean; it has no buttons, so it is one picture for a screen reader.
 *
 * `decoder` is what made the map: its classes, or the name of its number. */
export function showLegend(target, what, low = 0, high = 0, decoder = null) {
  const statuses = STATUS.filter(({name}) => what === 'status' || !name.startsWith('valid'));
  const parts = statuses.map(({words, colour}) => make('span', {}, swatch(colour), words));
  let words = `${what}: `;
  const score = SCORES[what] ?? decoder?.label;
  if (decoder?.classes.length) {
    words = `classes of ${decoder.decoder}: ${decoder.classes.join(', ')}; `;
    parts.unshift(...decoder.classes.map((name, i) => make('span', {}, swatch(classColour(i)), name)));
  } else if (score) {
    words = `${score} from ${low.toFixed(3)} (dark blue) to ${high.toFixed(3)} (yellow); `;
    parts.unshift(make('span', {}, `${score} ${low.toFixed(3)} `, gradient(), high.toFixed(3)));
  } else if (what === 'n_obs') {
    words = `acquisitions, from 1 (dark blue) to ${high} (yellow)`;
    parts.splice(0, parts.length, make('span', {}, '1 ', gradient(), `${high} acquisitions`));
  } else if (what === 'colours') {
    words = 'principal components of the vectors as red, green and blue; equal colours are equal vectors; ';
    parts.unshift(make('span', {}, 'equal colours are equal vectors'));
  }
  target.setAttribute('aria-label', `Legend: ${words}${what === 'n_obs' ? '' : statuses.map((one) => one.words).join(', ')}`);
  target.replaceChildren(...parts);
}
