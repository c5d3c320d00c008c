// What the encoder decided, drawn over a picture from its list of blocks, with the legend that explains it.
"use strict";

const OVERLAYS = [
  ["none", "None"], ["partition", "Partition"], ["strategy", "Prediction"], ["offset", "Quantization"],
  ["bits", "Bits"],
];
const rgb = ([r, g, b], alpha = 1) => `rgba(${r}, ${g}, ${b}, ${alpha})`;
/** Bits per pixel at the ends of the heat map, whose scale is logarithmic. */
const HEAT_RANGE = [1 / 64, 8];
const LINE = "rgba(0, 0, 0, 0.55)", LINE_LIGHT = "rgba(255, 255, 255, 0.75)";

function heatColour(density) {
  const [low, high] = HEAT_RANGE.map(Math.log2);
  const stops = DATA.palette.heat;
  const place = Math.min(Math.max((Math.log2(Math.max(density, 1e-9)) - low) / (high - low), 0), 1) * (stops.length - 1);
  const index = Math.min(Math.floor(place), stops.length - 2), share = place - index;
  return stops[index].map((v, i) => Math.round(v + (stops[index + 1][i] - v) * share));
}

/** The colour that an overlay fills a block with, and how strongly (0…1); null for not at all. */
function fillOf(kind, block, lists) {
  if (kind === "strategy") return [lists.strategies[block.strategy].colour, 1];
  if (kind === "bits") return [heatColour(block.bits / block.size ** 2), 1.3];
  if (kind === "offset") {
    const { value, colour } = lists.offsets[block.offset];
    const largest = Math.max(...lists.offsets.map((o) => Math.abs(o.value)));
    return colour && [colour, 0.35 + (0.65 * Math.abs(value)) / largest];
  }
  return null;
}

/**
 * Draw an overlay.
 *
 * `place` maps picture coordinates to the canvas: {x, y, scale}; `clip` is the part that is visible, in pixels of
 * the canvas; `strength` 0…1 is how opaque the colours are.
 */
function drawOverlay(context, kind, list, lists, place, clip, strength) {
  const visible = list.filter((b) =>
    place.x + (b.x + b.size) * place.scale >= clip.x && place.x + b.x * place.scale <= clip.x + clip.width
    && place.y + (b.y + b.size) * place.scale >= clip.y && place.y + b.y * place.scale <= clip.y + clip.height);
  const corner = (b) => [Math.round(place.x + b.x * place.scale), Math.round(place.y + b.y * place.scale)];
  const end = (b) => [
    Math.round(place.x + (b.x + b.size) * place.scale), Math.round(place.y + (b.y + b.size) * place.scale)];
  const isPlain = kind === "partition";
  const thickness = Math.max(1, Math.round(globalThis.devicePixelRatio));
  if (!isPlain) desaturate(context, clip, strength);
  for (const block of visible) {
    const [left, top] = corner(block), [right, bottom] = end(block);
    const fill = fillOf(kind, block, lists);
    if (fill) {
      context.fillStyle = rgb(fill[0], Math.min(fill[1] * strength, 1));
      context.fillRect(left, top, right - left, bottom - top);
    }
  }
  context.globalAlpha = isPlain ? 0.35 + 0.65 * strength : Math.min(1, 0.3 + place.scale / 3);
  const lines = (style, shift) => {
    context.fillStyle = style;
    for (const block of visible) {
      const [left, top] = corner(block), [right, bottom] = end(block);
      context.fillRect(left + shift, top + shift, right - left, thickness);
      context.fillRect(left + shift, top + thickness + shift, thickness, bottom - top - thickness);
    }
  };
  // With a shadow, so that it is seen on snow and at night.
  if (isPlain) lines(LINE, thickness);
  lines(isPlain ? LINE_LIGHT : LINE, 0);
  context.globalAlpha = 1;
  if (kind === "strategy") drawDirections(context, visible, lists, place);
}

/** Take the colour out of the picture, so that the overlay's is the only one. */
function desaturate(context, clip, strength) {
  context.save();
  context.globalCompositeOperation = "saturation";
  context.globalAlpha = Math.min(1, 2 * strength);
  context.fillStyle = "#808080";
  context.fillRect(clip.x, clip.y, clip.width, clip.height);
  context.restore();
}

/** A stroke along the direction of each block that is large enough on the screen to show one. */
function drawDirections(context, visible, lists, place) {
  context.strokeStyle = "rgba(0, 0, 0, 0.8)";
  context.lineWidth = Math.max(1, globalThis.devicePixelRatio);
  context.beginPath();
  for (const block of visible) {
    const { angle } = lists.strategies[block.strategy];
    const side = block.size * place.scale;
    if (angle === null || side < 14 * globalThis.devicePixelRatio) continue;
    const x = place.x + (block.x + block.size / 2) * place.scale;
    const y = place.y + (block.y + block.size / 2) * place.scale;
    const dx = Math.cos(angle) * side * 0.3, dy = -Math.sin(angle) * side * 0.3;
    context.moveTo(x - dx, y - dy);
    context.lineTo(x + dx, y + dy);
  }
  context.stroke();
}

/** Share of the picture's area, by a key of the block, in percent. */
function shares(list, keyOf) {
  const areas = new Map();
  let total = 0;
  for (const block of list) {
    const area = block.size ** 2;
    total += area;
    areas.set(keyOf(block), (areas.get(keyOf(block)) ?? 0) + area);
  }
  return (key) => (100 * (areas.get(key) ?? 0)) / total;
}

const percent = (value) => `${value > 0 && value < 1 ? "<1" : Math.round(value)} %`;

function chip(colour, label, share) {
  const box = el("span", { className: "chip" });
  if (colour) box.style.background = rgb(colour);
  else box.classList.add("empty");
  return el("li", {}, box, el("span", { textContent: label }),
    share === undefined ? null : el("span", { className: "muted", textContent: percent(share) }));
}

/** What the colours of an overlay mean, and how much of the picture has which. */
function legendOf(kind, list, lists) {
  if (kind === "partition") return partitionLegend(list);
  if (kind === "strategy") return strategyLegend(list, lists);
  if (kind === "offset") return offsetLegend(list, lists);
  return heatLegend(list);
}

function partitionLegend(list) {
  const share = shares(list, (b) => b.size);
  const sizes = [...new Set(list.map((b) => b.size))].sort((a, b) => b - a);
  return [
    el("h3", { textContent: "Partition" }),
    el("p", { textContent: `${list.length.toLocaleString("en")} blocks; share of the area by size:` }),
    el("ul", { className: "chips" }, ...sizes.map((size) => {
      const box = svg("svg", { width: 26, height: 26, "aria-hidden": "true", class: "block-size" },
        svg("rect", { x: 1, y: 1, width: (size * 24) / DATA.superblock, height: (size * 24) / DATA.superblock }));
      return el("li", {}, box, el("span", { textContent: `${size}×${size}` }),
        el("span", { className: "muted", textContent: percent(share(size)) }));
    })),
  ];
}

function strategyLegend(list, lists) {
  const share = shares(list, (b) => (lists.strategies[b.strategy].angle === null ? lists.strategies[b.strategy].name : "angular"));
  const fan = svg("svg", { width: 132, height: 74, viewBox: "-66 -66 132 74", role: "img", class: "fan",
    "aria-label": "Hue by direction: red horizontal, green rising to the right, cyan vertical, blue and violet rising to the left" });
  for (const { angle, colour } of lists.strategies) {
    if (angle === null) continue;
    for (const turn of angle === 0 ? [0, Math.PI] : [angle]) {
      fan.append(svg("line", {
        x1: 14 * Math.cos(turn), y1: -14 * Math.sin(turn), x2: 62 * Math.cos(turn), y2: -62 * Math.sin(turn),
        stroke: rgb(colour), "stroke-width": 4.5, "stroke-linecap": "round",
      }));
    }
  }
  const flat = lists.strategies.filter((s) => s.angle === null);
  return [
    el("h3", { textContent: "Prediction strategy" }),
    el("div", { className: "legend-row" }, fan,
      el("ul", { className: "chips stacked" },
        el("li", {}, el("span", { textContent: "angular: hue is the direction of prediction" }),
          el("span", { className: "muted", textContent: percent(share("angular")) })),
        ...flat.map((s) => chip(s.colour, s.name, share(s.name))))),
  ];
}

function offsetLegend(list, lists) {
  const share = shares(list, (b) => b.offset);
  const largest = Math.max(...lists.offsets.map((o) => Math.abs(o.value)));
  const items = lists.offsets.map(({ value, colour }, index) => {
    const item = chip(colour, `step × ${(2 ** (value / 6)).toFixed(2)}${value === 0 ? " (as the quality sets it)" : ""}`, share(index));
    if (colour) item.firstElementChild.style.opacity = 0.35 + (0.65 * Math.abs(value)) / largest;
    return item;
  });
  const isEven = list.every((block) => lists.offsets[block.offset].value === 0);
  return [
    el("h3", { textContent: "Quantization offset" }),
    el("p", { textContent: isEven ? "Every block has the step that the quality sets."
      : "Yellow blocks are quantized more finely, blue ones more coarsely; share of the area:" }),
    el("ul", { className: "chips" }, ...items),
  ];
}

function heatLegend(list) {
  const bar = el("div", { className: "heat", role: "img",
    "aria-label": `Heat map from ${HEAT_RANGE[0]} to ${HEAT_RANGE[1]} bits per pixel, logarithmic` });
  const stops = DATA.palette.heat.map((colour, i, all) => `${rgb(colour)} ${(100 * i) / (all.length - 1)}%`);
  bar.style.background = `linear-gradient(to right, ${stops.join(", ")})`;
  const ticks = el("div", { className: "ticks" },
    ...["1/64", "1/16", "1/4", "1", "4", ""].slice(0, 5).map((text, i) => {
      const tick = el("span", { textContent: text });
      tick.style.left = `${(100 * 2 * i) / 9}%`;
      return tick;
    }));
  const total = list.reduce((sum, b) => sum + b.bits, 0);
  const dearest = list.reduce((most, b) => (b.bits > most.bits ? b : most), list[0]);
  return [
    el("h3", { textContent: "Bits per block" }),
    el("p", { textContent: `Colour is the density in bit/pixel; ${bytesText(Math.ceil(total / 8))} in `
      + `${list.length.toLocaleString("en")} blocks, the dearest ${Math.round(dearest.bits)} bits.` }),
    bar, ticks,
  ];
}

/** One line about a block. */
function describe(block, lists) {
  const { value } = lists.offsets[block.offset];
  const name = lists.strategies[block.strategy].name.replace("_", " ");
  return `block ${block.size}×${block.size} at ${block.x}, ${block.y}: ${name}, step × ${(2 ** (value / 6)).toFixed(2)}, `
    + `${fixed(block.bits, 1)} bits (${fixed(block.bits / block.size ** 2, 2)} bit/pixel)`;
}
