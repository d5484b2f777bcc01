/** Maps of one number for each cell, painted over its status: similarity, change, and what a decoder says. */

import {$, cells, path, run, say, state, time, windowPath} from './shown.js';
import {Refused, getNumbers, part, postNumbers} from './server.js';
import {make} from './words.js';
import {paintClasses, paintScores} from './paint.js';
import {showLegend} from './legend.js';

const WORDS = {similar: 'similarity', change: 'change'};
const DECODED = 'decoded/';

/** Let the decoders of a layer be chosen as what is shown. */
export function offer(decoders) {
  const select = $('show');
  select.querySelectorAll(`[value^="${DECODED}"]`).forEach((option) => option.remove());
  select.append(...decoders.map(({decoder, label}) => (
    make('option', {value: `${DECODED}${decoder}`}, `${label} (decoder ${decoder})`))));
}

/** The decoder whose map is shown; none where anything else is. */
export function decoderShown() {
  const what = $('show').value;
  return state.about.layers[state.layer].decoders.find(({decoder}) => what === `${DECODED}${decoder}`);
}

export function drawScores(scores, what, decoder = null) {
  const whole = state.step === 1 ? state.status.values : null;
  const {values, rows, columns, low, high} = scores;
  const paint = decoder?.classes.length ? paintClasses : paintScores;
  // a thinned status has fewer cells than the scores: then cells without a vector are shown as not processed
  cells.draw(rows, columns, (out) => paint(values, whole ?? new Uint8Array(values.length), out));
  state.scores = {...scores, what, decoder};
  showLegend($('legend'), what, low, high, decoder);
  performance.mark(`painted ${what}`);
}

export async function showDecoded() {
  const decoder = decoderShown();
  await run('scores', async (signal) => {
    const what = `${DECODED}${decoder.decoder}`;
    drawScores(await getNumbers(windowPath(`decoded/${part(decoder.decoder)}`), {}, signal), what, decoder);
    say(`What decoder ${decoder.decoder} says of every cell: ${decoder.label}.`);
  });
}

/** What the map of scores says of a cell, in words; empty where it says nothing. */
export function scoreOf({y, x}) {
  const {scores} = state;
  const score = scores && $('show').value === scores.what ? scores.values[y * scores.columns + x] : 0;
  if (!score) {
    return '';
  }
  const {decoder, what, low, high} = scores;
  if (decoder?.classes.length) {
    return `, ${decoder.label}: ${decoder.classes[score - 1]}`;
  }
  return `, ${decoder?.label ?? WORDS[what]} ${(low + ((score - 1) / 254) * (high - low)).toFixed(3)}`;
}

export async function showChange() {
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
