// Sorts the images by a column, and shows the scores of another candidate.
"use strict";

const table = document.getElementById("images");
const body = table.tBodies[0];
const heads = [...table.tHead.rows[0].cells];
const choice = document.getElementById("candidate"); // absent if there is one candidate only
const candidateCount = choice ? Number(choice.dataset.count) : 1; // ratios follow

function shownCandidate() {
  return choice ? Number(choice.querySelector("input:checked").value) : 0;
}

function valueOf(cell, candidate) {
  const values = cell.dataset.values.split(" ").map(Number);
  if (candidate < candidateCount) return values[candidate];
  return values[candidateCount - 1] / values[candidate - candidateCount];
}

function keyOf(row, column, candidate) {
  const cell = row.cells[column];
  return column === 0 ? cell.dataset.name : valueOf(cell, candidate);
}

function compare(a, b) {
  if (typeof a === "string") return a.localeCompare(b, undefined, { numeric: true });
  return a - b;
}

// Missing scores stay last in either direction.
function sortBy(column, descending) {
  const candidate = shownCandidate();
  const keyed = [...body.rows].map((row) => [keyOf(row, column, candidate), row]);
  keyed.sort(([a], [b]) => {
    const missing = Number.isNaN(a) - Number.isNaN(b);
    return missing || (Number.isNaN(a) ? 0 : descending ? compare(b, a) : compare(a, b));
  });
  body.append(...keyed.map(([, row]) => row));
  heads.forEach((head, i) => head.removeAttribute("aria-sort"));
  heads[column].setAttribute("aria-sort", descending ? "descending" : "ascending");
}

// The first click brings the worst to the top, the next one reverses the order.
function clicked(column) {
  const now = heads[column].getAttribute("aria-sort");
  const worstFirst = column > 0 && heads[column].dataset.higherIsBetter !== "1";
  sortBy(column, now ? now === "ascending" : worstFirst);
}

function showCandidate() {
  const candidate = shownCandidate();
  for (const row of body.rows) {
    [...row.cells].slice(1).forEach((cell, i) => {
      const value = valueOf(cell, candidate);
      const digits = candidate < candidateCount ? Number(heads[i + 1].dataset.digits) : 2;
      cell.textContent = Number.isFinite(value) ? value.toFixed(digits) : "–";
    });
  }
  const column = heads.findIndex((head) => head.hasAttribute("aria-sort"));
  if (column >= 0) sortBy(column, heads[column].getAttribute("aria-sort") === "descending");
}

heads.forEach((head, column) => {
  head.firstElementChild.addEventListener("click", () => clicked(column));
});
choice?.addEventListener("change", showCandidate);
