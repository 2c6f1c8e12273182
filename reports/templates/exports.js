// A table as CSV, Markdown or LaTeX, as it is shown: filtered, sorted, in the chosen form.

const tableShown = (table) => {
  const heads = [...table.querySelectorAll("thead tr:last-child th")].slice(1);
  const spans = [...table.querySelectorAll("thead .heads > :not(:first-child)")].map((head) => ({ text: head.textContent.trim(), span: head.colSpan }));
  const levels = [];
  for (const body of table.tBodies) {
    if (body.hidden) continue;
    const level = { heading: "", rows: [] };
    let group = "";
    for (const row of body.rows) {
      if (row.hidden) continue;
      const text = row.querySelector("th").textContent.trim();
      if (row.classList.contains("level")) level.heading = text;
      else if (row.classList.contains("choice")) group = table.classList.contains("sorted") ? "" : text;
      else level.rows.push(rowShown(row, group));
    }
    if (level.rows.length > 0) levels.push(level);
  }
  const caption = table.caption.textContent.trim();
  const form = formChoice.value && formChoice.selectedOptions[0].textContent;
  return {
    id: table.id,
    caption: form ? `${caption.replace(/\.$/, "")}, numbers ${form}` : caption,
    columns: heads.map((head) => head.textContent.trim()),
    spans,
    levels,
  };
};

const rowShown = (row, group) => {
  const head = row.querySelector("th").cloneNode(true);
  const notes = [...head.querySelectorAll(".note")].map((note) => {
    note.remove();
    return note.textContent.trim();
  });
  const reason = row.querySelector("td.reason");
  return {
    group,
    label: head.textContent.trim(),
    notes,
    reason: reason ? cellOf(reason.querySelector("button").dataset.cell).reason : undefined,
    cells: [...row.querySelectorAll("td")].map((td) => {
      const button = td.querySelector("button[data-cell]");
      if (!button) return undefined;
      return {
        ...cellOf(button.dataset.cell),
        shown: button.querySelector(".value")?.textContent.trim(),
        // Both are of the number itself, not of another form of it.
        withError: showErrors.checked && !formChoice.value,
        withPaper: !formChoice.value,
      };
    }),
  };
};

const showErrors = document.getElementById("show-errors");

// One line for each number, unrounded, with what a program needs to go on with it.
const CSV_FIELDS = ["cell", "model", "removed", "group", "method", "column", "unit", "value", "stderr", "n", "total", "benchmarks_used", "benchmarks_wanted", "status", "published", "difference", "verdict", "reason"];
const csvField = (value) => {
  const text = value === undefined || value === null ? "" : Array.isArray(value) ? value.join(" ") : String(value);
  return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
};
const csvText = (lines) => lines.map((line) => `${line.map(csvField).join(",")}\n`).join("");
const asCsv = ({ levels }) =>
  csvText([CSV_FIELDS, ...levels.flatMap(({ rows }) => rows.flatMap(({ cells }) =>
    cells.filter(Boolean).map((cell) => [
      cell.id, cell.modelTitle, cell.level, cell.rowGroup, cell.rowLabel, cell.columnTitle, cell.unit, cell.value,
      cell.stderr, cell.n, cell.total, cell.benchmarks_used, cell.benchmarks_wanted, cell.status, cell.published_text,
      typeof cell.difference === "string" ? cell.value - cell.published : cell.difference, cell.verdict?.word, cell.reason,
    ])))]);

const sampleNote = ({ levels }) => {
  const counts = new Map();
  for (const cell of levels.flatMap(({ rows }) => rows.flatMap(({ cells }) => cells))) {
    if (cell?.limited && cell.n !== undefined) counts.set(cell.columnTitle, cell.n);
  }
  return counts.size === 0 ? "" : `Limited samples: ${[...counts].map(([title, n]) => `${title} n=${n}`).join(", ")}.`;
};

const MARKDOWN = {
  escape: (text) => text.replace(/[\\`*_[\]<>|#]/g, "\\$&").replace(/\s+/g, " "),
  mark: { best: (text) => `**${text}**`, second: (text) => `*${text}*` },
  error: (error) => ` \u00b1 ${error}`,
  paper: (text) => ` (paper ${text})`,
};
const LATEX_SIGNS = {
  "\\": "\\textbackslash{}", "{": "\\{", "}": "\\}", $: "\\$", "&": "\\&", "#": "\\#", _: "\\_", "%": "\\%",
  "^": "\\textasciicircum{}", "~": "\\textasciitilde{}", "<": "\\textless{}", ">": "\\textgreater{}", "|": "\\textbar{}",
  "\u2013": "--", "\u2014": "---", "\u2212": "$-$", "\u00b1": "$\\pm$", "\u00d7": "$\\times$", "\u00b7": "$\\cdot$",
  "\u2248": "$\\approx$", "\u2260": "$\\neq$", "\u2264": "$\\leq$", "\u2265": "$\\geq$", "\u2192": "$\\rightarrow$",
  "\u202f": "\\,", "\u00a0": "~", "\u2020": "$\\dagger$", "\u03bb": "$\\lambda$", "\u03b1": "$\\alpha$", "\u03c3": "$\\sigma$",
};
const LATEX = {
  escape: (text) => text.replace(/\s+/g, " ").replace(/[\\{}$&#_%^~<>|\u0080-\uffff]/g, (sign) => LATEX_SIGNS[sign] ?? sign),
  mark: { best: (text) => `\\textbf{${text}}`, second: (text) => `\\underline{${text}}` },
  error: (error) => ` {\\scriptsize $\\pm$ ${error}}`,
  paper: (text) => ` {\\scriptsize (${text})}`,
};

const cellText = (cell, { escape, mark, error, paper }) => {
  if (!cell) return "";
  const value = escape(cell.shown);
  return [
    mark[cell.mark]?.(value) ?? value,
    cell.withError && cell.stderr !== undefined ? error(cell.stderr.toFixed(2)) : "",
    cell.benchmarks_used < cell.benchmarks_wanted ? ` (${cell.benchmarks_used} of ${cell.benchmarks_wanted})` : "",
    cell.withPaper && cell.status !== "published" && cell.published_text !== undefined ? paper(escape(cell.published_text)) : "",
  ].join("");
};
const labelText = ({ label, notes }, escape) => escape([label, ...notes.map((note) => `(${note})`)].join(" "));

const asMarkdown = (shown) => {
  const line = (cells) => `| ${cells.join(" | ")} |`;
  const { escape } = MARKDOWN;
  const groups = shown.spans.flatMap(({ text, span }) => Array(span).fill(text));
  const repeated = (title) => shown.columns.filter((other) => other === title).length > 1;
  const heads = shown.columns.map((title, index) => escape(repeated(title) && groups[index] ? `${title} (${groups[index]})` : title));
  const lines = [
    `**${escape(shown.caption)}**`, "",
    line(["Removed", "Method", ...heads]),
    line(["---", "---", ...heads.map(() => "---:")]),
  ];
  const reasons = [];
  for (const { heading, rows } of shown.levels) {
    for (const row of rows) {
      const label = labelText(row.group ? { ...row, notes: [row.group, ...row.notes] } : row, escape);
      if (row.reason !== undefined) reasons.push(`- ${label}: ${escape(row.reason)}.`);
      else lines.push(line([escape(heading.split(",")[0]), label, ...row.cells.map((cell) => cellText(cell, MARKDOWN))]));
    }
  }
  const note = sampleNote(shown);
  return [...lines, ...(note ? ["", escape(note)] : []), ...(reasons.length ? ["", ...reasons] : []), ""].join("\n");
};

const asLatex = (shown) => {
  const { escape } = LATEX;
  const width = shown.columns.length + 1;
  const lines = [
    "% \\usepackage{booktabs}",
    "\\begin{table}", "\\centering",
    `\\caption{${escape([shown.caption.replace(/\.?$/, "."), sampleNote(shown)].join(" ").trim())}}`,
    `\\begin{tabular}{l${"r".repeat(width - 1)}}`, "\\toprule",
  ];
  if (shown.spans.length > 0) {
    let column = 2;
    const rules = [];
    const heads = shown.spans.map(({ text, span }) => {
      if (text) rules.push(`\\cmidrule(lr){${column}-${column + span - 1}}`);
      column += span;
      return `\\multicolumn{${span}}{c}{${escape(text)}}`;
    });
    lines.push(` & ${heads.join(" & ")} \\\\`, rules.join(" "));
  }
  lines.push(`Method & ${shown.columns.map(escape).join(" & ")} \\\\`);
  for (const { heading, rows } of shown.levels) {
    lines.push("\\midrule");
    const wide = (text) => `\\multicolumn{${width}}{l}{\\emph{${escape(text)}}} \\\\`;
    if (heading) lines.push(wide(heading));
    let group = "";
    for (const row of rows) {
      if (row.group !== group) lines.push(wide(row.group));
      group = row.group;
      const label = labelText(row, escape);
      if (row.reason !== undefined) lines.push(`${label} & \\multicolumn{${width - 1}}{l}{--} \\\\ % ${row.reason.replace(/\s+/g, " ")}`);
      else lines.push(`${[label, ...row.cells.map((cell) => cellText(cell, LATEX))].join(" & ")} \\\\`);
    }
  }
  return [...lines, "\\bottomrule", "\\end{tabular}", "\\end{table}", ""].join("\n");
};

const FORMATS = {
  csv: { make: asCsv, type: "text/csv", ending: "csv" },
  markdown: { make: asMarkdown, type: "text/markdown", ending: "md" },
  latex: { make: asLatex, type: "application/x-tex", ending: "tex" },
};

const download = (name, text, type) => {
  const address = URL.createObjectURL(new Blob([text], { type: `${type};charset=utf-8` }));
  element("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 60_000); // the browser reads it after the click
};

const exportTable = async (table, format, action) => {
  const { make, type, ending } = FORMATS[format];
  const text = make(tableShown(table));
  if (action === "download") {
    download(`${table.id}.${ending}`, text, type);
    return "Downloaded";
  }
  await navigator.clipboard.writeText(text);
  return "Copied";
};

for (const line of document.querySelectorAll(".exports")) {
  const told = line.querySelector("output");
  line.addEventListener("click", async (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    const { format, action } = button.dataset;
    try {
      told.textContent = await exportTable(document.getElementById(line.dataset.table), format, action);
    } catch {
      told.textContent = "The browser does not allow it; download the file instead";
    }
  });
  line.hidden = false;
}

// What a figure draws, as a file.
for (const button of document.querySelectorAll("button[data-numbers]")) {
  button.addEventListener("click", () => {
    const { numbers } = button.dataset;
    const table = button.closest("figure").querySelector(".numbers table");
    const text = stored.figures[numbers] ?? csvText([...table.rows].map((row) =>
      [...row.cells].flatMap((cell) => [cell.textContent.trim(), ...Array(cell.colSpan - 1).fill("")])));
    download(`${numbers}.csv`, text, "text/csv");
  });
  button.hidden = false;
}
