// A search as a tree that may still grow.

const STATES = {
  answer: { name: "Answer", says: "On the path of the answer" },
  kept: { name: "Kept", says: "Kept: the search went on from it" },
  finished: { name: "Finished", says: "A whole answer, but not the one that was chosen" },
  rejected: { name: "Rejected", says: "Rejected: the search let go of it" },
  open: { name: "Open", says: "Not decided yet" },
};

const NAMES = { best_of_n: "Best of N", cards: "CARDS", dvts: "DVTS", mcts: "MCTS" };

class Search {
  /** Read a trace (the object that its JSON holds). */
  constructor(trace) {
    this.trace = trace;
    this.nodes = new Map();
    this.rounds = [];
    this.columns = [];
    this.committed = 0;
    this.answer = null;
    this.chosen = new Set();
    for (const node of trace.nodes) this.add(node);
    for (const round of trace.rounds) this.rounds.push(round);
    if (trace.answer) this.finish(trace.answer);
    this.arrange();
  }

  /** Add a candidate; `arrange` has to follow. */
  add(node) {
    const parent = this.nodes.get(node.parent);
    const start = parent ? parent.end : 0;
    const depth = parent ? parent.depth + 1 : 0;
    const own = { ...node, children: [], start, end: start + points(node.text), depth, row: 0 };
    this.nodes.set(node.id, own);
    if (parent) parent.children.push(own);
    (this.columns[depth] ??= []).push(own);
  }

  /** Add what the server tells of a running search, in a choice of a chunk; returns the search. */
  take({ text, delta, w2s }) {
    const said = text ?? `${delta?.reasoning_content ?? ""}${delta?.content ?? ""}`;
    this.committed += points(said);
    if (w2s?.grown) {
      const { round, candidates, ...costs } = w2s.grown;
      for (const node of candidates) this.add({ ...node, round });
      const proposed = candidates.map((node) => node.id);
      this.rounds.push({ ...costs, number: round, proposed });
    }
    if (w2s?.scored) {
      const { ids, scores, tokens = {} } = w2s.scored;
      ids.forEach((id, i) => {
        const node = this.nodes.get(id);
        if (node) node.score = scores[i];
        if (!node || !tokens[id]) return;
        const { begin, texts, ratios } = tokens[id];
        node.ratios_from = begin;
        node.ratios = texts.map((text, at) => ({ text, ratio: ratios[at] }));
      });
    }
    if (this.rounds.length) this.rounds.at(-1).committed = this.committed;
    this.arrange();
    return w2s?.trace ? new Search(w2s.trace) : this;
  }

  finish(answer) {
    this.answer = answer;
    this.chosen = new Set(this.path(answer.id).map((node) => node.id));
  }

  /** Rank every column, best first. */
  arrange() {
    const worth = (node) => node.score ?? -Infinity;
    for (const column of this.columns) {
      column.sort((a, b) => worth(b) - worth(a) || a.id - b.id);
      const seen = new Set();
      column.forEach((node, row) => {
        const same = `${node.parent} ${node.text}`;
        node.row = row;
        node.again = seen.has(same) && !Number.isFinite(node.score);
        seen.add(same);
      });
    }
  }

  get last() {
    return this.rounds.length;
  }

  state(node) {
    if (this.chosen.has(node.id)) return "answer";
    if (node.children.length || !node.round) return "kept";
    if (node.finish_reason) return "finished";
    return this.answer || node.round < this.last ? "rejected" : "open";
  }

  path(id) {
    const found = [];
    for (let node = this.nodes.get(id); node; node = this.nodes.get(node.parent)) found.push(node);
    return found.reverse();
  }

  text(id) {
    return this.path(id)
      .map((node) => node.text)
      .join("");
  }

  /** The guides' tokens of a whole text, each with the place where it begins. */
  tokens(id) {
    const tokens = [];
    for (const node of this.path(id)) {
      if (!node.ratios) continue;
      let start = node.ratios_from ?? node.start;
      while (tokens.length && tokens.at(-1).start >= start) tokens.pop();
      for (const { text, ratio } of node.ratios) {
        tokens.push({ start, text, ratio });
        start += points(text);
      }
    }
    return tokens;
  }

  /** Candidates of a round, best first. */
  candidates(round) {
    const ids = this.rounds[round - 1]?.proposed ?? [];
    const nodes = ids.map((id) => this.nodes.get(id)).filter(Boolean);
    return nodes.sort((a, b) => (b.score ?? -Infinity) - (a.score ?? -Infinity) || a.id - b.id);
  }

  /** The candidate of a round that matters most: on the answer's path, else the best. */
  leader(round) {
    const nodes = this.candidates(round);
    return nodes.find((node) => this.chosen.has(node.id)) ?? nodes[0] ?? this.nodes.get(0);
  }

  get scored() {
    return [...this.nodes.values()].filter((node) => Number.isFinite(node.score));
  }

  get title() {
    if (this.trace.name) return this.trace.name;
    const type = String(this.trace.strategy?.type ?? "search");
    const words = type.replaceAll("_", " ");
    return NAMES[type] ?? words[0].toUpperCase() + words.slice(1);
  }

  /** The numbers of a strategy that say how much it searches. */
  get settings() {
    return Object.entries(this.trace.strategy ?? {})
      .filter(([name, value]) => name !== "type" && typeof value === "number" && value !== 0)
      .map(([name, value]) => `${name.replaceAll("_", " ")} ${value}`);
  }
}
