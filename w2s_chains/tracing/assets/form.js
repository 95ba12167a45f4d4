// Fields to set up a search, and the config that they stand for.

const LETTERS = { width: "W", successors: "K", chunk_tokens: "L" };
const MOST = { width: 16, successors: 16, chunk_tokens: 64, n: 64, steering: 3, temperature: 2 };

/** A slider with a number beside it, for values beyond the slider's end. */
function slider(name, value, schema, change) {
  const kinds = [schema, ...(schema.anyOf ?? [])];
  const own = kinds.find((kind) => ["integer", "number"].includes(kind.type)) ?? {};
  const whole = own.type === "integer";
  const low = Math.max(own.minimum ?? 0, Math.min(0, value ?? 0));
  const wanted = MOST[name] ?? Math.max(whole ? 16 : 2, 4 * Math.abs(value ?? 0));
  const high = Math.max(Math.min(own.maximum ?? Infinity, wanted), value ?? low);
  const label = `${name.replaceAll("_", " ")}${LETTERS[name] ? `, ${LETTERS[name]}` : ""}`;
  const range = el("input", { type: "range", min: low, max: high, step: whole ? 1 : 0.05, value: value ?? low, "aria-label": label });
  const exact = el("input", { type: "number", min: low, max: own.maximum, step: whole ? 1 : "any", value: value ?? "", placeholder: value === null ? "none" : null, "aria-label": `${label}, exactly` });
  const tell = (from, to) => {
    to.value = from.value;
    const empty = from.value === "";
    if (empty && !kinds.some((kind) => kind.type === "null")) return;
    change(empty ? null : Number(from.value));
  };
  range.addEventListener("input", () => tell(range, exact));
  exact.addEventListener("input", () => tell(exact, range));
  return el("div", { class: "field", title: schema.description }, el("span", { "aria-hidden": "true" }, label), range, exact);
}

/** A field of a strategy, by its schema; null if a page has no good way to set it. */
function field(name, value, schema, change) {
  const kinds = [schema, ...(schema.anyOf ?? [])];
  const label = name.replaceAll("_", " ");
  if (kinds.some((kind) => ["integer", "number"].includes(kind.type))) return slider(name, value, schema, change);
  if (kinds.some((kind) => kind.type === "boolean"))
    return el("label", { class: "check", title: schema.description },
      el("input", { type: "checkbox", checked: value === true, onchange: (event) => change(event.target.checked) }), label);
  const choices = kinds.find((kind) => kind.enum)?.enum;
  if (!choices) return null;
  return el("label", { class: "field", title: schema.description }, el("span", {}, label), options(choices, value, change));
}

/** A list to choose from. */
function options(values, chosen, change, names = (value) => value) {
  const list = el("select", {}, ...values.map((value) => el("option", { value, selected: value === chosen }, names(value))));
  list.addEventListener("change", () => change(list.value));
  return list;
}

/** A strategy to choose and to set up. */
class StrategyForm {
  constructor(model, strategy, on) {
    this.model = model;
    this.strategy = { ...strategy };
    this.on = on;
    this.element = el("fieldset", { class: "strategy" });
    this.draw();
  }

  /** Strategies by what the list calls them. */
  get known() {
    const { strategy, strategies, types } = this.model;
    return { "as in the config": strategy, ...strategies, ...types };
  }

  draw() {
    const { known, strategy } = this;
    const same = (other) => JSON.stringify(other) === JSON.stringify(strategy);
    const now = Object.keys(known).find((name) => same(known[name])) ?? strategy.type;
    const list = options(Object.keys(known), now, (name) => {
      this.strategy = { ...known[name] };
      this.draw();
      this.element.querySelector("select").focus();
      this.on.change();
    }, (name) => (name === "as in the config" ? `${titled(known[name].type)}, as in the config` : titled(name)));
    set(list, { "aria-label": "Strategy" });
    const schemas = this.model.fields[strategy.type] ?? {};
    const main = [];
    const more = [];
    for (const [name, schema] of Object.entries(schemas)) {
      if (name === "type") continue;
      const made = field(name, strategy[name], schema, (value) => {
        this.strategy[name] = value;
        this.on.change();
      });
      if (made) (made.matches("div.field") && main.length < 4 ? main : more).push(made);
    }
    this.element.replaceChildren(
      el("legend", { class: "unseen" }, "Strategy"),
      el("div", { class: "line" }, list,
        el("button", { type: "button", class: "plain", "aria-label": "Remove this strategy", title: "Remove", onclick: () => this.on.remove(this) }, "×")),
      ...main,
      ...(more.length ? [el("details", {}, el("summary", {}, "More"), ...more)] : []));
  }
}

/** A name as a title. */
const titled = (type) => new Search({ strategy: { type }, nodes: [], rounds: [] }).title;

/** A value as YAML, which is JSON wherever a word would not be plain. */
function yaml(value, indent = "") {
  if (value === null || typeof value !== "object") {
    const plain = typeof value === "string" && /^[A-Za-z][\w./-]*$/.test(value) && !/^(true|false|null|yes|no|on|off|y|n)$/i.test(value);
    return plain ? value : JSON.stringify(value);
  }
  if (Array.isArray(value)) return `[${value.map((one) => (one && typeof one === "object" ? JSON.stringify(one) : yaml(one))).join(", ")}]`;
  const lines = Object.entries(value).map(([name, one]) => {
    const nested = one && typeof one === "object" && !Array.isArray(one) && Object.keys(one).length;
    return `${indent}${yaml(name)}:${nested ? `\n${yaml(one, `${indent}  `)}` : ` ${yaml(one)}`}`;
  });
  return lines.join("\n") || "{}";
}
