// An image as a texture: on a plane at its pose, and flat in a pane.
import {THREE} from "/three.js";

const VERTEX = "varying vec2 at; void main() { at = uv; gl_Position = projectionMatrix * modelViewMatrix * vec4(position, 1.); }";
// black is see-through in space: what lies outside the fan of an ultrasound image
const FRAGMENT = `uniform sampler2D map; uniform bool grey; uniform vec2 span; uniform bool flat2d; varying vec2 at;
  void main() {
    vec4 found = texture2D(map, at);
    vec3 value = (grey ? found.rrr : found.rgb);
    float most = max(max(value.r, value.g), value.b);
    gl_FragColor = vec4(clamp((value - span.x) / (span.y - span.x), 0., 1.), flat2d || most > .02 ? 1. : .12);
  }`;

export class Picture {
  constructor(id, name) {
    this.id = id;
    this.name = name;
    this.span = [0, 1];       // window, in shares of low … high
    this.sent = new THREE.Matrix4();
    this.uniforms = {map: {value: null}, grey: {value: false}, span: {value: new THREE.Vector2(0, 1)}, flat2d: {value: false}};
    this.mesh = new THREE.Mesh(new THREE.BufferGeometry(), this.material(this.uniforms, true));
    this.mesh.matrixAutoUpdate = false;
    this.mesh.frustumCulled = false;
    this.flat = new THREE.Mesh(new THREE.PlaneGeometry(1, 1), this.material({...this.uniforms, flat2d: {value: true}}, false));
    // row 0 of the image is at the top
    this.flat.geometry.setAttribute("uv", new THREE.BufferAttribute(new Float32Array([0, 0, 1, 0, 0, 1, 1, 1]), 2));
  }

  material(uniforms, transparent) {
    return new THREE.ShaderMaterial({uniforms, vertexShader: VERTEX, fragmentShader: FRAGMENT, transparent,
      side: THREE.DoubleSide, depthTest: transparent, depthWrite: transparent});
  }

  set(image) {
    const {width, height, stride, pixels, bitmap} = image, grey = Boolean(pixels) && !image.colour;
    const kind = `${width}×${height}×${stride} ${bitmap ? "jpeg" : grey ? "grey" : "colour"}`;
    if (kind !== this.kind) {
      this.kind = kind;
      this.texture?.dispose();
      this.texture = bitmap ? new THREE.Texture(bitmap)
        : new THREE.DataTexture(pixels, width, height, grey ? THREE.RedFormat : THREE.RGBAFormat);
      Object.assign(this.texture, {minFilter: THREE.LinearFilter, magFilter: THREE.NearestFilter, generateMipmaps: false,
        flipY: false, unpackAlignment: 1, colorSpace: THREE.NoColorSpace});
      this.uniforms.map.value = this.texture;
      this.uniforms.grey.value = grey;
      const low = -stride / 2, right = low + stride * width, bottom = low + stride * height;  // in pixels of the image
      const {geometry} = this.mesh;
      geometry.setAttribute("position", new THREE.BufferAttribute(new Float32Array([low, low, 0, right, low, 0, right, bottom, 0, low, bottom, 0]), 3));
      geometry.setAttribute("uv", new THREE.BufferAttribute(new Float32Array([0, 0, 1, 0, 1, 1, 0, 1]), 2));
      geometry.setIndex([0, 1, 2, 0, 2, 3]);
    }
    if (bitmap) {
      if (this.texture.image !== bitmap) this.texture.image?.close?.();
      this.texture.image = bitmap;
    } else this.texture.image.data = pixels;
    this.texture.needsUpdate = true;
    this.sent.fromArray(image.matrix).transpose();
    this.image = image;
    this.uniforms.span.value.set(...this.span);
    const column = k => Math.hypot(...[0, 4, 8].map(row => image.matrix[row + k])) || 1;
    this.aspect = width * column(0) / (height * column(1));
  }
}
