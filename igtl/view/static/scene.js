// The 3D scene: tools with axes and trails, images at their pose, meshes, points, trajectories.
import {OrbitControls, THREE} from "/three.js";
import {Picture} from "./picture.js";

// Okabe and Ito's colours, which colour-blind people tell apart
export const COLOURS = ["#e69f00", "#56b4e9", "#009e73", "#f0e442", "#d55e00", "#cc79a7", "#4c8dff", "#a0a0a0"];
const AXES = ["#d55e00", "#009e73", "#56b4e9"];   // x, y, z
const TRAIL = 2000;                               // points, at most
const STALE = 1000;                               // ms
const VIEWS = {anterior: [0, 1, 0], posterior: [0, -1, 0], right: [1, 0, 0], left: [-1, 0, 0],
  superior: [0, -.001, 1], inferior: [0, -.001, -1], free: [.62, -.68, .42]};

export class Space {
  constructor(renderer, pane, labels, frames) {
    Object.assign(this, {renderer, pane, frames, labelBox: labels});
    this.scene = new THREE.Scene();
    this.camera = new THREE.PerspectiveCamera(40, 1, 1, 20000);
    this.camera.up.set(0, 0, 1);
    this.camera.position.set(420, -460, 280);
    this.sun = new THREE.DirectionalLight(0xffffff, 1.5);
    this.camera.add(this.sun);
    this.scene.add(this.camera, new THREE.HemisphereLight(0xffffff, 0x556677, 2.2));
    this.grid = new THREE.GridHelper(600, 12, 0x667788, 0x667788);
    this.grid.material.transparent = true;
    this.grid.material.opacity = .3;
    this.grid.rotation.x = Math.PI / 2;
    this.scene.add(this.grid);
    this.controls = new OrbitControls(this.camera, pane);
    this.controls.listenToKeyEvents(pane);
    this.controls.addEventListener("change", () => { this.changed = true; });
    this.controls.addEventListener("start", () => { this.touched = true; });
    this.tools = new Map();
    this.pictures = new Map();
    this.things = new Map();
    this.solids = [];       // boxes of volumes, seen or not: what the camera shall have in view
    this.hidden = new Set();
    this.labels = new Set();
    this.showLabels = true;
    this.trailSeconds = 5;
    this.opacity = .35;
    this.follow = null;
    this.changed = true;
    this.touched = false;
    this.scratch = new THREE.Vector3();
  }

  // -- labels

  label(text, colour) {
    const element = document.createElement("div");
    element.className = "tag";
    element.textContent = text;
    element.style.setProperty("--mark", colour);
    this.labelBox.append(element);
    const label = {element, at: new THREE.Vector3(), shown: true, x: null, y: null};
    this.labels.add(label);
    return label;
  }

  removeLabel(label) { label.element.remove(); this.labels.delete(label); }

  placeLabels(width, height) {
    for (const label of this.labels) {
      const at = this.scratch.copy(label.at).project(this.camera);
      const shown = this.showLabels && label.shown && Math.abs(at.z) < 1 && Math.abs(at.x) < 1.2 && Math.abs(at.y) < 1.2;
      const x = Math.round((at.x + 1) / 2 * width) + 8, y = Math.round((1 - at.y) / 2 * height) - 8;
      if (shown !== label.visible) { label.visible = shown; label.element.hidden = !shown; }
      if (shown && (x !== label.x || y !== label.y)) {
        label.x = x; label.y = y;
        label.element.style.transform = `translate(${x}px,${y}px)`;
      }
    }
  }

  // -- tools

  tool(id, name) {
    const colour = COLOURS[this.tools.size % COLOURS.length], group = new THREE.Group();
    group.matrixAutoUpdate = false;
    const material = new THREE.MeshLambertMaterial({color: colour, transparent: true});
    const rod = new THREE.Mesh(new THREE.CylinderGeometry(1.2, 1.2, 60, 10), material);
    rod.rotation.x = Math.PI / 2;
    rod.position.z = -30;
    const axes = new THREE.AxesHelper(18);
    axes.setColors(...AXES);
    group.add(rod, axes, new THREE.Mesh(new THREE.SphereGeometry(2.6, 14, 10), material));
    const line = new THREE.Line(new THREE.BufferGeometry(), new THREE.LineBasicMaterial({color: colour, transparent: true, opacity: .6}));
    line.geometry.setAttribute("position", new THREE.BufferAttribute(new Float32Array(3 * TRAIL), 3));
    line.geometry.setDrawRange(0, 0);
    line.frustumCulled = false;
    this.scene.add(group, line);
    const tool = {id, name, colour, group, material, line, times: [], label: this.label(name, colour),
      sent: new THREE.Matrix4(), valid: false, arrived: 0, stamp: 0, fresh: false};
    this.tools.set(id, tool);
    return tool;
  }

  setPose(tool, valid, stamp, rows, now) {
    tool.sent.set(...rows, 0, 0, 0, 1);
    Object.assign(tool, {valid, stamp, arrived: now, fresh: true});
    this.frames.set(tool.name, tool.sent, valid);
    this.changed = true;
  }

  // Where the tools are in the root frame; after all poses of this drawing have been set.
  placeTools(now, paused) {
    for (const tool of this.tools.values()) {
      const frame = this.frames.frameOfPose(tool.name), place = this.frames.place(frame);
      const stale = !paused && now - tool.arrived > STALE;
      const state = place === null ? "not joined" : !tool.valid || !this.frames.isValid(frame) ? "lost"
        : stale ? "stale" : "";
      if (state !== tool.state) {
        tool.state = state;
        tool.label.element.textContent = state ? `${tool.name} · ${state}` : tool.name;
        tool.label.element.classList.toggle("lost", state !== "");
        tool.material.opacity = state ? .25 : 1;
        this.changed = true;
      }
      const visible = place !== null && !this.hidden.has(tool.id);
      tool.group.visible = tool.line.visible = tool.label.shown = visible;
      if (!visible) continue;
      const {matrix} = tool.group;
      matrix.multiplyMatrices(place, tool.sent);
      tool.group.matrixWorldNeedsUpdate = true;
      tool.label.at.setFromMatrixPosition(matrix);
      if (tool.fresh && !state) this.trail(tool, now);
      tool.fresh = false;
    }
  }

  trail(tool, now) {
    const {times, line} = tool, position = line.geometry.attributes.position, numbers = position.array;
    let drop = times.length === TRAIL ? 1 : 0;
    while (drop < times.length && now - times[drop] > 1000 * this.trailSeconds) drop++;
    if (drop) { times.splice(0, drop); numbers.copyWithin(0, 3 * drop); }
    const k = times.push(now) - 1, {x, y, z} = tool.label.at;
    numbers[3 * k] = x; numbers[3 * k + 1] = y; numbers[3 * k + 2] = z;
    position.clearUpdateRanges();
    position.addUpdateRange(0, 3 * times.length);
    position.needsUpdate = true;
    line.geometry.setDrawRange(0, times.length);
  }

  clearTrails() {
    for (const tool of this.tools.values()) { tool.times.length = 0; tool.line.geometry.setDrawRange(0, 0); }
    this.changed = true;
  }

  // -- images

  setPicture(id, name, image) {
    let picture = this.pictures.get(id);
    if (!picture) {
      picture = new Picture(id, name);
      this.scene.add(picture.mesh);
      this.pictures.set(id, picture);
    }
    picture.set(image);
    this.changed = true;
    return picture;
  }

  placeThings() {
    for (const picture of this.pictures.values()) this.placeThing(picture.mesh, picture.name, picture.sent, picture.id);
    for (const thing of this.things.values()) this.placeThing(thing.group, thing.name, null, thing.id, thing.labels);
  }

  placeThing(object, name, matrix, id, labels = []) {
    const place = this.frames.place(this.frames.frameOfThing(name));
    object.visible = place !== null && !this.hidden.has(id);
    if (object.visible) {
      object.matrix.copy(place);
      if (matrix) object.matrix.multiply(matrix);
      object.matrixWorldNeedsUpdate = true;
    }
    for (const label of labels) {
      label.shown = object.visible;
      if (object.visible) label.at.copy(label.own).applyMatrix4(place);
    }
  }

  // -- meshes, points, trajectories

  async setThing(facts, name, blob) {
    const labels = [], group = new THREE.Group();
    group.matrixAutoUpdate = false;
    if (facts.kind === "mesh") await this.mesh(group, facts, blob);
    else if (facts.kind === "points") this.points(group, facts, labels);
    else this.trajectories(group, facts, labels);
    const older = this.things.get(facts.id);
    if (older && older.from > facts.from) return;
    if (older) this.remove(older);
    this.things.set(facts.id, {id: facts.id, from: facts.from, name, kind: facts.kind, group, labels});
    this.scene.add(group);
    this.changed = true;
  }

  remove(thing) {
    this.scene.remove(thing.group);
    thing.group.traverse(o => { o.geometry?.dispose(); o.material?.dispose(); });
    thing.labels.forEach(label => this.removeLabel(label));
  }

  async mesh(group, facts, blob) {
    const get = async (name, kind) => name ? new kind(await blob(name)) : null;
    const [points, triangles, segments, colors] = await Promise.all([get(facts.points, Float32Array),
      get(facts.triangles, Uint32Array), get(facts.segments, Uint32Array), get(facts.colors, Uint8Array)]);
    const position = new THREE.BufferAttribute(points, 3);
    const geometry = index => {
      const made = new THREE.BufferGeometry();
      made.setAttribute("position", position);
      if (colors) made.setAttribute("color", new THREE.BufferAttribute(colors, 3, true));
      if (index) made.setIndex(new THREE.BufferAttribute(index, 1));
      return made;
    };
    const look = {color: colors ? 0xffffff : 0xd9a58a, vertexColors: Boolean(colors)};
    if (triangles) {
      const made = geometry(triangles);
      made.computeVertexNormals();
      const material = new THREE.MeshLambertMaterial({...look, transparent: true, opacity: this.opacity,
        side: THREE.DoubleSide, depthWrite: this.opacity === 1});
      material.userData.mesh = true;
      const mesh = new THREE.Mesh(made, material);
      mesh.renderOrder = 5;
      group.add(mesh);
    }
    if (segments) group.add(new THREE.LineSegments(geometry(segments), new THREE.LineBasicMaterial(look)));
    if (!triangles && !segments) group.add(new THREE.Points(geometry(null), new THREE.PointsMaterial({...look, size: 3, sizeAttenuation: false})));
  }

  setOpacity(opacity) {
    this.opacity = opacity;
    this.scene.traverse(o => {
      if (o.material?.userData.mesh) { o.material.opacity = opacity; o.material.depthWrite = opacity === 1; }
    });
    this.changed = true;
  }

  points(group, facts, labels) {
    facts.at.forEach((at, k) => {
      const colour = new THREE.Color(...facts.colors[k].map(c => c / 255));
      const ball = new THREE.Mesh(new THREE.SphereGeometry(Math.max(facts.diameters[k] / 2, 2.5), 16, 12), new THREE.MeshLambertMaterial({color: colour}));
      ball.position.set(...at);
      group.add(ball);
      this.own(labels, facts.names[k], colour, at);
    });
  }

  trajectories(group, facts, labels) {
    facts.entries.forEach((entry, k) => {
      const colour = new THREE.Color(...facts.colors[k].map(c => c / 255)), target = facts.targets[k];
      if (facts.whole[k]) {
        const geometry = new THREE.BufferGeometry().setFromPoints([new THREE.Vector3(...entry), new THREE.Vector3(...target)]);
        group.add(new THREE.Line(geometry, new THREE.LineBasicMaterial({color: colour})));
      }
      const ball = new THREE.Mesh(new THREE.SphereGeometry(2.5, 16, 12), new THREE.MeshLambertMaterial({color: colour}));
      ball.position.set(...target);
      group.add(ball);
      this.own(labels, facts.names[k], colour, target);
    });
  }

  own(labels, text, colour, at) {
    if (!text) return;
    const label = this.label(text, `#${colour.getHexString()}`);
    label.own = new THREE.Vector3(...at);
    labels.push(label);
  }

  // -- the camera

  bounds() {
    const box = new THREE.Box3();
    for (const tool of this.tools.values()) if (tool.group.visible) box.expandByPoint(tool.label.at);
    for (const object of [...this.pictures.values()].map(p => p.mesh).concat([...this.things.values()].map(t => t.group))) {
      if (object.visible) { object.updateMatrixWorld(true); box.expandByObject(object); }
    }
    for (const object of this.solids) { object.updateMatrixWorld(true); box.expandByObject(object); }
    return box;
  }

  // Look at everything, from where the camera is or along a named view.
  fit(name) {
    const box = this.bounds();
    if (box.isEmpty()) box.setFromCenterAndSize(new THREE.Vector3(), new THREE.Vector3(200, 200, 200));
    const ball = box.getBoundingSphere(new THREE.Sphere());
    ball.radius = Math.max(ball.radius, this.solids.length || this.things.size ? 30 : 90);
    const way = name ? new THREE.Vector3(...VIEWS[name]) : this.camera.position.clone().sub(this.controls.target);
    const aspect = Math.min(1, this.camera.aspect);
    const distance = .9 * ball.radius / Math.sin(this.camera.fov / 2 * Math.PI / 180) / aspect;
    this.controls.target.copy(ball.center);
    this.camera.position.copy(ball.center).addScaledVector(way.normalize(), distance);
    this.camera.near = ball.radius / 100;
    this.camera.far = 20 * (distance + ball.radius);
    this.grid.position.set(ball.center.x, ball.center.y, ball.center.z - ball.radius);
    this.grid.scale.setScalar(Math.max(1, ball.radius / 250));
    this.controls.update();
    this.changed = true;
  }

  followTool() {
    const tool = this.tools.get(this.follow);
    if (!tool?.group.visible) return;
    this.camera.position.add(this.scratch.copy(tool.label.at).sub(this.controls.target));
    this.controls.target.copy(tool.label.at);
    this.controls.update();
  }

  render(rectangle) {
    const {width, height} = rectangle;
    if (this.camera.aspect !== width / height) { this.camera.aspect = width / height; }
    this.camera.updateProjectionMatrix();
    this.renderer.render(this.scene, this.camera);
    this.placeLabels(width, height);
    this.changed = false;
  }
}
