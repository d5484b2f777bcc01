/** Requests to the server that this page came from; no other address is ever asked. */

/** An answer that is no success: its message is for people. */
export class Refused extends Error {}

async function checked(response) {
  if (response.ok) {
    return response;
  }
  let detail = `the server answers ${response.status}`;
  try {
    const said = (await response.json()).detail;
    detail = typeof said === 'string' ? said : JSON.stringify(said);
  } catch {
    // no JSON: the number has to do
  }
  throw new Refused(detail);
}

export async function getJson(path, query = {}, signal = undefined) {
  const asked = new URLSearchParams(query).toString();
  return (await checked(await fetch(`v1/${path}${asked ? `?${asked}` : ''}`, {signal}))).json();
}

function post(path, body, signal) {
  const headers = {'Content-Type': 'application/json'};
  return fetch(`v1/${path}`, {method: 'POST', headers, body: JSON.stringify(body), signal}).then(checked);
}

export async function postJson(path, body, signal = undefined) {
  return (await post(path, body, signal)).json();
}

/** Raw numbers of a map, with what the headers say of them. */
async function numbers(response) {
  const about = (name) => response.headers.get(`X-Embedcube-${name}`);
  const buffer = await response.arrayBuffer();
  const values = about('Type') === 'uint16' ? new Uint16Array(buffer) : new Uint8Array(buffer);
  const [rows, columns] = about('Shape').split(',').map(Number);
  const [low, high] = (about('Range') ?? '0,1').split(',').map(Number);
  return {values, rows, columns, low, high, remarks: about('Remarks') ?? ''};
}

export async function getNumbers(path, query = {}, signal = undefined) {
  const asked = new URLSearchParams(query).toString();
  return numbers(await checked(await fetch(`v1/${path}?${asked}`, {signal})));
}

export async function postNumbers(path, body, signal = undefined) {
  return numbers(await post(path, body, signal));
}

/** A part of a path: names of cubes, layers and zones may hold any character. */
export const part = encodeURIComponent;
