// Cards of guidance rules. `props.value` is the list of items that the server reads.
const root = element.querySelector(".rules");
let shown = null;

function make(tag, attributes = {}, ...children) {
  const node = Object.assign(document.createElement(tag), attributes);
  node.append(...children);
  return node;
}

function state() {
  return JSON.stringify([props.value, props.layers, props.weak]);
}

function write(items) {
  props.value = items;
  shown = state();
}

function change(edit) {
  const items = structuredClone(props.value ?? []);
  edit(items);
  write(items);
  draw();
}

function settingOf(index, control) {
  const value = props.value[index].settings[control.name];
  return value === undefined ? control.default : value;
}

function set(index, name, value) {
  const items = structuredClone(props.value);
  items[index].settings[name] = value;
  write(items);
}

function number(value, label, store, optional, whole) {
  const input = make("input", { type: "number", step: whole ? 1 : "any", ariaLabel: label });
  input.value = value ?? "";
  input.placeholder = optional ? "automatic" : "";
  input.addEventListener("input", () => store(input.value === "" ? null : Number(input.value)));
  return input;
}

function select(options, value, label, store) {
  const input = make("select", { ariaLabel: label });
  for (const [key, text] of options) input.append(make("option", { value: key, textContent: text }));
  input.value = value;
  input.addEventListener("change", () => store(input.value));
  return input;
}

function scale(index, control, label) {
  const value = settingOf(index, control);
  const moves = value !== null && typeof value === "object";
  const put = (next) => set(index, control.name, next);
  const kind = select(
    [["constant", "constant"], ["linear", "linear, from … to"], ["cosine", "cosine, from … to"]],
    moves ? value.schedule : "constant",
    `${label}: course over the run`,
    (name) => {
      const old = settingOf(index, control);
      const first = old !== null && typeof old === "object" ? old.start : old ?? 4;
      put(name === "constant" ? first : { schedule: name, start: first, stop: old?.stop ?? 2 * first });
      draw();
    },
  );
  const store = (end) => (next) => put({ ...settingOf(index, control), [end]: next });
  const ends = moves
    ? [
        number(value.start, `${label}, start`, store("start")),
        number(value.stop, `${label}, end`, store("stop")),
      ]
    : [number(value, label, put, control.optional)];
  return make("span", { className: "scale" }, ...ends, kind);
}

function layers(index, control) {
  const value = settingOf(index, control);
  const chosen = value === "auto" ? [] : value;
  const summary = chosen.length ? `${chosen.length} chosen` : "automatic";
  const list = make("div", { className: "layers" });
  for (const name of new Set([...props.layers, ...chosen])) {
    const box = make("input", { type: "checkbox", checked: chosen.includes(name) });
    box.addEventListener("change", () => {
      const boxes = [...list.querySelectorAll("input")];
      const names = boxes.filter((each) => each.checked).map((each) => each.value);
      set(index, control.name, names.length ? names : "auto");
      head.textContent = names.length ? `${names.length} chosen` : "automatic";
    });
    box.value = name;
    list.append(make("label", {}, box, make("code", { textContent: name })));
  }
  const head = make("summary", { textContent: summary });
  return make("details", {}, head, list);
}

function negatives(index, control) {
  const pairs = settingOf(index, control);
  const put = (edit) => {
    const next = structuredClone(settingOf(index, control));
    edit(next);
    set(index, control.name, next);
  };
  const rows = pairs.map(([text, weight], row) => {
    const words = make("input", { type: "text", value: text, placeholder: "such as: red" });
    words.ariaLabel = `Negative ${row + 1}`;
    words.addEventListener("input", () => put((next) => (next[row][0] = words.value)));
    const store = (value) => put((next) => (next[row][1] = value));
    const remove = button("×", `Remove negative ${row + 1}`, () => {
      put((next) => next.splice(row, 1));
      draw();
    });
    remove.disabled = pairs.length === 1;
    const weighs = number(weight, `Weight of negative ${row + 1}`, store);
    return make("span", { className: "negative" }, words, "×", weighs, remove);
  });
  const add = button("Add a negative", "Add a negative", () => {
    put((next) => next.push(["", 1]));
    draw();
  });
  return make("span", { className: "negatives" }, ...rows, add);
}

function field(index, control) {
  const put = (value) => set(index, control.name, value);
  const value = settingOf(index, control);
  const label = `${props.value[index].rule} ${control.label}`;
  switch (control.kind) {
    case "scale":
      return scale(index, control, label);
    case "number":
    case "whole":
      return number(value, label, put, control.optional, control.kind === "whole");
    case "numbers": {
      const input = make("input", { type: "text", value: value.join(", "), ariaLabel: label });
      input.addEventListener("input", () => {
        const parts = input.value.split(",").map((part) => part.trim());
        put(parts.filter(Boolean).map((part) => (isNaN(part) ? part : Number(part))));
      });
      return input;
    }
    case "flag": {
      const input = make("input", { type: "checkbox", checked: value, ariaLabel: label });
      input.addEventListener("change", () => put(input.checked));
      return input;
    }
    case "choice": {
      const empty = control.optional ? [["", "automatic"]] : [];
      const options = [...empty, ...control.choices.map((name) => [name, name])];
      return select(options, value ?? "", label, (next) => put(next || null));
    }
    case "weak":
      return select(props.weak.map((name) => [name, name]), value ?? props.weak[0], label, put);
    case "layers":
      return layers(index, control);
    case "negatives":
      return negatives(index, control);
    default: {
      const input = make("input", { type: "text", value: value ?? "", ariaLabel: label });
      input.addEventListener("input", () => put(input.value || null));
      return input;
    }
  }
}

function setting(index, control) {
  const name = make("span", { className: "name", textContent: control.label });
  const help = make("span", { className: "help", textContent: control.help });
  return make("div", { className: `setting ${control.kind}` }, name, field(index, control), help);
}

function limits(index) {
  const [from, until] = props.value[index].between;
  const store = (end) => (value) => {
    const items = structuredClone(props.value);
    items[index].between[end] = value;
    write(items);
  };
  const rule = props.value[index].rule;
  const name = make("span", { className: "name", textContent: "Active" });
  const help = make("span", { className: "help", textContent: "Part of the run, from 0, noise, to 1." });
  const ends = make("span", { className: "scale" });
  ends.append(number(from, `${rule} from`, store(0)), number(until, `${rule} until`, store(1)));
  return make("div", { className: "setting" }, name, ends, help);
}

function button(text, title, act) {
  const node = make("button", { type: "button", textContent: text, title, ariaLabel: title });
  node.addEventListener("click", act);
  return node;
}

function card(item, index, count) {
  const offer = props.offers[item.rule];
  const move = (by) => change((items) => items.splice(index + by, 0, ...items.splice(index, 1)));
  const up = button("↑", `Move ${item.rule} up`, () => move(-1));
  const down = button("↓", `Move ${item.rule} down`, () => move(1));
  up.disabled = index === 0;
  down.disabled = index === count - 1;
  const remove = button("×", `Remove ${item.rule}`, () => change((items) => items.splice(index, 1)));
  const title = make("strong", { textContent: item.rule });
  const about = make("span", { className: "about", textContent: offer.summary });
  const head = make("header", {}, title, about, make("span", { className: "moves" }, up, down, remove));
  const [first, ...others] = offer.controls.map((control) => setting(index, control));
  const more = make("details", { className: "more" });
  if (offer.limited) others.push(limits(index));
  more.append(make("summary", { textContent: "More settings" }), ...others);
  return make("section", { className: "rule" }, head, first, ...(others.length ? [more] : []));
}

function draw() {
  const open = [...root.querySelectorAll("section.rule")].map((each) => each.querySelector("details.more")?.open);
  const items = props.value ?? [];
  const cards = items.map((item, index) => card(item, index, items.length));
  const same = open.length === cards.length;
  cards.forEach((each, index) => {
    const more = each.querySelector("details.more");
    if (same && more) more.open = Boolean(open[index]);
  });
  const none = make("p", { className: "none", textContent: "No rule: the model draws without guidance." });
  const offered = Object.entries(props.offers).map(([name, offer]) => [name, `${name}: ${offer.summary}`]);
  const add = select([["", "Add a rule …"], ...offered], "", "Add a rule", (name) =>
    change((list) => list.push({ rule: name, settings: {}, between: [0, 1] })),
  );
  const names = Object.keys(props.presets).map((name) => [name, name]);
  const preset = select([["", "Start from a preset …"], ...names], "", "Start from a preset", (name) =>
    change((list) => list.splice(0, list.length, ...structuredClone(props.presets[name]))),
  );
  shown = state();
  root.replaceChildren(
    make("div", { className: "choose" }, preset, add),
    ...(cards.length ? cards : [none]),
  );
}

watch(["value", "layers", "weak"], () => {
  if (state() !== shown) draw();
});
draw();
