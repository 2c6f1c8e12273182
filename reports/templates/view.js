// What the page shows of its tables: which models and rows, and in what form the numbers.

const controls = document.getElementById("controls");
const [modelChoice, methodText, measuredOnly, formChoice] =
  ["choose-model", "find-method", "measured-only", "choose-form"].map((id) => document.getElementById(id));
const shownCount = document.getElementById("shown-count");
const announce = (text) => { shownCount.textContent = text; };

const DENSE = "n0";
const tableSections = [...document.querySelectorAll("section.table")].map((whole) => ({
  whole,
  link: document.querySelector(`.bar li:has(a[href="#${CSS.escape(whole.id)}"])`),
  groups: [...whole.querySelectorAll(":scope > .group")].map((group) => ({
    group,
    model: group.dataset.model,
    printed: group.classList.contains("published"),
    bodies: [...group.querySelectorAll(":scope > .scroll > table > tbody")].map((body) => {
      let heading = "";
      return {
        body,
        rows: [...body.rows].filter((row) => !row.classList.contains("level")).map((row) => {
          const text = row.querySelector("th").textContent.trim();
          const isGroup = row.classList.contains("choice");
          if (isGroup) heading = text;
          const first = row.querySelector("[data-cell]")?.dataset.cell ?? "";
          return { row, isGroup, dense: first.split("/")[2] === DENSE, words: `${text} ${heading}`.toLowerCase() };
        }),
      };
    }),
  })),
}));

const everyRow = ({ bodies }) => bodies.flatMap(({ rows }) => rows).filter(({ isGroup }) => !isGroup);

// Dense rows stay beside whatever is found, as what it is compared with.
const filterRows = ({ body, rows }, words) => {
  let heading = null;
  for (const { row, isGroup, dense, words: own } of rows) {
    if (isGroup) {
      heading = row;
      heading.hidden = true;
      continue;
    }
    row.hidden = !(dense || own.includes(words)) || (measuredOnly.checked && !row.classList.contains("measured"));
    if (heading && !row.hidden) heading.hidden = false;
  }
  body.hidden = rows.every(({ row }) => row.hidden);
};

const filter = () => {
  const words = methodText.value.trim().toLowerCase();
  const model = modelChoice.value;
  let [visible, total] = [0, 0];
  for (const { whole, link, groups } of tableSections) {
    for (const one of groups) {
      for (const body of one.bodies) filterRows(body, words);
      const rows = everyRow(one);
      const found = rows.some(({ row, dense }) => !row.hidden && !(dense && words !== ""));
      const fits = (model === "" || one.model === model) && !(measuredOnly.checked && one.printed);
      one.group.hidden = !(fits && found);
      total += rows.length;
      if (!one.group.hidden) visible += rows.filter(({ row }) => !row.hidden).length;
    }
    // Figures have a panel for each model.
    const panels = [...whole.querySelectorAll(":scope > figure[data-model]")];
    for (const figure of panels) figure.hidden = words !== "" || (model !== "" && figure.dataset.model !== model);
    whole.hidden = [...groups.map(({ group }) => group), ...panels].every(({ hidden }) => hidden);
    if (link) link.hidden = whole.hidden;
  }
  document.getElementById("nothing-left").hidden = tableSections.some(({ whole }) => !whole.hidden);
  announce(visible < total ? `${visible} of ${total} rows` : "");
};

// Other forms of a number. A number that has no such form is left out, never shown in its own.
const FORMS = {
  "minus-dense": (cell) => {
    const dense = denseOf(cell);
    return numberOf(cell) === undefined || dense === undefined ? undefined : signed(cell.value - dense);
  },
  "of-dense": (cell) => {
    const dense = denseOf(cell);
    if (numberOf(cell) === undefined || !dense) return undefined;
    return cell.unit === "perplexity" ? `${(cell.value / dense).toFixed(2)}\u00d7` : `${((100 * cell.value) / dense).toFixed(1)} %`;
  },
  "minus-paper": (cell) => (typeof cell.difference === "string" ? cell.difference.split(",")[0] : undefined),
};
const numberOf = (cell) =>
  cell && cell.status !== "missing" && ["percent", "perplexity"].includes(cell.unit) && typeof cell.value === "number"
    ? cell.value : undefined;
// A printed number is compared with the printed one, whatever was measured of the dense model.
const denseOf = (cell) => {
  const dense = cellOf(cell.denseId);
  return cell.status === "published" && dense?.status !== "published" ? dense?.published : numberOf(dense);
};
const signed = (number) => `${number < 0 ? "" : "+"}${number.toFixed(2)}`;

const showForm = () => {
  const form = FORMS[formChoice.value];
  document.documentElement.dataset.form = formChoice.value;
  for (const button of cellButtons) {
    const value = button.querySelector(".value");
    if (!value) continue;
    value.dataset.measured ??= value.textContent;
    value.textContent = form ? form(cellOf(button.dataset.cell)) ?? "\u00b7" : value.dataset.measured;
  }
  announce(form ? formChoice.selectedOptions[0].textContent : "");
};

for (const control of [modelChoice, measuredOnly]) control.addEventListener("change", filter);
methodText.addEventListener("input", filter);
formChoice.addEventListener("change", showForm);
document.getElementById("reset-view").addEventListener("click", () => {
  [modelChoice.value, methodText.value, measuredOnly.checked, formChoice.value] = ["", "", false, ""];
  filter();
  showForm();
});
controls.hidden = false;

// Light and dark: as the system has it until the reader chooses; kept where the browser allows it.
const themeChoice = document.getElementById("choose-theme");
const THEME = "linearpatch-theme";
const setTheme = (theme) => { document.documentElement.style.colorScheme = theme; };
try {
  themeChoice.value = localStorage.getItem(THEME) ?? "";
} catch {
  themeChoice.value = "";
}
setTheme(themeChoice.value);
themeChoice.addEventListener("change", () => {
  setTheme(themeChoice.value);
  try {
    localStorage.setItem(THEME, themeChoice.value);
  } catch {
    // Without storage the choice lasts as long as the page.
  }
});

// The bar marks the table in view.
const inView = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    const link = tableSections.find(({ whole }) => whole === target)?.link?.firstElementChild;
    if (!link || !isIntersecting) continue;
    document.querySelector(".bar [aria-current]")?.removeAttribute("aria-current");
    link.setAttribute("aria-current", "true");
    const bar = link.closest("ul");
    bar.scrollLeft = link.offsetLeft - bar.offsetLeft - bar.clientWidth / 3;
  }
}, { rootMargin: "-20% 0px -75% 0px" });
for (const { whole } of tableSections) inView.observe(whole);
