// The page of traces.

/** A switch between the look of the system, light and dark. */
function themes() {
  const names = ["auto", "light", "dark"];
  return el("fieldset", { class: "themes" }, el("legend", { class: "unseen" }, "Look"),
    ...names.map((name) =>
      el("label", {}, el("input", {
        type: "radio", name: "theme", value: name, checked: name === "auto",
        onchange: () => set(document.documentElement, { "data-theme": name === "auto" ? null : name }),
      }), el("span", {}, name[0].toUpperCase() + name.slice(1)))));
}

/** An answer with its numbers. */
class Card {
  constructor(search, heat, choose) {
    this.search = search;
    this.heat = heat;
    this.answer = el("div", { class: "answer", dir: "auto", tabindex: "0", role: "group", "aria-label": "Answer" });
    const title = choose
      ? el("button", { type: "button", onclick: choose }, search.title)
      : search.title;
    this.title = el("h2", {}, title);
    const { answer, trace } = search;
    const facts = !answer ? [] : [
      ["Score", number(answer.score)],
      ["Rows read", count(answer.read_tokens)],
      ["Rounds", count(answer.rounds)],
      ["KL", answer.kl === undefined ? "–" : number(answer.kl, 1)],
      ["Seconds", number(trace.seconds, 1)],
    ];
    this.element = el("article", { class: "card" },
      el("header", {}, this.title, el("p", { class: "quiet" }, search.settings.join(" · ") || "no numbers to set")),
      this.answer,
      el("dl", { class: "numbers" }, ...facts.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value)))));
    if (choose) {
      this.overview = new Overview();
      this.element.append(this.overview.element);
      this.element.addEventListener("click", (event) => {
        if (!event.target.closest("button")) choose();
      });
    }
    this.at(search.last);
  }

  /** Show how much of the answer was certain after a round. */
  at(round) {
    const { search } = this;
    if (!search.answer) return;
    const whole = round >= search.last;
    const certain = whole ? Infinity : (search.rounds[round - 1]?.committed ?? 0);
    this.answer.replaceChildren(this.heat.text(search, search.answer.id));
    this.answer.normalize();
    const first = this.answer.firstChild;
    if (first) first.textContent = first.textContent.trimStart();
    if (!this.answer.textContent.trim()) this.answer.append(el("i", { class: "quiet" }, "an empty answer"));
    if (whole) return;
    let at = 0; // in UTF-16 units of what is shown, which is near enough to fade by
    const walker = document.createTreeWalker(this.answer, NodeFilter.SHOW_TEXT);
    for (const text of [...iterate(walker)]) {
      const keep = Math.max(0, Math.min(text.length, certain - at));
      at += text.length;
      if (keep === text.length) continue;
      const rest = text.splitText(keep);
      const faded = el("span", { class: "uncertain" });
      rest.replaceWith(faded);
      faded.append(rest);
    }
  }

  choose(chosen) {
    this.element.classList.toggle("chosen", chosen);
    this.title.querySelector("button")?.setAttribute("aria-pressed", String(chosen));
  }
}

function* iterate(walker) {
  while (walker.nextNode()) yield walker.currentNode;
}

function main() {
  const traces = JSON.parse(document.getElementById("traces").textContent);
  const searches = traces.map((trace) => new Search(trace));
  const heat = new Heat(searches);
  const several = searches.length > 1;
  const explorer = new Explorer(heat, {
    round: (search, round) => cards?.[searches.indexOf(search)].at(round),
  });
  const text = el("details", {}, el("summary", {}, "The tree as a table"));
  let cards = null;
  const choose = (place) => {
    cards.forEach((card, i) => {
      card.choose(i === place);
      card.at(searches[i].last);
    });
    explorer.show(searches[place]);
    text.open = false;
    text.querySelector("table")?.remove();
  };
  text.addEventListener("toggle", () => {
    if (text.open && !text.querySelector("table")) text.append(asText(explorer.search));
  });
  cards = searches.map((search, place) => new Card(search, heat, several ? () => choose(place) : null));
  const scores = range(searches);
  searches.forEach((search, i) => cards[i].overview?.show(search, search.last, scores));

  const numbers = el("input", { type: "checkbox", onchange: () => document.body.classList.toggle("with-numbers", numbers.checked) });
  const forgotten = searches.reduce((sum, { trace }) => sum + (trace.forgotten ?? 0), 0);
  document.body.replaceChildren(
    el("header", { class: "top" },
      el("p", { class: "brand" }, el("b", {}, "w2s"), " trace"),
      heat.known ? el("label", { class: "check" }, numbers, "Numbers at words") : el("span"),
      themes()),
    el("main", {},
      el("section", { class: "question", "aria-label": "Prompt" }, el("h1", {}, "Prompt"), ...wholePrompt(traces[0].prompt)),
      el("section", { class: several ? "cards several" : "cards", "aria-label": "Answers" }, ...cards.map((card) => card.element)),
      explorer.element,
      forgotten ? el("p", { class: "quiet" }, `${plural(forgotten, "rejected candidate")} left out, since the tree was too large.`) : null,
      el("section", { class: "below" }, el("h2", {}, several ? "What they cost" : "What it cost"), costs(searches)),
      el("section", { class: "below" },
        el("details", {}, el("summary", {}, "Settings"), ...searches.flatMap((search) => [several ? el("h3", {}, search.title) : null, setup(search)])),
        text)),
  );
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.closest("input, textarea, select, [role=tree]")) return;
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!by) return;
    event.preventDefault();
    explorer.steps.move(explorer.round + by);
  });
  choose(0);
}

main();
