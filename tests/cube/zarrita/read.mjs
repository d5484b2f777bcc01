// `node read.mjs FOLDER OUT NAME...`: reads arrays below FOLDER whole with zarrita.js, and writes the bytes of each to
// OUT, in the order of C, as files 0, 1, ...; prints type and shape of each as JSON.
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { get, open, root } from "zarrita";
import FileSystemStore from "@zarrita/storage/fs";

const [folder, out, ...names] = process.argv.slice(2);
const store = root(new FileSystemStore(folder));
const read = [];
for (const [number, name] of names.entries()) {
  const array = await open.v3(store.resolve(name), { kind: "array" });
  // of an array without dimensions `get` returns the value
  const { data, shape } = await (array.shape.length ? get(array) : array.getChunk([]));
  writeFileSync(join(out, String(number)), Buffer.from(data.buffer, data.byteOffset, data.byteLength));
  read.push({ dtype: array.dtype, shape });
}
console.log(JSON.stringify(read));
