// One search to explore: its rounds, all candidates at a glance, the tree, and one candidate.

class Explorer {
  constructor(heat, on = {}) {
    this.heat = heat;
    this.on = on;
    const hear = { choose: (node) => this.choose(node), look: (node) => this.look(node) };
    this.steps = new Steps((round) => this.step(round));
    this.overview = new Overview(hear);
    this.tree = new TreeView(heat, hear);
    this.details = el("aside", { class: "details", "aria-label": "Candidate" });
    const states = ["answer", "kept", "finished", "rejected"];
    this.element = el("section", { class: "explorer", "aria-label": "Search" },
      this.steps.element,
      this.overview.element,
      el("div", { class: "legend" },
        el("ul", { class: "states", "aria-label": "States of candidates" },
          ...states.map((state) => el("li", { class: state }, el("span", { class: "mark" }), STATES[state].name))),
        heat.known ? heat.legend() : el("span", { class: "quiet" }, "The guides gave no ratios of single words")),
      el("div", { class: "stage" }, this.tree.element, this.details),
      el("p", { class: "hint" }, el("kbd", {}, "←"), el("kbd", {}, "→"), " step through the rounds; in the tree, arrows go from candidate to candidate"));
  }

  /** Show a search at its end, or at a round. */
  show(search, round = Math.max(1, search.last)) {
    this.steps.stop();
    this.search = search;
    this.at(round);
    const answer = search.answer && round >= search.last && search.nodes.get(search.answer.id);
    this.choose(answer || search.leader(round), { reveal: false });
  }

  at(round) {
    this.round = round;
    this.steps.show(this.search, round);
    this.overview.show(this.search, round);
    this.tree.show(this.search, round);
    this.on.round?.(this.search, round);
  }

  step(round) {
    this.at(round);
    this.choose(this.search.leader(round));
  }

  choose(node, options) {
    this.selected = node;
    this.overview.select(node);
    this.tree.select(node, options);
    this.tell(node);
  }

  look(node) {
    if (node === this.looked) return;
    this.looked = node;
    this.overview.look(node);
    this.tree.look(node);
    this.tell(node ?? this.selected);
  }

  tell(node) {
    if (node) this.details.replaceChildren(details(this.search, node, this.heat));
  }
}
