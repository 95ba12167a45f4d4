// One search to explore: its rounds, all candidates at a glance, the tree, and one candidate.

class Explorer {
  constructor(heat, on = {}) {
    this.heat = heat;
    this.on = on;
    const hear = { choose: (node) => this.pick(node), look: (node) => this.look(node) };
    this.steps = new Steps((round) => this.step(round));
    this.overview = new Overview(hear);
    this.tree = new TreeView(heat, hear);
    this.details = el("aside", { class: "details", "aria-label": "Candidate" });
    this.legend = el("div");
    const states = ["answer", "kept", "finished", "rejected", "open"];
    this.element = el("section", { class: "explorer", "aria-label": "Search" },
      this.steps.element,
      this.overview.element,
      el("div", { class: "legend" },
        el("ul", { class: "states", "aria-label": "States of candidates" },
          ...states.map((state) => el("li", { class: state }, el("span", { class: "mark" }), STATES[state].name))),
        this.legend),
      el("div", { class: "stage" }, this.tree.element, this.details),
      el("p", { class: "hint" }, el("kbd", {}, "←"), el("kbd", {}, "→"), " step through the rounds; in the tree, arrows go from candidate to candidate"));
  }

  /** Show a search at its end, or at a round. */
  show(search, round = Math.max(1, search.last)) {
    this.steps.stop();
    this.search = search;
    this.follows = true;
    this.at(round);
    const answer = search.answer && round >= search.last && search.nodes.get(search.answer.id);
    this.choose(answer || search.leader(round), { reveal: false });
  }

  at(round) {
    this.round = round;
    this.steps.show(this.search, round);
    this.overview.show(this.search, round);
    this.tree.show(this.search, round);
    this.legend.replaceChildren(this.heat.known ? this.heat.legend() : el("span", { class: "quiet" }, "The guides gave no ratios of single words"));
    this.element.classList.toggle("over", this.search.answer !== null);
    this.on.round?.(this.search, round);
  }

  /** Draw a running search anew; go on with it, unless someone looks at a candidate. */
  grown() {
    const { search } = this;
    const last = Math.max(1, search.last);
    const now = (node) => node && search.nodes.get(node.id); // a whole trace has nodes of its own
    const looked = now(this.looked);
    this.tree.grown();
    this.at(this.follows ? last : this.round);
    this.choose((this.follows ? null : now(this.selected)) ?? search.leader(last), { reveal: this.follows });
    this.looked = null;
    if (looked) this.look(looked);
  }

  step(round) {
    this.follows = round >= this.search.last;
    this.at(round);
    this.choose(this.search.leader(round));
  }

  pick(node) {
    this.follows = false;
    this.choose(node);
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
    if (!node) return;
    this.details.replaceChildren(details(this.search, node, this.heat));
    const whole = this.details.querySelector(".whole");
    whole.scrollTop = whole.scrollHeight;
  }
}
