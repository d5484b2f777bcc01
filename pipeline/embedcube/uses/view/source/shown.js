/** What is shown now, and what all parts of the page need: the map, the line of words, tasks that can be broken off. */

import {Cells} from './cells.js';
import {Refused, part} from './server.js';

export const $ = (id) => document.getElementById(id);

export const state = {
  cubes: {}, cube: '', layer: '', zone: null, places: null, t: 0, mode: 'look',
  like: [], unlike: [], hits: [], polygon: [], closed: false,
  status: null, scores: null, told: null, statistics: null,
};
export const cells = new Cells($('map'));
const running = {};

/** Path of the layer that is shown, below /v1. */
export const path = (rest) => `cubes/${part(state.cube)}/layers/${part(state.layer)}/${rest}`;
export const windowPath = (what) => path(`zones/${part(state.zone.zone)}/windows/${state.t}/${what}`);
export const time = () => state.zone.windows[state.t];
export const asked = (cell) => ({zone: state.zone.zone, t: cell.t ?? state.t, y: cell.y, x: cell.x});

export function say(words, wrong = false) {
  $('said').textContent = words;
  $('said').classList.toggle('wrong', wrong);
}

/** Break off tasks: their answers are of something that is not shown any more. */
export function stop(...names) {
  names.forEach((name) => running[name]?.abort());
}

/** Run a task; an earlier one of the same name is broken off. What goes wrong is told. */
export async function run(name, task) {
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
