// Words coloured by what the guides think of them.

const unspaced = /[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Thai}]/u;
const endsWord = /[\p{L}\p{M}\p{N}'’]$/u;
const beginsWord = /^[\p{L}\p{M}\p{N}'’]/u;

/** Whether two tokens belong to one word. */
function joined(before, after) {
  const a = before.slice(-2);
  const b = after.slice(0, 2);
  return endsWord.test(a) && beginsWord.test(b) && !unspaced.test(a) && !unspaced.test(b);
}

/** Join tokens to words; log-ratios of the tokens of a word add up to that of the word. */
function words(tokens) {
  const found = [];
  for (const token of tokens) {
    const before = found.at(-1);
    if (before && joined(before.text, token.text)) {
      before.text += token.text;
      before.ratio += token.ratio;
      before.tokens.push(token);
    } else found.push({ ...token, tokens: [token] });
  }
  return found;
}

class Heat {
  /** Choose one scale for several searches: 19 of 20 words lie on it. */
  constructor(searches) {
    this.known = false;
    this.most = 3; // nats, until there are words to choose by
    const nodes = searches.flatMap((search) => [...search.nodes.values()]);
    const sizes = nodes.flatMap((node) => words(node.ratios ?? []).map((word) => Math.abs(word.ratio)));
    if (!sizes.length) return;
    const most = sizes.sort((a, b) => a - b)[Math.floor(sizes.length * 0.95)];
    this.known = true;
    this.most = [0.5, 1, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30].find((nice) => nice >= most) ?? 50;
  }

  /** Colour an element. */
  paint(element, ratio) {
    const share = Math.min(1, Math.abs(ratio) / this.most);
    element.classList.add(ratio < 0 ? "untuned" : "tuned");
    element.style.setProperty("--share", share.toFixed(3));
  }

  word(word, text) {
    const [, space, rest] = /^(\s*)([^]*)$/.exec(text);
    if (!rest) return document.createTextNode(visible(text));
    const said = number(word.ratio, 1, true);
    let title = `${said} nats`;
    if (word.tokens.length > 1)
      title += ` = ${word.tokens.map((t) => `${inline(t.text)} ${number(t.ratio, 1, true)}`).join(", ")}`;
    const made = el("span", { class: "word", title, "data-nats": said }, visible(rest));
    this.paint(made, word.ratio);
    const all = document.createDocumentFragment();
    all.append(visible(space), made);
    return all;
  }

  /** The whole text up to a candidate, from a place in it, as nodes of the page. */
  text(search, id, from = 0) {
    const text = search.text(id);
    const all = document.createDocumentFragment();
    let at = from;
    for (const word of words(search.tokens(id).filter((token) => token.start >= from))) {
      const end = word.start + points(word.text);
      if (word.start < at || cut(text, word.start, end) !== word.text) continue;
      all.append(visible(cut(text, at, word.start)), this.word(word, word.text));
      at = end;
    }
    all.append(visible(cut(text, at)));
    return all;
  }

  /** The text of a candidate's own chunk on one line. */
  chunk(node) {
    const all = document.createDocumentFragment();
    let at = 0;
    let start = node.ratios_from ?? node.start;
    for (const word of words(node.ratios ?? [])) {
      const begin = Math.max(at, start - node.start);
      start += points(word.text);
      const end = start - node.start;
      if (end <= begin || begin !== at) continue;
      const [, space, text] = /^( *)([^]*)$/.exec(inline(cut(node.text, begin, end)));
      const made = el("span", { class: "word" }, text);
      if (text) this.paint(made, word.ratio);
      all.append(at === 0 ? "" : space, made);
      at = end;
    }
    const rest = inline(cut(node.text, at));
    all.append(at === 0 ? rest.trimStart() : rest);
    if (!all.textContent) all.append(node.text ? "\u2423" : "end of answer");
    return all;
  }

  /** What the colours mean. */
  legend() {
    const most = number(this.most, Number.isInteger(this.most) ? 0 : 1);
    return el(
      "div",
      { class: "heat-legend", role: "img", "aria-label": `Colours of words: the untuned guide prefers them up to \u2212${most} nats, the tuned guide up to +${most} nats` },
      el("span", {}, "untuned", el("span", { class: "more" }, " prefers")),
      el("span", { class: "heat-bar" },
        el("span", {}, `\u2212${most}`), el("span", {}, "0"), el("span", {}, `+${most}`)),
      el("span", {}, "tuned", el("span", { class: "more" }, " prefers")),
      el("span", { }, "nats a word"),
    );
  }
}
