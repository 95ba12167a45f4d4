// Steps through the rounds of a search.

const ICONS = {
  first: "M4 4v12M16 4L7 10l9 6z",
  back: "M13 4l-8 6 8 6z",
  play: "M6 3.5l10 6.5-10 6.5z",
  pause: "M6 4v12M14 4v12",
  on: "M7 4l8 6-8 6z",
  last: "M16 4v12M4 4l9 6-9 6z",
};

const icon = (name) => svg("svg", { viewBox: "0 0 20 20", class: "icon", "aria-hidden": "true" }, svg("path", { d: ICONS[name] }));

class Steps {
  /** @param go Is told the round to show. */
  constructor(go) {
    this.go = go;
    const button = (name, label, act) => el("button", { type: "button", "aria-label": label, title: label, onclick: act }, icon(name));
    this.slider = el("input", { type: "range", min: 1, "aria-label": "Round" });
    this.slider.addEventListener("input", () => this.move(Number(this.slider.value)));
    this.player = button("play", "Play", () => (this.timer ? this.stop() : this.play()));
    this.says = el("output", { class: "says", "aria-live": "polite" });
    this.element = el("div", { class: "steps", role: "group", "aria-label": "Rounds" },
      el("div", { class: "buttons" },
        button("first", "First round", () => this.move(1)),
        button("back", "Round before", () => this.move(this.round - 1)),
        this.player,
        button("on", "Next round", () => this.move(this.round + 1)),
        button("last", "Last round", () => this.move(this.last))),
      this.slider, this.says);
  }

  /** Set to a search without telling anyone. */
  show(search, round) {
    this.search = search;
    this.last = Math.max(1, search.last);
    this.round = round;
    const nodes = search.candidates(round);
    const kept = nodes.filter((node) => ["kept", "answer"].includes(search.state(node))).length;
    this.slider.max = this.last;
    this.slider.value = round;
    this.slider.setAttribute("aria-valuetext", `round ${round} of ${this.last}`);
    const seconds = search.rounds[round - 1]?.seconds;
    this.says.replaceChildren(
      el("b", {}, `Round ${round} of ${this.last}`),
      ` ${plural(nodes.length, "candidate")}, ${count(kept)} kept`,
      seconds === undefined ? "" : ` after ${number(seconds, 1)} s`);
    for (const one of this.element.querySelectorAll("button")) one.disabled = search.last < 2;
    this.slider.disabled = search.last < 2;
  }

  /** Go to a round because someone asked for it. */
  move(round) {
    this.stop();
    this.to(round);
  }

  to(round) {
    this.go(Math.max(1, Math.min(this.last, round)));
  }

  play() {
    if (this.round >= this.last) this.to(1);
    const pace = Math.max(120, Math.min(900, 15000 / this.last));
    this.timer = setInterval(() => {
      if (this.round >= this.last) this.stop();
      else this.to(this.round + 1);
    }, pace);
    this.face("pause", "Pause");
  }

  stop() {
    clearInterval(this.timer);
    this.timer = null;
    this.face("play", "Play");
  }

  face(name, label) {
    this.player.replaceChildren(icon(name));
    set(this.player, { "aria-label": label, title: label });
  }
}
