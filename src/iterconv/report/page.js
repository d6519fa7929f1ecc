"use strict";
// Wires what is on the page: controls to the parameters of plots and to rows, links to findings and networks.

const all = (query, place = document) => [...place.querySelectorAll(query)];
const read = (id) => JSON.parse(document.getElementById(id).textContent);
const selects = all("form.controls select");
const picked = {}; // the parameters that links set, by name
const views = new Map(); // by their places

const chosen = () => ({ ...picked, ...Object.fromEntries(selects.map((select) => [select.name, select.value])) });

function fits(keys, values) {
  return Object.entries(keys).every(([name, own]) => !values[name] || [own].flat().includes(values[name]));
}

function count() {
  for (const table of all("table:has(tr[data-keys])")) {
    const rows = all("tr[data-keys]", table);
    for (const row of rows) row.hidden = !fits(JSON.parse(row.dataset.keys), chosen());
    table.caption.dataset.count = `${rows.filter((row) => !row.hidden).length} of ${rows.length}`;
  }
  const counts = all("caption[data-count]").map((caption) => `${caption.textContent}: ${caption.dataset.count}`);
  for (const place of all("output").slice(0, 1)) place.textContent = counts.join("; ");
}

async function embed(box) {
  const spec = read(box.dataset.plot);
  const values = chosen();
  spec.datasets = Object.fromEntries(spec.usermeta.data.map((name) => [name, read(`data-${name}`)]));
  for (const param of spec.params) param.value = values[param.name.replace("chosen_", "")] ?? param.value;
  const { view } = await vegaEmbed(box, spec, { actions: false, renderer: "svg", logLevel: 1 });
  view.addEventListener("click", (event, item) => {
    if (item?.datum?.run) location.hash = `run-${item.datum.run}`;
  });
  box.querySelector("svg").setAttribute("aria-hidden", "true"); // the place around it tells what is drawn
  views.set(box, view);
}

// Brings all plots to what is chosen. One that is hidden has no width, and is drawn once it is seen; one in which nothing
// is left is taken away, since the axes of Vega do not come back from nothing.
async function redraw() {
  count();
  for (const box of all("[data-plot]").filter((one) => one.closest("figure").offsetParent)) {
    const view = views.get(box);
    if (view) {
      for (const [name, value] of Object.entries(chosen())) view.signal(`chosen_${name}`, value);
      await view.runAsync();
    } else await embed(box);
    const empty = !box.querySelector(".role-mark:is(.mark-symbol, .mark-rect) path");
    box.closest("figure").classList.toggle("empty", empty);
    if (!empty) continue;
    views.get(box).finalize();
    views.delete(box);
    box.replaceChildren();
  }
}

let drawing = Promise.resolve();
const draw = () => (drawing = drawing.then(redraw)); // one after the other

// An address such as #claim-4-2 or #run-NAME is a choice: it can be linked to, and the way back undoes it.
function follow() {
  const id = decodeURIComponent(location.hash.slice(1));
  const select = selects.find((one) => one.name === "run");
  if (select && id.startsWith("run-")) {
    select.value = id.slice(4);
    select.closest("section").scrollIntoView();
  }
  const opened = document.getElementById(id);
  if (opened?.matches("article")) open(opened);
  return show();
}

function open(article) {
  const place = article.closest("[data-signal]");
  for (const one of all("article", place)) one.classList.toggle("open", one === article);
  picked[place.dataset.signal] = article.id;
}

function show() {
  for (const place of all("[data-record]")) {
    const record = read(`data-${place.dataset.record}`).find((one) => one.run === chosen()[place.dataset.signal]);
    place.hidden = !record;
    for (const plot of all(".plots", place.parentElement)) plot.hidden = !record;
    if (!record) continue;
    place.querySelector("h3").textContent = record.run;
    place.querySelector("code").textContent = record.command;
    place.querySelector("dl").replaceChildren(...Object.entries(record.facts).map(([name, value]) => {
      const pair = document.createElement("div");
      for (const [tag, text] of [["dt", name], ["dd", value]]) pair.append(Object.assign(document.createElement(tag), { textContent: text }));
      return pair;
    }));
  }
  return draw();
}

function sort(button) {
  const head = button.parentElement;
  const body = head.closest("table").tBodies[0];
  const up = head.ariaSort !== "ascending";
  for (const other of head.parentElement.cells) other.ariaSort = "none";
  head.ariaSort = up ? "ascending" : "descending";
  const value = (row) => row.cells[head.cellIndex].dataset.value ?? row.cells[head.cellIndex].textContent;
  const compare = (a, b) => (isNaN(a) || isNaN(b) ? a.localeCompare(b, undefined, { numeric: true }) : a - b);
  const [full, empty] = [(row) => value(row) !== "", (row) => value(row) === ""].map((has) => [...body.rows].filter(has));
  full.sort((a, b) => (up ? 1 : -1) * compare(value(a), value(b)));
  body.append(...full, ...empty);
}

function download(button) {
  const table = document.getElementById(button.dataset.table);
  const rows = all("tr", table).filter((row) => !row.hidden);
  const quote = (cell) => `"${(cell.dataset.value ?? cell.textContent).replaceAll('"', '""')}"`;
  const text = rows.map((row) => [...row.cells].map(quote).join(",")).join("\n");
  const link = Object.assign(document.createElement("a"), { download: `${table.id.replace("table-", "")}.csv` });
  link.href = URL.createObjectURL(new Blob([`${text}\n`], { type: "text/csv" }));
  link.click();
  URL.revokeObjectURL(link.href);
}

document.addEventListener("click", (event) => {
  const target = event.target.closest("th button, [data-table], [data-set]");
  if (!target) return;
  if (target.matches("th button")) sort(target);
  else if (target.dataset.table) download(target);
  else for (const [name, value] of Object.entries(JSON.parse(target.dataset.set))) {
    for (const select of selects.filter((one) => one.name === name)) select.value = value;
  }
  if (target.dataset.set) draw();
});
document.addEventListener("input", (event) => {
  if (event.target.name === "run") history.replaceState(null, "", `#run-${event.target.value}`);
  show();
});
for (const form of all("form")) form.addEventListener("reset", () => setTimeout(show));
addEventListener("hashchange", follow);
for (const place of all(".evidence")) open(place.querySelector("article"));
follow().then(() => {
  document.documentElement.dataset.drawn = views.size;
});
