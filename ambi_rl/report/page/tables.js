// Tables that a click or a key on a heading sorts.
"use strict";

/** How tables were sorted by hand, by id: {index, descending}. */
const sortings = new Map();

/**
 * A table.
 *
 * columns: {label, hint, value(row) → number | string | null, cell(row) → string | Node, isText}
 * Rows without a value stay at the end, whichever way the rest is sorted. `foot` rows are not sorted. A table that
 * is made anew under the same `id` is sorted as the last one was.
 */
function sortableTable(caption, columns, rows, { id = null, sortBy = null, foot = [] } = {}) {
  const head = el("tr"), body = el("tbody");
  const headings = columns.map((column, index) => {
    const button = el("button", { type: "button", title: column.hint }, column.label);
    const heading = el("th", { scope: "col", className: column.isText ? "" : "number" }, button);
    button.addEventListener("click", () => {
      sort(index);
      if (id) sortings.set(id, { index, descending: heading.getAttribute("aria-sort") === "descending" });
    });
    head.append(heading);
    return heading;
  });

  function rowOf(row) {
    const line = el("tr", { className: row.className ?? "" });
    columns.forEach((column, index) => {
      const name = index === 0 ? "th" : "td";
      const cell = el(name, { className: column.isText ? "" : "number" }, column.cell(row));
      if (index === 0) cell.scope = "row";
      line.append(cell);
    });
    return line;
  }

  function sort(index, descending = headings[index].getAttribute("aria-sort") === "ascending") {
    const value = columns[index].value;
    const sign = descending ? -1 : 1;
    const ordered = [...rows].sort((a, b) => {
      const [x, y] = [value(a), value(b)];
      if (x === null || y === null) return (x === null) - (y === null);
      return sign * (typeof x === "string" ? x.localeCompare(y, "en", { numeric: true }) : x - y);
    });
    headings.forEach((heading, i) => {
      if (i === index) heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
      else heading.removeAttribute("aria-sort");
    });
    body.replaceChildren(...ordered.map(rowOf));
  }

  body.append(...rows.map(rowOf));
  const table = el("table", {}, el("caption", { textContent: caption }), el("thead", {}, head), body);
  if (foot.length) table.append(el("tfoot", {}, ...foot.map(rowOf)));
  const last = sortings.get(id);
  if (last) sort(last.index, last.descending);
  else if (sortBy !== null) sort(sortBy, false);
  return table;
}

/** A BD-rate with a bar of its length to the left for less, to the right for more. */
function deltaCell(delta, scale) {
  if (!delta || delta.rate === null) return "–";
  const text = `${signed(delta.rate, 1)} %`;
  const share = Math.min(Math.abs(delta.rate) / scale, 1) * 50;
  const bar = el("span", { className: `bar ${delta.rate < 0 ? "less" : "more"}` });
  bar.style.width = `${share}%`;
  return el("span", { className: "delta", title: rangeOf(delta) }, bar,
    el("span", {}, text, partMark(delta.whole, rangeOf(delta))));
}

/** A star for what is over a part of the range, and the part in words for those who cannot point at it. */
function partMark(isWhole, range) {
  return isWhole ? null : el("span", { title: range }, el("span", { "aria-hidden": "true", textContent: "*" }),
    el("span", { className: "sr-only", textContent: `, a part of the range: ${range}` }));
}

function rangeOf(delta) {
  return delta.low === null ? "" : `over ${fixed(delta.low, 2)} to ${fixed(delta.high, 2)} dB`;
}

const PARTIAL = "* over the part of the range that both curves cover; which part is in the cell's tooltip";

function summaryTable() {
  const rate = (row, metric) => row.deltas[metric]?.rate ?? null;
  const scale = Math.max(10, ...DATA.summary.flatMap((row) =>
    DATA.metrics.map(({ id }) => Math.abs(rate(row, id) ?? 0))));
  const deltaColumn = ({ id, name }) => ({
    label: `BD-rate, ${name}`,
    hint: `Difference in rate against ${DATA.comparison.anchor} at equal ${name}; less is better`,
    // The anchor is 0 % by definition and belongs between the others.
    value: (row) => (row.anchor ? 0 : rate(row, id)),
    cell: (row) => (row.anchor ? el("span", { className: "muted", textContent: "anchor" })
      : deltaCell(row.deltas[id], scale)),
  });
  const numberColumn = (label, key, format, hint) => ({
    label, hint, value: (row) => row[key], cell: (row) => (row[key] === null ? "–" : format(row[key])),
  });
  const middle = (DATA.comparison.low + DATA.comparison.high) / 2;
  const columns = [
    {
      label: "Codec", isText: true, value: (row) => row.name,
      cell: (row) => el("span", { className: "codec", title: row.description },
        swatch(row.name), el("span", { textContent: row.name }),
        row.imported ? el("span", { className: "tag", textContent: "imported" }) : null),
    },
    ...DATA.metrics.map(deltaColumn),
    {
      label: "BD-PSNR", hint: "Difference in RGB-PSNR at equal rate; more is better", value: (row) => row.bdPsnr,
      cell: (row) => (row.bdPsnr === null ? "–" : el("span", {},
        `${signed(row.bdPsnr, 2)} dB`, partMark(row.bdPsnrWhole, row.bdPsnrRange))),
    },
    numberColumn(`bit/px at ${fixed(middle, 1)}\u00a0dB`, "bppAtMiddle", (v) => fixed(v, 3), "Where the curve has this RGB-PSNR"),
    numberColumn("Encode, s", "encode", secondsText, "Mean of a picture over the points in the range of qualities"),
    numberColumn("Decode, s", "decode", secondsText, "Mean of a picture over the points in the range of qualities"),
  ];
  const rows = DATA.summary.map((row) => ({ ...row, className: row.family === "ambi" ? "ours" : "" }));
  byId("summary-table").replaceChildren(
    sortableTable("Codecs against the anchor", columns, rows, { id: "summary", sortBy: 1 }));
  const partial = DATA.summary.some((row) => Object.values(row.deltas).some((d) => d.rate !== null && !d.whole)
    || (row.bdPsnr !== null && !row.bdPsnrWhole));
  byId("summary-marks").textContent = partial ? PARTIAL : "";
}

/** BD-rates by picture in one metric; `onPicture(name)` when a picture is chosen. */
function pictureTable(metric, onPicture) {
  const codecs = DATA.codecs.filter((codec) => !codec.imported && codec.name !== DATA.comparison.anchor);
  const deltaOf = (row, codec) => row.deltas[codec.name]?.[metric] ?? null;
  const all = [...DATA.pictures, DATA.meanPicture];
  const scale = Math.max(10, ...all.flatMap((row) => codecs.map((c) => Math.abs(deltaOf(row, c)?.rate ?? 0))));
  const columns = [
    {
      label: "Picture", isText: true, value: (row) => row.name,
      cell: (row) => {
        if (row === DATA.meanPicture) return "Mean curve";
        const button = el("button", { type: "button", className: "link", textContent: row.name });
        button.addEventListener("click", () => onPicture(row.name));
        return button;
      },
    },
    ...codecs.map((codec) => ({
      label: codec.name, hint: codec.description,
      value: (row) => deltaOf(row, codec)?.rate ?? null,
      cell: (row) => deltaCell(deltaOf(row, codec), scale),
    })),
  ];
  byId("picture-table").replaceChildren(
    sortableTable(`BD-rate against ${DATA.comparison.anchor} by picture`, columns, DATA.pictures,
      { id: "pictures", foot: [DATA.meanPicture] }));
  const partial = all.some((row) => codecs.some((c) => deltaOf(row, c)?.rate != null && !deltaOf(row, c).whole));
  byId("picture-marks").textContent = partial ? PARTIAL : "";
}
