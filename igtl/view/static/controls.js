// The bars: what is shown and how, the time bar of a recording, keys.

const $ = id => document.getElementById(id);
const CAMERAS = ["free", "anterior", "posterior", "right", "left", "superior", "inferior"];
const THEMES = ["auto", "dark", "light"];

// Options of a select, by value; what is chosen stays.
export function offer(select, options) {
  const key = JSON.stringify(options);
  if (select.dataset.options === key) return;
  select.dataset.options = key;
  const chosen = select.value;
  select.replaceChildren(...options.map(([value, text]) => new Option(text, value)));
  if (options.some(([value]) => String(value) === chosen)) select.value = chosen;
}

export class Controls {
  // page: {space, panes, frames, live, volumes, redraw}
  constructor(page) {
    this.page = page;
    this.recording = null;
    this.dragging = false;
    const {space, panes, frames, live} = page;
    const change = (id, act) => $(id).addEventListener("change", event => { act(event.target); page.redraw(); });
    const click = (id, act) => $(id).addEventListener("click", event => { act(event.currentTarget); page.redraw(); });
    change("root", e => { frames.choose(e.value); space.clearTrails(); });
    change("camera", e => space.fit(e.value));
    change("follow", e => { space.follow = e.value === "" ? null : Number(e.value); });
    change("driver", () => {});
    change("image", () => {});
    change("volume", e => page.chooseVolume(Number(e.value)));
    change("render", () => {});
    change("preset", e => this.preset(e.value));
    change("window", () => this.typed());
    change("level", () => this.typed());
    change("trail", e => { space.trailSeconds = Number(e.value); });
    change("labels-on", e => { space.showLabels = e.checked; space.changed = true; });
    change("exact", e => live.ask({exact: e.checked}));
    $("opacity").addEventListener("input", e => { space.setOpacity(Number(e.target.value)); page.redraw(); });
    click("fit", () => space.fit());
    click("theme", () => this.nextTheme());
    click("settings-button", e => this.toggle(e, $("settings")));
    click("side-button", () => this.toggleSide());
    click("record", e => live.ask({record: e.getAttribute("aria-pressed") !== "true"}));
    click("play", () => this.playOrPause());
    click("back", () => live.ask({step: -1}));
    click("ahead", () => live.ask({step: 1}));
    change("speed", e => live.ask({speed: Number(e.value)}));
    $("seek").addEventListener("input", e => { this.dragging = true; this.seek(Number(e.target.value)); });
    $("seek").addEventListener("change", () => { this.dragging = false; });
    document.addEventListener("keydown", event => this.key(event));
    panes.spanChanged = () => this.showSpan();
    panes.byHand = () => { $("driver").value = ""; };
    let stored = "auto";
    try { stored = localStorage.getItem("igtl-view-theme") ?? "auto"; } catch { /* no storage in this frame */ }
    this.theme(THEMES.includes(stored) ? stored : "auto");
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => page.recolour());
    if (innerWidth <= 1000) this.toggleSide();
  }

  toggle(button, panel) {
    panel.hidden = !panel.hidden;
    button.setAttribute("aria-expanded", String(!panel.hidden));
  }

  toggleSide() {
    const alone = document.querySelector("main").classList.toggle("alone");
    $("side-button").setAttribute("aria-expanded", String(!alone));
  }

  theme(name) {
    this.themed = name;
    if (name === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = name;
    $("theme").textContent = name[0].toUpperCase() + name.slice(1);
    try { localStorage.setItem("igtl-view-theme", name); } catch { /* likewise */ }
    this.page.recolour();
  }

  nextTheme() { this.theme(THEMES[(THEMES.indexOf(this.themed) + 1) % THEMES.length]); }

  // -- window and level

  typed() {
    const width = Number($("window").value), level = Number($("level").value);
    if (width > 0) this.page.panes.setSpan("volume", level - width / 2, level + width / 2);
  }

  preset(value) {
    const {panes} = this.page;
    if (!panes.volume || !value) return;
    const [low, high] = panes.volume.range, [width, level] = value === "range" ? [high - low, (low + high) / 2] : value.split(" ").map(Number);
    panes.setSpan("volume", level - width / 2, level + width / 2);
  }

  showSpan() {
    const span = this.page.panes.volume?.span;
    if (!span) return;
    $("window").value = Number((span[1] - span[0]).toPrecision(4));
    $("level").value = Number(((span[0] + span[1]) / 2).toPrecision(4));
  }

  // -- what there is to choose from

  offers() {
    const {space, frames, volumes} = this.page;
    const tools = [...space.tools.values()].map(tool => [tool.id, tool.name]);
    offer($("root"), [["", frames.asked === "" && frames.root ? `automatic (${frames.root})` : "automatic"], ...frames.names.map(n => [n, n]), ["-", "as sent"]]);
    offer($("follow"), [["", "nothing"], ...tools]);
    offer($("driver"), [["", "hand"], ...tools]);
    offer($("plot-pose"), [["", "no tool"], ...tools]);
    const images = [...space.pictures.values()].map(p => [p.id, p.name]);
    offer($("image"), images);
    $("image-choice").hidden = images.length < 2;
    offer($("volume"), [...volumes.values()].map(v => [v.id, v.name]));
  }

  // -- the recording

  state(news) {
    if (news.control !== undefined) $("record").hidden = !news.control;
    if (news.taking) {
      $("record").setAttribute("aria-pressed", String(news.taking.on));
      $("record").textContent = news.taking.on ? `■ ${news.taking.count}` : "● Record";
      $("record").title = news.taking.on ? `recording into ${news.taking.name}` : "Record what is received";
    }
    if (news.recording) this.showRecording(news.recording);
  }

  showRecording(recording) {
    const first = !this.recording;
    this.recording = recording;
    $("player").hidden = false;
    if (first) {
      $("seek").max = recording.duration;
      $("file").textContent = recording.name + (recording.cut ? " (cut)" : "");
    }
    if (!this.dragging) $("seek").value = recording.position;
    $("time").textContent = `${recording.position.toFixed(1)} / ${recording.duration.toFixed(1)} s`;
    $("seek").setAttribute("aria-valuetext", $("time").textContent);
    $("play").textContent = recording.playing ? "Pause" : "Play";
    $("play").setAttribute("aria-pressed", String(recording.playing));
    const speed = [...$("speed").options].find(o => Number(o.value) === recording.speed);
    if (speed) $("speed").value = speed.value;
  }

  seek(position) {
    clearTimeout(this.asking);
    this.asking = setTimeout(() => this.page.live.ask({seek: position}), 40);
  }

  playOrPause() { if (this.recording) this.page.live.ask({play: !this.recording.playing}); }

  // -- keys

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, button, [role=tab]")) return;
    const {space, live, redraw} = this.page;
    if (event.key >= "1" && event.key <= "6") {
      $("camera").value = CAMERAS[event.key];
      space.fit(CAMERAS[event.key]);
    } else if (event.key === "0") space.fit();
    else if (event.key === "t") this.nextTheme();
    else if (event.key === "p") this.toggleSide();
    else if (event.key === " ") { if (!this.recording) return; this.playOrPause(); }
    else if (event.key === "," || event.key === ".") live.ask({step: event.key === "." ? 1 : -1});
    else return;
    event.preventDefault();
    redraw();
  }
}
