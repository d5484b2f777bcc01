/** Click on ten places of a cube; prints for each how long it took until the map of similarity was painted. */

import {launch, open} from './chromium.mjs';

const [address] = process.argv.slice(2);
const browser = await launch();
const {page, seen} = await open(browser, {width: 1280, height: 800});
const devtools = await page.context().newCDPSession(page);
await devtools.send('Performance.enable', {timeDomain: 'threadTicks'});
const cpu = async () => {
  const {metrics} = await devtools.send('Performance.getMetrics');
  return 1000 * metrics.find(({name}) => name === 'TaskDuration').value;
};
await page.goto(address);
await page.waitForSelector('body[data-ready]');
const ready = await page.evaluate(() => performance.getEntriesByName('ready')[0].startTime);
const ready_cpu = await cpu();
// similarity alone: what is told of the place afterwards would be counted too
await page.check('input[value=like]');
const box = await page.locator('#map').boundingBox();
const clicks = [];
for (let i = 0; i < 11; i++) {
  await page.evaluate(() => performance.clearMarks());
  const before = await cpu();
  await page.mouse.click(box.x + box.width * (0.25 + 0.04 * i), box.y + box.height * (0.3 + 0.03 * i));
  await page.waitForFunction(() => performance.getEntriesByName('painted similar').length, null, {polling: 10});
  const after = await cpu();
  const wall = await page.evaluate(() => {
    const [from, to] = ['act', 'painted similar'].map((name) => performance.getEntriesByName(name)[0].startTime);
    return to - from;
  });
  clicks.push({wall, cpu: after - before});
  await page.waitForFunction(() => document.querySelector('#said').textContent.startsWith('Examples'));
  await page.click('#forget');
  await page.waitForFunction(() => performance.getEntriesByName('painted colours').length);
  await page.evaluate(() => (document.querySelector('#said').textContent = ''));
}
// the first click reads the window; it is not one of the ten
console.log(JSON.stringify({ready, ready_cpu, first: clicks[0], clicks: clicks.slice(1), problems: seen.problems}));
await browser.close();
