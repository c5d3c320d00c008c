// Before anything is drawn: the reader's choice of light or dark, if there is one.
"use strict";
const THEME_KEY = "ambi-report-theme";
try {
  const chosen = localStorage.getItem(THEME_KEY);
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
} catch {
  // Storage may be forbidden for a local file; the system's setting holds then.
}
