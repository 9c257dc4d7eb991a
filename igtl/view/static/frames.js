// Frames by name: where a pose named XToY, or an image named Name_Frame, lies in the root frame.
import {THREE} from "/three.js";

const LINK = /^([A-Z0-9]\w*?)To([A-Z0-9]\w*)$/;
const IDENTITY = new THREE.Matrix4();

export class Frames {
  constructor() {
    this.links = new Map();   // "XToY" -> {from, to, matrix, valid}
    this.asked = "";          // the root that the user chose; "" automatic, "-" as sent
    this.paths = new Map();   // frame -> [[link, inverted], …] to the root, or null
    this.placed = new Map();  // frame -> matrix, of this drawing
    this.root = null;
  }

  // Take the newest pose of a stream; what is not named XToY is no link.
  set(name, matrix, valid) {
    const match = LINK.exec(name);
    if (!match) return;
    const known = this.links.get(name);
    if (known) { known.matrix = matrix; if (known.valid !== valid) { known.valid = valid; this.paths.clear(); } }
    else {
      this.links.delete(`${match[2]}To${match[1]}`);
      this.links.set(name, {from: match[1], to: match[2], matrix, valid});
      this.chooseRoot();
    }
    this.placed.clear();
  }

  choose(root) { this.asked = root; this.chooseRoot(); }

  // Automatic: Reference, as PLUS calls it, else the frame to which most links lead.
  chooseRoot() {
    const counts = new Map();
    for (const {to} of this.links.values()) counts.set(to, (counts.get(to) || 0) + 1);
    const most = [...counts].sort((a, b) => b[1] - a[1])[0];
    this.known = null;
    const usual = this.names.includes("Reference") ? "Reference" : most?.[0] ?? null;
    this.root = this.asked === "-" ? null : this.asked || usual;
    this.paths.clear();
    this.placed.clear();
  }

  // All frames, sorted.
  get names() {
    this.known ??= [...new Set([...this.links.values()].flatMap(link => [link.from, link.to]))].sort();
    return this.known;
  }

  frameOfPose(name) { return LINK.exec(name)?.[2] ?? null; }
  frameOfThing(name) {
    const frame = name.includes("_") ? name.slice(name.lastIndexOf("_") + 1) : null;
    return frame && this.names.includes(frame) ? frame : null;
  }

  // Matrix from a frame to the root; null if there is no way.
  place(frame) {
    if (frame === null || this.root === null || frame === this.root) return IDENTITY;
    if (this.placed.has(frame)) return this.placed.get(frame);
    if (!this.paths.has(frame)) this.paths.set(frame, this.search(frame));
    const path = this.paths.get(frame);
    let out = null;
    if (path) {
      out = new THREE.Matrix4();
      for (const [link, inverted] of path) out.premultiply(inverted ? link.matrix.clone().invert() : link.matrix);
    }
    this.placed.set(frame, out);
    return out;
  }

  // The way of fewest links; over valid ones where there is such a way.
  search(frame) { return this.walk(frame, true) ?? this.walk(frame, false); }

  walk(frame, onlyValid) {
    const came = new Map([[frame, null]]), waiting = [frame];
    while (waiting.length) {
      const here = waiting.shift();
      if (here === this.root) {
        const path = [];
        for (let step = came.get(here); step; step = came.get(step.before)) path.unshift([step.link, step.inverted]);
        return path;
      }
      for (const link of this.links.values()) {
        if (onlyValid && !link.valid) continue;
        const inverted = link.to === here, there = inverted ? link.from : link.from === here ? link.to : null;
        if (there !== null && !came.has(there)) { came.set(there, {before: here, link, inverted}); waiting.push(there); }
      }
    }
    return null;
  }

  // Whether all links from a frame to the root are valid.
  isValid(frame) {
    if (frame === null || this.root === null || frame === this.root) return true;
    this.place(frame);
    return (this.paths.get(frame) ?? []).every(([link]) => link.valid);
  }
}
