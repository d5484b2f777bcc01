/** Chromium for the tests, without any connection of its own. `NODE_MODULES` says where playwright-core is. */

import {readFileSync} from 'node:fs';
import {createRequire} from 'node:module';

const require = createRequire(`${process.env.NODE_MODULES}/`);
const {chromium} = require('playwright-core');

const AXE = require.resolve('axe-core/axe.min.js');

export function launch(...more) {
  return chromium.launch({
    executablePath: process.env.CHROMIUM,
    args: [
      '--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
      '--disable-background-networking', '--disable-component-update', '--disable-sync', ...more,
    ],
  });
}

/** A page that notes what it asks for, and what goes wrong in it. */
export async function open(browser, viewport) {
  const page = await browser.newPage({viewport, acceptDownloads: true});
  const seen = {requests: [], problems: []};
  page.on('request', (request) => seen.requests.push(request.url()));
  page.on('pageerror', (error) => seen.problems.push(error.message));
  page.on('console', (message) => message.type() === 'error' && seen.problems.push(message.text()));
  return {page, seen};
}

export async function violations(page) {
  // not as a script of the page, which its policy forbids
  await page.evaluate(readFileSync(AXE, 'utf8'));
  const found = await page.evaluate(() => window.axe.run(document, {resultTypes: ['violations']}));
  return found.violations.map(({id, help, nodes}) => `${id}: ${help}: ${nodes.map((one) => one.html.slice(0, 120))}`);
}
