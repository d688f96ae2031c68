"use strict";
// The viewer of items and answers. A number of the page leads here: #cell=KEY shows the items of its condition alone,
// #item=ID one item, and both together one item with that condition marked.

const element = (tag, properties = {}, ...children) => {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
};

// What an address names; both are "" where it names a section.
const named = () => {
  const found = new URLSearchParams(location.hash.slice(1).replaceAll("+", "%2B"));
  return {item: found.get("item") || "", cell: found.get("cell") || ""};
};
const address = (item, cell) => {
  const parts = [["item", item], ["cell", cell]].filter(([, value]) => value);
  return `#${parts.map(([name, value]) => `${name}=${encodeURIComponent(value)}`).join("&")}`;
};

const kinds = {answer_probability: "item", open_ended: "question"};

// Every condition by its cell: what its items are, and what is known of one of them.
function conditions(data) {
  const found = new Map();
  const both = ({base, dose}) => (dose === "alone" ? base : `${dose} on ${base}`);
  data.conditions.forEach((one, place) => found.set(one.cell, {
    name: both(one), kind: "item", what: "p(matching)", read: ({p}) => p[place], before: ({p}) => (one.own === place ? undefined : p[one.own]),
  }));
  data.spoken.forEach((one, place) => found.set(one.cell, {
    name: both(one), kind: "question", what: "score in words", read: ({answers}) => (answers[place] ? answers[place][1] : undefined),
    before: ({answers}) => (one.own !== place && answers[one.own] ? answers[one.own][1] : undefined),
  }));
  const rest = new Map(data.more.map((one) => [one.cell, one]));
  for (const one of data.more) {
    const places = new Map(data.asked[one.evaluator].map((id, place) => [id, place]));
    const alone = rest.get(one.own), itself = one.own === one.cell;
    found.set(one.cell, {
      name: one.name, kind: kinds[one.evaluator] || one.evaluator,
      what: {answer_probability: "p(matching)", capability: "p(correct)", open_ended: "score in words"}[one.evaluator] || one.evaluator,
      aside: true, read: ({id}) => one.p[places.get(id)],
      before: (item) => {
        if (itself) return undefined;
        return alone ? alone.p[places.get(item.id)] : found.has(one.own) ? found.get(one.own).read(item) : undefined;
      },
    });
  }
  return found;
}

function view(data) {
  const known = conditions(data), more = Object.entries(data.asked);
  const entries = [...data.items.map((one) => ({...one, kind: "item"})),
    ...data.questions.map((one) => ({...one, kind: "question"})),
    ...more.filter(([kind]) => !(kind in kinds)).flatMap(([kind, ids]) => ids.map((id) => ({...data.texts[id], id, kind, aside: true})))];
  let focus = null;  // the condition that a number led to
  const said = (one) => (one.answers || []).filter((answer) => answer);
  const apart = ([, first, second]) => first !== null && second !== null && Math.abs(first - second) >= data.disagree;
  const filters = [
    ["all", "all items", () => true],
    ["flips", "items that flip", (one) => one.flips],
    ["disagree", "answers on which the judges disagree", (one) => said(one).some(apart)],
    ["collapsed", "collapsed text", (one) => said(one).some((answer) => answer[3])],
  ].filter(([name, , keeps]) => name === "all" || entries.some(keeps));
  const number = (p) => {
    if (p === null) return "n/a";
    if (p < 0 || p > 1) return p.toPrecision(3);
    if (p > 0 && p < 0.0005) return "<.001";
    if (p >= 0.9995 && p < 1) return ">.999";
    return p.toFixed(p < 0.0495 || p > 0.9505 ? 3 : 2).replace(/^0/, "");
  };
  const tinted = (made, p) => {
    if (p === null) return made;
    const strength = 0.06 + 0.7 * Math.abs(p - data.side) * 2;
    made.style.backgroundColor = p < data.side ? `rgb(213 94 0 / ${strength})` : `rgb(0 114 178 / ${strength})`;
    return made;
  };
  const strip = (one) => {
    const made = element("span", {className: "strip"});
    one.p.forEach((p, place) => {
      const {base, dose} = data.conditions[place];
      made.append(tinted(element("i", {title: `${base}, ${dose}: ${number(p)}`}), p));
    });
    return made;
  };
  // One row a base, one column a dose.
  const grid = (conditions, cell) => {
    const bases = [...new Set(conditions.map(({base}) => base))], doses = [...new Set(conditions.map(({dose}) => dose))];
    const head = (text, scope) => element("th", {scope}, text);
    const row = (base) => element("tr", {}, head(base, "row"), ...doses.map((dose) => {
      const place = conditions.findIndex((one) => one.base === base && one.dose === dose);
      if (place < 0) return element("td");
      const made = cell(place);
      made.classList.toggle("led", focus !== null && conditions[place].cell === focus.cell);
      return made;
    }));
    const order = (dose) => (dose === "alone" ? 0 : Number(dose.split(" ").pop()));
    doses.sort((a, b) => order(a) - order(b));
    return element("div", {className: "scroll", tabIndex: 0, role: "region", ariaLabel: "every condition"}, element("table", {},
      element("thead", {}, element("tr", {}, head("on", "col"), ...doses.map((dose) => head(dose, "col")))),
      element("tbody", {}, ...bases.map(row))));
  };
  const levels = (one) => grid(data.conditions, (place) => {
    const p = one.p[place], own = data.conditions[place].own;
    const flipped = p !== null && own !== null && one.p[own] !== null && (p - data.side) * (one.p[own] - data.side) < 0;
    return tinted(element("td", {className: flipped ? "num flipped" : "num"}, number(p)), p);
  });
  const answers = (one) => grid(data.spoken, (place) => {
    const answer = one.answers[place];
    if (!answer) return element("td", {className: "said"}, "no answer");
    const [text, first, second, collapsed, served] = answer;
    const scores = [first, second].filter((score) => score !== null).map(number).join(", second judge ");
    const notes = [scores && `score ${scores}`, apart(answer) && "judges disagree", collapsed && "collapsed",
      served && "generated by a server"];
    return element("td", {className: collapsed ? "said collapsed" : "said"}, text || "(empty)",
      element("small", {}, notes.filter(Boolean).join("; ")));
  });
  // `.45 → .64`: of the base alone, and in the condition that was asked for.
  const reading = (one) => {
    const own = focus.read(one), before = focus.before(one);
    return before === undefined ? number(own) : `${number(before)} → ${number(own)}`;
  };
  const belongs = (one) => (focus ? one.kind === focus.kind && focus.read(one) !== undefined : !one.aside);
  const detail = element("div", {className: "detail", tabIndex: -1}), list = element("div", {className: "list"});
  const search = element("input", {type: "search", placeholder: "search questions, options, answers, ids"});
  search.setAttribute("aria-label", "Search the items");
  const choose = element("select", {}, ...filters.map(([name, label]) => element("option", {value: name}, label)));
  choose.setAttribute("aria-label", "Which items");
  const count = element("span", {className: "note"}), bar = element("p", {className: "led-by", tabIndex: -1, hidden: true});
  const buttons = new Map(entries.map((one) => {
    const told = one.question || (one.kind === "question" ? "(no text)" : "");
    const made = element("button", {type: "button", title: one.id}, element("b", {}, one.id), ` ${told.slice(0, 90)}`,
      element("span", {className: "reading"}));
    if (one.kind === "item") made.append(strip(one));
    made.addEventListener("click", () => {
      history.replaceState(null, "", address(one.id, focus ? focus.cell : ""));
      show(one);
    });
    return [one, made];
  }));
  list.append(...buttons.values());
  const show = (one) => {
    for (const [other, made] of buttons) made.setAttribute("aria-current", other === one);
    const options = (one.options || []).map((text, place) => element("li", {},
      text, ...(place === one.matching ? [element("b", {className: "matching"}, one.aside ? " right" : " matching")] : [])));
    const link = element("a", {href: address(one.id, focus ? focus.cell : "")}, one.id);
    const text = one.question || "The run kept no text of this item; its id names it in the data.";
    detail.replaceChildren(element("h3", {}, link, one.flips ? " flips" : ""),
      element("p", {className: "asked"}, text), element("ol", {type: "A"}, ...options));
    if (focus && focus.aside) detail.append(element("p", {}, `${focus.name}: ${focus.what} ${reading(one)}`));
    if (one.kind === "item") detail.append(levels(one));
    if (one.kind === "question") detail.append(answers(one));
  };
  const filter = () => {
    const wanted = search.value.trim().toLowerCase(), keeps = filters.find(([name]) => name === choose.value)[2];
    let shown = 0;
    for (const [one, made] of buttons) {
      const words = [one.id, one.question || "", ...(one.options || []), ...said(one).map(([text]) => text)];
      made.hidden = !(belongs(one) && keeps(one) && (!wanted || words.join("\n").toLowerCase().includes(wanted)));
      made.querySelector(".reading").textContent = focus && !made.hidden ? reading(one) : "";
      shown += !made.hidden;
    }
    count.textContent = `${shown} of ${entries.filter(belongs).length}`;
  };
  // Only the items of the condition `cell`; all of them for "".
  const lead = (cell) => {
    const found = known.get(cell);
    focus = found ? {...found, cell} : null;
    search.value = "";
    choose.value = "all";
    filter();
    const all = element("button", {type: "button"}, "all conditions");
    all.addEventListener("click", () => { location.hash = "samples"; });
    bar.hidden = !cell;
    if (found) bar.replaceChildren(`Only ${found.name}: ${found.what} of ${entries.filter(belongs).length} items `, all);
    else bar.replaceChildren(`The page does not hold the items of this condition: they are the lines with cell ${cell} in `,
      element("a", {href: "rows.jsonl"}, "rows.jsonl"), ". ", all);
  };
  const follow = () => {
    const {item, cell} = named();
    if (!item && !cell && !focus && bar.hidden) return false;
    lead(cell);
    const found = entries.find((one) => one.id === item && belongs(one)) || (cell && entries.find(belongs));
    if (found) show(found);
    if (item || cell) place.closest("section").scrollIntoView();
    if (cell) bar.focus({preventScroll: true});
    return Boolean(found);
  };
  search.addEventListener("input", filter);
  choose.addEventListener("change", filter);
  addEventListener("hashchange", follow);
  const place = document.querySelector(".viewer");
  place.replaceChildren(bar, element("div", {className: "controls"}, search, choose, count), list, detail);
  const [items, questions] = data.most;
  if (data.items.length < items || data.questions.length < questions) {
    place.prepend(element("p", {className: "note"}, `The page holds the first ${data.items.length} of ${items} items and ` +
      `${data.questions.length} of ${questions} questions; all are in samples.csv and answers.csv.`));
  }
  filter();
  if (!follow()) show(entries[0]);
}

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
