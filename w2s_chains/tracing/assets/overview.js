// All candidates at a glance: rounds from left to right, scores upwards.

const TOPS = 12;
const FOOT = 20;
const LEFT = 34;

/** Round numbers that divide a range into a few parts. */
function ticks(low, high, most) {
  const raw = (high - low) / most || 1;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((one) => one * power).find((one) => one >= raw);
  const found = [];
  for (let at = Math.ceil(low / step) * step; at <= high + step * 1e-9; at += step)
    found.push(Math.abs(at) < step / 1e6 ? 0 : at);
  return { found, digits: Math.max(0, -Math.floor(Math.log10(step))) };
}

/** The range of the scores of several searches. */
function range(searches) {
  let [low, high] = [Infinity, -Infinity];
  for (const search of searches)
    for (const { score } of search.scored) [low, high] = [Math.min(low, score), Math.max(high, score)];
  const pad = (high - low || 1) * 0.06;
  return [low - pad, high + pad];
}

class Overview {
  constructor(on) {
    this.on = on;
    this.picture = svg("svg", { "aria-hidden": "true" });
    this.element = el("div", { class: "overview" }, this.picture);
    this.draw = lazily(() => this.render());
    new ResizeObserver(this.draw).observe(this.element);
    this.element.addEventListener("pointermove", (event) => {
      if (event.pointerType !== "touch") this.on?.look(this.nearest(event));
    });
    this.element.addEventListener("pointerleave", () => this.on?.look(null));
    this.element.addEventListener("click", (event) => {
      const node = this.nearest(event);
      if (node) this.on?.choose(node);
    });
  }

  show(search, round, scores = range([search])) {
    this.search = search;
    this.round = round;
    this.scores = scores;
    this.element.hidden = !search.scored.length;
    this.draw();
  }

  look(node) {
    this.looked = node;
    this.mark();
  }

  select(node) {
    this.selected = node;
    this.mark();
  }

  render() {
    const { search, round } = this;
    const width = this.element.clientWidth;
    const height = this.element.clientHeight;
    if (!search || !width || this.element.hidden) return;
    const [low, high] = this.scores;
    const foot = height - FOOT;
    this.band = (width - LEFT - 8) / Math.max(1, search.last);
    this.y = (score) => foot - ((score - low) / (high - low)) * (foot - TOPS);
    this.x = (at) => LEFT + this.band * (at - 0.5);
    this.places = this.swarm(search.scored);
    const grid = ticks(low, high, Math.max(2, Math.floor(foot / 24)));
    const lines = [];
    const dots = { rejected: [], open: [], finished: [], kept: [], answer: [] };
    const edges = { kept: [], answer: [] };
    for (const [node, [x, y]] of this.places) {
      if (node.round > round) continue;
      const state = search.state(node);
      dots[state].push(`M${x.toFixed(1)} ${y.toFixed(1)}h0`);
      const from = this.places.get(search.nodes.get(node.parent));
      if (from && edges[state]) edges[state].push(`M${from[0].toFixed(1)} ${from[1].toFixed(1)}L${x.toFixed(1)} ${y.toFixed(1)}`);
    }
    for (const at of grid.found) {
      const y = this.y(at);
      lines.push(svg("path", { class: at === 0 ? "grid zero" : "grid", d: `M${LEFT} ${y}H${width}` }));
      const label = svg("text", { class: "tick", x: LEFT - 8, y: y + 4, "text-anchor": "end" });
      label.textContent = number(at, grid.digits);
      lines.push(label);
    }
    const every = Math.max(1, ticks(0, search.last, Math.max(1, (width - LEFT) / 56)).found[1] ?? 1);
    for (let at = 1; at <= search.last; at++) {
      if (at !== 1 && every > 1 && at <= every / 2 + 1) continue;
      if (at !== 1 && at % every && !(at === search.last && at % every > every / 2)) continue;
      const label = svg("text", { class: this.on && at === round ? "tick now" : "tick", x: this.x(at), y: height - 4, "text-anchor": "middle" });
      label.textContent = at === 1 ? (this.band > 60 || search.last === 1 ? "Round 1" : "1") : String(at);
      lines.push(label);
    }
    const marks = [svg("rect", { class: "now-band", x: this.x(round) - this.band / 2, y: 4, width: this.on ? this.band : 0, height: foot - 2, rx: 4 })];
    for (const state of ["kept", "answer"]) marks.push(svg("path", { class: `edge ${state}`, d: edges[state].join("") }));
    for (const state of ["rejected", "open", "finished", "kept", "answer"])
      marks.push(svg("path", { class: `dot ${state}`, d: dots[state].join("") }));
    this.ring = svg("circle", { class: "ring", r: 6, cx: -20, cy: -20 });
    set(this.picture, { width, height, viewBox: `0 0 ${width} ${height}` });
    this.picture.replaceChildren(marks[0], ...lines, ...marks.slice(1), this.ring);
    this.mark();
  }

  /** Places of candidates; those of one round and about one score stand side by side. */
  swarm(nodes) {
    const bins = new Map();
    const places = new Map();
    for (const node of nodes) {
      const y = this.y(node.score);
      const key = `${node.round} ${Math.round(y / 5)}`;
      const bin = bins.get(key) ?? [];
      if (!bins.has(key)) bins.set(key, bin);
      bin.push([node, y]);
    }
    for (const bin of bins.values()) {
      const step = Math.min(6, (this.band * 0.9) / bin.length);
      bin.forEach(([node, y], i) => places.set(node, [this.x(node.round) + (i - (bin.length - 1) / 2) * step, y]));
    }
    return places;
  }

  mark() {
    const place = this.places?.get(this.looked ?? this.selected);
    if (this.ring) set(this.ring, { cx: place?.[0] ?? -20, cy: place?.[1] ?? -20 });
  }

  nearest(event) {
    if (!this.places) return null;
    const box = this.picture.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left, event.clientY - box.top];
    let [best, least] = [null, Infinity];
    for (const [node, [a, b]] of this.places) {
      if (node.round > this.round) continue;
      const far = (a - x) ** 2 + (b - y) ** 2;
      if (far < least) [best, least] = [node, far];
    }
    return least < 2500 ? best : null;
  }
}
