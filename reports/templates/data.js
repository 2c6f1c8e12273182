// The numbers of the page with what they share put together again (lpsteps/report/panel_data.py).

const stored = JSON.parse(document.getElementById("panel-data").textContent);
const MISSING = "\u2013";
const USUAL_POINTER = "/value";
const rowNumbers = new Map(stored.rows.map(({ key }, number) => [key, number]));

const splitId = (id) => {
  const cut = id.lastIndexOf("/");
  return [id.slice(0, cut), id.slice(cut + 1)];
};

// A file of the lineage, or one without; with the settings of the score that it holds, if any.
const sourceOf = ([number, pointer = USUAL_POINTER]) => {
  const { file, settings, ...itself } = stored.sources[number];
  const { path, sha256 } = stored.lineage.files[file] ?? itself;
  return { path, sha256, pointer, file: stored.lineage.files[file], settings: stored.settings[settings] };
};

const cellOf = (id) => {
  const [key, name] = splitId(id);
  const number = rowNumbers.get(key);
  const own = number === undefined ? undefined : stored.cells[number][name];
  if (!own) return undefined;
  const [table, model, level] = key.split("/");
  const row = stored.rows[number];
  const column = stored.columns[table][name];
  const sentence = (index) => (index === undefined ? undefined : stored.texts[index]);
  const versus = ([place, label, text, test, apart, other = name] = []) =>
    place === undefined ? undefined : { id: `${stored.rows[place].key}/${other}`, label: sentence(label), text, test, apart };
  return {
    status: "measured",
    text: MISSING,
    limited: own.n < own.total,
    ...own,
    id,
    table,
    level: Number(level.slice(1)),
    denseId: `${table}/${model}/n0/${stored.dense[`${table}/${model}`]}/${name}`,
    rowLabel: row.label,
    rowGroup: row.group,
    modelTitle: stored.models[row.model],
    columnTitle: column.title,
    unit: column.unit,
    higherIsBetter: column.higher_is_better,
    reason: sentence(own.reason),
    note: sentence(own.note),
    publishedNote: sentence(own.published_note),
    unjudged: sentence(own.unjudged),
    verdict: own.verdict && { word: own.verdict[0], rule: sentence(own.verdict[1]) },
    source: own.source && sourceOf(own.source),
    variant: own.variant === undefined ? undefined : stored.variants[own.variant],
    parts: own.parts?.map((part) => partOf(part, key)),
    versusBest: versus(own.versus_best),
    versusUnrepaired: versus(own.versus_unrepaired),
  };
};

// The column of the same row, or the number of another row and a column of it.
const partOf = (part, key) => {
  const [other, name] = part.split("/");
  return name === undefined ? `${key}/${part}` : `${stored.rows[other].key}/${name}`;
};

// What the number is over, in words.
const sampleOf = (cell) => {
  if (cell.n !== undefined) {
    const unit = cell.unit === "perplexity" ? "windows" : "documents";
    const total = cell.total !== undefined ? ` of ${cell.total}` : "";
    return `${cell.n}${total} ${unit}${cell.limited ? ", a limited sample" : ""}`;
  }
  if (cell.benchmarks_used === undefined) return undefined;
  return `${cell.benchmarks_used} of ${cell.benchmarks_wanted} columns${cell.limited ? ", limited samples" : ""}`;
};

const element = (name, properties, ...children) => {
  const node = Object.assign(document.createElement(name), properties);
  node.append(...children);
  return node;
};

const cellButtons = [...document.querySelectorAll("td button[data-cell]")];
const measuredTables = [...document.querySelectorAll(".group > .scroll > table")];
