// Small helpers that every part uses. Text reaches the page as text nodes only, never as markup.
"use strict";

/** An element with properties (or attributes, for names with a hyphen) and children. */
function el(name, properties = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (value === undefined || value === null) continue;
    if (key.includes("-") || key === "role" || key === "for") node.setAttribute(key, value);
    else node[key] = value;
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

/** An SVG element with attributes and children. */
function svg(name, attributes = {}, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

const byId = (id) => document.getElementById(id);
const DATA = JSON.parse(byId("data").textContent);
const MINUS = "\u2212";

/** A number with a fixed count of decimals and a typographic minus. */
function fixed(value, decimals) {
  return value.toFixed(decimals).replace(/^-/, MINUS).replace(/^\u2212(0(\.0*)?)$/, "$1");
}

/** Likewise with its sign. */
function signed(value, decimals) {
  const text = fixed(value, decimals);
  return value > 0 && Number(value.toFixed(decimals)) > 0 ? `+${text}` : text;
}

/** Bytes as people read them. */
function bytesText(bytes) {
  if (bytes < 1000) return `${bytes} B`;
  return bytes < 1e6 ? `${(bytes / 1000).toFixed(1)} kB` : `${(bytes / 1e6).toFixed(2)} MB`;
}

/** Seconds with three significant digits. */
const secondsText = (value) => (value >= 100 ? fixed(value, 0) : value.toPrecision(value < 0.01 ? 1 : 3));

/** A labelled drop-down of [value, text] pairs. */
function choice(label, options, value, onChange, id) {
  const select = el("select", { id });
  for (const [key, text] of options) select.append(el("option", { value: key, textContent: text }));
  select.value = value;
  select.addEventListener("change", () => onChange(select.value));
  return el("label", { className: "field" }, el("span", { textContent: label }), select);
}

/** A group of radio buttons that looks like one control; arrow keys move within it. */
function segmented(label, options, value, onChange, id) {
  const group = el("fieldset", { className: "segmented", id }, el("legend", { textContent: label }));
  const row = el("div");
  for (const [key, text, why] of options) {
    const input = el("input", { type: "radio", name: id, value: key, checked: key === value });
    input.disabled = Boolean(why);
    input.addEventListener("change", () => onChange(key));
    row.append(el("label", { title: why }, input, el("span", { textContent: text })));
  }
  group.append(row);
  return group;
}

/** A colour of the theme, by the name of its variable. */
const themed = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

const isDark = () => themed("--is-dark") === "1";

/** Calls back whenever light turns to dark or back. */
function onTheme(callback) {
  document.addEventListener("themechange", callback);
}
