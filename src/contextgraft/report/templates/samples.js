// Single samples: filters, a list that grows, and the addresses (#samples?row=...) that cells of the page link to.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const { columns, texts } = data;
  const words = new Set(data.words);
  const count = columns.tune.length;
  const value = (name, row) => {
    const stored = columns[name][row];
    return stored === null ? null : words.has(name) ? texts[stored] : stored;
  };
  const FILTERS = {
    tune: "group", row: "model", suite: "suite", task: "task", kind: "kind", haystack: "haystack", length: "length",
    depth: "depth, %", distractors: "distractors", chat: "in chat", index: "prompt no.", result: "result",
  };
  const HIDDEN = new Set(["distractors", "chat", "index"]); // only in addresses
  const PAGE = 20;
  const form = document.getElementById("filters"), list = document.getElementById("list");
  const found = document.getElementById("found"), more = document.getElementById("more");
  const wanted = new Map();
  let chosen = [], shown = 0;

  const element = (name, text, options = {}) => Object.assign(document.createElement(name), { textContent: text, ...options });
  const fits = (row, but) => [...wanted].every(([name, text]) => name === but || String(value(name, row)) === text);
  const number = (a, b) => (Number.isNaN(Number(a)) || Number.isNaN(Number(b)) ? (a < b ? -1 : a > b ? 1 : 0) : a - b);

  const options = (name) => {
    const seen = new Set();
    for (let row = 0; row < count; row++) if (value(name, row) !== null && fits(row, name)) seen.add(String(value(name, row)));
    if (wanted.has(name)) seen.add(wanted.get(name));
    return words.has(name) ? [...seen] : [...seen].sort(number);
  };

  const draw = () => {
    form.replaceChildren();
    for (const [name, title] of Object.entries(FILTERS)) {
      const choices = options(name);
      if (HIDDEN.has(name) ? !wanted.has(name) : choices.length < 2 && !wanted.has(name)) continue;
      const label = element("label", title);
      const select = element("select", "", { name });
      select.append(element("option", "all", { value: "" }), ...choices.map((text) => element("option", text, { value: text })));
      select.value = wanted.get(name) ?? "";
      label.append(select);
      form.append(label);
    }
    if (wanted.size) form.append(element("button", "All samples", { type: "button", id: "clear" }));
  };

  const line = (row) => {
    const labels = [value("task", row), value("kind", row), value("haystack", row)];
    if (value("length", row) !== null) labels.push(`${value("length", row).toLocaleString("en")} tokens`);
    if (value("depth", row) !== null) labels.push(`depth ${value("depth", row)} %`);
    if (value("position", row) !== null) labels.push(`up to token ${value("position", row).toLocaleString("en")}`);
    return `${value("tune", row)}, ${value("row", row)}: ${labels.filter(Boolean).join(", ")}, no. ${value("index", row)}`;
  };

  const FACTS = [
    ["expected", "expected"], ["output", "answered"], ["score", "score"], ["agreement", "same first token"], ["reason", "why there is no score"],
    ["scoring", "scored by"], ["donor", "donor"], ["digest", "model"], ["seed", "seed"], ["recipe", "recipe of the prompt"],
  ];

  const promptCommand = (row) => `contextgraft replay ${value("file", row)} ${value("table_row", row)} MODEL --config STUDY --prompt-only`;

  const item = (row) => {
    const details = document.createElement("details"), summary = document.createElement("summary");
    const result = value("result", row);
    summary.append(element("span", result, { className: `result ${result}` }), ` ${line(row)}`);
    details.append(summary);
    details.addEventListener("toggle", () => {
      if (details.childElementCount > 1) return;
      const facts = document.createElement("dl");
      for (const [name, title] of FACTS) {
        if (value(name, row) === null) continue;
        const definition = element("dd", "");
        definition.append(element("code", String(value(name, row))));
        facts.append(element("dt", title), definition);
      }
      if (value("recipe", row) !== null) {
        const definition = element("dd", "");
        definition.append(element("code", promptCommand(row)), " ", element("button", "Copy", { type: "button", className: "copy" }));
        facts.append(element("dt", "whole prompt"), definition);
      }
      const same = new URLSearchParams();
      for (const name of ["suite", "task", "kind", "haystack", "length", "depth", "index"])
        if (value(name, row) !== null) same.set(name, value(name, row));
      const link = element("a", "What other models answered here", { href: `#samples?${same}` });
      details.append(facts, link);
    });
    return details;
  };

  const grow = () => {
    const next = chosen.slice(shown, shown + PAGE);
    list.append(...next.map(item));
    shown += next.length;
    more.hidden = shown >= chosen.length;
  };

  const choose = () => {
    chosen = [];
    let right = 0, scored = 0;
    for (let row = 0; row < count; row++) {
      if (!fits(row)) continue;
      chosen.push(row);
      const result = value("result", row);
      scored += ["right", "wrong", "in part"].includes(result);
      right += result === "right";
    }
    chosen.sort((a, b) => (value("result", a) === "right") - (value("result", b) === "right"));
    const share = scored ? `, ${right.toLocaleString("en")} of ${scored.toLocaleString("en")} right` : "";
    found.textContent = `${chosen.length.toLocaleString("en")} sample${chosen.length === 1 ? "" : "s"}${share}.`;
    list.replaceChildren();
    shown = 0;
    grow();
    draw();
  };

  const follow = () => {
    const [section, query] = location.hash.split("?");
    if (section !== "#samples" || query === undefined) return;
    wanted.clear();
    for (const [name, text] of new URLSearchParams(query)) if (name in FILTERS) wanted.set(name, text);
    choose();
    const heading = document.getElementById("h-samples");
    heading.tabIndex = -1;
    heading.focus({ preventScroll: true });
    heading.scrollIntoView();
  };

  form.addEventListener("change", (event) => {
    const { name, value: text } = event.target;
    if (text) wanted.set(name, text);
    else wanted.delete(name);
    choose();
    form.elements[name]?.focus();
  });
  form.addEventListener("click", (event) => {
    if (event.target.id !== "clear") return;
    wanted.clear();
    history.replaceState(null, "", "#samples");
    choose();
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  more.addEventListener("click", grow);
  addEventListener("hashchange", follow);
  choose();
  follow();
})();
