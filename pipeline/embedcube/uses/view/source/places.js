/** Coordinates of a zone's CRS to degrees and back. */

import proj4 from 'proj4';

/** What proj4 does not know by its name in WKT. */
const NAMES = [[/METHOD\["Lambert Cylindrical Equal Area( \(Spherical\))?"/, 'METHOD["cea"']];

/** Functions `degrees` and `metres` of a zone; both give null for a CRS that is not known here. */
export function placesOf(zone) {
  if (/^(GEOGCRS|GEODCRS|BASEGEOGCRS)/.test(zone.wkt2)) {
    const first = zone.bbox[0];
    const around = (lon) => first + ((((lon - first) % 360) + 360) % 360);
    return {degrees: ([x, y]) => [((((x + 180) % 360) + 360) % 360) - 180, y], cells: ([lon, lat]) => [around(lon), lat]};
  }
  try {
    const wkt = NAMES.reduce((text, [name, known]) => text.replace(name, known), zone.wkt2);
    const known = proj4(wkt);
    return {degrees: (xy) => known.inverse([...xy]), cells: (lonlat) => known.forward([...lonlat])};
  } catch {
    return {degrees: () => null, cells: () => null};
  }
}

/** A place as people write it. */
export function inWords([lon, lat]) {
  const side = (value, positive, negative) => `${Math.abs(value).toFixed(5)}° ${value < 0 ? negative : positive}`;
  return `${side(lat, 'N', 'S')}, ${side(lon, 'E', 'W')}`;
}

/** Whether a point is inside of a ring of points. */
export function inside([x, y], ring) {
  let found = false;
  for (let i = 0, j = ring.length - 1; i < ring.length; j = i++) {
    const [[xi, yi], [xj, yj]] = [ring[i], ring[j]];
    if (yi > y !== yj > y && x < ((xj - xi) * (y - yi)) / (yj - yi) + xi) {
      found = !found;
    }
  }
  return found;
}
