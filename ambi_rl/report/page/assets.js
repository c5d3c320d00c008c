// Pictures and lists of blocks, which wait in the page as base64 and are decoded when they are wanted.
"use strict";

const KEPT_PICTURES = 12;

/** The bytes of an element that may stand further down than the parser has come. */
async function assetBytes(id) {
  if (document.readyState === "loading" && !byId(`asset-${id}`)?.nextElementSibling) {
    await new Promise((resolve) => document.addEventListener("DOMContentLoaded", resolve, { once: true }));
  }
  return Uint8Array.from(atob(byId(`asset-${id}`).textContent), (c) => c.charCodeAt(0));
}

const pictures = new Map();

/** A decoded picture; the ones that were wanted last are kept. */
async function picture(id) {
  const known = pictures.get(id);
  pictures.delete(id);
  const wanted = known ?? decodePicture(id);
  pictures.set(id, wanted);
  if (pictures.size > KEPT_PICTURES) pictures.delete(pictures.keys().next().value);
  return wanted;
}

async function decodePicture(id) {
  const type = byId(`asset-${id}`)?.type.replace(";base64", "");
  const bytes = await assetBytes(id);
  const mime = type ?? byId(`asset-${id}`).type.replace(";base64", "");
  try {
    return await createImageBitmap(new Blob([bytes], { type: mime }), { colorSpaceConversion: "none" });
  } catch {
    throw new Error(`this browser cannot show ${mime.replace("image/", "").toUpperCase()} files`);
  }
}

/** The pixels of a picture as bytes of red, green, blue, alpha. */
function pixelsOf(bitmap) {
  const canvas = el("canvas", { width: bitmap.width, height: bitmap.height });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  return context.getImageData(0, 0, bitmap.width, bitmap.height);
}

/** |a − b| · gain of two pictures of one size, as a canvas, and the largest difference there is. */
function difference(first, second, gain) {
  const a = pixelsOf(first), b = pixelsOf(second);
  let largest = 0;
  for (let i = 0; i < a.data.length; i += 1) {
    if (i % 4 === 3) continue;
    const delta = Math.abs(a.data[i] - b.data[i]);
    largest = Math.max(largest, delta);
    a.data[i] = delta * gain;
  }
  const canvas = el("canvas", { width: a.width, height: a.height });
  canvas.getContext("2d").putImageData(a, 0, 0);
  return { canvas, largest };
}

/**
 * The blocks of a coded picture: {x, y, size, strategy, offset, bits}.
 *
 * The bytes hold, for blocks in coding order, all log2 sizes, then all strategies, then all offsets, then the
 * low, middle and high bytes of bits·16. Places follow from sizes.
 */
async function blocks({ asset, count }, width, height) {
  const stream = new Blob([await assetBytes(asset)]).stream().pipeThrough(new DecompressionStream("deflate"));
  const bytes = new Uint8Array(await new Response(stream).arrayBuffer());
  const list = [];
  const side = DATA.superblock;
  function visit(x, y, size) {
    if (x >= width || y >= height) return;
    const i = list.length;
    if (1 << bytes[i] !== size) {
      const half = size / 2;
      for (const [dx, dy] of [[0, 0], [half, 0], [0, half], [half, half]]) visit(x + dx, y + dy, half);
      return;
    }
    const bits = (bytes[3 * count + i] + 256 * bytes[4 * count + i] + 65536 * bytes[5 * count + i]) / 16;
    list.push({ x, y, size, strategy: bytes[count + i], offset: bytes[2 * count + i], bits });
  }
  for (let y = 0; y < height; y += side) for (let x = 0; x < width; x += side) visit(x, y, side);
  return list;
}
