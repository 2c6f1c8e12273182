// What a number is, in short, while the pointer or the focus is on it. A tap opens the panel instead.

const tip = document.getElementById("tip");
let described = null;

const tipLines = (cell) => {
  const lines = [];
  if (cell.status === "missing") lines.push(cell.reason ?? "missing");
  if (cell.status === "published") lines.push("printed in the paper");
  if (cell.stderr !== undefined) lines.push(`standard error ${cell.stderr.toFixed(2)}`);
  if (cell.interval_text) lines.push(`95 % interval ${cell.interval_text}`);
  const sample = sampleOf(cell);
  if (sample) lines.push(`on ${sample}`);
  if (cell.mark === "best") lines.push("best of its section");
  if (cell.mark === "second") lines.push("second best of its section");
  if (cell.versusBest) {
    const { apart, label, text } = cell.versusBest;
    lines.push(`${apart ? "differs" : "cannot be told"} from the best, ${label}: ${text}`);
  }
  if (cell.status !== "published" && cell.published_text !== undefined) {
    const difference = typeof cell.difference === "string" ? `, difference ${cell.difference}` : "";
    lines.push(`the paper prints ${cell.published_text}${difference}`);
  }
  if (cell.verdict) lines.push(`${cell.verdict.word}: ${cell.verdict.rule}`);
  if (cell.publishedNote) lines.push(cell.publishedNote);
  if (cell.note) lines.push(cell.note);
  return lines;
};

const hideTip = () => {
  described?.removeAttribute("aria-describedby");
  described = null;
  tip.hidden = true;
};

const showTip = (button) => {
  const cell = cellOf(button.dataset.cell);
  const lines = cell ? tipLines(cell) : [];
  hideTip();
  if (lines.length === 0 || panel.open) return;
  tip.replaceChildren(
    element("strong", {}, `${cell.rowLabel}, ${cell.columnTitle}`),
    ...lines.map((line) => element("span", {}, line)));
  tip.hidden = false;
  described = button;
  button.setAttribute("aria-describedby", tip.id);
  placeTip();
};

const placeTip = () => {
  if (!described) return;
  const place = described.getBoundingClientRect();
  if (place.bottom < 0 || place.top > innerHeight) return hideTip();
  const { width, height } = tip.getBoundingClientRect();
  const left = Math.min(Math.max(8, place.right - width), document.documentElement.clientWidth - width - 8);
  const below = place.bottom + 6;
  tip.style.left = `${left}px`;
  tip.style.top = `${below + height > innerHeight ? Math.max(8, place.top - height - 6) : below}px`;
};

document.addEventListener("pointerover", (event) => {
  if (event.pointerType === "touch") return;
  const button = event.target.closest?.("td button[data-cell]");
  if (button) showTip(button);
  else if (described) hideTip();
});
document.addEventListener("focusin", (event) => {
  const button = event.target.closest?.("td button[data-cell]");
  if (button?.matches(":focus-visible")) showTip(button);
  else hideTip();
});
document.addEventListener("focusout", hideTip);
// Moved, not hidden: the keyboard scrolls what it focuses into view.
document.addEventListener("scroll", placeTip, { passive: true, capture: true });
document.addEventListener("click", hideTip);
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") hideTip();
});
