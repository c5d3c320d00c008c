// Fills the page from its data.
"use strict";

function drawTheme(toggle) {
  const system = matchMedia("(prefers-color-scheme: dark)");
  const tell = () => {
    toggle.setAttribute("aria-pressed", String(isDark()));
    document.dispatchEvent(new Event("themechange"));
  };
  toggle.addEventListener("click", () => {
    const theme = isDark() ? "light" : "dark";
    document.documentElement.dataset.theme = theme;
    try {
      localStorage.setItem(THEME_KEY, theme);
    } catch {
      // The choice lasts as long as the page then.
    }
    tell();
  });
  system.addEventListener("change", tell);
  tell();
}

function head() {
  byId("lede").textContent = DATA.lede;
  byId("facts").append(...DATA.facts.map(([name, text]) =>
    el("div", {}, el("dt", { textContent: name }), el("dd", { textContent: text }))));
  const list = (pairs) => el("dl", { className: "pairs" }, ...pairs.flatMap(([name, text]) =>
    [el("dt", { textContent: name }), el("dd", { textContent: text })]));
  const details = (title, ...content) => el("details", {}, el("summary", { textContent: title }), ...content);
  byId("details").append(
    details("Codecs and their options", list(DATA.codecs.map((c) => [c.name, c.description]))),
    details("Versions and command", list(DATA.versions), el("pre", { textContent: DATA.command })));
  if (DATA.failures.length) {
    const box = details(`What could not be measured: ${DATA.failures.length}`, list(DATA.failures));
    box.className = "failures";
    byId("details").append(box);
  }
  byId("summary-note").textContent = DATA.summaryNote;
}

function drawTables(onPicture) {
  summaryTable();
  pictureTable(byId("picture-metric").value, onPicture);
}

head();
drawTheme(byId("theme-toggle"));

const viewer = DATA.views.length ? new Viewer(DATA.views) : null;
byId("viewer-note").textContent = DATA.viewsNote;
byId("viewer").hidden = !viewer;
byId("viewer-section").hidden = !viewer && !DATA.viewsNote;

let curves = null;
function showPicture(name) {
  const index = DATA.pictures.findIndex((p) => p.name === name);
  curves?.show({ where: String(index) });
  const view = DATA.views.findIndex((v) => v.name === name);
  if (view >= 0) viewer.choosePicture(view);
  const heading = byId(view >= 0 ? "pictures" : "curves");
  heading.scrollIntoView();
  heading.focus({ preventScroll: true });
}

byId("picture-controls").append(choice("Quality", DATA.metrics.map((m) => [m.id, m.name]), DATA.metrics[0].id,
  (metric) => pictureTable(metric, showPicture), "picture-metric"));
drawTables(showPicture);
onTheme(() => drawTables(showPicture));
