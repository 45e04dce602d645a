// Layers by heads, each head a button. `props.value` is the list of softened heads.
const root = element.querySelector(".heads");
let shown = null;

function state() {
  return JSON.stringify([props.value, props.layers, props.gains]);
}

function make(tag, attributes = {}, ...children) {
  const node = Object.assign(document.createElement(tag), attributes);
  node.append(...children);
  return node;
}

function choose(names) {
  const kept = [...new Set(names)];
  props.value = kept;
  draw();
  trigger("change");
}

function button(text, title, names) {
  const node = make("button", { type: "button", textContent: text, title });
  node.addEventListener("click", () => choose(names));
  return node;
}

function headsOf(layer) {
  return [...Array(props.layers[layer]).keys()].map((head) => `${layer}:${head}`);
}

function cell(name, head, gains) {
  const on = props.value.includes(name);
  const gain = gains[name];
  const node = make("button", { type: "button", textContent: head, title: name });
  node.ariaPressed = String(on);
  node.ariaLabel = `Head ${name}`;
  if (gain !== undefined) {
    const most = Math.max(...Object.values(gains).map(Math.abs), 1e-9);
    node.style.setProperty("--gain", `${Math.round((Math.abs(gain) / most) * 70)}%`);
    node.classList.add(gain < 0 ? "loses" : "gains");
    node.title = `${name}: ${gain < 0 ? "" : "+"}${gain.toFixed(4)}`;
  }
  node.addEventListener("click", () =>
    choose(on ? props.value.filter((each) => each !== name) : [...props.value, name]),
  );
  return node;
}

// What the names of all layers end with says nothing.
function brief(layers) {
  const parts = layers.map((layer) => layer.split("."));
  let same = 0;
  const at = (names) => names[names.length - 1 - same];
  while (same < parts[0].length - 1 && parts.every((names) => at(names) === at(parts[0]))) same += 1;
  return Object.fromEntries(layers.map((layer, row) => [layer, parts[row].slice(0, parts[row].length - same).join(".")]));
}

function draw() {
  shown = state();
  const layers = Object.keys(props.layers);
  if (!layers.length) {
    root.textContent = "The heads of this model cannot be softened.";
    return;
  }
  const names = brief(layers);
  const presets = make(
    "div",
    { className: "presets" },
    button("Usual layers", "What SoftPAG softens by default", props.standard.flatMap(headsOf)),
    button("All heads", "Every head of every layer", layers.flatMap(headsOf)),
    button("None", "Soften nothing", []),
    make("span", { textContent: `${props.value.length} softened` }),
  );
  const gains = JSON.parse(props.gains);
  const rows = layers.map((layer) => {
    const whole = button(names[layer], `All heads of ${layer}`, [...props.value, ...headsOf(layer)]);
    const cells = headsOf(layer).map((name, head) => make("td", {}, cell(name, head, gains)));
    return make("tr", {}, make("th", { scope: "row" }, whole), ...cells);
  });
  root.replaceChildren(presets, make("table", {}, make("tbody", {}, ...rows)));
}

watch(["value", "layers", "standard", "gains"], () => {
  if (state() !== shown) draw();
});
draw();
