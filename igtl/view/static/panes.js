// The 2D panes: the image flat; the volume cut axially, coronally, sagittally, and along a tool.
import {THREE} from "/three.js";

// right and up of each pane, in RAS: the patient's right is on the left of the picture
const DIRECTIONS = {
  axial: [[-1, 0, 0], [0, 1, 0], "RLAP"], coronal: [[-1, 0, 0], [0, 0, 1], "RLSI"],
  sagittal: [[0, -1, 0], [0, 0, 1], "APSI"],
};
const EDGES = ["l", "r", "t", "b"];
const NEAR = 4;      // mm from the plane at which a tool is drawn in it
const MARKS = 64;

class Slice {
  constructor(name, element) {
    Object.assign(this, {name, element, changed: true, zoom: 1});
    this.right = new THREE.Vector3(); this.up = new THREE.Vector3(); this.normal = new THREE.Vector3();
    const known = DIRECTIONS[name];
    if (known) this.turn(new THREE.Vector3(...known[0]), new THREE.Vector3(...known[1]));
    this.scene = new THREE.Scene();
    this.plane = new THREE.Mesh(new THREE.PlaneGeometry(1, 1));
    this.plane.matrixAutoUpdate = false;
    this.plane.frustumCulled = false;
    this.shown = new THREE.Mesh(this.plane.geometry);   // the same plane in the 3D scene
    this.shown.matrixAutoUpdate = false;
    this.shown.frustumCulled = false;
    this.marks = new THREE.Points(new THREE.BufferGeometry(), new THREE.PointsMaterial({size: 7, sizeAttenuation: false, vertexColors: true, depthTest: false}));
    for (const kind of ["position", "color"]) this.marks.geometry.setAttribute(kind, new THREE.BufferAttribute(new Float32Array(3 * MARKS), 3));
    this.cross = new THREE.LineSegments(new THREE.BufferGeometry(), new THREE.LineBasicMaterial({color: 0xf0e442, transparent: true, opacity: .75, depthTest: false}));
    this.cross.geometry.setAttribute("position", new THREE.BufferAttribute(new Float32Array(24), 3));
    for (const object of [this.marks, this.cross]) { object.frustumCulled = false; object.renderOrder = 2; }
    this.scene.add(this.plane, this.marks, this.cross);
    this.camera = new THREE.OrthographicCamera(-1, 1, 1, -1, 0, 2);
    this.camera.matrixAutoUpdate = false;
  }

  turn(right, up) {
    this.right.copy(right).normalize();
    this.up.copy(up).normalize();
    this.normal.crossVectors(this.right, this.up);
    this.changed = true;
  }
}

export class Panes {
  constructor(renderer, elements, space) {
    Object.assign(this, {renderer, space});
    this.cross = new THREE.Vector3();
    this.volume = null;
    this.picture = null;
    this.slices = {};
    this.flat = {element: elements.flat, changed: true, scene: new THREE.Scene(), camera: new THREE.OrthographicCamera(-.5, .5, .5, -.5, -1, 1)};
    for (const [name, element] of Object.entries(elements)) {
      const title = {flat: "image", oblique: "along the tool"}[name] ?? name;
      element.setAttribute("role", "img");
      element.setAttribute("aria-label", `${title}; drag changes window and level, the wheel or arrow keys scroll, a click sets the crosshair`);
      element.innerHTML = '<span class="caption"></span><span class="caption reading"></span><button class="grow" title="Larger or smaller (enter)">⤢</button>';
      element.firstChild.textContent = title;
      const letters = DIRECTIONS[name]?.[2];
      EDGES.forEach((edge, k) => {
        if (!letters) return;
        const span = document.createElement("span");
        span.className = `edge ${edge}`;
        span.textContent = letters[k];
        element.append(span);
      });
      if (name !== "flat") this.slices[name] = new Slice(name, element);
      this.listen(name, element);
    }
  }

  // -- what the user does

  listen(name, element) {
    let from = null;
    element.addEventListener("pointerdown", event => {
      if (event.target.closest("button")) return;
      from = {x: event.clientX, y: event.clientY, moved: false, span: [...this.spanOf(name)]};
      element.setPointerCapture(event.pointerId);
    });
    element.addEventListener("pointermove", event => {
      if (!from) return;
      const dx = event.clientX - from.x, dy = event.clientY - from.y;
      if (Math.hypot(dx, dy) > 4) from.moved = true;
      if (from.moved) this.drag(name, from.span, dx / 200, dy / 200);
    });
    element.addEventListener("pointerup", event => {
      if (from && !from.moved) this.point(name, event);
      from = null;
    });
    element.addEventListener("wheel", event => {
      event.preventDefault();
      if (event.ctrlKey || event.shiftKey) this.zoom(name, event.deltaY + event.deltaX < 0 ? 1.1 : 1 / 1.1);
      else this.scroll(name, event.deltaY < 0 ? 1 : -1);
    }, {passive: false});
    element.addEventListener("keydown", event => {
      const step = {ArrowUp: 1, ArrowRight: 1, ArrowDown: -1, ArrowLeft: -1, PageUp: 10, PageDown: -10}[event.key];
      if (step) this.scroll(name, step);
      else if (event.key === "+") this.zoom(name, 1.2);
      else if (event.key === "-") this.zoom(name, 1 / 1.2);
      else if (event.key === "Enter" && event.target === element) this.grow(element);
      else return;
      event.preventDefault();
    });
    element.querySelector("button").addEventListener("click", () => this.grow(element));
    element.addEventListener("dblclick", () => this.grow(element));
  }

  spanOf(name) { return (name === "flat" ? this.picture : this.volume)?.span ?? [0, 1]; }

  drag(name, [low, high], dx, dy) {
    const width = (high - low) * Math.exp(dx), level = (low + high) / 2 + (high - low) * dy;
    this.setSpan(name, level - width / 2, level + width / 2);
  }

  setSpan(name, low, high) {
    if (name === "flat") {
      if (!this.picture) return;
      this.picture.span = [low, Math.max(high, low + .004)];
      this.picture.uniforms.span.value.set(...this.picture.span);
    } else this.volume?.setSpan(low, high);
    this.changeAll();
    this.spanChanged?.();
  }

  changeAll() {
    this.flat.changed = this.space.changed = true;
    for (const slice of Object.values(this.slices)) slice.changed = true;
  }

  scroll(name, steps) {
    const slice = this.slices[name];
    if (!slice || !this.volume) return;
    const {normal} = slice, onwards = Math.sign(normal.x + normal.y + normal.z) || 1;   // to R, A, S
    this.setCross(this.cross.clone().addScaledVector(normal, onwards * steps * this.volume.spacing(normal)), true);
  }

  zoom(name, factor) {
    if (!this.slices[name]) return;
    this.slices[name].zoom = Math.min(20, Math.max(.3, this.slices[name].zoom * factor));
    this.slices[name].changed = true;
  }

  point(name, event) {
    const slice = this.slices[name];
    if (!slice || !this.volume) return;
    const box = slice.element.getBoundingClientRect(), {camera} = slice;
    const x = camera.left + (event.clientX - box.left) / box.width * (camera.right - camera.left);
    const y = camera.top + (event.clientY - box.top) / box.height * (camera.bottom - camera.top);
    this.setCross(this.origin(slice).addScaledVector(slice.right, x).addScaledVector(slice.up, y), true);
  }

  grow(element) {
    const stage = element.closest("#stage"), on = !element.classList.contains("chosen");
    stage.querySelectorAll(".pane").forEach(pane => pane.classList.toggle("chosen", on && pane === element));
    stage.classList.toggle("large", on);
    this.changeAll();
  }

  setCross(point, byHand = false) {
    if (point.equals(this.cross)) return;
    this.cross.copy(point);
    this.changeAll();
    if (byHand) this.byHand?.();
  }

  // -- what is shown

  show(volume) {
    const first = !this.volume;
    this.volume = volume;
    for (const slice of Object.values(this.slices)) {
      slice.plane.material = volume.flat;
      slice.shown.material = volume.cut;
      if (!slice.shown.parent) this.space.scene.add(slice.shown);
    }
    if (first || volume.value(this.cross) === null) this.setCross(volume.centre.clone().applyMatrix4(volume.frame ?? new THREE.Matrix4()));
    this.changeAll();
  }

  showPicture(picture) {
    if (this.picture !== picture) { this.flat.scene.clear(); this.flat.scene.add(picture.flat); this.picture = picture; }
    this.flat.changed = true;
  }

  // Cut along a tool: its z axis points down, and the crosshair is at its tip.
  drive(matrix) {
    const [x, , z] = [0, 1, 2].map(k => new THREE.Vector3().setFromMatrixColumn(matrix, k));
    const slice = this.slices.oblique;
    if (slice.up.dot(z) !== -1 || slice.right.dot(x) !== 1) slice.turn(x, z.negate());
    this.setCross(new THREE.Vector3().setFromMatrixPosition(matrix));
  }

  // The point in the middle of a pane: of the volume, at the depth of the crosshair.
  origin(slice) {
    const centre = this.volume.centre.clone().applyMatrix4(this.volume.frame ?? new THREE.Matrix4());
    if (slice.name === "oblique") return this.cross.clone();
    return centre.addScaledVector(slice.normal, this.cross.clone().sub(centre).dot(slice.normal));
  }

  placePlanes(mode, driven) {
    if (!this.volume) return;
    const reach = this.volume.reach;
    for (const slice of Object.values(this.slices)) {
      const origin = this.origin(slice), {right, up, normal} = slice;
      const side = slice.name === "oblique" ? 2 * reach : reach;   // around the crosshair, or the centre
      slice.plane.matrix.makeBasis(right, up, normal).setPosition(origin).scale(new THREE.Vector3(side, side, 1));
      slice.shown.matrix.copy(slice.plane.matrix);
      slice.shown.matrixWorldNeedsUpdate = slice.plane.matrixWorldNeedsUpdate = true;
      slice.shown.visible = mode === "slices" && (slice.name !== "oblique" || driven) && !this.space.hidden.has(this.volume.id);
    }
  }

  reading() {
    const value = this.volume?.value(this.cross), {x, y, z} = this.cross;
    const where = [[x, "R", "L"], [y, "A", "P"], [z, "S", "I"]].map(([mm, plus, minus]) => `${mm < 0 ? minus : plus} ${Math.abs(mm).toFixed(1)}`).join(" ");
    return `${value === null ? "outside" : Number(value.toPrecision(5))} · ${where}`;
  }

  render(name, {width, height}) {
    return name === "flat" ? this.renderFlat(width, height) : this.renderSlice(this.slices[name], width, height);
  }

  renderFlat(width, height) {
    const {picture, flat} = this, pane = width / height, camera = flat.camera;
    const wide = picture.aspect > pane, half = wide ? .5 * picture.aspect / pane : .5;
    picture.flat.scale.set(picture.aspect, 1, 1);
    camera.top = half; camera.bottom = -half; camera.right = half * pane; camera.left = -half * pane;
    camera.updateProjectionMatrix();
    this.renderer.render(flat.scene, camera);
    flat.element.children[1].textContent = `${picture.name}  ${picture.image.width * picture.image.stride} × ${picture.image.height * picture.image.stride}`;
    flat.changed = false;
  }

  renderSlice(slice, width, height) {
    const {camera, right, up, normal} = slice, origin = this.origin(slice);
    const half = this.extent(slice, width / height) / slice.zoom;
    camera.top = half; camera.bottom = -half; camera.right = half * width / height; camera.left = -camera.right;
    camera.updateProjectionMatrix();
    camera.matrix.makeBasis(right, up, normal).setPosition(origin.clone().addScaledVector(normal, 1));
    camera.matrixWorldNeedsUpdate = true;
    const at = this.cross, cross = slice.cross.geometry.attributes.position, far = 4 * this.volume.reach, gap = half / 16;
    [[right, -far], [right, -gap], [right, gap], [right, far], [up, -far], [up, -gap], [up, gap], [up, far]].forEach(([way, mm], k) =>
      cross.setXYZ(k, at.x + way.x * mm, at.y + way.y * mm, at.z + way.z * mm));
    cross.needsUpdate = true;
    this.mark(slice, origin);
    this.renderer.render(slice.scene, camera);
    slice.element.children[1].textContent = this.reading();
    slice.changed = false;
  }

  // Half the height in mm that shows the whole slice.
  extent({right, up}, aspect) {
    const column = new THREE.Vector3(), {matrix, size} = this.volume;
    let wide = 0, high = 0;
    for (let k = 0; k < 3; k++) {
      column.setFromMatrixColumn(matrix, k).multiplyScalar(size[k] / 2);
      wide += Math.abs(column.dot(right));
      high += Math.abs(column.dot(up));
    }
    return 1.04 * Math.max(high, wide / aspect);
  }

  // Tips of tools that are in or near the plane.
  mark(slice, origin) {
    const {position, color} = slice.marks.geometry.attributes, colour = new THREE.Color();
    let count = 0;
    for (const tool of this.space.tools.values()) {
      const away = tool.label.at.clone().sub(origin).dot(slice.normal);
      if (!tool.group.visible || tool.state || Math.abs(away) > NEAR || count === MARKS) continue;
      colour.set(tool.colour);
      const {x, y, z} = tool.label.at.clone().addScaledVector(slice.normal, -away);
      position.setXYZ(count, x, y, z);
      color.setXYZ(count++, colour.r, colour.g, colour.b);
    }
    position.needsUpdate = color.needsUpdate = true;
    slice.marks.geometry.setDrawRange(0, count);
  }
}
