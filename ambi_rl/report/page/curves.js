// Rate-distortion curves: Plotly with the page's own colours, keys for zoom, and a table of the same numbers.
"use strict";

/** Hue of a family of codecs, for light and for dark. */
const FAMILY_COLOURS = {
  ambi: ["#c2410c", "#fb923c"],
  jpeg: ["#6b7280", "#9ca3af"],
  jpeg2000: ["#7c3aed", "#a78bfa"],
  webp: ["#15803d", "#4ade80"],
  avif: ["#1d4ed8", "#60a5fa"],
  jxl: ["#0e7490", "#22d3ee"],
  heic: ["#be185d", "#f472b6"],
  superres: ["#a16207", "#facc15"],
  resampled: ["#4d7c0f", "#a3e635"],
  imported: ["#78716c", "#a8a29e"],
};
const DASHES = ["solid", "dash", "dot", "dashdot", "longdash"];
const SYMBOLS = ["circle", "square", "diamond", "triangle-up", "x", "cross", "star"];

/** How a codec is drawn everywhere: the hue of its family, and a dash of its own within it. */
function styleOf(name) {
  const codec = DATA.codecs.find((c) => c.name === name);
  const family = codec.imported ? "imported" : codec.family;
  const relatives = DATA.codecs.filter((c) => (c.imported ? "imported" : c.family) === family);
  const rank = relatives.indexOf(codec);
  const colours = FAMILY_COLOURS[family] ?? FAMILY_COLOURS.imported;
  return {
    colour: colours[isDark() ? 1 : 0],
    dash: DASHES[rank % DASHES.length],
    symbol: SYMBOLS[rank % SYMBOLS.length],
    width: family === "ambi" ? 3 : 1.8,
  };
}

/** A short piece of a codec's line. */
function swatch(name) {
  const style = styleOf(name);
  const dashes = { solid: "", dash: "6 3", dot: "2 2", dashdot: "6 2 2 2", longdash: "9 3" };
  const line = svg("line", {
    x1: 1, x2: 21, y1: 6, y2: 6, stroke: style.colour, "stroke-width": style.width,
    "stroke-dasharray": dashes[style.dash],
  });
  return svg("svg", { class: "swatch", width: 22, height: 12, "aria-hidden": "true" }, line);
}

/** Plotly reads some markup in its texts; what names contain stays text. */
function plotlyText(text) {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
}

class Curves {
  constructor() {
    this.where = "";
    this.metric = DATA.metrics[0].id;
    this.scale = "linear";
    this.chart = byId("chart");
    this.numbers = byId("chart-numbers");
    const places = [["", `Mean of ${DATA.meanCount} pictures`], ...DATA.pictures.map((p, i) => [String(i), p.name])];
    byId("curve-controls").append(
      choice("Curves of", places, "", (value) => this.show({ where: value }), "curve-where"),
      choice("Quality", DATA.metrics.map((m) => [m.id, m.name]), this.metric,
        (value) => this.show({ metric: value }), "curve-metric"),
      segmented("Rate axis", [["linear", "Linear"], ["log", "Logarithmic"]], "linear",
        (value) => this.show({ scale: value }), "curve-scale"),
    );
    this.chart.addEventListener("keydown", (event) => this.key(event));
    this.numbers.addEventListener("toggle", () => this.tabulate());
    onTheme(() => this.draw());
    this.draw();
  }

  show(change) {
    Object.assign(this, change);
    byId("curve-where").value = this.where;
    this.draw();
  }

  /** Curves that are shown: {codec, bpp, quality, raw, setting}. */
  series() {
    const curves = this.where === "" ? DATA.meanCurves : DATA.pictures[Number(this.where)].curves;
    return DATA.codecs
      .filter((codec) => curves[codec.name]?.[this.metric])
      .map((codec) => ({ codec, ...curves[codec.name], quality: curves[codec.name][this.metric] }));
  }

  draw() {
    const ink = themed("--ink"), line = themed("--line"), muted = themed("--muted");
    const metric = DATA.metrics.find((m) => m.id === this.metric);
    const traces = this.series().map(({ codec, bpp, quality, setting }) => {
      const style = styleOf(codec.name);
      return {
        name: plotlyText(codec.name),
        x: bpp, y: quality, customdata: bpp.map((_, i) => (setting[i] === undefined ? "" :
          plotlyText(`, ${codec.settingName} ${Number(setting[i].toFixed(2))}`))),
        mode: "lines+markers",
        line: { color: style.colour, dash: style.dash, width: style.width },
        marker: { symbol: style.symbol, size: style.width > 2 ? 8 : 6 },
        hovertemplate: "%{y:.2f} dB at %{x:.3f} bit/px%{customdata}",
      };
    });
    const axis = {
      gridcolor: line, linecolor: line, zerolinecolor: line, tickcolor: line, ticks: "outside", automargin: true,
    };
    const { low, high } = DATA.comparison;
    const range = {
      type: "rect", xref: "paper", x0: 0, x1: 1, yref: "y", y0: low, y1: high, layer: "below",
      fillcolor: themed("--accent"), opacity: 0.06, line: { width: 0 },
    };
    const narrow = this.chart.clientWidth < 640;
    const layout = {
      height: narrow ? 380 + 20 * traces.length : 500,
      margin: { l: 56, r: 16, t: narrow ? 34 : 12, b: narrow ? 60 + 20 * traces.length : 52 },
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: "system-ui, sans-serif", size: 13, color: ink },
      xaxis: { ...axis, type: this.scale, title: { text: "bit/pixel" }, minor: { ticks: "" } },
      yaxis: { ...axis, title: { text: `${metric.name}, dB` } },
      legend: narrow ? { yref: "container", y: 0, yanchor: "bottom", x: 0, font: { size: 12 } } : { font: { size: 13 } },
      hovermode: "closest", hoverlabel: { font: { family: "system-ui, sans-serif" }, namelength: -1 },
      shapes: this.metric === "psnr" ? [range] : [],
      dragmode: "zoom", modebar: { bgcolor: "rgba(0,0,0,0)", color: muted, activecolor: ink },
      uirevision: `${this.where} ${this.metric} ${this.scale}`,
    };
    const config = {
      responsive: true, displaylogo: false, scrollZoom: false,
      modeBarButtons: [["zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d"], ["toImage"]],
    };
    Plotly.react(this.chart, traces, layout, config);
    byId("chart-note").textContent = `Drag to zoom, double-click to see everything, click a name to hide its curve; `
      + `with the keyboard, + and ${MINUS} zoom, arrows move, 0 shows everything.`
      + (this.metric === "psnr" ? ` The shaded band, ${low} to ${high} dB, is what BD-rates are over.` : "")
      + (this.metric.startsWith("psnr") ? "" : ` A similarity x is shown as ${MINUS}10·log10(1 ${MINUS} x).`);
    this.tabulate();
  }

  key(event) {
    const zoom = { "+": 0.8, "=": 0.8, "-": 1.25 }[event.key];
    const move = {
      ArrowLeft: [-0.1, 0], ArrowRight: [0.1, 0], ArrowUp: [0, 0.1], ArrowDown: [0, -0.1],
    }[event.key];
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "0") Plotly.relayout(this.chart, { "xaxis.autorange": true, "yaxis.autorange": true });
    else if (zoom || move) {
      const update = {};
      for (const [name, step] of [["xaxis", move?.[0]], ["yaxis", move?.[1]]]) {
        const [from, to] = this.chart._fullLayout[name].range;
        const middle = (from + to) / 2 + (step ?? 0) * (to - from);
        const half = ((to - from) / 2) * (zoom ?? 1);
        update[`${name}.range`] = [middle - half, middle + half];
      }
      Plotly.relayout(this.chart, update);
    } else return;
    event.preventDefault();
  }

  /** The points as a table, made when it is opened. */
  tabulate() {
    const [summary] = this.numbers.children;
    if (!this.numbers.open) return void this.numbers.replaceChildren(summary);
    const rows = this.series().flatMap(({ codec, bpp, quality, setting }) =>
      bpp.map((rate, i) => ({ codec, rate, quality: quality[i], setting: setting[i] ?? null })));
    const number = (label, key, decimals) => ({
      label, value: (row) => row[key], cell: (row) => (row[key] === null ? "–" : fixed(row[key], decimals)),
    });
    const columns = [
      { label: "Codec", isText: true, value: (row) => row.codec.name, cell: (row) => row.codec.name },
      number("Setting", "setting", 2), number("bit/pixel", "rate", 4),
      number(`${DATA.metrics.find((m) => m.id === this.metric).name}, dB`, "quality", 3),
    ];
    this.numbers.replaceChildren(summary,
      el("div", { className: "scroll" }, sortableTable("Points of the curves", columns, rows)));
  }
}
