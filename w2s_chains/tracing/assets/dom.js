// Elements, numbers and text as people read them.

const SVG = "http://www.w3.org/2000/svg";

/** Create an element; texts become text, never markup. */
function el(name, properties = {}, ...children) {
  const made = document.createElement(name);
  set(made, properties);
  made.append(...children.filter((child) => child ?? false));
  return made;
}

/** Create an SVG element. */
function svg(name, attributes = {}, ...children) {
  const made = document.createElementNS(SVG, name);
  set(made, attributes);
  made.append(...children);
  return made;
}

function set(element, properties) {
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === false || value === null || value === undefined) element.removeAttribute(name);
    else element.setAttribute(name, value === true ? "" : value);
  }
}

const formats = [];

/** A number with a real minus sign; "–" where there is none. */
function number(value, digits = 2, signed = false) {
  if (value === null || value === undefined) return "–";
  formats[digits] ??= new Intl.NumberFormat("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
  const shown = formats[digits].format(Math.abs(value));
  const zero = !/[1-9]/.test(shown);
  return (value < 0 && !zero ? "\u2212" : signed && !zero ? "+" : "") + shown;
}

const count = (value) => number(value, 0);
const plural = (value, one, more = `${one}s`) => `${count(value)} ${value === 1 ? one : more}`;

/** Text whose control characters and marks of direction can be seen; newlines stay. */
function visible(text) {
  return text.replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]/g, (found) => {
    const code = found.charCodeAt(0);
    if (code < 0x20) return String.fromCharCode(0x2400 + code);
    if (code === 0x7f) return "\u2421";
    return `[U+${code.toString(16).toUpperCase().padStart(4, "0")}]`;
  });
}

/** Text on one line. */
const inline = (text) => visible(text).replace(/\n/g, "\u21b5").replace(/\t/g, "\u21e5");

// Offsets of a trace are in characters; those of JavaScript in UTF-16 units.
const wide = /[\ud800-\udfff]/;
const points = (text) => (wide.test(text) ? [...text].length : text.length);
const cut = (text, from, to) =>
  wide.test(text) ? [...text].slice(from, to).join("") : text.slice(from, to);

/** Call a function once before the next picture, however often it is asked for. */
function lazily(draw) {
  let waiting = false;
  return () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      draw();
    });
  };
}
