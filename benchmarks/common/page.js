// What the page does: a click on a column's title sorts the table by it, and
// curves say their names under the pointer.
"use strict";

// Columns hold text such as "7.39", "44.1 ± 6.12", "+2.00 %" or "mgda"; numbers
// sort by the first one in the cell, cells without one come last.
function keyOf(cell) {
  const text = cell.textContent.trim();
  const number = text.replace(/[, ]/g, "").match(/^[^\d.]*?([-+−]?\d*\.?\d+(e[-+]?\d+)?)/i);
  return { text, number: number ? Number(number[1].replace("−", "-")) : NaN };
}

function sortBy(table, column) {
  const head = table.tHead.rows[0].cells[column];
  const descending = head.getAttribute("aria-sort") === "ascending";
  for (const cell of table.tHead.rows[0].cells) cell.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", descending ? "descending" : "ascending");
  const body = table.tBodies[0];
  const rows = [...body.rows].map((row) => ({ row, key: keyOf(row.cells[column]) }));
  const byText = column === 0;
  rows.sort((a, b) => {
    if (byText) {
      const order = a.key.text.localeCompare(b.key.text);
      return descending ? -order : order;
    }
    const [x, y] = [a.key.number, b.key.number];
    if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y);
    return descending ? y - x : x - y;
  });
  body.append(...rows.map((entry) => entry.row));
}

for (const table of document.querySelectorAll("table")) {
  [...table.tHead.rows[0].cells].forEach((cell, column) => {
    cell.tabIndex = 0;
    cell.title = "sort";
    cell.addEventListener("click", () => sortBy(table, column));
    cell.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === " ") {
        event.preventDefault();
        sortBy(table, column);
      }
    });
  });
}

const tip = document.getElementById("tip");

// A line is a pixel or two wide, which no hand can hit: a wide one that cannot
// be seen lies over it.
for (const curve of document.querySelectorAll("svg g.curve")) {
  const name = curve.dataset.name;
  for (const path of [...curve.querySelectorAll("path")]) {
    if (path.closest("defs")) continue;
    const wide = path.cloneNode();
    wide.removeAttribute("id");
    wide.setAttribute("class", "reach");
    wide.removeAttribute("style");
    curve.append(wide);
  }
  curve.addEventListener("pointermove", (event) => {
    tip.textContent = name;
    tip.style.left = `${event.clientX + 14}px`;
    tip.style.top = `${event.clientY + 14}px`;
    tip.hidden = false;
    // The same method in every panel of every picture.
    for (const other of document.querySelectorAll("svg g.curve")) {
      other.classList.toggle("lit", other.dataset.name === name);
    }
  });
  curve.addEventListener("pointerleave", () => {
    tip.hidden = true;
    for (const other of document.querySelectorAll("svg g.lit")) {
      other.classList.remove("lit");
    }
  });
}
