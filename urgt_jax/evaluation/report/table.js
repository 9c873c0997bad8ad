// Sorts the pictures by a column, and shows the scores of another side.
"use strict";

const table = document.getElementById("pictures");
const body = table.tBodies[0];
const heads = [...table.tHead.rows[0].cells];
const sides = document.getElementById("side");
const sideCount = sides ? sides.querySelectorAll("input").length - 1 : 1; // the last is the ratio

function shownSide() {
  return sides ? Number(sides.querySelector("input:checked").value) : 0;
}

function valueOf(cell, side) {
  const values = cell.dataset.values.split(" ").map(Number);
  return side < sideCount ? values[side] : values[sideCount - 1] / values[0];
}

function keyOf(row, column, side) {
  const cell = row.cells[column];
  return column === 0 ? cell.dataset.name : valueOf(cell, side);
}

function compare(a, b) {
  if (typeof a === "string") return a.localeCompare(b, undefined, { numeric: true });
  return a - b;
}

// What is not a number stays last in either direction.
function sortBy(column, descending) {
  const side = shownSide();
  const keyed = [...body.rows].map((row) => [keyOf(row, column, side), row]);
  keyed.sort(([a], [b]) => {
    const missing = Number.isNaN(a) - Number.isNaN(b);
    return missing || (Number.isNaN(a) ? 0 : descending ? compare(b, a) : compare(a, b));
  });
  body.append(...keyed.map(([, row]) => row));
  heads.forEach((head, i) => head.removeAttribute("aria-sort"));
  heads[column].setAttribute("aria-sort", descending ? "descending" : "ascending");
}

// The first click brings the worst up, the next one turns the order round.
function clicked(column) {
  const now = heads[column].getAttribute("aria-sort");
  const worstFirst = column > 0 && heads[column].dataset.more !== "1";
  sortBy(column, now ? now === "ascending" : worstFirst);
}

function showSide() {
  const side = shownSide();
  for (const row of body.rows) {
    [...row.cells].slice(1).forEach((cell, i) => {
      const value = valueOf(cell, side);
      const digits = side < sideCount ? Number(heads[i + 1].dataset.digits) : 2;
      cell.textContent = Number.isFinite(value) ? value.toFixed(digits) : "–";
    });
  }
  const column = heads.findIndex((head) => head.hasAttribute("aria-sort"));
  if (column >= 0) sortBy(column, heads[column].getAttribute("aria-sort") === "descending");
}

heads.forEach((head, column) => {
  head.firstElementChild.addEventListener("click", () => clicked(column));
});
sides?.addEventListener("change", showSide);
