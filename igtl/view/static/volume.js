// A volume as a 3D texture: planes are cut from it and rays cast through it on the graphics card.
import {THREE} from "/three.js";

const VERTEX = "varying vec3 at; void main() { vec4 world = modelMatrix * vec4(position, 1.); at = world.xyz; gl_Position = projectionMatrix * viewMatrix * world; }";
const COMMON = `precision highp float; precision highp sampler3D;
  uniform sampler3D voxels; uniform mat4 toIjk; uniform vec3 size; uniform vec2 span, unit; varying vec3 at;
  vec3 place(vec3 world) { return ((toIjk * vec4(world, 1.)).xyz + .5) / size; }
  float grey(vec3 t) { return clamp((texture(voxels, t).r * unit.x + unit.y - span.x) / (span.y - span.x), 0., 1.); }`;
const CUT = `${COMMON} uniform bool whole;
  void main() {
    vec3 t = place(at);
    if (any(lessThan(t, vec3(0.))) || any(greaterThan(t, vec3(1.)))) discard;
    float g = grey(t);
    if (!whole && g <= 0.) discard;
    gl_FragColor = vec4(vec3(g), 1.);
  }`;
const MARCH = `${COMMON} uniform vec3 eye; uniform bool brightest;
  void main() {
    vec3 a = place(eye), way = normalize(place(at) - a), near = (vec3(0.) - a) / way, far = (vec3(1.) - a) / way;
    vec3 low = min(near, far), high = max(near, far);
    float n = max(max(low.x, low.y), max(low.z, 0.)), end = min(high.x, min(high.y, high.z));
    float stepped = 1.7 / max(size.x, max(size.y, size.z)), most = 0.; vec4 sum = vec4(0.);
    for (int k = 0; k < 400; k++) {
      if (n > end || sum.a > .97) break;
      float g = grey(a + way * n);
      most = max(most, g);
      float alpha = g * g * .12;
      sum += (1. - sum.a) * alpha * vec4(mix(vec3(.72, .42, .3), vec3(1., .97, .9), g), 1.);
      n += stepped;
    }
    if (brightest) { if (most < .02) discard; gl_FragColor = vec4(vec3(most), most); return; }
    if (sum.a < .02) discard;
    gl_FragColor = vec4(sum.rgb / sum.a, sum.a);
  }`;

export class Volume {
  constructor(facts, name, data) {
    const [nx, ny, nz] = facts.size;
    Object.assign(this, {id: facts.id, from: facts.from, name, size: facts.size, range: facts.range, facts});
    const bytes = facts.type === "u8";
    this.data = bytes ? new Uint8Array(data) : new Uint16Array(data);
    this.texture = new THREE.Data3DTexture(this.data, nx, ny, nz);
    Object.assign(this.texture, {format: THREE.RedFormat, type: bytes ? THREE.UnsignedByteType : THREE.HalfFloatType,
      minFilter: THREE.LinearFilter, magFilter: THREE.LinearFilter, unpackAlignment: 1, needsUpdate: true});
    this.ijk = new THREE.Matrix4().fromArray(facts.ijk).transpose();
    this.matrix = new THREE.Matrix4();   // voxels to the root frame
    this.span = this.guess();
    const own = {whole: {value: false}};
    this.uniforms = {voxels: {value: this.texture}, toIjk: {value: new THREE.Matrix4()}, size: {value: new THREE.Vector3(nx, ny, nz)},
      span: {value: new THREE.Vector2(...this.span)}, unit: {value: new THREE.Vector2(facts.scale, facts.offset)},
      eye: {value: new THREE.Vector3()}, brightest: {value: false}};
    const material = (fragmentShader, more, uniforms = {}) => new THREE.ShaderMaterial({uniforms: {...this.uniforms, ...uniforms},
      vertexShader: VERTEX, fragmentShader, side: THREE.DoubleSide, ...more});
    this.cut = material(CUT, {polygonOffset: true, polygonOffsetFactor: 1, polygonOffsetUnits: 1}, own);
    this.flat = material(CUT, {depthTest: false, depthWrite: false}, {whole: {value: true}});
    this.march = material(MARCH, {side: THREE.BackSide, transparent: true, depthTest: false, depthWrite: false});
    this.box = new THREE.Mesh(new THREE.BoxGeometry(nx, ny, nz).translate(nx / 2 - .5, ny / 2 - .5, nz / 2 - .5), this.march);
    this.box.matrixAutoUpdate = false;
    this.box.renderOrder = 4;
    this.place(new THREE.Matrix4());
    this.centre = new THREE.Vector3(nx / 2 - .5, ny / 2 - .5, nz / 2 - .5).applyMatrix4(this.ijk);
    const column = k => new THREE.Vector3().setFromMatrixColumn(this.ijk, k).length();
    this.reach = Math.hypot(nx * column(0), ny * column(1), nz * column(2));
  }

  // A window that shows soft tissue of a CT, else the whole range.
  guess() {
    const [low, high] = this.range;
    return low < -500 && high > 300 ? [-140, 260] : [low, high];
  }

  place(frame) {
    this.matrix.multiplyMatrices(frame, this.ijk);
    this.uniforms.toIjk.value.copy(this.matrix).invert();
    this.box.matrix.copy(this.matrix);
    this.box.matrixWorldNeedsUpdate = true;
  }

  setSpan(low, high) {
    this.span = [low, Math.max(high, low + 1e-6 * (1 + Math.abs(low)))];
    this.uniforms.span.value.set(...this.span);
  }

  // The value of the voxel nearest to a place in the root frame; null outside.
  value(point) {
    const {x, y, z} = point.clone().applyMatrix4(this.uniforms.toIjk.value).round(), [nx, ny, nz] = this.size;
    if (x < 0 || y < 0 || z < 0 || x >= nx || y >= ny || z >= nz) return null;
    const raw = this.data[x + nx * (y + ny * z)], {scale, offset, type} = this.facts;
    return type === "u8" ? raw : THREE.DataUtils.fromHalfFloat(raw) * scale + offset;
  }

  // How far to scroll for the next slice along a direction.
  spacing(direction) {
    const ijk = direction.clone().transformDirection(this.uniforms.toIjk.value);
    const axis = [0, 1, 2].sort((a, b) => Math.abs(ijk.getComponent(b)) - Math.abs(ijk.getComponent(a)))[0];
    return new THREE.Vector3().setFromMatrixColumn(this.matrix, axis).length();
  }

  dispose() {
    for (const material of [this.cut, this.flat, this.march]) material.dispose();
    this.box.geometry.dispose();
    this.texture.dispose();
  }
}
