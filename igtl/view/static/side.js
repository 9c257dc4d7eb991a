// The panel: table of streams, plots, log, links between frames.
import {COLOURS} from "./scene.js";

const $ = id => document.getElementById(id);
const SPAN = 10;       // seconds of a plot
const MAX_LINES = 200;
const TABS = ["streams", "plots", "log", "frames"];

function fill(list, texts, empty) {
  const wanted = texts.length ? texts : [empty];
  const joined = wanted.join("\n");
  if (list.dataset.shown === joined) return;
  list.dataset.shown = joined;
  list.replaceChildren(...wanted.map(text => Object.assign(document.createElement("li"), {textContent: text})));
}

export class Side {
  constructor(streams, toggled) {
    this.streams = streams;     // number -> {type, name}
    this.toggled = toggled;     // called with a stream and whether it is shown
    this.rows = new Map();
    this.plots = new Map();
    this.plotted = null;        // the tool whose position is plotted
    for (const name of TABS) $(`tab-${name}`).addEventListener("click", () => this.open(name));
    document.querySelector('[role="tablist"]').addEventListener("keydown", event => {
      const step = {ArrowRight: 1, ArrowLeft: TABS.length - 1}[event.key];
      if (step) this.open(TABS[(TABS.indexOf(this.tab) + step) % TABS.length], true);
    });
    this.open("streams");
  }

  open(name, focus = false) {
    this.tab = name;
    for (const other of TABS) {
      $(other).hidden = other !== name;
      $(`tab-${other}`).setAttribute("aria-selected", String(other === name));
      $(`tab-${other}`).tabIndex = other === name ? 0 : -1;
    }
    if (focus) $(`tab-${name}`).focus();
    for (const plot of this.plots.values()) plot.changed = true;
    this.draw();
  }

  // -- streams

  row(number) {
    if (this.rows.has(number)) return this.rows.get(number);
    const {type, name} = this.streams.get(number) ?? {type: "?", name: ""};
    const line = document.createElement("tr"), cells = [];
    for (let k = 0; k < 7; k++) cells.push(line.insertCell());
    const box = Object.assign(document.createElement("input"), {type: "checkbox", checked: true});
    box.setAttribute("aria-label", `show ${name}`);
    box.addEventListener("change", () => this.toggled(number, box.checked));
    cells[0].append(box);
    cells[1].append(name || "(no name)", document.createElement("br"), Object.assign(document.createElement("small"), {textContent: type}));
    $("rows").append(line);
    const row = {cells, texts: []};
    this.rows.set(number, row);
    return row;
  }

  table({rows, links, problems, paused, lost_elsewhere: rest}, missing) {
    for (const [number, count, rate, jitter, age, lost, delay, valid] of rows) {
      const row = this.row(number), old = !paused && rate > 2 && age > 1000;
      const texts = [rate ? rate.toFixed(rate < 10 ? 1 : 0) : `${count}×`, rate ? jitter.toFixed(1) : "",
        age === null ? "" : (age / 1000).toFixed(age < 1000 ? 2 : age < 10000 ? 1 : 0),
        lost ? String(lost) : "0", delay === null ? "" : delay.toFixed(Math.abs(delay) < 100 ? 1 : 0)];
      texts.forEach((text, k) => {
        if (row.texts[k] !== text) row.cells[k + 2].textContent = row.texts[k] = text;
      });
      row.cells[4].classList.toggle("bad", old || !valid);
      row.cells[4].title = valid ? "" : "not in sight, or declared invalid";
      row.cells[5].classList.toggle("bad", lost > 0);
    }
    const more = rest ? [`${rest} messages of other streams were lost`] : [];
    fill($("links"), links, "There are no poses whose names have the form XToY.");
    fill($("problems"), [...problems, ...missing, ...more], "Nothing is missing.");
  }

  numbers(text) { if (this.tab === "streams") $("numbers").textContent = text; }

  // -- log

  log(lines) {
    const list = $("lines"), panel = $("log"), atEnd = panel.scrollTop + panel.clientHeight > panel.scrollHeight - 30;
    for (const [, time, severity, source, text] of lines) {
      const line = document.createElement("li"), when = document.createElement("time"), who = document.createElement("b");
      when.textContent = new Date(1000 * time).toTimeString().slice(0, 8);
      who.textContent = `${source} `;
      line.className = severity;
      line.append(when, who, text);
      list.append(line);
    }
    while (list.children.length > MAX_LINES) list.firstChild.remove();
    if (atEnd) panel.scrollTop = panel.scrollHeight;
  }

  // -- plots

  plot(key, title, unit) {
    let plot = this.plots.get(key);
    if (!plot) {
      const figure = document.createElement("figure");
      figure.className = "chart";
      const caption = document.createElement("figcaption"), canvas = document.createElement("canvas");
      figure.append(caption, canvas);
      $("charts").append(figure);
      plot = {rows: [], figure, canvas, caption};
      this.plots.set(key, plot);
    }
    plot.caption.textContent = unit ? `${title}, ${unit}` : title;
    return plot;
  }

  samples(number, unit, rows) {
    const plot = this.plot(number, this.streams.get(number)?.name ?? "", unit);
    this.add(plot, rows);
  }

  pose(tool) {
    if (this.plotted !== tool.name) {
      this.plots.get("pose")?.figure.remove();
      this.plots.delete("pose");
      this.plotted = tool.name;
    }
    const {x, y, z} = tool.label.at;
    this.add(this.plot("pose", `${tool.name}: x, y, z`, "mm"), [[tool.stamp || Date.now() / 1000, x, y, z]]);
  }

  add(plot, rows) {
    plot.rows.push(...rows);
    const last = plot.rows.at(-1)[0];
    let drop = 0;
    while (drop < plot.rows.length && plot.rows[drop][0] < last - SPAN) drop++;
    plot.rows.splice(0, Math.max(drop, plot.rows.length - 2000));
    plot.changed = true;
  }

  // All is told again.
  forget() {
    this.rows.clear();
    $("rows").replaceChildren();
    $("lines").replaceChildren();
    this.clear();
  }

  clear() { for (const plot of this.plots.values()) { plot.rows.length = 0; plot.changed = true; } }

  draw() {
    if (this.tab !== "plots") return;
    for (const plot of this.plots.values()) if (plot.changed) this.drawPlot(plot);
  }

  drawPlot({rows, canvas, figure}) {
    const ratio = Math.min(devicePixelRatio, 2), width = canvas.clientWidth * ratio, height = canvas.clientHeight * ratio;
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, {width, height});
    const g = canvas.getContext("2d"), style = getComputedStyle(figure);
    g.clearRect(0, 0, width, height);
    if (!rows.length) return;
    let low = Infinity, high = -Infinity;
    for (const row of rows) for (let k = 1; k < row.length; k++) { low = Math.min(low, row[k]); high = Math.max(high, row[k]); }
    if (high === low) { high += 1; low -= 1; }
    const last = rows.at(-1)[0], x = t => (1 - (last - t) / SPAN) * width, y = v => height * (.94 - .88 * (v - low) / (high - low));
    for (let k = 1; k < rows[0].length; k++) {
      g.strokeStyle = COLOURS[(k - 1) % COLOURS.length];
      g.lineWidth = 1.5 * ratio;
      g.setLineDash([[], [6, 3], [2, 2], [8, 3, 2, 3]][(k - 1) % 4].map(n => n * ratio));
      g.beginPath();
      rows.forEach((row, n) => n ? g.lineTo(x(row[0]), y(row[k])) : g.moveTo(x(row[0]), y(row[k])));
      g.stroke();
    }
    g.fillStyle = style.color;
    g.font = `${11 * ratio}px system-ui, sans-serif`;
    g.fillText(Number(high.toPrecision(4)), 4, 12 * ratio);
    g.fillText(Number(low.toPrecision(4)), 4, height - 4);
    this.plots.forEach(plot => { if (plot.canvas === canvas) plot.changed = false; });
  }
}
