// The page of a server: a prompt, strategies side by side, and their trees while they grow.

const MOST_STRATEGIES = 4;

/** Something that went wrong, told to whoever looks. */
class Told extends Error {}

class Playground {
  constructor() {
    this.key = ""; // in memory alone
    this.blank = JSON.parse(document.getElementById("blank").textContent); // the page of a trace
    this.forms = [];
    this.runs = [];
    this.prompt = el("textarea", { rows: 4, required: true, "aria-label": "Prompt", placeholder: "Ask something, or begin a text", spellcheck: "false" });
    this.system = el("textarea", { rows: 2, "aria-label": "System message", placeholder: "System message, if you want one", spellcheck: "false" });
    this.models = el("div");
    this.strategies = el("div", { class: "strategies" });
    this.sampling = el("div", { class: "strategies" });
    this.config = el("pre", { class: "yaml", tabindex: "0", role: "group", "aria-label": "Config" });
    this.start = el("button", { type: "submit", class: "main" }, "Search");
    this.stop = el("button", { type: "button", disabled: true, onclick: () => this.halt() }, "Stop");
    this.save = el("button", { type: "button", disabled: true, onclick: () => this.download() }, "Save as a page");
    this.add = el("button", { type: "button", class: "plain", onclick: () => this.compare() }, "+ Compare with another strategy");
    this.copy = el("button", { type: "button", class: "plain", onclick: () => this.copied() }, "Copy");
    this.keyField = el("input", { type: "password", autocomplete: "off", "aria-label": "Key of the server" });
    this.keys = el("form", { class: "keys", hidden: true, onsubmit: (event) => { event.preventDefault(); this.key = this.keyField.value.trim(); this.load(); } },
      el("label", {}, "This server asks for a key. It stays in this page, and is forgotten with it.", this.keyField),
      el("button", { type: "submit" }, "Use it"));
    this.notice = el("p", { class: "notice", role: "alert" });
    this.status = el("p", { class: "unseen", role: "status" });
    this.form = el("form", { class: "setup-form", hidden: true, onsubmit: (event) => { event.preventDefault(); this.run(); } },
      this.models, this.system, this.prompt,
      el("div", { class: "line" }, this.start, this.stop, this.save),
      this.strategies, this.add,
      el("details", { open: true }, el("summary", {}, "Sampling"), this.sampling),
      el("details", {}, el("summary", {}, "Config, to copy"), this.copy, this.config));
    this.cards = el("section", { class: "cards", "aria-label": "Answers" });
    this.results = el("div", { class: "results" }, this.cards,
      el("p", { class: "empty quiet" }, "The answer appears here while it is written, and below it the tree of everything that the search considered."));
    this.prompt.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) this.form.requestSubmit();
    });
    document.body.replaceChildren(
      el("header", { class: "top" }, el("p", { class: "brand" }, el("b", {}, "w2s"), " try a search"), themes()),
      el("main", { class: "playground" }, el("section", { class: "left", "aria-label": "Search" }, el("h1", { class: "unseen" }, "Try a search"), this.keys, this.notice, this.status, this.form), this.results));
    this.load();
  }

  async ask(path, body, signal) {
    const headers = this.key ? { authorization: `Bearer ${this.key}` } : {};
    if (body) headers["content-type"] = "application/json";
    let response;
    try {
      response = await fetch(path, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body), signal, cache: "no-store" });
    } catch (error) {
      if (signal?.aborted) throw error;
      throw new Told("The server does not answer. Is it still running?");
    }
    if (response.ok) return response;
    const told = await response.json().catch(() => null);
    throw new Told(told?.error?.message ?? `The server answered with status ${response.status}.`);
  }

  async load() {
    this.notice.textContent = "";
    if (!this.key && document.documentElement.dataset.keys === "yes") {
      this.keys.hidden = false;
      this.keyField.focus();
      return;
    }
    try {
      const { models } = await (await this.ask("v1/w2s/models")).json();
      this.keys.hidden = true;
      this.form.hidden = false;
      this.known = models;
      this.choose(models[0].name);
      this.prompt.focus();
    } catch (error) {
      this.notice.textContent = error.message;
      if (!this.keys.hidden) this.keyField.focus();
    }
  }

  /** Set everything up for a model. */
  choose(name) {
    this.model = this.known.find((model) => model.name === name);
    const { generation, kinds, strategy } = this.model;
    this.kind = kinds.includes(this.kind) ? this.kind : kinds[0];
    this.generation = { temperature: generation.temperature, max_tokens: generation.max_tokens, seed: generation.seed ?? 0 };
    const lists = [];
    if (this.known.length > 1)
      lists.push(el("label", { class: "field" }, el("span", {}, "model"), options(this.known.map((model) => model.name), name, (other) => this.choose(other))));
    if (kinds.length > 1)
      lists.push(el("label", { class: "field" }, el("span", {}, "prompt is"), options(kinds, this.kind, (kind) => { this.kind = kind; this.shape(); },
        (kind) => ({ chat: "a question (chat)", completion: "the beginning of a text" })[kind])));
    this.models.replaceChildren(...lists);
    const change = (field) => (value) => {
      if (value !== null) this.generation[field] = value;
      this.changed();
    };
    this.sampling.replaceChildren(
      slider("temperature", this.generation.temperature, { type: "number", minimum: 0, description: "0 always takes the likeliest token." }, change("temperature")),
      slider("max_tokens", this.generation.max_tokens, { type: "integer", minimum: 1, description: "The answer ends after so many tokens." }, change("max_tokens")),
      slider("seed", this.generation.seed, { type: "integer", minimum: 0, description: "The same seed gives the same answer." }, change("seed")));
    this.forms = [];
    this.strategies.replaceChildren();
    this.put(strategy);
    this.shape();
  }

  shape() {
    this.system.hidden = this.kind !== "chat";
    this.changed();
  }

  put(strategy) {
    const made = new StrategyForm(this.model, strategy, {
      change: () => this.changed(),
      remove: (form) => {
        this.forms = this.forms.filter((other) => other !== form);
        form.element.remove();
        this.changed();
        this.add.focus();
      },
    });
    this.forms.push(made);
    this.strategies.append(made.element);
    return made;
  }

  compare() {
    const taken = new Set(this.forms.map((form) => form.strategy.type));
    const all = Object.values({ ...this.model.strategies, ...this.model.types });
    const made = this.put(all.find((one) => !taken.has(one.type)) ?? all[0]);
    this.changed();
    made.element.querySelector("select").focus();
  }

  /** Show the config that the fields stand for. */
  changed() {
    this.add.hidden = this.forms.length >= MOST_STRATEGIES;
    this.strategies.classList.toggle("one", this.forms.length === 1);
    const base = this.model.config ?? {};
    const whole = { ...base, strategy: this.forms[0].strategy, generation: { ...base.generation, ...this.generation } };
    this.config.textContent = yaml(whole);
  }

  async copied() {
    try {
      await navigator.clipboard.writeText(this.config.textContent);
      this.copy.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(this.config);
      this.copy.textContent = "Selected: press Ctrl+C";
    }
    setTimeout(() => (this.copy.textContent = "Copy"), 2000);
  }

  body(strategy) {
    const text = this.prompt.value;
    const system = this.system.value.trim() ? [{ role: "system", content: this.system.value }] : [];
    const prompt = this.kind === "chat" ? { messages: [...system, { role: "user", content: text }] } : { prompt: text };
    return { model: this.model.name, ...prompt, n: 1, stream: true, ...this.generation, w2s: { strategy, trace: true } };
  }

  /** Search with every strategy at once. */
  async run() {
    this.halt();
    this.notice.textContent = "";
    const abort = (this.abort = new AbortController());
    set(this.start, { disabled: true });
    set(this.stop, { disabled: false });
    set(this.save, { disabled: true });
    const heat = new Heat([]);
    this.explorer = new Explorer(heat, { round: (search, round) => this.runs.find((run) => run.search === search)?.card.at(round) });
    this.runs = this.forms.map((form) => this.begin(structuredClone(form.strategy), heat));
    this.cards.className = this.runs.length > 1 ? "cards several" : "cards";
    this.cards.replaceChildren(...this.runs.map((run) => run.place));
    this.explorer.element.hidden = true;
    this.results.replaceChildren(this.cards, this.explorer.element);
    this.shown = this.runs[0];
    this.status.textContent = "Searching";
    if (this.results.getBoundingClientRect().top > innerHeight * 0.7) this.results.scrollIntoView();
    await Promise.all(this.runs.map((run) => this.follow(run, abort)));
    if (this.abort !== abort) return;
    this.abort = null;
    set(this.start, { disabled: false });
    set(this.stop, { disabled: true });
    const done = this.runs.filter((run) => run.search?.answer);
    this.status.textContent = `${plural(done.length, "answer is", "answers are")} complete`;
    set(this.save, { disabled: !done.length });
    if (done.length > 1) this.results.append(el("section", { class: "below" }, el("h2", {}, "What they cost"), costs(done.map((run) => run.search))));
  }

  begin(strategy, heat) {
    const waiting = el("p", { class: "quiet", role: "status" }, "waiting for the model");
    const place = el("div", { class: "place" }, el("article", { class: "card" }, el("header", {}, el("h2", {}, titled(strategy.type))), waiting));
    return { strategy, heat, place };
  }

  async follow(run, abort) {
    try {
      const body = this.body(run.strategy);
      const response = await this.ask(body.messages ? "v1/chat/completions" : "v1/completions", body, abort.signal);
      for await (const told of events(response)) {
        if (abort.signal.aborted) return;
        if (told.error) throw new Told(told.error.message);
        for (const choice of told.choices) this.take(run, choice, body);
      }
      if (!run.search?.answer) throw new Told("The connection ended before the answer did.");
    } catch (error) {
      const said = abort.signal.aborted ? "Stopped." : error instanceof Told ? error.message : `This page failed: ${error}`;
      const card = run.place.querySelector(".card");
      card.querySelector("[role=status]")?.remove();
      card.append(el("p", { class: "notice", role: "alert" }, said));
      if (!abort.signal.aborted && !(error instanceof Told)) console.error(error);
    }
  }

  take(run, choice, { messages, prompt }) {
    if (!run.search) {
      const root = { id: 0, round: 0, text: "", tokens: 0 };
      run.search = new Search({ prompt: messages ?? prompt, strategy: run.strategy, nodes: [root], rounds: [] });
      run.card = new Card(run.search, run.heat, this.runs.length > 1 ? () => this.show(run) : null);
      run.place.replaceChildren(run.card.element);
      if (run === this.shown) this.show(run);
    }
    run.heat.known ||= Object.keys(choice.w2s?.scored?.tokens ?? {}).length > 0;
    const search = run.search.take(choice);
    if (search !== run.search) {
      run.trace = choice.w2s.trace;
      Object.assign(run.search, search);
      run.heat.most = new Heat(this.runs.map((one) => one.search).filter(Boolean)).most;
    }
    run.redraw ??= lazily(() => this.redraw(run));
    run.redraw();
  }

  redraw(run) {
    const { search, card } = run;
    card.fill();
    card.at(search.last);
    card.element.classList.toggle("live", !search.answer);
    const searches = this.runs.map((one) => one.search).filter(Boolean);
    card.overview?.show(search, Math.max(1, search.last), range(searches));
    if (run === this.shown && search.last) this.explorer.grown();
  }

  /** Show the tree of one of the searches. */
  show(run) {
    this.shown = run;
    for (const one of this.runs) one.card?.choose(one === run);
    this.explorer.element.hidden = false;
    this.explorer.show(run.search);
  }

  halt() {
    this.abort?.abort();
  }

  download() {
    const [blank, title, data] = this.blank;
    const traces = this.runs.map((run) => run.trace).filter(Boolean);
    const escaped = el("i", {}, `Trace: ${this.prompt.value.slice(0, 80)}`).innerHTML;
    const page = blank
      .replace(title, () => escaped)
      .replace(data, () => JSON.stringify(traces).replaceAll("<", "\\u003c"));
    const address = URL.createObjectURL(new Blob([page], { type: "text/html" }));
    el("a", { href: address, download: "trace.html" }).click();
    setTimeout(() => URL.revokeObjectURL(address), 10_000);
  }
}

/** The events of a response, as they come. */
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines)
      if (line.startsWith("data: ") && line !== "data: [DONE]") yield JSON.parse(line.slice(6));
  }
}

new Playground();
