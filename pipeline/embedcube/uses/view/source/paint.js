/** Numbers of cells to pixels, by tables of 256 colours: a million cells take a few milliseconds. */

const LITTLE = new Uint8Array(new Uint32Array([1]).buffer)[0] === 1;

function pixel(r, g, b, a = 255) {
  return LITTLE ? ((a << 24) | (b << 16) | (g << 8) | r) >>> 0 : ((r << 24) | (g << 16) | (b << 8) | a) >>> 0;
}

/** Greys of cells without a vector, by status; they have the same order as `status_meanings`. */
export const STATUS = [
  {name: 'not_processed', words: 'not processed', colour: [255, 255, 255]},
  {name: 'valid', words: 'valid', colour: [26, 127, 55]},
  {name: 'no_data', words: 'no data', colour: [222, 226, 231]},
  {name: 'masked', words: 'masked (clouds and the like)', colour: [150, 158, 168]},
  {name: 'failed', words: 'failed (unreadable input)', colour: [130, 7, 30]},
  {name: 'valid_incomplete', words: 'valid, though a planned scene was unreadable', colour: [191, 135, 0]},
];
const EMPTY = STATUS.map(({colour}) => pixel(...colour));
const HAS_VECTOR = STATUS.map(({name}) => name.startsWith('valid'));

/** Colours from dark blue over green to yellow, of even lightness steps (viridis, five of its colours). */
const STOPS = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]];

export function ramp(share) {
  const place = Math.min(Math.max(share, 0), 1) * (STOPS.length - 1);
  const i = Math.min(Math.floor(place), STOPS.length - 2);
  return STOPS[i].map((from, c) => Math.round(from + (STOPS[i + 1][c] - from) * (place - i)));
}

const RAMP = new Uint32Array(256).map((_, value) => pixel(...ramp((value - 1) / 254)));

/** Pixels of a map of similarity or change: 0 is no vector, which shows its status. */
export function paintScores(values, status, out) {
  for (let i = 0; i < values.length; i++) {
    out[i] = values[i] ? RAMP[values[i]] : EMPTY[status[i]];
  }
}

/** Colours of classes that most people can tell apart (Okabe and Ito), then hues far from each other. */
const CLASSES = [[0, 114, 178], [230, 159, 0], [0, 158, 115], [204, 121, 167], [86, 180, 233], [213, 94, 0], [240, 228, 66],
  [60, 60, 60]];

export function classColour(number) {
  if (number < CLASSES.length) {
    return CLASSES[number];
  }
  const hue = (number * 137.508) % 360;
  return [0, 8, 4].map((n) => {
    const k = (n + hue / 30) % 12;
    return Math.round(255 * (0.55 - 0.3 * Math.max(-1, Math.min(k - 3, 9 - k, 1))));
  });
}

const CLASS_PIXELS = new Uint32Array(256).map((_, value) => (value ? pixel(...classColour(value - 1)) : 0));

/** Pixels of a map of classes, counted from 1: 0 is no vector, which shows its status. */
export function paintClasses(values, status, out) {
  for (let i = 0; i < values.length; i++) {
    out[i] = values[i] ? CLASS_PIXELS[values[i]] : EMPTY[status[i]];
  }
}

export function paintColours(values, status, out) {
  for (let i = 0, j = 0; i < status.length; i++, j += 3) {
    out[i] = HAS_VECTOR[status[i]] ? pixel(values[j], values[j + 1], values[j + 2]) : EMPTY[status[i]];
  }
}

export function paintStatus(status, out) {
  for (let i = 0; i < status.length; i++) {
    out[i] = EMPTY[status[i]] ?? EMPTY[0];
  }
}

/** Pixels of counts; 0 is white. Returns the largest count. */
export function paintCounts(values, out) {
  let most = 1;
  for (let i = 0; i < values.length; i++) {
    most = values[i] > most ? values[i] : most;
  }
  for (let i = 0; i < values.length; i++) {
    out[i] = values[i] ? RAMP[1 + Math.round((254 * values[i]) / most)] : EMPTY[0];
  }
  return most;
}
