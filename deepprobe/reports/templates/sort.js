"use strict";
function value(row, column) {
  const cell = row.cells[column];
  return cell.dataset.sort ? Number(cell.dataset.sort) : cell.textContent.trim();
}
function compare(a, b) {
  if (typeof a === "number" && typeof b === "number") {
    if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(a) - Number.isNaN(b);
    return a === b ? 0 : a - b;
  }
  return String(a).localeCompare(String(b), undefined, { numeric: true });
}
function sort(table, heading, column) {
  const down = heading.getAttribute("aria-sort") === "ascending";
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", down ? "descending" : "ascending");
  const body = table.tBodies[0];
  const rows = [...body.rows].map((row) => [value(row, column), row]);
  rows.sort((a, b) => (Number.isNaN(a[0]) || Number.isNaN(b[0]) || !down ? compare(a[0], b[0]) : compare(b[0], a[0])));
  body.append(...rows.map((pair) => pair[1]));
}
for (const table of document.querySelectorAll("table.sortable")) {
  [...table.tHead.rows[0].cells].forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = heading.textContent;
    button.title = "sort by " + heading.textContent;
    button.addEventListener("click", () => sort(table, heading, column));
    heading.replaceChildren(button);
  });
}
