"use strict";
// Everything works without this script but: sorting, filtering, zooming, copying.

function make(tag, attributes = {}, text = "") {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.textContent = text; // never as HTML
  return element;
}

const byId = (id) => document.getElementById(id);

// ---- The table of cells

function number(value) {
  return { inf: Infinity, "-inf": -Infinity, nan: NaN }[value] ?? value;
}

function shown(column, row) {
  const value = column.values[row];
  if (value === null) return "–";
  if (column.decimals === null || typeof value === "string") return String(value);
  const size = Math.abs(value);
  return size && (size < 1e-3 || size >= 1e5)
    ? value.toExponential(2).replace(/e([+-])(\d)$/, "e$10$2")
    : value.toFixed(column.decimals);
}

// Below every number lies NaN, and below that what has no value, whichever way one sorts.
function rank(value) {
  return value === null ? 2 : Number.isNaN(value) ? 1 : 0;
}

const words = new Intl.Collator("en", { numeric: true });

function compareIn(column, down) {
  const values = column.kind === "number" ? column.values.map(number) : column.values;
  const plain = column.kind === "number" ? (a, b) => (a < b ? -1 : a > b ? 1 : 0) : words.compare;
  return (i, j) => {
    const a = values[i], b = values[j], ranked = rank(a) - rank(b);
    if (ranked || rank(a)) return ranked || i - j;
    return (down ? plain(b, a) : plain(a, b)) || i - j;
  };
}

function tableOfCells() {
  const PER_PAGE = 50, MOST_CHOICES = 20;
  const columns = JSON.parse(byId("cells-data").textContent);
  const count = columns.length ? columns[0].values.length : 0;
  if (!count) return;
  const table = byId("table"), body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
  const chosen = new Map(), hidden = new Set();
  let texts = null, order = [...Array(count).keys()], found = order, page = 0;

  function textOf(row) {
    texts ??= order.slice().sort((a, b) => a - b).map(
      (each) => columns.map((column) => column.values[each] ?? "").join("\n").toLowerCase());
    return texts[row];
  }

  function filter() {
    const wanted = byId("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
    found = order.filter((row) =>
      [...chosen].every(([column, value]) => shown(column, row) === value) &&
      wanted.every((word) => textOf(row).includes(word)));
    page = 0;
    draw();
  }

  function draw() {
    const from = page * PER_PAGE, rows = found.slice(from, from + PER_PAGE);
    body.replaceChildren(...rows.map((row) => {
      const line = make("tr");
      for (const column of columns) {
        if (hidden.has(column)) continue;
        const name = column.kind === "number" ? "n" : column.role === "id" ? "id" : "";
        line.append(make("td", name ? { class: name } : {}, shown(column, row)));
      }
      return line;
    }));
    const pages = Math.max(1, Math.ceil(found.length / PER_PAGE));
    const all = `${found.length.toLocaleString("en")} of ${count.toLocaleString("en")} cells`;
    const which = rows.length ? `; here ${from + 1} to ${from + rows.length}` : "";
    byId("shown").textContent = all + which;
    byId("place").textContent = `Page ${page + 1} of ${pages}`;
    byId("previous").disabled = page === 0;
    byId("next").disabled = page + 1 >= pages;
  }

  function sort(column, head) {
    const down = head.getAttribute("aria-sort") === "ascending";
    for (const other of heads) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    order.sort(compareIn(column, down));
    filter();
  }

  function turn(by) {
    page += by;
    draw();
  }

  columns.forEach((column, n) => {
    const button = make("button", { type: "button", class: "sort" });
    button.append(...heads[n].childNodes);
    heads[n].append(button);
    button.addEventListener("click", () => sort(column, heads[n]));
    addSelect(column);
    addChoice(column, heads[n]);
  });

  function addSelect(column) {
    const rows = new Map(column.values.map((_, row) => [shown(column, row), row]));
    if (rows.size < 2 || rows.size > MOST_CHOICES) return;
    if (!["varies", "outcome", "where"].includes(column.role)) return;
    const order = compareIn(column, false);
    const label = make("label", {}, `${column.key} `), select = make("select");
    select.append(make("option", { value: "" }, "all"));
    for (const [text] of [...rows].sort((a, b) => order(a[1], b[1]))) {
      select.append(make("option", { value: `=${text}` }, text));
    }
    select.addEventListener("change", () => {
      if (select.value) chosen.set(column, select.value.slice(1));
      else chosen.delete(column);
      filter();
    });
    label.append(select);
    byId("selects").append(label);
  }

  function addChoice(column, head) {
    const label = make("label"), box = make("input", { type: "checkbox" });
    box.checked = true;
    box.addEventListener("change", () => {
      head.hidden = !box.checked;
      if (box.checked) hidden.delete(column);
      else hidden.add(column);
      draw();
    });
    label.append(box, ` ${column.key}`);
    byId("chooser").append(label);
  }

  function download() {
    const quoted = (value) => {
      const text = String(value ?? "");
      return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
    };
    const mine = columns.filter((column) => !hidden.has(column));
    const lines = [mine.map((column) => quoted(column.key))];
    for (const row of found) lines.push(mine.map((column) => quoted(column.values[row])));
    const text = lines.map((line) => line.join(",") + "\r\n").join("");
    const link = make("a", { download: "cells-shown.csv" });
    link.href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }

  const controls = document.querySelector(".controls");
  controls.hidden = false;
  controls.addEventListener("submit", (event) => event.preventDefault());
  byId("filter").addEventListener("input", filter);
  byId("download").addEventListener("click", download);
  byId("previous").addEventListener("click", () => turn(-1));
  byId("next").addEventListener("click", () => turn(1));
  document.querySelector(".pager").hidden = count <= PER_PAGE;
  draw();
}

// ---- Figures, enlarged

function enlarging() {
  const dialog = byId("zoom"), stage = byId("stage");
  if (!dialog) return;
  let picture = null, home = null, whole = null, view = null;

  function open(card) {
    picture = card.querySelector("svg");
    home = card;
    whole = picture.getAttribute("viewBox").split(/[\s,]+/).map(Number);
    card.style.height = `${card.offsetHeight}px`; // the page keeps its place
    stage.append(picture); // moved, not copied: its ids stay unique
    show([...whole]);
    dialog.showModal();
    stage.focus();
  }

  function show(next) {
    view = next;
    picture.setAttribute("viewBox", view.join(" "));
  }

  // Pixels a unit of the figure, which is shown as large as fits, in the middle.
  function scale() {
    const box = picture.getBoundingClientRect();
    return Math.min(box.width / view[2], box.height / view[3]);
  }

  function pointAt(event) {
    const box = picture.getBoundingClientRect();
    return [view[0] + view[2] / 2 + (event.clientX - box.left - box.width / 2) / scale(),
      view[1] + view[3] / 2 + (event.clientY - box.top - box.height / 2) / scale()];
  }

  function zoom(factor, [x, y] = [view[0] + view[2] / 2, view[1] + view[3] / 2]) {
    const width = Math.min(Math.max(view[2] * factor, whole[2] / 40), whole[2] * 1.5);
    const by = width / view[2];
    show([x - (x - view[0]) * by, y - (y - view[1]) * by, width, view[3] * by]);
  }

  function move(x, y) {
    show([view[0] + x, view[1] + y, view[2], view[3]]);
  }

  dialog.addEventListener("close", () => { // Escape too; the browser gives the focus back
    picture.setAttribute("viewBox", whole.join(" "));
    home.append(picture);
    home.style.height = "";
    picture = null;
  });
  dialog.addEventListener("click", (event) => {
    const wanted = event.target.closest("[data-zoom]")?.dataset.zoom;
    if (wanted === "in") zoom(1 / 1.4);
    if (wanted === "out") zoom(1.4);
    if (wanted === "all") show([...whole]);
    if (wanted === "close" || event.target === dialog) dialog.close();
  });
  dialog.addEventListener("keydown", (event) => {
    const [right, down] = [view[2] / 10, view[3] / 10];
    const does = {
      "+": () => zoom(1 / 1.4), "=": () => zoom(1 / 1.4), "-": () => zoom(1.4),
      "0": () => show([...whole]),
      ArrowLeft: () => move(-right, 0), ArrowRight: () => move(right, 0),
      ArrowUp: () => move(0, -down), ArrowDown: () => move(0, down),
    }[event.key];
    if (!does || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    does();
  });
  stage.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoom(Math.exp(event.deltaY / 400), pointAt(event));
  }, { passive: false });
  stage.addEventListener("pointerdown", (event) => stage.setPointerCapture(event.pointerId));
  stage.addEventListener("pointermove", (event) => {
    if (stage.hasPointerCapture(event.pointerId)) {
      move(-event.movementX / scale(), -event.movementY / scale());
    }
  });

  for (const figure of document.querySelectorAll("figure.plot")) {
    const card = figure.querySelector(".card"), title = card.querySelector("title").textContent;
    const button = make("button", { type: "button", class: "enlarge" }, "Enlarge");
    button.append(make("span", { class: "hearing" }, `: ${title}`));
    button.addEventListener("click", () => open(card));
    card.addEventListener("click", () => { button.focus({ preventScroll: true }); open(card); });
    card.classList.add("enlargeable");
    card.after(button);
  }
}

// ---- Commands, copied

function copying() {
  for (const command of document.querySelectorAll(".command")) {
    const button = make("button", { type: "button", class: "copy" }, "Copy");
    button.addEventListener("click", async () => {
      const code = command.querySelector("code");
      try {
        await navigator.clipboard.writeText(code.textContent);
        button.textContent = "Copied";
      } catch { // not allowed: it is at least selected
        getSelection().selectAllChildren(code);
        button.textContent = "Selected";
      }
      setTimeout(() => { button.textContent = "Copy"; }, 2000);
    });
    command.append(button);
  }
}

// ---- Boxes that scroll can be reached by keyboard, others need no stop there

function reaching() {
  const watcher = new ResizeObserver((entries) => {
    for (const { target } of entries) {
      if (target.scrollWidth > target.clientWidth) target.tabIndex = 0;
      else target.removeAttribute("tabindex");
    }
  });
  for (const box of document.querySelectorAll(".scroll")) watcher.observe(box);
}

// ---- On paper everything is open

function printing() {
  let closed = [];
  addEventListener("beforeprint", () => {
    closed = [...document.querySelectorAll("details:not([open])")];
    for (const each of closed) each.open = true;
  });
  addEventListener("afterprint", () => { for (const each of closed) each.open = false; });
}

if (byId("cells-data")) tableOfCells();
enlarging();
copying();
reaching();
printing();
