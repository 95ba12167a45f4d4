// The page of traces.

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
