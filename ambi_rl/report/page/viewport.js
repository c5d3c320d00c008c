// A part of a picture on a canvas: zoom and pan by mouse, touch and keyboard. Knows nothing of codecs.
"use strict";

const MAX_ZOOM = 16;

/**
 * Keeps where the picture is. `draw(context, place, width, height)` is called, at most once a frame, in pixels of the
 * screen; `onPoint(x, y)` with the pixel of the picture under the pointer, or nulls.
 */
class Viewport {
  constructor(canvas, { draw, onPoint, onZoom }) {
    Object.assign(this, { canvas, onDraw: draw, onPoint, onZoom });
    this.width = this.height = 1;
    this.zoom = null;
    this.centre = [0.5, 0.5];
    this.pointers = new Map();
    this.waiting = false;
    canvas.addEventListener("pointerdown", (event) => this.down(event));
    canvas.addEventListener("pointermove", (event) => this.move(event));
    for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, (event) => this.up(event));
    canvas.addEventListener("pointerleave", () => this.onPoint(null, null));
    canvas.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    canvas.addEventListener("dblclick", (event) => this.zoomAt(this.scale() * 2, event));
    canvas.addEventListener("keydown", (event) => this.key(event));
    this.stage = canvas.parentElement;
    new ResizeObserver(() => this.resize()).observe(this.stage.parentElement);
  }

  /** Show a picture of this size; where it is zoomed to stays, if the size is the last one's. */
  setSize(width, height) {
    if (width === this.width && height === this.height) return;
    Object.assign(this, { width, height, zoom: null, centre: [width / 2, height / 2] });
    this.resize();
  }

  resize() {
    this.stage.style.width = "100%";
    const widest = this.stage.clientWidth;
    if (!widest) return;
    const tallest = Math.max(240, globalThis.innerHeight * 0.78);
    this.tall = Math.round(Math.min(tallest, (widest * this.height) / this.width));
    // As narrow as the picture, but never too narrow for the divider.
    this.wide = Math.round(Math.min(widest, Math.max(160, (this.tall * this.width) / this.height)));
    this.stage.style.width = `${this.wide}px`;
    this.canvas.style.height = `${this.tall}px`;
    const density = globalThis.devicePixelRatio;
    this.canvas.width = Math.round(this.wide * density);
    this.canvas.height = Math.round(this.tall * density);
    this.settle();
  }

  fitting() {
    return Math.min(this.wide / this.width, this.tall / this.height);
  }

  /** Pixels of the page per pixel of the picture. */
  scale() {
    return this.zoom ?? this.fitting();
  }

  /** Zoom to a scale, or to the whole picture (null), around the middle or around where an event is. */
  zoomAt(scale, event = null) {
    const before = this.scale();
    const fitting = this.fitting();
    const wanted = scale === null ? null : Math.min(Math.max(scale, Math.min(fitting, 1)), MAX_ZOOM);
    if (event && wanted !== null) {
      const box = this.canvas.getBoundingClientRect();
      const dx = event.clientX - box.left - this.wide / 2, dy = event.clientY - box.top - this.tall / 2;
      this.centre = [this.centre[0] + dx / before - dx / wanted, this.centre[1] + dy / before - dy / wanted];
    }
    this.zoom = wanted;
    this.settle();
  }

  /** Keep the picture in view, say how large it is, and draw. */
  settle() {
    const scale = this.scale();
    const half = [this.wide / scale / 2, this.tall / scale / 2];
    const size = [this.width, this.height];
    this.centre = this.centre.map((c, i) =>
      2 * half[i] >= size[i] ? size[i] / 2 : Math.min(Math.max(c, half[i]), size[i] - half[i]));
    // With the whole picture in view a finger scrolls the page.
    const canPan = 2 * half[0] < size[0] - 0.5 || 2 * half[1] < size[1] - 0.5;
    this.canvas.style.touchAction = canPan ? "none" : "pan-y";
    this.canvas.classList.toggle("can-pan", canPan);
    this.onZoom(this.zoom, scale);
    this.draw();
  }

  /** Where the picture is on the canvas, in pixels of the screen. */
  place() {
    const density = globalThis.devicePixelRatio, scale = this.scale() * density;
    return {
      scale,
      x: Math.round(this.canvas.width / 2 - this.centre[0] * scale),
      y: Math.round(this.canvas.height / 2 - this.centre[1] * scale),
    };
  }

  draw() {
    if (this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => {
      this.waiting = false;
      const context = this.canvas.getContext("2d");
      context.clearRect(0, 0, this.canvas.width, this.canvas.height);
      const place = this.place();
      context.imageSmoothingEnabled = place.scale < 1;
      context.imageSmoothingQuality = "high";
      this.onDraw(context, place, this.canvas.width, this.canvas.height);
    });
  }

  down(event) {
    this.canvas.setPointerCapture(event.pointerId);
    this.pointers.set(event.pointerId, event);
    this.point(event);
  }

  move(event) {
    const last = this.pointers.get(event.pointerId);
    if (!last) return this.point(event);
    if (this.pointers.size === 1) this.pan(last.clientX - event.clientX, last.clientY - event.clientY);
    else this.pinch(last, event);
    this.pointers.set(event.pointerId, event);
    return undefined;
  }

  up(event) {
    this.pointers.delete(event.pointerId);
  }

  pan(dx, dy) {
    this.centre = [this.centre[0] + dx / this.scale(), this.centre[1] + dy / this.scale()];
    this.settle();
  }

  pinch(last, event) {
    const other = [...this.pointers.values()].find((p) => p.pointerId !== event.pointerId);
    const distance = (p) => Math.hypot(p.clientX - other.clientX, p.clientY - other.clientY);
    const middle = { clientX: (event.clientX + other.clientX) / 2, clientY: (event.clientY + other.clientY) / 2 };
    if (distance(last) > 0) this.zoomAt((this.scale() * distance(event)) / distance(last), middle);
  }

  wheel(event) {
    // A wheel scrolls the page; with Ctrl, which is also what a pinch on a touchpad is, it zooms.
    if (!event.ctrlKey && !event.metaKey) return;
    event.preventDefault();
    this.zoomAt(this.scale() * Math.exp(-event.deltaY / 200), event);
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const step = 0.1 * Math.min(this.wide, this.tall);
    const move = {
      ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step],
    }[event.key];
    if (move && this.canvas.classList.contains("can-pan")) this.pan(...move);
    else if (event.key === "+" || event.key === "=") this.zoomAt(this.scale() * 1.5);
    else if (event.key === "-") this.zoomAt(this.scale() / 1.5);
    else if (event.key === "0") this.zoomAt(null);
    else if (["1", "2", "4"].includes(event.key)) this.zoomAt(Number(event.key));
    else return;
    event.preventDefault();
  }

  point(event) {
    const box = this.canvas.getBoundingClientRect();
    const scale = this.scale();
    const x = Math.floor(this.centre[0] + (event.clientX - box.left - this.wide / 2) / scale);
    const y = Math.floor(this.centre[1] + (event.clientY - box.top - this.tall / 2) / scale);
    const inside = x >= 0 && y >= 0 && x < this.width && y < this.height;
    this.onPoint(inside ? x : null, inside ? y : null);
  }
}
