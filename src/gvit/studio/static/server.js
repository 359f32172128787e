// The server's answers. A message is a JSON header and numbers as they are in memory; see gvit/studio/wire.py.

const HEADER = 4; // bytes that tell the header's length

function pack(header, raw) {
  const text = new TextEncoder().encode(JSON.stringify(header));
  const length = new Uint8Array(HEADER);
  new DataView(length.buffer).setUint32(0, text.length, true);
  return new Blob([length, text, raw]);
}

function unpack(buffer) {
  const length = new DataView(buffer).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, HEADER, length)));
  let at = HEADER + length;
  const parts = {};
  for (const [name, size] of header.parts) {
    parts[name] = name === "picture" || name === "seen"
      ? new Uint8ClampedArray(buffer, at, size)
      : new Float32Array(buffer, at, size / 4);
    at += size;
  }
  return { ...header, ...parts };
}

async function ask(path, query = {}, body = undefined) {
  const url = `${path}?${new URLSearchParams(query)}`;
  const options = body === undefined ? {} : { method: "POST", body, headers: { "Content-Type": "application/octet-stream" } };
  let answer;
  try {
    answer = await fetch(url, options);
  } catch {
    throw new Error("The server does not answer. Is 'gvit studio' still running?");
  }
  if (!answer.ok) {
    const told = await answer.json().catch(() => ({}));
    throw new Error(told.error ?? `The server answered ${answer.status}.`);
  }
  return answer;
}

const header = (doc) => ({
  model: doc.model, ...doc.bounds, height: doc.height, width: doc.width, image_height: doc.size[0], image_width: doc.size[1],
  off: Array.from(doc.off.keys()).filter((index) => doc.off[index]),
});

export const models = async () => (await (await ask("/api/models")).json()).models;

export const describe = async (name) => (await ask("/api/model", { name })).json();

export const exampleUrl = (model, name) => `/api/example?${new URLSearchParams({ model, name })}`;

/** The Gaussians of a file: an image, or Gaussians that were saved. */
export async function open(model, name, content, numbers) {
  return unpack(await (await ask("/api/open", { model, name, ...numbers }, content)).arrayBuffer());
}

/** Raw numbers after edits, ellipses, picture and prediction. */
export async function state(doc, edits) {
  const begun = performance.now();
  const answer = await ask("/api/state", {}, pack({ ...header(doc), edits }, doc.raw));
  const view = unpack(await answer.arrayBuffer());
  return { ...view, milliseconds: Math.round(performance.now() - begun) };
}

/** A number for each Gaussian. */
export async function scores(doc, method, target) {
  const asked = { ...header(doc), off: [], method, target };
  return unpack(await (await ask("/api/scores", {}, pack(asked, doc.raw))).arrayBuffer()).scores;
}

/** The state as a file. */
export async function save(doc, format) {
  return (await ask("/api/save", { format }, pack(header(doc), doc.raw))).blob();
}
