"use strict";
(() => {
  const { cells, variants, scores, lineage } = JSON.parse(document.getElementById("panel-data").textContent);
  const panel = document.getElementById("panel");
  const title = document.getElementById("panel-title");
  const body = document.getElementById("panel-body");
  const announcement = document.getElementById("panel-announcement");
  const fileAt = new Map(lineage.files.map((file) => [file.path, file]));
  const UNITS = {
    percent: "percent", perplexity: "perplexity", share: "of the gap", parameters: "parameters",
    flops: "FLOPs per token", tokens: "tokens", windows: "windows", outcomes: "outcomes per position",
  };
  const TESTS = { mcnemar: "exact McNemar test on the documents", bootstrap: "paired bootstrap" };
  const POINTERS = [["row=", "Line"], ["column=", "Column"], ["", "JSON pointer"]];
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

  const nameOf = (path) => /[^/]*\/?$/.exec(path)[0];
  // Lines break between folders, not inside of names.
  const pathText = (path) => {
    const name = nameOf(path);
    const folders = path.slice(0, -name.length).split(/(?<=\/)/);
    return element("code", { className: "path" }, ...folders.flatMap((folder) => [folder, element("wbr", {})]), element("b", {}, name));
  };

  const copyButton = (text, shown, what) => {
    const word = document.createTextNode("Copy");
    const button = element("button", { type: "button", className: "copy" }, word, element("span", { className: "unseen" }, ` ${what}`));
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(text);
        word.data = "Copied";
      } catch {
        shown.textContent = text;
        getSelection().selectAllChildren(shown);
        word.data = "Selected, press Ctrl+C";
      }
      announcement.textContent = button.textContent;
    });
    return button;
  };
  const copyable = (text, what) => {
    const shown = code(text);
    return element("span", {}, shown, element("br", {}), copyButton(text, shown, what));
  };

  const plain = (value) => (value !== null && typeof value === "object" ? JSON.stringify(value) : String(value));

  const partButton = (id) => {
    const { row_label, column_title, text } = cells[id];
    const button = element("button", { type: "button", className: "part", title: id }, `${row_label}, ${column_title}: ${text}`);
    button.addEventListener("click", () => show(id));
    return button;
  };

  const section = (heading, ...content) => [element("h3", {}, heading), ...content];

  const fileFacts = (file) => {
    const digest = element("code", { title: file.sha256 }, file.sha256.slice(0, 12));
    const copy = copyButton(file.sha256, digest, `the sha256 of ${nameOf(file.path)}`);
    return [`${file.size}, `, element("span", { className: "digest" }, "sha256 ", digest, " ", copy)];
  };
  const maker = (rule) => (rule ? ["made by ", code(rule), ", "] : ["a source file, "]);

  const labelOf = ({ files, folder }) =>
    files.length === 1 ? lineage.files[files[0]].path : folder || `${files.length} files`;

  // One step with its files: a single file in full, several behind a summary.
  const stepEntry = (node) => {
    const { rule, files, folder, size, pinned = [] } = node;
    const members = files.map((index) => lineage.files[index]);
    const entry = element("div", { className: "step", tabIndex: -1 });
    if (members.length === 1) {
      entry.append(pathText(labelOf(node)), element("p", {}, ...maker(rule), ...fileFacts(members[0])));
    } else {
      entry.append(
        element("details", {},
          element("summary", {}, pathText(labelOf(node))),
          element("ul", { className: "files" }, ...members.map((file) =>
            element("li", { title: file.path }, pathText(file.path.slice(folder.length)), element("p", {}, ...fileFacts(file)))))),
        element("p", {}, ...maker(rule), `${members.length} files, ${size}`));
    }
    for (const pin of pinned) {
      entry.append(element("details", { className: "pin", open: pinned.length === 1 },
        element("summary", {}, "pinned download"), list(Object.entries(pin).map(([name, text]) => [name, code(text)]))));
    }
    return entry;
  };

  // Each step stands under one of the steps that read from it; the others have a button to it.
  const lineageTree = (file, { rule, rows }) => {
    const nodes = rows.map(({ node }) =>
      node === undefined ? { rule, files: [lineage.files.indexOf(file)] } : lineage.nodes[node]);
    const entries = nodes.map(stepEntry);
    const items = entries.map((entry) => element("li", {}, entry));
    rows.forEach(({ under, also = [] }, row) => {
      if (also.length > 0) {
        const jumps = also.flatMap((index) => {
          const jump = element("button", { type: "button", className: "part" }, nameOf(labelOf(nodes[index])));
          jump.addEventListener("click", () => entries[index].focus());
          return [", ", jump];
        });
        const words = rows.some((other) => other.under === row) ? "also from " : "from ";
        entries[row].append(element("p", {}, words, ...jumps.slice(1)));
      }
      if (under === undefined) return;
      const parent = items[under];
      if (parent.lastElementChild.tagName !== "UL") parent.append(element("ul", { className: "branches" }));
      parent.lastElementChild.append(items[row]);
    });
    const command = code(`snakemake --cores 1 --force ${file.path}`);
    return [
      element("p", { className: "hint" }, "Each file was made from those below it, down to pinned downloads. A file that several steps read stands once; the other steps name it."),
      element("ul", { className: "tree" }, items[0]),
      element("p", { className: "repeat" }, "Repeat with: ", command, " ", copyButton(command.textContent, command, "the command")),
    ];
  };

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
    const file = cell.source ? fileAt.get(cell.source.path) : undefined;
    const chain = file ? lineage.chains[file.chain] : undefined;
    const unit = UNITS[cell.unit] ?? "";
    title.textContent = `${cell.row_label}, ${cell.column_title}`;
    const content = [
      element("p", { className: "big" }, cell.text, " ", element("small", {}, cell.status === "missing" ? "" : unit)),
      element("p", { className: "status" }, STATUS[cell.status], cell.reason ? `: ${cell.reason}` : ""),
      list([
        ["Cell", copyable(id, "the id of the cell")],
        ["Model", cell.model_title],
        [variant.width ? "As many parameters as layers" : "Layers removed", String(cell.n_pruned)],
        ["Rows", cell.row_group],
        ["Exact value", cell.status === "missing" ? undefined : plain(cell.value ?? "")],
        ["95 % interval", cell.interval_text],
        ["Standard error", cell.stderr === undefined ? undefined : plain(cell.stderr)],
        ["Sample", sampleOf(cell)],
        ["Printed value", cell.status === "published" ? undefined : cell.published_text],
        ["Difference", cell.difference === undefined ? undefined : plain(cell.difference)],
        ["Verdict", cell.verdict ? `${cell.verdict.word}: ${cell.verdict.rule}` : undefined],
        ["No verdict", cell.unjudged],
        ["On the printed value", cell.published_note],
        ["Note", cell.note],
      ]),
    ];
    for (const { cell: other, label, share, log_perplexity: loss } of cell.comparisons ?? []) {
      content.push(...section(`Compared with ${label}`, list([
        ["Share closed", `${share.text} points`],
        ["Log-perplexity", loss.text],
        ["Its number", partButton(other)],
      ])));
    }
    for (const [heading, versus] of [
      ["Compared with the best of the column", cell.versus_best],
      ["Compared with the same cut without repair", cell.versus_unrepaired],
    ]) {
      if (!versus) continue;
      content.push(...section(heading, list([
        ["Its number", partButton(versus.cell)],
        ["Difference", versus.text],
        ["Told apart", versus.told_apart ? "yes, at the 5 % level" : "no"],
        ["Found by", TESTS[versus.test]],
      ])));
    }
    if (cell.source) {
      content.push(...section("Source", list([
        ["File", code(cell.source.path)],
        [POINTERS.find(([start]) => cell.source.pointer.startsWith(start))[1], code(cell.source.pointer)],
        ["sha256", copyable(cell.source.sha256, "the sha256")],
      ])));
    }
    if (cell.variant) {
      content.push(...section("Variant", list([
        ["Folder", code(cell.variant)],
        ["Calibration", variant.calibration],
        ["Selection", variant.selection],
        ["Recovery", variant.recovery],
        ["Width pruning", variant.width],
        ["Manifest", variant.width_manifest ? code(variant.width_manifest) : undefined],
        ["Removed layers", (variant.order ?? []).join(", ")],
        ["Plan", variant.plan ? code(variant.plan) : undefined],
        ["Patch", variant.patch ? code(variant.patch) : undefined],
        ["Added parameters", variant.patch ? String(variant.added_parameters) : undefined],
      ])));
    }
    const settings = score.settings
      ? { protocol: score.protocol, metric: score.metric, ...score.settings }
      : chain?.settings ?? {};
    if (Object.keys(settings).length > 0) {
      content.push(...section("Settings", list(Object.entries(settings).map(([name, value]) => [name, plain(value)]))));
    }
    if (cell.parts) {
      content.push(...section("Where it comes from",
        element("p", { className: "hint" }, "Computed from the numbers below. Choose one to see the files behind it."),
        element("ul", {}, ...cell.parts.map((part) => element("li", {}, partButton(part))))));
    }
    if (chain) {
      content.push(...section("Where it comes from", ...lineageTree(file, chain)));
    }
    body.replaceChildren(...content);
    announcement.textContent = "";
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
