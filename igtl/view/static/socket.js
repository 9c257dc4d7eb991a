// The socket in a worker of its own: what the page takes for drawing is not taken for the network's.
const PROTOCOL = "igtl.view";
const POSES = 1;
let socket = null, arrivals = new Map();

self.onmessage = ({data}) => {
  if (data.open) open(data.open, data.token);
  else if (socket?.readyState !== 1) return;
  else if (data.drawn !== undefined) {
    const now = performance.now(), drawn = [...arrivals].filter(([tick]) => tick <= data.drawn);
    for (const [tick] of drawn) arrivals.delete(tick);
    if (drawn.length) socket.send(drawn.map(([tick, arrival]) => `${tick} ${(now - arrival).toFixed(1)}`).join(" "));
  } else socket.send(data.text);
};

function open(url, token) {
  let opened = false;
  arrivals = new Map();
  socket = new WebSocket(url, [PROTOCOL, token]);
  socket.binaryType = "arraybuffer";
  socket.onopen = () => { opened = true; self.postMessage({state: "live"}); };
  socket.onclose = event => self.postMessage({state: "lost", opened, reason: event.reason});
  socket.onmessage = ({data}) => {
    if (typeof data === "string") { self.postMessage({data}); return; }
    const view = new DataView(data);
    if (view.getUint8(0) === POSES) arrivals.set(view.getUint32(4, true), performance.now());
    self.postMessage({data}, [data]);
  };
}
