"use strict";
(() => {
  const { cells, variants, scores } = JSON.parse(document.getElementById("panel-data").textContent);
  const panel = document.getElementById("panel");
  const title = document.getElementById("panel-title");
  const body = document.getElementById("panel-body");
  const STATUS = { measured: "Measured here", published: "Printed in the paper", missing: "Missing" };

  const element = (name, properties, ...children) => {
    const node = Object.assign(document.createElement(name), properties);
    node.append(...children);
    return node;
  };
  const code = (text) => element("code", {}, text);

  // Text only ever enters the page as text nodes.
  const list = (pairs) =>
    element("dl", {}, ...pairs
      .filter(([, value]) => value !== undefined && value !== null && value !== "")
      .map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, value))));

  const copyButton = (text) => {
    const button = element("button", { type: "button", className: "copy" }, "Copy");
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(text);
        button.textContent = "Copied";
      } catch {
        const range = document.createRange();
        range.selectNodeContents(button.previousSibling);
        getSelection().removeAllRanges();
        getSelection().addRange(range);
        button.textContent = "Selected, press Ctrl+C";
      }
    });
    return button;
  };
  const copyable = (text) => element("span", {}, code(text), element("br", {}), copyButton(text));

  const plain = (value) => (value !== null && typeof value === "object" ? JSON.stringify(value) : String(value));

  const partButton = (id) => {
    const { row_label, column_title, text } = cells[id];
    const button = element("button", { type: "button", className: "part", title: id }, `${row_label}, ${column_title}: ${text}`);
    button.addEventListener("click", () => show(id));
    return button;
  };

  const section = (heading, ...content) => [element("h3", {}, heading), ...content];

  const sampleOf = (cell) => {
    if (cell.n !== undefined) {
      const unit = cell.unit === "perplexity" ? "windows" : "documents";
      const total = cell.total !== undefined ? ` of ${cell.total}` : "";
      return `${cell.n}${total} ${unit}${cell.limited ? ", a limited sample" : ""}`;
    }
    if (cell.benchmarks_used === undefined) return undefined;
    return `${cell.benchmarks_used} of ${cell.benchmarks_wanted} columns${cell.limited ? ", limited samples" : ""}`;
  };

  const show = (id) => {
    const cell = cells[id];
    if (!cell) return;
    const variant = variants[cell.variant] ?? {};
    const score = cell.source ? scores[cell.source.path] ?? {} : {};
    const unit = { percent: "percent", perplexity: "perplexity" }[cell.unit] ?? "";
    title.textContent = `${cell.row_label}, ${cell.column_title}`;
    const content = [
      element("p", { className: "big" }, cell.text, " ", element("small", {}, cell.status === "missing" ? "" : unit)),
      element("p", { className: "status" }, STATUS[cell.status], cell.reason ? `: ${cell.reason}` : ""),
      list([
        ["Cell", copyable(id)],
        ["Model", cell.model_title],
        ["Layers removed", String(cell.n_pruned)],
        ["Exact value", cell.status === "missing" ? undefined : plain(cell.value ?? "")],
        ["Standard error", cell.stderr === undefined ? undefined : plain(cell.stderr)],
        ["Sample", sampleOf(cell)],
        ["Printed value", cell.status === "published" ? undefined : cell.published_text],
        ["Difference", cell.difference === undefined ? undefined : plain(cell.difference)],
        ["On the printed value", cell.published_note],
        ["Note", cell.note],
      ]),
    ];
    if (cell.source) {
      content.push(...section("Source", list([
        ["File", code(cell.source.path)],
        [cell.source.pointer.startsWith("row=") ? "Line" : "JSON pointer", code(cell.source.pointer)],
        ["sha256", copyable(cell.source.sha256)],
      ])));
    }
    if (cell.parts) {
      content.push(...section("Computed from", element("ul", {}, ...cell.parts.map((part) => element("li", {}, partButton(part))))));
    }
    if (cell.variant) {
      content.push(...section("Variant", list([
        ["Folder", code(cell.variant)],
        ["Selection", variant.selection],
        ["Recovery", variant.recovery],
        ["Removed layers", (variant.order ?? []).join(", ")],
        ["Plan", variant.plan ? code(variant.plan) : undefined],
        ["Patch", variant.patch ? code(variant.patch) : undefined],
        ["Added parameters", variant.patch ? String(variant.added_parameters) : undefined],
      ])));
    }
    if (score.settings) {
      content.push(...section("Settings", list([
        ["protocol", score.protocol],
        ["metric", score.metric],
        ...Object.entries(score.settings).map(([name, value]) => [name, plain(value)]),
      ])));
    }
    if (cell.lineage) {
      const steps = Array.isArray(cell.lineage) ? cell.lineage : [cell.lineage];
      content.push(...section("Lineage", element("ul", {}, ...steps.map((step) =>
        element("li", {}, typeof step === "string" ? step : list(Object.entries(step).map(([name, value]) => [name, plain(value)])))))));
    }
    body.replaceChildren(...content);
    if (!panel.open) panel.showModal();
    panel.scrollTop = 0;
    history.replaceState(null, "", `#cell=${encodeURIComponent(id)}`);
  };

  document.addEventListener("click", (event) => {
    const opener = event.target.closest("[data-cell]");
    if (opener) show(opener.dataset.cell);
    else if (event.target === panel || event.target.closest("[data-close]")) panel.close();
  });
  panel.addEventListener("close", () => history.replaceState(null, "", location.pathname + location.search));

  // Arrow keys move between the numbers of a table; Tab works as everywhere.
  const MOVES = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
  document.addEventListener("keydown", (event) => {
    const from = event.target.closest("td");
    const move = MOVES[event.key];
    if (!from || !move || event.ctrlKey || event.metaKey || event.altKey) return;
    const rows = [...from.closest("table").querySelectorAll("tr:has(button)")];
    const row = rows.indexOf(from.parentElement);
    const column = [...from.parentElement.cells].indexOf(from);
    const target = rows[row + move[0]]?.cells;
    const button = target?.[Math.min(column + move[1], target.length - 1)]?.querySelector("button");
    if (button) {
      event.preventDefault();
      button.focus();
    }
  });

  const linked = /^#cell=(.+)$/.exec(location.hash);
  if (linked) show(decodeURIComponent(linked[1]));
})();
