// What the server sends, kept until the next drawing; and the acknowledgements.
// The layout of the binary frames is told in igtl/view/wire.py.

const JPEG = 2, RGB = 1;

export class Live {
  // hear: called with each JSON text; changed: called with "live", "waiting" or "lost"
  constructor(token, hear, changed) {
    this.token = token;
    this.hear = hear;
    this.changed = changed;
    this.poses = new Map();      // stream -> [valid, time stamp, 12 numbers]
    this.images = new Map();     // stream -> image that is decoded
    this.decoding = new Map();   // image number -> promise
    this.drawable = null;        // tick that may be acknowledged after the next drawing
    this.bytes = 0;
    this.ticks = 0;
    this.wait = 250;
  }

  connect() {
    this.worker ??= this.started();
    const scheme = location.protocol === "https:" ? "wss" : "ws";
    this.worker.postMessage({open: `${scheme}://${location.host}/live`, token: this.token});
  }

  started() {
    const worker = new Worker("/static/socket.js", {type: "module"});
    worker.onmessage = ({data: told}) => {
      if (told.data !== undefined) this.received(told.data);
      else if (told.state === "live") { this.wait = 250; this.changed("live", ""); }
      else this.lost(told);
    };
    return worker;
  }

  lost({opened, reason}) {
    this.poses.clear();
    this.drawable = null;
    this.changed("lost", reason || (opened ? "no connection" : "not admitted, or no server"));
    setTimeout(() => this.connect(), this.wait);
    this.wait = Math.min(2 * this.wait, 5000);
  }

  received(data) {
    if (typeof data === "string") {
      this.bytes += data.length;
      this.hear(JSON.parse(data));
      return;
    }
    this.bytes += data.byteLength;
    const view = new DataView(data);
    if (view.getUint8(0) === 1) this.closeTick(view, data);
    else this.decode(view, data);
  }

  closeTick(view, data) {
    const count = view.getUint16(2, true), tick = view.getUint32(4, true);
    for (let k = 0, at = 16; k < count; k++, at += 64) {
      this.poses.set(view.getUint16(at, true),
        [view.getUint16(at + 2, true) === 1, view.getFloat64(at + 8, true), new Float32Array(data, at + 16, 12)]);
    }
    this.ticks++;
    const ready = () => { this.drawable = Math.max(this.drawable ?? 0, tick); };
    if (this.decoding.size) Promise.allSettled(this.decoding.values()).then(ready);
    else ready();
  }

  decode(view, data) {
    const image = {
      stream: view.getUint16(2, true), number: view.getUint32(4, true), width: view.getUint16(8, true),
      height: view.getUint16(10, true), stride: view.getUint16(12, true), low: view.getFloat32(16, true),
      high: view.getFloat32(20, true), stamp: view.getFloat64(24, true), matrix: new Float32Array(data, 32, 16),
    };
    const kind = view.getUint8(1), body = new Uint8Array(data, 96);
    if (kind !== JPEG) {
      image.pixels = kind === RGB ? withAlpha(body) : body;
      image.colour = kind === RGB;
      this.images.set(image.stream, image);
      return;
    }
    const promise = createImageBitmap(new Blob([body], {type: "image/jpeg"})).then(bitmap => {
      const older = this.images.get(image.stream);
      if (older && older.number > image.number) { bitmap.close(); return; }
      older?.bitmap?.close();
      image.bitmap = bitmap;
      this.images.set(image.stream, image);
    }).catch(() => {}).finally(() => this.decoding.delete(image.number));
    this.decoding.set(image.number, promise);
  }

  // What has come since the last call.
  take() {
    const {poses, images} = this;
    if (poses.size) this.poses = new Map();
    if (images.size) this.images = new Map();
    return {poses, images};
  }

  // What was taken is drawn.
  acknowledge() {
    if (this.drawable === null) return;
    this.worker.postMessage({drawn: this.drawable});
    this.drawable = null;
  }

  ask(request) { this.worker.postMessage({text: JSON.stringify(request)}); }

  async blob(name) {
    const answer = await fetch(`/blob/${name}`, {headers: {Authorization: `Bearer ${this.token}`}});
    if (!answer.ok) throw new Error(`array ${name}: ${answer.status}`);
    return answer.arrayBuffer();
  }
}

function withAlpha(rgb) {
  const out = new Uint8Array(rgb.length / 3 * 4).fill(255);
  for (let from = 0, to = 0; from < rgb.length; from += 3, to += 4) {
    out[to] = rgb[from]; out[to + 1] = rgb[from + 1]; out[to + 2] = rgb[from + 2];
  }
  return out;
}
