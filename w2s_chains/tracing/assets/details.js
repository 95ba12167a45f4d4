// What a candidate is, and what an answer cost.

const REASONS = {
  eos: "the model ended its answer",
  stop: "a stop string came",
  length: "the limit of tokens was reached",
};

const LONG = 1600; // characters of a text that are shown at once

/** Everything about one candidate. */
function details(search, node, heat) {
  const state = search.state(node);
  const root = node.depth === 0;
  const made = document.createDocumentFragment();
  made.append(el("p", { class: `state ${state}` }, el("span", { class: "mark" }), root ? "The prompt: every candidate begins here" : STATES[state].says));
  if (!root) {
    const rivals = search.candidates(node.round);
    const parent = search.nodes.get(node.parent);
    const rows = [];
    const row = (name, value, about) => rows.push(el("div", {}, el("dt", {}, name), el("dd", {}, el("b", {}, value), about ? ` ${about}` : null)));
    const rank = rivals.indexOf(node) + 1;
    if (Number.isFinite(node.score)) {
      row("Score", number(node.score), rank ? `number ${rank} of ${rivals.length} in round ${node.round}` : null);
      if (Number.isFinite(parent.score)) row("Change", number(node.score - parent.score, 2, true), "against the text before");
    } else row("Score", "–", node.again ? "the same text as another candidate" : `not scored, round ${node.round}`);
    if (Number.isFinite(node.logprob))
      row("Log p", number(node.logprob, 1), `nats, frozen model; ${number(node.logprob / Math.max(1, node.tokens), 1)} a token`);
    row("Tokens", count(node.tokens));
    if (node.finish_reason) row("Ended", node.finish_reason, REASONS[node.finish_reason] ?? "");
    made.append(el("dl", { class: "facts" }, ...rows));
  }
  const text = el("div", { class: "whole", dir: "auto", tabindex: "0", role: "group", "aria-label": "Whole text up to here" });
  text.append(el("span", { class: "quiet" }, shortPrompt(search.trace.prompt)));
  if (!root) {
    const from = node.start > LONG ? node.start - LONG / 2 : 0;
    const fill = (from) => {
      const own = el("mark", { class: "own" });
      own.append(heat.text(search, node.id, node.start));
      text.append(heat.text(search, node.parent, from), own);
    };
    if (from)
      text.append(" ", el("button", { type: "button", class: "more-text", onclick: () => {
        text.replaceChildren(text.firstChild);
        fill(0);
      } }, `… ${plural(from, "character")} before`));
    fill(from);
  }
  made.append(el("h3", {}, root ? "Prompt" : "Whole text up to here"), text);
  return made;
}

/** The end of a prompt, in one piece. */
function shortPrompt(prompt) {
  const text = typeof prompt === "string" ? prompt : prompt.at(-1)?.content ?? "";
  const shown = points(text) > 300 ? `… ${cut(text, points(text) - 300)}` : text;
  return visible(shown) + (typeof prompt === "string" ? "" : "\n\n");
}

/** A prompt as the head of the page shows it. */
function wholePrompt(prompt) {
  if (typeof prompt === "string") return [el("p", { class: "prompt", dir: "auto" }, visible(prompt))];
  return prompt.map(({ role, content }) =>
    el("p", { class: "prompt turn" }, el("span", { class: "role" }, visible(role)), el("span", { dir: "auto" }, visible(content))));
}

const COSTS = [
  ["Score", (a) => number(a.score), "The value of the answer by the scorer; higher is better. Only equal scorers can be compared."],
  ["Rows read", (a) => count(a.read_tokens), "Positions that the large model read: the main cost of a search. All candidates for one token come from one row."],
  ["Rounds", (a) => count(a.rounds), "Times that the large model was asked, each after the answer to the one before."],
  ["Seconds", (a, t) => number(t.seconds, 1), "Of the whole search on that machine, with whatever else ran on it."],
  ["KL", (a) => number(a.kl, 1), "How far answers are from the frozen model's, in nats: an upper bound for searches, an estimate for steering."],
  ["Answer tokens", (a) => count(a.completion_tokens), "The large model's tokens in the answer."],
  ["Candidate tokens", (a) => count(a.proposed_tokens), "Tokens sampled in all branches, rejected ones too."],
  ["Candidates", (a, t, s) => count(s.nodes.size - 1), "Partial answers in this tree."],
  ["Guide tokens", (a) => count(a.guide_tokens), "Positions that both small models read."],
  ["Guide FLOPs", (a) => (Number.isFinite(a.guide_flops_ratio) ? `${number(a.guide_flops_ratio * 100, 1)} %` : "–"), "Arithmetic of the guides, as a share of the large model's."],
  ["Prompt tokens", (a) => count(a.prompt_tokens), "Read once, however many candidates grow from them."],
];

/** What answers cost: a column for each search, and what the numbers mean. */
function costs(searches) {
  const head = el("tr", {}, el("td"), ...searches.map((search) => el("th", { scope: "col" }, search.title)), el("th", { scope: "col", class: "meaning" }, "What it means"));
  const rows = COSTS.map(([name, value, meaning]) =>
    el("tr", {}, el("th", { scope: "row" }, name),
      ...searches.map((search) => el("td", { class: "value" }, search.answer ? value(search.answer, search.trace, search) : "–")),
      el("td", { class: "meaning" }, meaning)));
  const made = el("table", { class: searches.length > 1 ? "costs" : "costs single" }, el("thead", {}, head), el("tbody", {}, ...rows));
  made.style.setProperty("--searches", searches.length);
  return made;
}

/** How a search was set up. */
function setup({ trace }) {
  const rows = [["model", trace.model], ...Object.entries(trace.strategy), ...Object.entries(trace.sampling), ["seed", trace.seed]];
  return el("dl", { class: "setup" }, ...rows.map(([name, value]) =>
    el("div", {}, el("dt", {}, name), el("dd", {}, visible(typeof value === "string" ? value : JSON.stringify(value))))));
}

/** The tree as a list of rounds, for those who cannot or do not want to look at it. */
function asText(search) {
  const rows = [];
  for (const round of search.rounds)
    for (const [rank, node] of search.candidates(round.number).entries())
      rows.push(el("tr", { class: search.state(node) },
        el("td", {}, rank ? "" : String(round.number)),
        el("td", { class: "value" }, number(node.score)),
        el("td", {}, STATES[search.state(node)].name),
        el("td", { dir: "auto" }, inline(node.text)),
        el("td", { class: "value" }, `${node.id}`),
        el("td", { class: "value" }, `${node.parent}`)));
  const names = ["Round", "Score", "State", "Text", "Number", "Continues"];
  return el("table", { class: "as-text" },
    el("thead", {}, el("tr", {}, ...names.map((name) => el("th", { scope: "col" }, name)))), el("tbody", {}, ...rows));
}
