// Tables sorted by a column: best first, worst first, then again in the order of the paper.
// Rows stay in their section, so that a number of removed layers is compared with itself alone.

const NEXT = { none: "best", best: "worst", worst: "none" };
const sections = new Map(); // of each table body: its rows in the order of the paper

const isHeading = (row) => row.classList.contains("level") || row.classList.contains("choice");

const orderOf = (body) => {
  if (!sections.has(body)) {
    let group = "";
    const rows = [...body.rows].map((row) => {
      if (row.classList.contains("choice")) group = row.textContent.trim();
      return { row, group };
    });
    sections.set(body, rows);
  }
  return sections.get(body);
};

// Numbers compare as numbers, lists of layers by their first, answers and words as words.
const sortKey = (row, index) => {
  const button = row.cells[index]?.querySelector("button[data-cell]");
  const cell = row.querySelector("td.reason") || !button ? undefined : cellOf(button.dataset.cell);
  if (cell === undefined || cell.status === "missing") return undefined;
  const value = Array.isArray(cell.value) ? cell.value[0] : cell.value;
  return typeof value === "boolean" ? Number(value) : value;
};

const compare = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b)));

const sortTable = (table, index, order, ascending) => {
  table.classList.toggle("sorted", order !== "none");
  for (const body of table.tBodies) {
    const rows = orderOf(body);
    const sorted = rows.filter(({ row }) => !isHeading(row));
    if (order !== "none") {
      const keys = new Map(sorted.map(({ row }) => [row, sortKey(row, index)]));
      sorted.sort(({ row: first }, { row: second }) => {
        const [a, b] = [keys.get(first), keys.get(second)];
        if (a === undefined || b === undefined) return (a === undefined) - (b === undefined);
        return ascending ? compare(a, b) : compare(b, a);
      });
    }
    const shown = order === "none" ? rows : [...rows.filter(({ row }) => isHeading(row)), ...sorted];
    body.append(...shown.map(({ row }) => row));
    // Away from the heading of its group, a row says which that is.
    for (const { row, group } of sorted) {
      row.querySelector("th .of-group")?.remove();
      if (order !== "none" && group) row.querySelector("th").append(element("span", { className: "note of-group" }, group));
    }
  }
};

for (const button of document.querySelectorAll("th .sort")) {
  button.addEventListener("click", () => {
    const head = button.closest("th");
    const table = button.closest("table");
    const order = NEXT[head.dataset.order ?? "none"];
    for (const other of table.querySelectorAll("th[aria-sort]")) {
      other.setAttribute("aria-sort", "none");
      other.dataset.order = "none";
    }
    const { higher_is_better: higherIsBetter } = stored.columns[table.dataset.table][head.dataset.column];
    const ascending = (order === "best") === (higherIsBetter === false);
    head.setAttribute("aria-sort", order === "none" ? "none" : ascending ? "ascending" : "descending");
    head.dataset.order = order;
    sortTable(table, head.cellIndex, order, ascending);
    announce(order === "none" ? "In the order of the paper" : `Sorted by ${button.textContent}, ${order} first`);
  });
}
