// Charts that read out, isolate and lead to items, tables that sort, and rows that lead. Without it the page holds the
// same numbers; only the viewer needs it, and its lines are in samples.csv and answers.csv.

// Folded sections open for a link into them, and for paper.
const reveal = () => {
  const {item, cell} = named();
  const target = document.getElementById(item || cell ? "samples" : decodeURIComponent(location.hash.slice(1)));
  if (target) for (const one of [target.querySelector("details"), target.closest("details")]) if (one) one.open = true;
};
let folded = [];
addEventListener("beforeprint", () => {
  folded = [...document.querySelectorAll("details:not([open])")];
  folded.forEach((one) => { one.open = true; });
});
addEventListener("afterprint", () => folded.forEach((one) => { one.open = false; }));

// Sorting by a click or a key.
for (const table of document.querySelectorAll("table[data-sortable]")) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  const value = (row, place) => {
    const cell = row.cells[place], text = cell.textContent.trim().replace("−", "-");
    if (!cell.classList.contains("num")) return text;
    return Number((text.match(/[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?/) || [NaN])[0]);
  };
  const order = (a, b) => {
    if (typeof a === "number" && typeof b === "number") return Number.isNaN(a) - Number.isNaN(b) || a - b || 0;
    return String(a).localeCompare(String(b), "en", {numeric: true});
  };
  heads.forEach((head, place) => {
    const button = element("button", {type: "button"}, ...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const rows = [...body.rows].map((row) => [value(row, place), row]);
      rows.sort(([a], [b]) => {
        const missing = Number.isNaN(a) - Number.isNaN(b);
        return missing || (down ? -1 : 1) * order(a, b);
      });
      body.append(...rows.map(([, row]) => row));
    });
  });
}

// Charts: what lies under the pointer, read at once; a click on a series shows it alone.
const tip = element("div", {className: "tip", hidden: true}), cross = element("div", {className: "cross", hidden: true});
document.body.append(cross, tip);
for (const figure of document.querySelectorAll("figure.chart")) {
  for (const svg of figure.querySelectorAll("svg")) {
    const marks = [...svg.querySelectorAll(".mark")];
    for (const mark of marks) {
      const title = mark.querySelector("title");
      mark.setAttribute("aria-label", title.textContent);
      title.remove();
    }
    const middle = (mark) => {
      const box = mark.getBoundingClientRect();
      return [box.left + box.width / 2, box.top + box.height / 2];
    };
    const hide = () => { tip.hidden = cross.hidden = true; };
    const read = (event) => {
      const alone = figure.classList.contains("alone");
      const shown = marks.filter((mark) => !alone || mark.classList.contains("only") || !mark.dataset.series);
      const places = shown.map((mark) => [mark, ...middle(mark)]);
      const far = ([, x, y]) => Math.hypot(x - event.clientX, (y - event.clientY) / ("cross" in svg.dataset ? 8 : 1));
      const near = places.reduce((best, one) => (best && far(best) <= far(one) ? best : one), null);
      if (!near || far(near) > 40) return hide();
      const wanted = "cross" in svg.dataset ? places.filter(([, x]) => Math.abs(x - near[1]) < 1) : [near];
      wanted.sort((a, b) => a[2] - b[2]);
      tip.textContent = wanted.map(([mark]) => mark.getAttribute("aria-label")).join("\n");
      tip.hidden = false;
      tip.style.left = `${Math.max(4, Math.min(near[1] + 14, innerWidth - tip.offsetWidth - 4))}px`;
      tip.style.top = `${Math.max(4, Math.min(event.clientY + 14, innerHeight - tip.offsetHeight - 4))}px`;
      const box = svg.getBoundingClientRect();
      cross.hidden = !("cross" in svg.dataset);
      cross.style.left = `${near[1]}px`;
      cross.style.top = `${box.top}px`;
      cross.style.height = `${box.height}px`;
    };
    svg.addEventListener("pointermove", read);
    svg.addEventListener("pointerdown", read);
    svg.addEventListener("pointerleave", hide);
    addEventListener("scroll", hide, {passive: true});
    svg.addEventListener("click", (event) => {
      if (source && event.target.closest(".mark")) return;
      const own = event.target.closest("[data-series]"), series = own ? own.dataset.series : "";
      const again = series === "" || figure.dataset.alone === series;
      figure.dataset.alone = again ? "" : series;
      figure.classList.toggle("alone", !again);
      for (const one of figure.querySelectorAll("[data-series]")) {
        one.classList.toggle("only", !again && one.dataset.series === series);
      }
    });
  }
}

// The viewer of items and answers.
const source = document.getElementById("samples-data");
if (source) view(JSON.parse(source.textContent));

// A number leads where its line does, and a mark to the items of the cell that its id ends in. By keyboard the lines'
// own links do the same.
document.addEventListener("click", (event) => {
  if (event.target.closest("a, button") || !getSelection().isCollapsed) return;
  const mark = source && event.target.closest(".mark"), number = event.target.closest("td");
  if (mark) location.hash = address("", mark.id.split("-").pop());
  else if (number) (number.querySelector("a") || number.parentElement.querySelector("th a"))?.click();
});
addEventListener("hashchange", reveal);
reveal();
