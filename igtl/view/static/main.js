// The page: hears what is sent, draws what has changed, and acknowledges what is drawn.
import {THREE} from "/three.js";
import {Controls} from "./controls.js";
import {Frames} from "./frames.js";
import {Live} from "./live.js";
import {Panes} from "./panes.js";
import {Side} from "./side.js";
import {Space} from "./scene.js";
import {Volume} from "./volume.js";

const $ = id => document.getElementById(id);
const PANES_HZ = 20, PANEL_HZ = 5, KEPT = 2000, FIRST = 10000;

if (!document.createElement("canvas").getContext("webgl2")) {
  $("empty").textContent = "This browser has no WebGL 2, without which nothing can be drawn.";
  throw new Error("no WebGL 2");
}
THREE.ColorManagement.enabled = false;
const renderer = new THREE.WebGLRenderer({canvas: $("gl"), antialias: !isSoftware(), preserveDrawingBuffer: true});
renderer.autoClear = false;
renderer.outputColorSpace = THREE.LinearSRGBColorSpace;

const background = new THREE.Color(), BLACK = new THREE.Color(0);
const streams = new Map(), volumes = new Map(), frames = new Frames();
const paneElements = Object.fromEntries([...document.querySelectorAll("[data-pane]")].map(e => [e.dataset.pane, e]));
const space = new Space(renderer, $("space"), $("labels"), frames);
const panes = new Panes(renderer, paneElements, space);
const live = new Live(location.hash.slice(1), hear, connection);
const side = new Side(streams, (number, shown) => {
  if (shown) space.hidden.delete(number); else space.hidden.add(number);
  page.redraw();
});
const page = {leastSharpness: .5, space, panes, frames, live, volumes, side, redraw, recolour, chooseVolume};
const figures = {frames: 0, script: [], pose: [], image: [], images: 0};
let sharpness = 1, paced = {at: performance.now(), frames: 0};
let fitted = {count: 0, at: Infinity};
let paused = false, panesAt = 0, panelAt = 0, everything = true;
const loading = new Map();

// Whether the processor draws: smooth edges would cost it too much.
function isSoftware() {
  const gl = document.createElement("canvas").getContext("webgl2"), facts = gl?.getExtension("WEBGL_debug_renderer_info");
  const name = facts ? gl.getParameter(facts.UNMASKED_RENDERER_WEBGL) : "";
  gl?.getExtension("WEBGL_lose_context")?.loseContext();
  return /swiftshader|llvmpipe|software/i.test(name);
}

function redraw() { everything = space.changed = true; panes.changeAll(); }

function recolour() {
  background.set(getComputedStyle(document.documentElement).getPropertyValue("--scene").trim());
  redraw();
}

function connection(state, why) {
  $("state").dataset.state = state;
  $("state").textContent = state === "live" ? "live" : why;
  $("stage").classList.toggle("old", state !== "live");
  if (state !== "live") return;
  // this server may be another one: its numbers stand for other streams
  streams.clear();
  for (const thing of space.things.values()) thing.from = -1;
  side.forget();
}

// -- what is heard

function hear(news) {
  if (news.streams) for (const [number, type, name] of news.streams) announced(number, type, name);
  if (news.reset !== undefined) { space.clearTrails(); side.clear(); }
  if (news.log) side.log(news.log);
  if (news.plots) for (const [number, {unit, rows}] of Object.entries(news.plots)) side.samples(Number(number), unit, rows);
  if (news.shape) shape(news.shape);
  if (news.refused) side.log([[0, Date.now() / 1000, "warn", "this page", news.refused]]);
  if (news.table) { paused = news.table.paused; side.table(news.table, missing()); page.flow = news.flow; }
  controls.state(news);
}

// A stream has got a number. Where the number stood for another stream, the page begins anew.
function announced(number, type, name) {
  streams.set(number, {type, name});
  const known = space.tools.get(number) ?? space.pictures.get(number) ?? space.things.get(number) ?? volumes.get(number);
  if (known && known.name !== name) location.reload();
}

// What cannot be placed in the root frame.
function missing() {
  const out = [];
  for (const tool of space.tools.values()) {
    if (frames.place(frames.frameOfPose(tool.name)) === null) out.push(`${tool.name}: no way from ${frames.frameOfPose(tool.name)} to ${frames.root}`);
  }
  for (const thing of [...space.pictures.values(), ...space.things.values(), ...volumes.values()]) {
    const frame = frames.frameOfThing(thing.name);
    if (frames.place(frame) === null) out.push(`${thing.name}: no way from ${frame} to ${frames.root}`);
  }
  return out;
}

// Shapes are fetched one after the other, and of each stream only the newest.
async function shape(facts) {
  const busy = loading.has(facts.id);
  loading.set(facts.id, facts);
  if (busy) return;
  for (let wanted = facts; wanted; wanted = loading.get(facts.id)) {
    try { await load(wanted); } catch (error) { side.log([[0, Date.now() / 1000, "warn", "this page", String(error)]]); }
    if (loading.get(facts.id) === wanted) loading.delete(facts.id);
  }
}

async function load(facts) {
  const name = streams.get(facts.id)?.name ?? "";
  if (facts.kind === "volume") {
    const data = await live.blob(facts.blob), older = volumes.get(facts.id), volume = new Volume(facts, name, data);
    if (older) { volume.setSpan(...older.span); space.scene.remove(older.box); }
    volumes.set(facts.id, volume);
    space.scene.add(volume.box);
    if (!older || panes.volume === older) chooseVolume(facts.id);
    older?.dispose();
  } else await space.setThing(facts, name, hash => live.blob(hash));
  $("empty").hidden = true;
  redraw();
  controls.offers();
}

function chooseVolume(number) {
  const volume = volumes.get(number);
  if (!volume) return;
  panes.show(volume);
  space.solids = [volume.box];
  $("volume").value = number;
  controls.showSpan();
  redraw();
}

// -- drawing

function rectangle(element, box) {
  const r = element.getBoundingClientRect();
  return {left: Math.round(r.left - box.left), bottom: Math.round(box.bottom - r.bottom), width: Math.round(r.width), height: Math.round(r.height)};
}

// Draw into the part of the canvas that lies behind an element.
function into(element, box, draw, colour = background) {
  const at = rectangle(element, box);
  if (at.width < 2 || at.height < 2) return;
  renderer.setViewport(at.left, at.bottom, at.width, at.height);
  renderer.setScissor(at.left, at.bottom, at.width, at.height);
  renderer.setScissorTest(true);
  renderer.setClearColor(colour);
  renderer.clear();
  draw(at);
}

let width = 0, height = 0, ratio = 0;
function fitCanvas(box) {
  const wanted = Math.min(devicePixelRatio, 2) * sharpness;
  if (box.width === width && box.height === height && wanted === ratio) return;
  width = box.width; height = box.height; ratio = wanted;
  renderer.setPixelRatio(ratio);
  renderer.setSize(width, height, false);
  redraw();
}

function take(now) {
  const {poses, images} = live.take(), clock = (performance.timeOrigin + performance.now()) / 1000;
  for (const [number, [valid, stamp, rows]] of poses) {
    const name = streams.get(number)?.name;
    if (name === undefined) continue;
    space.setPose(space.tools.get(number) ?? space.tool(number, name), valid, stamp, rows, now);
    keep(figures.pose, clock - stamp);
  }
  for (const [number, image] of images) {
    const name = streams.get(number)?.name;
    if (name === undefined) continue;
    const picture = space.setPicture(number, name, image);
    if (!panes.picture || String(number) === $("image").value || space.pictures.size === 1) panes.showPicture(picture);
    keep(figures.image, clock - image.stamp);
    figures.images++;
  }
  if (poses.size || images.size) $("empty").hidden = true;
}

function keep(list, value) { list.push(value); if (list.length > KEPT) list.splice(0, KEPT / 2); }

function place(now) {
  space.placeTools(now, paused);
  space.placeThings();
  const mode = $("render").value, driver = space.tools.get(Number($("driver").value || NaN)), {volume} = panes;
  for (const each of volumes.values()) {
    each.frame = frames.place(frames.frameOfThing(each.name)) ?? undefined;
    if (each.frame) each.place(each.frame);
    each.box.visible = each === volume && Boolean(each.frame) && !space.hidden.has(each.id) && (mode === "solid" || mode === "brightest");
    each.uniforms.brightest.value = mode === "brightest";
    each.uniforms.eye.value.copy(space.camera.position);
  }
  if (volume && driver?.group.visible && !driver.state) panes.drive(driver.group.matrix);
  panes.placePlanes(mode, Boolean(driver));
  const plotted = space.tools.get(Number($("plot-pose").value || NaN));
  if (plotted && plotted.stamp !== plotted.plotted) { plotted.plotted = plotted.stamp; side.pose(plotted); }
  paneElements.flat.hidden = !panes.picture;
  for (const name of ["axial", "coronal", "sagittal"]) paneElements[name].hidden = !volume;
  paneElements.oblique.hidden = !volume || !driver;
}

function draw() {
  requestAnimationFrame(draw);
  const now = performance.now();
  take(now);
  place(now);
  space.followTool();
  fitAtFirst(now);
  const box = $("stage").getBoundingClientRect();
  fitCanvas(box);
  if (everything) {
    renderer.setScissorTest(false);
    renderer.setClearColor(background);
    renderer.clear();
    everything = false;
  }
  if (space.changed) into($("space"), box, at => space.render(at));
  if (now - panesAt > 1000 / PANES_HZ) drawPanes(now, box);
  if (now - panelAt > 1000 / PANEL_HZ) drawPanel(now);
  live.acknowledge();
  adapt(now);
  figures.frames++;
  keep(figures.script, performance.now() - now);
}

// A machine that draws slowly gets fewer pixels, rather than late ones.
function adapt(now) {
  if (now - paced.at < 2000) return;
  const interval = (now - paced.at) / Math.max(1, figures.frames - paced.frames);
  paced = {at: now, frames: figures.frames};
  if (document.hidden) return;
  if (interval > 80) sharpness = Math.max(page.leastSharpness, sharpness * .75);
  else if (interval < 25 && sharpness < 1) sharpness = Math.min(1, sharpness * 1.34);
}

function drawPanes(now, box) {
  panesAt = now;
  for (const [name, element] of Object.entries(paneElements)) {
    const pane = name === "flat" ? panes.flat : panes.slices[name];
    if (element.hidden || !(pane.changed || (space.tools.size && name !== "flat"))) continue;
    into(element, box, at => panes.render(name, at), BLACK);
  }
}

// Look at everything while the first things come, until the user moves the camera.
function fitAtFirst(now) {
  const count = space.tools.size + volumes.size + space.things.size + space.pictures.size;
  if (count <= fitted.count || space.touched || now - fitted.at > FIRST) return;
  space.fit(fitted.count ? undefined : "free");
  fitted = {count, at: fitted.count ? fitted.at : now};
}

const middle = list => list.length ? [...list].sort((a, b) => a - b)[list.length >> 1] : NaN;
let counted = {at: performance.now(), frames: 0, ticks: 0};
function drawPanel(now) {
  panelAt = now;
  controls.offers();
  side.draw();
  if (now - counted.at < 1000) return;
  const seconds = (now - counted.at) / 1000, per = n => (n / seconds).toFixed(0);
  const pose = 1000 * middle(figures.pose.slice(-200));
  side.numbers(`${per(figures.frames - counted.frames)} frames/s, ${per(live.ticks - counted.ticks)} ticks/s, `
    + `${middle(figures.script.slice(-200)).toFixed(1)} ms of script; ${Math.abs(pose) < 5000 ? `poses drawn ${pose.toFixed(0)} ms after their time stamp; ` : ""}`
    + `network ${page.flow?.round_trip ?? "–"} ms, image quality ${page.flow ? 7 - page.flow.quality : "–"} of 7`);
  counted = {at: now, frames: figures.frames, ticks: live.ticks};
}

const controls = new Controls(page);
window.igtlView = {page, figures};   // for tests and measurements
live.connect();
draw();
