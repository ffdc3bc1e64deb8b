"use strict";
// Sorts a table by a column when its heading is pressed. Without this script the tables stay as they were written.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  const first = [...body.rows];
  const units = { k: 1e3, M: 1e6, G: 1e9, T: 1e12, P: 1e15, E: 1e18 };
  const numberOf = (text) => {
    const time = text.match(/^(?:(\d+) h)? ?(?:(\d+) min)? ?(?:([\d.]+) s)?$/);
    if (time && text) return 3600 * (time[1] || 0) + 60 * (time[2] || 0) + Number(time[3] || 0);
    const large = text.match(/^([\d.]+) ([kMGTPE])FLOP$/);
    if (large) return Number(large[1]) * units[large[2]];
    const found = text.replace(/,/g, "").match(/^[^\d+-]*([+-]?\d+(\.\d+)?(e[+-]?\d+)?)/i);
    return found ? parseFloat(found[1]) : null;
  };
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const was = head.getAttribute("aria-sort");
      const order = was === null ? "ascending" : was === "ascending" ? "descending" : null;
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      const rows = [...first];
      if (order) {
        head.setAttribute("aria-sort", order);
        const sign = order === "ascending" ? 1 : -1;
        const keys = new Map(rows.map((row) => [row, row.cells[column].textContent.trim()]));
        const numeric = column > 0 && rows.some((row) => numberOf(keys.get(row)) !== null);
        rows.sort((a, b) => {
          if (!numeric) return sign * keys.get(a).localeCompare(keys.get(b));
          const [x, y] = [numberOf(keys.get(a)), numberOf(keys.get(b))];
          // What is no number stays below, whatever the order.
          if (x === null || y === null) return (x === null) - (y === null);
          return sign * (x - y);
        });
      }
      body.append(...rows);
    });
  });
}
