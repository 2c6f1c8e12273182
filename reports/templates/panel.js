// The panel behind each number: what it is, what it is compared with, and where it comes from.
// Text only ever enters the page as text nodes.

const panel = document.getElementById("panel");
const panelTitle = document.getElementById("panel-title");
const panelBody = document.getElementById("panel-body");
const panelAnnouncement = document.getElementById("panel-announcement");
const UNITS = {
  percent: "percent", perplexity: "perplexity", share: "of the gap", parameters: "parameters",
  flops: "FLOPs per token", tokens: "tokens", windows: "windows", outcomes: "outcomes per position",
};
const TESTS = { mcnemar: "exact McNemar test on the documents", bootstrap: "paired bootstrap" };
const POINTERS = [["row=", "Line"], ["column=", "Column"], ["", "JSON pointer"]];
const STATUS = { measured: "Measured here", published: "Printed in the paper", missing: "Missing" };

const code = (text) => element("code", {}, text);

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
    panelAnnouncement.textContent = button.textContent;
  });
  return button;
};
const copyable = (text, what) => {
  const shown = code(text);
  return element("span", {}, shown, element("br", {}), copyButton(text, shown, what));
};

const plain = (value) => (value !== null && typeof value === "object" ? JSON.stringify(value) : String(value));

const partButton = (id) => {
  const { rowLabel, columnTitle, text } = cellOf(id);
  const button = element("button", { type: "button", className: "part", title: id }, `${rowLabel}, ${columnTitle}: ${text}`);
  button.addEventListener("click", () => showCell(id));
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
  files.length === 1 ? stored.lineage.files[files[0]].path : folder || `${files.length} files`;

// One step with its files: a single file in full, several behind a summary.
const stepEntry = (node) => {
  const { rule, files, folder, size, pinned = [] } = node;
  const members = files.map((index) => stored.lineage.files[index]);
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
    node === undefined ? { rule, files: [stored.lineage.files.indexOf(file)] } : stored.lineage.nodes[node]);
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
  const command = code(`snakemake --cores 1 --force ${file.path}${stored.profile_option}`);
  return [
    element("p", { className: "hint" }, "Each file was made from those below it, down to pinned downloads. A file that several steps read stands once; the other steps name it."),
    element("ul", { className: "tree" }, items[0]),
    element("p", { className: "repeat" }, "Repeat with: ", command, " ", copyButton(command.textContent, command, "the command")),
  ];
};

// Without a finding a number is the best itself, or of a kind that is not compared, or could not be.
const isCompared = (cell) =>
  cell.versusBest || cell.comparisons || cell.mark === "best" || cell.level === 0 ||
  cell.status !== "measured" || cell.higherIsBetter === undefined;

const showCell = (id) => {
  const cell = cellOf(id);
  if (!cell) return;
  const variant = cell.variant ?? {};
  const score = cell.source?.settings ?? {};
  const file = cell.source?.file;
  const chain = file ? stored.lineage.chains[file.chain] : undefined;
  const unit = UNITS[cell.unit] ?? "";
  panelTitle.textContent = `${cell.rowLabel}, ${cell.columnTitle}`;
  const content = [
    element("p", { className: "big" }, cell.text, " ", element("small", {}, cell.status === "missing" ? "" : unit)),
    element("p", { className: "status" }, STATUS[cell.status], cell.reason ? `: ${cell.reason}` : ""),
    list([
      ["Cell", copyable(id, "the id of the cell")],
      ["Model", cell.modelTitle],
      [variant.width ? "As many parameters as layers" : "Layers removed", String(cell.level)],
      ["Rows", cell.rowGroup],
      ["Exact value", cell.status === "missing" ? undefined : plain(cell.value ?? "")],
      ["95 % interval", cell.interval_text],
      ["Standard error", cell.stderr === undefined ? undefined : plain(cell.stderr)],
      ["Sample", sampleOf(cell)],
      ["Printed value", cell.status === "published" ? undefined : cell.published_text],
      ["Difference", cell.difference === undefined ? undefined : plain(cell.difference)],
      ["Beside the best of its column", isCompared(cell) ? undefined : "not compared"],
      ["Verdict", cell.verdict ? `${cell.verdict.word}: ${cell.verdict.rule}` : undefined],
      ["No verdict", cell.unjudged],
      ["On the printed value", cell.publishedNote],
      ["Note", cell.note],
    ]),
  ];
  for (const { cell: other, label, share, loss } of cell.comparisons ?? []) {
    content.push(...section(`Compared with ${label}`, list([
      ["Share closed", `${share} points`],
      ["Log-perplexity", loss],
      ["Its number", partButton(other)],
    ])));
  }
  for (const [heading, versus] of [
    ["Compared with the best of the column", cell.versusBest],
    ["Compared with the same cut without repair", cell.versusUnrepaired],
  ]) {
    if (!versus) continue;
    content.push(...section(heading, list([
      ["Its number", partButton(versus.id)],
      ["Difference", versus.text],
      ["Told apart", versus.apart ? "yes, at the 5 % level" : "no"],
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
      ["Folder", code(variant.folder)],
      ["Calibration", variant.calibration],
      ["Selection", variant.selection],
      ["Recovery", variant.recovery],
      ["Width pruning", variant.width],
      ["Manifest", variant.width_manifest ? code(variant.width_manifest) : undefined],
      ["Removed layers", variant.order.join(", ")],
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
  panelBody.replaceChildren(...content);
  panelAnnouncement.textContent = "";
  if (!panel.open) panel.showModal();
  panel.scrollTop = 0;
  history.replaceState(null, "", `#cell=${encodeURIComponent(id)}`);
};

document.addEventListener("click", (event) => {
  const opener = event.target.closest("[data-cell]");
  if (opener) showCell(opener.dataset.cell);
  else if (event.target === panel || event.target.closest("[data-close]")) panel.close();
});
panel.addEventListener("close", () => history.replaceState(null, "", location.pathname + location.search));

// Arrow keys move between the numbers of a table; Tab works as everywhere.
const MOVES = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
document.addEventListener("keydown", (event) => {
  const from = event.target.closest("td");
  const move = MOVES[event.key];
  if (!from || !move || event.ctrlKey || event.metaKey || event.altKey) return;
  const rows = [...from.closest("table").querySelectorAll("tbody tr:has(td button)")].filter((row) => row.checkVisibility());
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
if (linked) {
  try {
    showCell(decodeURIComponent(linked[1]));
  } catch (error) {
    // A link that was cut off names no cell; the page is of use without it.
    if (!(error instanceof URIError)) throw error;
  }
}
