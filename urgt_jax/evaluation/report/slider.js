// Two layers of an image with a divider between them. Both move and zoom together.
"use strict";

const LARGEST = 8; // screen pixels per image pixel
const KEEP = 40; // screen pixels of the image that stay in view
const page = JSON.parse(document.getElementById("layers").textContent);
const find = (id) => document.getElementById(id);
const stage = find("stage");
const images = { left: find("leftlayer"), right: find("rightlayer") };
const divider = find("divider");

let group = Object.keys(page.groups)[0];
let split = 0.5; // of the stage's width
let zoom = 1; // CSS pixels per image pixel, before rounding to whole screen pixels
let origin = { x: 0, y: 0 }; // the image's corner on the stage
let whole = true; // the whole image is in view, and stays so when the window changes

// --- place and size

const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
const ratio = () => window.devicePixelRatio || 1;

function fitting() {
  const fit = Math.min(stage.clientWidth / page.width, stage.clientHeight / page.height);
  return Math.min(fit, LARGEST / ratio());
}

// Enlarged pixels have one size only at a whole number of screen pixels.
function scale() {
  const screen = zoom * ratio();
  return screen > 1.5 && !whole ? Math.round(screen) / ratio() : zoom;
}

function place(at, size, room) {
  const least = Math.min(KEEP, room / 2);
  return clamp(at, least - size, room - least);
}

function draw() {
  const now = scale();
  const { clientWidth: width, clientHeight: height } = stage;
  const snap = (value) => Math.round(value * ratio()) / ratio();
  origin.x = snap(place(origin.x, page.width * now, width));
  origin.y = snap(place(origin.y, page.height * now, height));
  for (const image of Object.values(images)) {
    image.style.transform = `translate(${origin.x}px, ${origin.y}px) scale(${now})`;
    image.style.imageRendering = now * ratio() >= 1.5 ? "pixelated" : "auto";
  }
  stage.style.setProperty("--split", `${split * width}px`);
  divider.setAttribute("aria-valuenow", Math.round(split * 100));
  find("scale").textContent = `${Math.round(now * ratio() * 100)} %`;
}

function fit() {
  whole = true;
  zoom = fitting();
  origin.x = (stage.clientWidth - page.width * zoom) / 2;
  origin.y = (stage.clientHeight - page.height * zoom) / 2;
  draw();
}

// Keeps the point of the image at (x, y) of the stage in its place.
function zoomBy(factor, x = stage.clientWidth / 2, y = stage.clientHeight / 2) {
  const before = scale();
  whole = false;
  zoom = clamp(zoom * factor, Math.min(fitting(), 1 / ratio()), LARGEST / ratio());
  const grown = scale() / before;
  origin = { x: x - (x - origin.x) * grown, y: y - (y - origin.y) * grown };
  draw();
}

function pan(x, y) {
  origin.x += x;
  origin.y += y;
  draw();
}

function moveDivider(to) {
  split = clamp(to, 0, 1);
  draw();
}

// --- what is shown

function element(tag, properties) {
  return Object.assign(document.createElement(tag), properties);
}

function show(side, layer) {
  const file = page.groups[group].layers[layer];
  find(side).value = layer;
  find(`${side}tag`).textContent = layer;
  if (images[side].getAttribute("src") !== file) images[side].src = file;
  images[side].alt = `${page.groups[group].title}, ${layer}`;
}

function chooseGroup(key, wanted = ["left", "right"].map((side) => find(side).value)) {
  group = key;
  const { layers, shown, legend } = page.groups[key];
  const available = wanted.every((layer) => layer in layers) && new Set(wanted).size > 1;
  ["left", "right"].forEach((side, i) => {
    find(side).replaceChildren(...Object.keys(layers).map((layer) => new Option(layer)));
    show(side, available ? wanted[i] : shown[i]);
  });
  find("group").querySelector(`[value="${key}"]`).checked = true;
  find("legend").className = legend[0];
  const parts = legend.slice(1).map((textContent) => element("span", { textContent }));
  find("legend").lastElementChild.replaceChildren(...parts);
  remember();
}

// The next image opens with the same layers.
function remember() {
  const state = [group, find("left").value, find("right").value].map(encodeURIComponent).join("/");
  for (const link of document.querySelectorAll("nav a")) link.hash = state;
}

function offerGroups() {
  for (const [key, { title }] of Object.entries(page.groups)) {
    const input = element("input", { type: "radio", name: "group", value: key });
    const label = element("label", {});
    label.append(input, element("span", { textContent: title }));
    input.addEventListener("change", () => chooseGroup(key));
    find("group").append(label);
  }
}

function start() {
  offerGroups();
  for (const image of Object.values(images)) {
    image.width = page.width;
    image.height = page.height;
  }
  const [requested, ...sides] = location.hash.slice(1).split("/").map(decodeURIComponent);
  const hasCandidate = ([, { shown }]) => shown[0] !== "image";
  const [first] = Object.entries(page.groups).find(hasCandidate) || ["image"];
  chooseGroup(Object.keys(page.groups).includes(requested) ? requested : first, sides);
  new ResizeObserver(() => (whole ? fit() : draw())).observe(stage);
  fit();
}

// --- pointers: one on the divider moves it, one elsewhere moves the image, two zoom

const pointers = new Map();

function pressed(event) {
  if (event.button !== 0) return;
  stage.setPointerCapture(event.pointerId);
  divider.focus({ preventScroll: true, focusVisible: false });
  const grip = pointers.size === 0 && event.target === divider;
  pointers.set(event.pointerId, { x: event.clientX, y: event.clientY, grip });
  stage.classList.toggle("panning", !grip);
}

function moved(event) {
  const last = pointers.get(event.pointerId);
  if (!last) return;
  const now = { x: event.clientX, y: event.clientY, grip: last.grip };
  const box = stage.getBoundingClientRect();
  const other = [...pointers].find(([id]) => id !== event.pointerId)?.[1];
  pointers.set(event.pointerId, now);
  if (last.grip) return moveDivider((now.x - box.left) / box.width);
  if (!other) return pan(now.x - last.x, now.y - last.y);
  if (other.grip) return;
  pan((now.x - last.x) / 2, (now.y - last.y) / 2);
  const apart = (a) => Math.max(Math.hypot(a.x - other.x, a.y - other.y), 1);
  const middle = [(now.x + other.x) / 2 - box.left, (now.y + other.y) / 2 - box.top];
  zoomBy(apart(now) / apart(last), ...middle);
}

function released(event) {
  pointers.delete(event.pointerId);
  if (pointers.size === 0) stage.classList.remove("panning");
}

function wheeled(event) {
  event.preventDefault();
  const box = stage.getBoundingClientRect();
  const pixels = clamp(event.deltaY * (event.deltaMode === 1 ? 16 : 1), -240, 240);
  zoomBy(Math.exp(-pixels / 300), event.clientX - box.left, event.clientY - box.top);
}

stage.addEventListener("pointerdown", pressed);
stage.addEventListener("pointermove", moved);
stage.addEventListener("pointerup", released);
stage.addEventListener("pointercancel", released);
stage.addEventListener("wheel", wheeled, { passive: false });

// --- keys and buttons

const KEYS = {
  "+": () => zoomBy(2),
  "=": () => zoomBy(2),
  "-": () => zoomBy(0.5),
  "0": fit,
  w: () => pan(0, 60),
  a: () => pan(60, 0),
  s: () => pan(0, -60),
  d: () => pan(-60, 0),
  n: () => find("next")?.click(),
  p: () => find("previous")?.click(),
  arrowleft: (event) => moveDivider(split - (event.shiftKey ? 0.1 : 0.01)),
  arrowright: (event) => moveDivider(split + (event.shiftKey ? 0.1 : 0.01)),
};

function keyed(event) {
  const own = event.key.startsWith("Arrow") ? "select, input" : "select"; // elements that use the key
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches(own)) return;
  const chosen = Object.keys(page.groups)[Number(event.key) - 1];
  const act = chosen ? () => chooseGroup(chosen) : KEYS[event.key.toLowerCase()];
  if (!act) return;
  event.preventDefault();
  act(event);
}

document.addEventListener("keydown", keyed);
find("in").addEventListener("click", () => zoomBy(2));
find("out").addEventListener("click", () => zoomBy(0.5));
find("whole").addEventListener("click", fit);
for (const side of ["left", "right"]) {
  find(side).addEventListener("change", (event) => {
    show(side, event.target.value);
    remember();
  });
}
start();
