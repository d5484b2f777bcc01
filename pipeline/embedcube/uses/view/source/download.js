/** Files of what is seen, made in the page. */

/** Save one kind of file; gives its name, or null where there is nothing of that kind. */
export async function download(kind, state, cells) {
  const made = await MAKERS[kind](state, cells);
  if (!made) {
    return null;
  }
  const name = `${state.cube}-${state.layer}-${state.zone.windows[state.t].slice(0, 10)}-${made.name}`;
  const link = document.createElement('a');
  link.href = URL.createObjectURL(made.blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  return name;
}

const json = (value) => new Blob([JSON.stringify(value, null, 1)], {type: 'application/json'});

const MAKERS = {
  picture: async (_, cells) => ({name: 'map.png', blob: await cells.picture()}),
  hits: (state) => state.hits.length && {
    name: 'similar.geojson',
    blob: json({
      type: 'FeatureCollection',
      features: state.hits.map(({lon, lat, ...properties}) => ({
        type: 'Feature', geometry: {type: 'Point', coordinates: [lon, lat]}, properties,
      })),
    }),
  },
  cell: (state) => state.told && {name: 'place.json', blob: json(state.told)},
  polygon: (state) => state.statistics && {
    name: 'polygon.geojson', blob: json({type: 'FeatureCollection', features: [state.statistics]}),
  },
};
