// The tree: a column for each depth, its candidates from best to worst. Only what can be seen is
// on the page, so that ten thousand candidates are as quick as ten.

// Lengths in CSS pixels.
const EDGE = 12; // around the tree
const HEAD = 30;
const BEYOND = 300; // drawn outside the view, so that scrolling shows no gaps

class TreeView {
  /**
   * @param heat Colours words.
   * @param on `choose(node)` and `look(node or null)` are told of clicks, keys and the pointer.
   */
  constructor(heat, on) {
    this.heat = heat;
    this.on = on;
    this.shown = new Map();
    this.round = 0;
    this.edges = {};
    for (const state of ["rejected", "open", "finished", "kept", "answer", "hot"])
      this.edges[state] = svg("path", { class: `edge ${state}` });
    this.lines = svg("svg", { class: "edges", width: 1, height: 1, "aria-hidden": "true" }, ...Object.values(this.edges));
    this.heads = el("div", { class: "heads", "aria-hidden": "true" });
    this.space = el("div", { class: "tree-space", role: "presentation" }, this.lines);
    this.element = el("div", {
      class: "tree",
      role: "tree",
      tabindex: "0",
      "aria-label": "Tree of the search. Up and down: better and worse candidates. Left: what a candidate continues. Right: what continues it.",
    }, this.heads, this.space);
    this.draw = lazily(() => this.render());
    this.element.addEventListener("scroll", this.draw, { passive: true });
    this.element.addEventListener("keydown", (event) => this.key(event));
    this.element.addEventListener("click", (event) => {
      const node = this.at(event);
      if (node) this.on.choose(node);
    });
    this.element.addEventListener("pointerover", (event) => {
      if (event.pointerType !== "touch") this.on.look(this.at(event));
    });
    this.element.addEventListener("pointerleave", () => this.on.look(null));
    new ResizeObserver(() => this.measure()).observe(this.element);
  }

  at(event) {
    const item = event.target.closest?.("[role=treeitem]");
    return item && this.search.nodes.get(Number(item.dataset.id));
  }

  /** Show a search up to a round. */
  show(search, round) {
    if (this.search !== search) {
      this.search = search;
      this.selected = this.looked = null;
      this.clear();
      this.element.scrollTo(0, 0);
    }
    this.round = round;
    this.measure();
  }

  /** Draw everything anew after the search has grown. */
  grown() {
    this.clear();
    this.measure();
  }

  clear() {
    for (const item of this.shown.values()) item.remove();
    this.shown.clear();
  }

  /** Choose widths of columns from the longest of their texts. */
  measure() {
    if (!this.search || !this.element.clientWidth) return;
    const style = getComputedStyle(this.element);
    this.row = parseFloat(style.getPropertyValue("--row"));
    const font = (TreeView.canvas ??= document.createElement("canvas").getContext("2d"));
    font.font = `${style.getPropertyValue("--row-text")} ${style.fontFamily}`;
    const { columns } = this.search;
    const room = this.element.clientWidth;
    const gap = (this.gap = room < 500 ? 28 : 52); // between columns
    const most = columns.length <= 3 && room > 500 ? room - 2 * EDGE - gap - 90 : Math.min(250, room * 0.66);
    const least = room < 500 ? 28 : 84; // of the root
    this.element.classList.toggle("narrow", room < 500);
    this.columns = [];
    let left = EDGE;
    for (const [depth, column] of columns.entries()) {
      const longest = column.reduce((a, b) => (b.text.length > a.length ? b.text : a), "");
      const wanted = depth === 0 ? least : 84 + font.measureText(inline(longest.trim()).slice(0, 200)).width;
      const width = Math.ceil(Math.min(most, Math.max(depth ? 96 : least, wanted)));
      const numbers = new Set(column.map((node) => node.round));
      const name = depth === 0 ? "" : numbers.size === 1 ? `Round ${column[0].round}` : `Depth ${depth}`;
      this.columns.push({ left, width, nodes: column, name, numbers });
      left += width + gap;
    }
    const tallest = Math.max(...columns.map((column) => column.length));
    this.space.style.width = `${left - gap + EDGE}px`;
    this.space.style.height = `${tallest * this.row + EDGE}px`;
    this.heads.style.width = this.space.style.width;
    this.clear();
    this.draw();
  }

  place(node) {
    const { left, width } = this.columns[node.depth];
    const top = node.row * this.row;
    return { left, top, right: left + width, middle: top + this.row / 2 };
  }

  /** Bring what is inside the view onto the page, and take away what is not. */
  render() {
    if (!this.columns) return;
    const { scrollLeft, scrollTop, clientWidth, clientHeight } = this.element;
    const [x0, x1] = [scrollLeft - BEYOND, scrollLeft + clientWidth + BEYOND];
    const [y0, y1] = [scrollTop - BEYOND, scrollTop + clientHeight + BEYOND];
    const wanted = new Set();
    const parts = { rejected: [], open: [], finished: [], kept: [], answer: [], hot: [] };
    const hot = new Set(this.search.path((this.looked ?? this.selected)?.id).map((node) => node.id));
    const heads = [];
    for (const column of this.columns) {
      const before = this.columns[this.columns.indexOf(column) - 1] ?? column;
      if (column.left + column.width < x0 || before.left > x1) continue;
      const now = column.numbers.has(this.round);
      if (column.name) {
        const head = el("span", { class: now ? "head now" : "head" }, column.name);
        head.style.left = `${column.left}px`;
        head.style.width = `${column.width}px`;
        heads.push(head);
      }
      const first = Math.max(0, Math.floor(y0 / this.row));
      const end = Math.min(column.nodes.length, Math.ceil(y1 / this.row));
      const far = column.nodes.filter((node) => hot.has(node.id) || this.search.chosen.has(node.id));
      for (const node of [...column.nodes.slice(first, end), ...far]) {
        if (node.round > this.round) continue;
        if (node.row >= first && node.row < end) wanted.add(node);
        const parent = this.search.nodes.get(node.parent);
        if (!parent) continue;
        const line = this.line(this.place(parent), this.place(node));
        parts[this.search.state(node)].push(line);
        if (hot.has(node.id) && !this.search.chosen.has(node.id)) parts.hot.push(line);
      }
    }
    this.heads.replaceChildren(...heads);
    if (this.selected && this.selected.round <= this.round) wanted.add(this.selected);
    const ids = new Set([...wanted].map((node) => node.id));
    for (const [id, item] of this.shown)
      if (!ids.has(id)) {
        item.remove();
        this.shown.delete(id);
      }
    for (const node of wanted) this.item(node, hot.has(node.id));
    for (const [state, lines] of Object.entries(parts)) this.edges[state].setAttribute("d", lines.join(""));
  }

  line(from, to) {
    const half = (to.left - from.right) / 2;
    const [a, b] = [from.right, to.left];
    return `M${a} ${from.middle}C${a + half} ${from.middle} ${b - half} ${to.middle} ${b} ${to.middle}`;
  }

  item(node, hot) {
    let item = this.shown.get(node.id);
    const state = this.search.state(node);
    if (!item) {
      const { left, top } = this.place(node);
      const text = el("span", { class: "row-text", dir: "auto" });
      text.append(node.depth === 0 ? "Prompt" : this.heat.chunk(node));
      item = el("div", { role: "treeitem", id: `node-${node.id}`, "data-id": node.id }, el("span", { class: "mark" }), text);
      if (node.again) item.append(el("span", { class: "row-score" }, "again"));
      else if (Number.isFinite(node.score)) item.append(el("span", { class: "row-score" }, number(node.score, 1, true)));
      item.style.left = `${left}px`;
      item.style.top = `${top + 2}px`;
      item.style.width = `${this.columns[node.depth].width}px`;
      this.shown.set(node.id, item);
      this.space.append(item);
    }
    const selected = node === this.selected;
    item.className = `row ${state}${node.depth === 0 ? " root" : ""}${hot && state !== "answer" ? " hot" : ""}`;
    const score = Number.isFinite(node.score) ? `score ${number(node.score)}` : node.again ? "proposed again" : "no score";
    set(item, {
      "aria-level": node.depth + 1,
      "aria-posinset": node.row + 1,
      "aria-setsize": this.search.columns[node.depth].length,
      "aria-selected": String(selected),
      "aria-expanded": node.children.length ? String(node.children[0].round <= this.round) : null,
      "aria-label": node.depth === 0 ? "Prompt" : `${inline(node.text).trim()}, ${score}, ${STATES[state].name.toLowerCase()}, round ${node.round}`,
    });
  }

  /** Mark the candidate that the keyboard is on. */
  select(node, { reveal = true } = {}) {
    this.selected = node;
    this.element.setAttribute("aria-activedescendant", `node-${node.id}`);
    if (reveal) this.reveal(node);
    this.render();
  }

  look(node) {
    this.looked = node;
    this.draw();
  }

  reveal(node) {
    if (!this.columns) return;
    const { left, top, right } = this.place(node);
    const { scrollLeft, scrollTop, clientWidth, clientHeight } = this.element;
    const before = this.columns[node.depth - 1];
    let x = scrollLeft;
    if (right + this.gap > scrollLeft + clientWidth) x = right + this.gap + Math.min(180, clientWidth / 4) - clientWidth;
    if (left - this.gap < x) x = Math.max(0, (before ? Math.max(before.left, left - Math.min(clientWidth / 3, clientWidth - (right - left) - 2 * EDGE)) : left) - EDGE);
    let y = scrollTop;
    if (top < scrollTop) y = top;
    if (top + this.row + HEAD > scrollTop + clientHeight) y = top + this.row + HEAD + EDGE - clientHeight;
    if (x !== scrollLeft || y !== scrollTop) this.element.scrollTo(x, y);
  }

  key(event) {
    const { selected, search } = this;
    if (!selected || event.ctrlKey || event.metaKey || event.altKey) return;
    const column = search.columns[selected.depth].filter((node) => node.round <= this.round);
    const row = column.indexOf(selected);
    const at = (place) => column[Math.max(0, Math.min(column.length - 1, place))];
    const children = selected.children.filter((node) => node.round <= this.round);
    const best = children.find((node) => search.chosen.has(node.id)) ?? children.sort((a, b) => a.row - b.row)[0];
    const moves = {
      ArrowUp: () => at(row - 1),
      ArrowDown: () => at(row + 1),
      ArrowLeft: () => search.nodes.get(selected.parent),
      ArrowRight: () => best,
      PageUp: () => at(row - 10),
      PageDown: () => at(row + 10),
      Home: () => at(0),
      End: () => at(column.length - 1),
    };
    if (!moves[event.key]) return;
    event.preventDefault();
    event.stopPropagation();
    const node = moves[event.key]();
    if (node) this.on.choose(node);
  }
}
