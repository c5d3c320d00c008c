// The viewer: which two pictures are compared, how, and with which overlay.
"use strict";

const ORIGINAL = "original";
const GAINS = [1, 2, 4, 8, 16, 32];

class Viewer {
  constructor(views) {
    this.views = views;
    this.state = {
      picture: 0, rate: null, left: null, right: null, mode: "slider", gain: "8", overlay: "none",
      strength: 60, split: 50,
    };
    this.shown = null;
    this.request = 0;
    this.build();
    this.choosePicture(0);
  }

  // ---- the parts of the page

  build() {
    this.strip = this.thumbnails();
    this.sides = el("div", { className: "controls" });
    this.canvas = el("canvas", { id: "canvas", tabIndex: 0, role: "application" });
    this.handle = el("div", {
      id: "divider", tabIndex: 0, role: "slider", "aria-label": "Divider between the left and the right picture",
      "aria-valuemin": "0", "aria-valuemax": "100", "aria-orientation": "horizontal",
    }, el("span", { className: "knob", "aria-hidden": "true" }));
    this.message = el("p", { className: "message", id: "viewer-message", role: "status" });
    this.captions = [el("div", { className: "caption", id: "caption-left" }), el("div", { className: "caption right", id: "caption-right" })];
    this.readout = el("p", { className: "readout", id: "readout", "aria-live": "polite" });
    this.legend = el("div", { className: "legend", id: "legend", hidden: true });
    const stage = el("div", { className: "stage" }, this.canvas, this.handle, this.message);
    byId("viewer").append(this.strip, this.sides, this.tools(), el("div", { className: "captions" }, ...this.captions),
      stage, this.readout, this.legend);
    this.viewport = new Viewport(this.canvas, {
      draw: (...where) => this.draw(...where),
      onPoint: (x, y) => this.point(x, y),
      onZoom: (zoom, scale) => this.zoomed(zoom, scale),
    });
    this.dividerEvents();
  }

  thumbnails() {
    const strip = el("fieldset", { className: "strip", id: "strip" }, el("legend", { textContent: "Picture" }));
    const row = el("div");
    this.views.forEach((view, index) => {
      const input = el("input", { type: "radio", name: "picture", value: String(index), checked: index === 0 });
      input.addEventListener("change", () => this.choosePicture(index));
      const image = el("img", { src: view.thumbnail, alt: "", width: view.thumbnailSize[0], height: view.thumbnailSize[1] });
      row.append(el("label", { title: view.name }, input, image, el("span", { textContent: view.name })));
    });
    strip.append(row);
    return strip;
  }

  tools() {
    const set = (key) => (value) => this.set({ [key]: value });
    this.gain = choice("Amplified", GAINS.map((g) => [String(g), `× ${g}`]), this.state.gain, set("gain"), "gain");
    const strength = el("input", { type: "range", id: "strength", min: 10, max: 100, step: 5, value: this.state.strength });
    strength.addEventListener("input", () => this.set({ strength: Number(strength.value) }));
    this.strength = el("label", { className: "field" }, el("span", { textContent: "Strength" }), strength);
    this.zooms = segmented("Zoom", [["fit", "Fit"], ["1", "1:1"], ["2", "2:1"], ["4", "4:1"]], "fit",
      (value) => this.viewport.zoomAt(value === "fit" ? null : Number(value)), "zoom");
    return el("div", { className: "controls tools" },
      segmented("Compare", [["slider", "Slider"], ["difference", "Difference"]], this.state.mode, set("mode"), "mode"),
      this.gain, this.zooms,
      segmented("Overlay", OVERLAYS, this.state.overlay, set("overlay"), "overlay"), this.strength);
  }

  /** The choices that depend on the picture: rate, left, right. */
  sideControls() {
    const { rates } = this.view();
    const options = [[ORIGINAL, "Original"], ...Object.keys(this.rate().sides).map((name) => [name, name])];
    const swap = el("button", { type: "button", className: "quiet", id: "swap", textContent: "⇄", title: "Swap the sides",
      "aria-label": "Swap the sides" });
    swap.addEventListener("click", () => this.set({ left: this.state.right, right: this.state.left }));
    this.sides.replaceChildren(
      segmented("Rate, bit/pixel", rates.map((r) => [r.id, `${r.label} ${fixed(r.bpp, 2)}`]), this.rate().id,
        (value) => this.set({ rate: value }), "rate"),
      el("div", { className: "pair" },
        choice("Left", options, this.state.left, (value) => this.set({ left: value }), "left"), swap,
        choice("Right", options, this.state.right, (value) => this.set({ right: value }), "right")));
  }

  // ---- state

  view() {
    return this.views[this.state.picture];
  }

  rate() {
    const { rates } = this.view();
    return rates.find((r) => r.id === this.state.rate) ?? rates.find((r) => r.id === "middle") ?? rates[0];
  }

  /** What is on a side: {name, asset, …}; the codec's picture, or the original. */
  side(which) {
    const name = this.state[which];
    const coded = this.rate().sides[name];
    return coded ? { name, ...coded } : { name: ORIGINAL, asset: this.view().original };
  }

  choosePicture(index) {
    this.set({ picture: index });
    const input = this.strip.querySelector(`input[value="${index}"]`);
    input.checked = true;
    const row = input.closest("label").parentElement;
    row.scrollLeft = input.closest("label").offsetLeft - row.clientWidth / 2;
  }

  set(change) {
    const focused = document.activeElement?.id ?? "";
    const focusedRate = document.activeElement?.name === "rate";
    Object.assign(this.state, change);
    this.defaults();
    if (["picture", "rate", "left", "right"].some((key) => key in change)) {
      this.sideControls();
      // The controls were made anew; whoever uses the keyboard stays where they were.
      if (focusedRate) this.sides.querySelector("input:checked").focus();
      else if (["left", "right", "swap"].includes(focused)) byId(focused).focus();
    }
    this.load();
  }

  /** Choose again what the picture or the rate does not have. */
  defaults() {
    const { sides } = this.rate();
    const has = (name) => name === ORIGINAL || name in sides;
    const names = Object.keys(sides);
    const ours = DATA.reference in sides ? DATA.reference : names[0];
    const rival = [DATA.comparison.anchor, ...names].find((name) => name in sides && name !== ours);
    if (!has(this.state.left)) this.state.left = ours;
    if (!has(this.state.right)) this.state.right = rival ?? ORIGINAL;
  }

  /** Decode what is chosen, then show it; what was asked for later wins. */
  async load() {
    const request = ++this.request;
    const { state } = this, view = this.view();
    const left = this.side("left"), right = this.side("right");
    const isDifference = state.mode === "difference";
    this.gain.hidden = !isDifference;
    this.strength.hidden = state.overlay === "none";
    this.handle.hidden = isDifference;
    const shown = { left, right, view, overlay: state.overlay };
    let problem = "";
    this.canvas.setAttribute("aria-busy", "true");
    try {
      [shown.leftPicture, shown.rightPicture] = await Promise.all([picture(left.asset), picture(right.asset)]);
      if (isDifference) shown.difference = difference(shown.leftPicture, shown.rightPicture, Number(state.gain));
      if (state.overlay !== "none") shown.overlays = await this.overlays(left, right, view);
    } catch (error) {
      problem = `Not shown: ${error.message}.`;
    }
    if (request !== this.request) return;
    this.message.textContent = problem;
    this.shown = problem ? null : shown;
    this.viewport.setSize(view.width, view.height);
    this.canvas.setAttribute("aria-label", `${view.name}: ${left.name} beside ${right.name}. `
      + `Plus and minus zoom, arrows pan, 0 shows everything.`);
    this.caption(0, left);
    this.caption(1, right);
    this.explain();
    this.moveDivider(state.split);
    this.canvas.removeAttribute("aria-busy");
    this.viewport.draw();
  }

  /** Blocks for the left and the right of the divider: a side's own, or else those of the other, or of any. */
  async overlays(left, right, view) {
    const coded = Object.entries(this.rate().sides).filter(([, side]) => side.blocks)
      .sort(([a], [b]) => (b === DATA.reference) - (a === DATA.reference));
    if (!coded.length) throw new Error("there is no list of blocks at this rate");
    const fallback = left.blocks ? left : right.blocks ? right : { name: coded[0][0], ...coded[0][1] };
    const of = async (side) => {
      const chosen = side.blocks ? side : fallback;
      const list = await this.blocksOf(chosen, view);
      return { name: chosen.name, list, lists: DATA.lists[DATA.listOf[chosen.name]] };
    };
    return [await of(left), await of(right)];
  }

  async blocksOf(side, view) {
    side.list ??= this.rate().sides[side.name].list ?? await blocks(side.blocks, view.width, view.height);
    this.rate().sides[side.name].list = side.list;
    return side.list;
  }

  // ---- drawing

  draw(context, place, width, height) {
    const { shown, state } = this;
    if (!shown) return;
    const image = (picture_) => context.drawImage(picture_, place.x, place.y,
      shown.view.width * place.scale, shown.view.height * place.scale);
    if (shown.difference) {
      image(shown.difference.canvas);
      if (shown.overlays) this.overlay(context, shown.overlays[0], place, { x: 0, y: 0, width, height });
      return;
    }
    const edge = Math.round((width * state.split) / 100);
    const halves = [
      [shown.leftPicture, { x: 0, y: 0, width: edge, height }],
      [shown.rightPicture, { x: edge, y: 0, width: width - edge, height }],
    ];
    halves.forEach(([picture_, clip], index) => {
      context.save();
      context.beginPath();
      context.rect(clip.x, clip.y, clip.width, clip.height);
      context.clip();
      image(picture_);
      if (shown.overlays) this.overlay(context, shown.overlays[index], place, clip);
      context.restore();
    });
  }

  overlay(context, { list, lists }, place, clip) {
    drawOverlay(context, this.shown.overlay, list, lists, place, clip, this.state.strength / 100);
  }

  caption(index, side) {
    const parts = [el("strong", { textContent: side.name === ORIGINAL ? "Original" : side.name })];
    if (side.bytes) {
      const off = (100 * side.bytes) / this.rate().bytes - 100;
      parts.push(el("span", { className: "size", textContent: bytesText(side.bytes),
        title: `${side.bytes.toLocaleString("en")} bytes` }));
      if (Math.abs(off) >= 0.05) {
        parts.push(el("span", { className: Math.abs(off) > 5 ? "warn" : "muted",
          textContent: `(${signed(off, 1)} %)`, title: "Against the size that is compared at" }));
      }
      const facts = [`${fixed(side.bpp, 3)} bit/px`, side.psnr === null ? "equal pictures" : `${fixed(side.psnr, 2)} dB`];
      if (side.msSsim !== null) facts.push(`MS-SSIM ${fixed(side.msSsim, 4)}`);
      parts.push(...facts.map((text) => el("span", { textContent: text })));
      parts.push(el("span", { className: "muted", textContent: `${side.settingName} ${Number(side.setting.toFixed(2))}` }));
    } else parts.push(el("span", { className: "muted", textContent: `${this.view().width}×${this.view().height}` }));
    this.captions[index].replaceChildren(...parts);
  }

  /** Everything that explains what is drawn: legend and the factor of a difference. */
  explain() {
    const { shown, state } = this;
    const overlays = shown?.overlays;
    this.legend.hidden = !overlays;
    if (overlays) {
      const both = state.mode === "slider" && overlays[0].name !== overlays[1].name;
      const parts = (both ? overlays : [overlays[0]]).map((o) =>
        el("div", {}, ...legendOf(state.overlay, o.list, o.lists), el("p", { className: "muted", textContent: `Decisions of ${o.name}` })));
      this.legend.replaceChildren(...parts);
    }
    this.point(null, null);
  }

  point(x, y) {
    const { shown, state } = this;
    if (!shown) return void (this.readout.textContent = "");
    if (x === null) {
      this.readout.textContent = shown.difference
        ? `Absolute difference of left and right, × ${state.gain}; the largest is ${shown.difference.largest} of 255.`
        : "Drag the divider; point at the picture for its blocks.";
      return;
    }
    let text = `pixel ${x}, ${y}`;
    if (shown.overlays) {
      const place = this.viewport.place();
      const isLeft = place.x + (x + 0.5) * place.scale < (this.canvas.width * state.split) / 100;
      const { list, lists } = shown.overlays[isLeft || shown.difference ? 0 : 1];
      const block = list.find((b) => x >= b.x && y >= b.y && x < b.x + b.size && y < b.y + b.size);
      text += `, ${describe(block, lists)}`;
    }
    this.readout.textContent = text;
  }

  zoomed(zoom, scale) {
    for (const input of this.zooms.querySelectorAll("input")) {
      input.checked = input.value === (zoom === null ? "fit" : String(zoom));
    }
    this.zooms.querySelector("legend").textContent = `Zoom, ${Math.round(100 * scale)} %`;
  }

  // ---- the divider

  moveDivider(percentage) {
    this.state.split = Math.min(Math.max(percentage, 0), 100);
    const { split } = this.state;
    this.handle.style.left = `${split}%`;
    this.handle.setAttribute("aria-valuenow", String(Math.round(split)));
    const names = [this.side("left").name, this.side("right").name];
    this.handle.setAttribute("aria-valuetext", `${Math.round(split)} %: ${names[0]} on the left, ${names[1]} on the right`);
    this.viewport.draw();
  }

  dividerEvents() {
    const { handle } = this;
    const follow = (event) => {
      const box = this.canvas.getBoundingClientRect();
      this.moveDivider((100 * (event.clientX - box.left)) / box.width);
    };
    handle.addEventListener("pointerdown", (event) => {
      handle.setPointerCapture(event.pointerId);
      handle.focus();
      follow(event);
      event.preventDefault();
    });
    handle.addEventListener("pointermove", (event) => {
      if (handle.hasPointerCapture(event.pointerId)) follow(event);
    });
    handle.addEventListener("keydown", (event) => {
      const { split } = this.state, step = event.shiftKey ? 10 : 1;
      const target = {
        ArrowLeft: split - step, ArrowDown: split - step, ArrowRight: split + step, ArrowUp: split + step,
        PageDown: split - 10, PageUp: split + 10, Home: 0, End: 100,
      }[event.key];
      if (target === undefined) return;
      this.moveDivider(target);
      event.preventDefault();
    });
  }
}
