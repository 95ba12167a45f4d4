// An answer with its numbers, and what is around all searches.

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

// Text that later rounds may still change; browsers that cannot highlight show all text alike.
const uncertain = globalThis.Highlight ? new Highlight() : new Set();
CSS.highlights?.set("uncertain", uncertain);

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
    this.numbers = el("dl", { class: "numbers" });
    this.element = el("article", { class: "card" },
      el("header", {}, this.title, el("p", { class: "quiet" }, search.settings.join(" · "))),
      this.answer, this.numbers);
    if (choose) {
      this.overview = new Overview();
      this.element.append(this.overview.element);
      this.element.addEventListener("click", (event) => {
        if (!event.target.closest("button")) choose();
      });
    }
    this.faded = [];
    this.fill();
  }

  /** Show what is known now: the answer, or the best candidate so far. */
  fill() {
    const { search, answer } = this;
    const { trace } = search;
    const found = search.answer;
    const facts = !found ? [] : [
      ["Score", number(found.score)],
      ["Rows read", count(found.read_tokens)],
      ["Rounds", count(found.rounds)],
      ["KL", number(found.kl, 1)],
      ["Seconds", number(trace.seconds, 1)],
    ];
    this.numbers.replaceChildren(...facts.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))));
    this.numbers.hidden = !found;
    const id = found ? found.id : search.leader(search.last).id;
    answer.replaceChildren(this.heat.text(search, id));
    const walker = document.createTreeWalker(answer, NodeFilter.SHOW_TEXT);
    this.texts = [];
    while (walker.nextNode()) this.texts.push(walker.currentNode);
    this.skipped = 0; // white space at the beginning, which is not shown
    for (const text of this.texts) {
      const rest = text.data.trimStart();
      this.skipped += text.length - rest.length;
      text.data = rest;
      if (rest) break;
    }
    if (!answer.textContent) answer.append(el("i", { class: "quiet" }, found ? "an empty answer" : "no text yet"));
  }

  /** Show how much of the answer was certain after a round. */
  at(round) {
    const { search } = this;
    const whole = search.answer && round >= search.last;
    const certain = whole ? Infinity : (search.rounds[round - 1]?.committed ?? 0);
    let at = this.skipped;
    for (const range of this.faded.splice(0)) uncertain.delete(range);
    for (const text of this.texts) {
      const keep = Math.max(0, Math.min(text.length, certain - at));
      at += text.length;
      if (text.parentElement.matches(".word")) text.parentElement.classList.toggle("faint", keep < text.length);
      if (keep === text.length) continue;
      const range = new StaticRange({ startContainer: text, startOffset: keep, endContainer: text, endOffset: text.length });
      this.faded.push(range);
      uncertain.add(range);
    }
  }

  choose(chosen) {
    this.element.classList.toggle("chosen", chosen);
    this.title.querySelector("button")?.setAttribute("aria-pressed", String(chosen));
  }
}

