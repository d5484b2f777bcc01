/** Use the page of `embedcube view` as a person does, mostly by keyboard; prints what was seen as one JSON object. */

import {launch, open, violations} from './chromium.mjs';

const [address, folder] = process.argv.slice(2);
const browser = await launch();
const {page, seen} = await open(browser, {width: 1280, height: 800});
const told = {axe: {}};
const painted = (what) => page.waitForFunction((name) => performance.getEntriesByName(`painted ${name}`).length, what);
const forgetMarks = () => page.evaluate(() => performance.clearMarks());
const text = (id) => page.textContent(`#${id}`);
const said = (words) => page.waitForFunction((part) => document.querySelector('#said').textContent.includes(part), words);
const shot = (name) => page.screenshot({path: `${folder}/${name}.png`});

await page.goto(address);
await page.waitForSelector('body[data-ready]');
told.ready_ms = await page.evaluate(() => performance.getEntriesByName('ready')[0].startTime);
told.title = await page.title();
told.axe.start = await violations(page);

// every control is reached by Tab alone, and shows that it has the focus
told.reached = [];
for (let i = 0; i < 60; i++) {
  await page.keyboard.press('Tab');
  told.reached.push(await page.evaluate(() => {
    const one = document.activeElement;
    const width = parseFloat(getComputedStyle(one).outlineWidth);
    return [one.id || one.name || one.textContent.trim(), width > 0 || one.type === 'radio' || one.type === 'range'];
  }));
}

// a place, by keys
await page.focus('#map');
await forgetMarks();
for (let i = 0; i < 3; i++) {
  await page.keyboard.press('ArrowLeft');
}
await page.keyboard.press('Shift+ArrowUp');
told.moved = await text('said');
await page.keyboard.press('Enter');
await painted('similar');
await said('similar places');
told.looked = {
  said: await text('said'), place: await text('place'), row: await page.inputValue('#row'), column: await page.inputValue('#column'),
  hits: await page.locator('#hits li').allTextContents(), series: await page.locator('#series td').allTextContents(),
  legend: await page.getAttribute('#legend', 'aria-label'),
};
// similarity of other cells, as it is told to who cannot see it, and as it is painted
told.scores = [];
for (const key of ['ArrowRight', 'Shift+ArrowRight', 'ArrowDown', 'Shift+ArrowDown', 'Shift+ArrowRight', 'Shift+ArrowLeft']) {
  await page.keyboard.press(key);
  told.scores.push(await text('said'));
}
told.map = await page.locator('#map').boundingBox();
told.pixels = await page.evaluate(() => {
  const canvas = document.querySelector('#map canvas');
  const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
  return {width: canvas.width, height: canvas.height, data: btoa(Array.from(data.data, (v) => String.fromCharCode(v)).join(''))};
});
await shot('similar');
told.axe.similar = await violations(page);

// the place of a hit
await page.locator('#hits button').first().press('Enter');
await page.waitForTimeout(500);
told.hit = {row: await page.inputValue('#row'), column: await page.inputValue('#column')};

// examples: more like, less like
await page.check('input[value=unlike]');
await forgetMarks();
await page.focus('#map');
await page.keyboard.press('Shift+ArrowDown');
await page.keyboard.press('Enter');
await painted('similar');
await said('to be unlike');
told.examples = await text('examples');

// another window by its slider, and what else is shown
await page.focus('#window');
await forgetMarks();
await page.keyboard.press('ArrowRight');
await painted('similar');
told.days = await text('days');
for (const what of ['status', 'n_obs', 'colours']) {
  await forgetMarks();
  await page.selectOption('#show', what);
  await painted(what);
  await shot(what);
}
// what decoders say, to the eye and in words
told.decoded = {};
for (const name of ['kind', 'height']) {
  await forgetMarks();
  await page.selectOption('#show', `decoded/${name}`);
  await painted(`decoded/${name}`);
  await page.focus('#map');
  const words = [];
  for (const key of ['ArrowRight', 'Shift+ArrowRight', 'Shift+ArrowDown', 'Shift+ArrowLeft', 'Shift+ArrowLeft']) {
    await page.keyboard.press(key);
    words.push(await text('said'));
  }
  told.decoded[name] = {words, legend: await page.getAttribute('#legend', 'aria-label')};
  await shot(name);
}
told.axe.decoded = await violations(page);
await page.selectOption('#show', 'change');
await page.waitForSelector('#said.wrong');
told.change = await text('said');
await page.click('#forget');

// a polygon by clicks
await page.check('input[value=polygon]');
const at = (x, y) => page.mouse.click(told.map.x + told.map.width * x, told.map.y + told.map.height * y);
told.corners = [];
for (const [x, y] of [[0.3, 0.4], [0.6, 0.4], [0.6, 0.6], [0.3, 0.6]]) {
  await at(x, y);
  told.corners.push([await page.inputValue('#row'), await page.inputValue('#column')].map(Number));
}
await page.click('#finish');
await said('cells in the polygon');
told.statistics = await page.locator('#statistics table').first().locator('tbody tr').evaluateAll(
  (rows) => rows.map((row) => [...row.cells].map((cell) => cell.textContent)));
told.vectors = await page.locator('#statistics table').nth(1).locator('tbody tr').evaluateAll(
  (rows) => rows.map((row) => [...row.cells].map((cell) => cell.textContent)));
told.alike_inside = await page.textContent('#statistics p');
await forgetMarks();
await page.click('#alike');
await painted('similar');
await page.waitForFunction(() => document.querySelectorAll('#hits li').length);
told.alike = await text('examples');
await shot('polygon');
told.axe.polygon = await violations(page);

// a place by its degrees, and one outside
await page.check('input[value=look]');
await page.fill('#lon', '7.6');
await page.fill('#lat', '50.87');
await page.press('#lat', 'Enter');
await page.waitForFunction(() => document.querySelector('#place strong'));
told.degrees = {row: await page.inputValue('#row'), column: await page.inputValue('#column')};
await page.fill('#lat', '10');
await page.press('#lat', 'Enter');
told.outside = await text('said');

// files
told.files = {};
for (const kind of ['picture', 'hits', 'cell', 'polygon']) {
  const [file] = await Promise.all([page.waitForEvent('download'), page.press(`[data-download=${kind}]`, 'Enter')]);
  told.files[kind] = `${folder}/${file.suggestedFilename()}`;
  await file.saveAs(told.files[kind]);
}

// a phone
await page.setViewportSize({width: 390, height: 844});
await page.waitForTimeout(400);
told.phone = await page.evaluate(() => document.documentElement.scrollWidth);
await page.screenshot({path: `${folder}/phone.png`, fullPage: true});
told.axe.phone = await violations(page);

// what a violation looks like, so that none above means something
await page.evaluate(() => document.querySelector('main').append(document.createElement('img')));
told.axe.spoilt = await violations(page);

told.seen = seen;
await browser.close();
console.log(JSON.stringify(told));
