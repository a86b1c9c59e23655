"use strict";
// This script adds sorting, filtering, zooming and copying. Everything else
// works without it.

function createElement(tag, attributes = {}, text = "") {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.textContent = text; // escaped, not HTML
  return element;
}

const byId = (id) => document.getElementById(id);

// ---- The table of cells

function toNumber(value) {
  return { inf: Infinity, "-inf": -Infinity, nan: NaN }[value] ?? value;
}

function display(column, row) {
  const value = column.values[row];
  if (value === null) return "–";
  if (column.decimals === null || typeof value === "string") return String(value);
  const size = Math.abs(value);
  return size && (size < 1e-3 || size >= 1e5)
    ? value.toExponential(2).replace(/e([+-])(\d)$/, "e$10$2")
    : value.toFixed(column.decimals);
}

// NaN sorts after every number and a missing value after NaN, in both directions.
function rank(value) {
  return value === null ? 2 : Number.isNaN(value) ? 1 : 0;
}

const collator = new Intl.Collator("en", { numeric: true });

function comparator(column, down) {
  const values = column.kind === "number" ? column.values.map(toNumber) : column.values;
  const compare = column.kind === "number" ? (a, b) => (a < b ? -1 : a > b ? 1 : 0) : collator.compare;
  return (i, j) => {
    const a = values[i], b = values[j], ranked = rank(a) - rank(b);
    if (ranked || rank(a)) return ranked || i - j;
    return (down ? compare(b, a) : compare(a, b)) || i - j;
  };
}

function initCellTable() {
  const PER_PAGE = 50, MAX_CHOICES = 20;
  const columns = JSON.parse(byId("cells-data").textContent);
  const count = columns.length ? columns[0].values.length : 0;
  if (!count) return;
  const table = byId("table"), body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
  const selected = new Map(), hidden = new Set();
  let texts = null, order = [...Array(count).keys()], rowsFound = order, page = 0;

  function textOf(row) {
    texts ??= order.slice().sort((a, b) => a - b).map(
      (row) => columns.map((column) => column.values[row] ?? "").join("\n").toLowerCase());
    return texts[row];
  }

  function filter() {
    const terms = byId("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
    rowsFound = order.filter((row) =>
      [...selected].every(([column, value]) => display(column, row) === value) &&
      terms.every((term) => textOf(row).includes(term)));
    page = 0;
    draw();
  }

  function draw() {
    const from = page * PER_PAGE, rows = rowsFound.slice(from, from + PER_PAGE);
    body.replaceChildren(...rows.map((row) => {
      const line = createElement("tr");
      for (const column of columns) {
        if (hidden.has(column)) continue;
        const name = column.kind === "number" ? "n" : column.role === "id" ? "id" : "";
        line.append(createElement("td", name ? { class: name } : {}, display(column, row)));
      }
      return line;
    }));
    const pages = Math.max(1, Math.ceil(rowsFound.length / PER_PAGE));
    const total = `${rowsFound.length.toLocaleString("en")} of ${count.toLocaleString("en")} cells`;
    const range = rows.length ? `; rows ${from + 1} to ${from + rows.length}` : "";
    byId("displayed").textContent = total + range;
    byId("page-number").textContent = `Page ${page + 1} of ${pages}`;
    byId("previous").disabled = page === 0;
    byId("next").disabled = page + 1 >= pages;
  }

  function sort(column, head) {
    const down = head.getAttribute("aria-sort") === "ascending";
    for (const other of heads) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    order.sort(comparator(column, down));
    filter();
  }

  function changePage(step) {
    page += step;
    draw();
  }

  columns.forEach((column, n) => {
    const button = createElement("button", { type: "button", class: "sort" });
    button.append(...heads[n].childNodes);
    heads[n].append(button);
    button.addEventListener("click", () => sort(column, heads[n]));
    addSelect(column);
    addColumnToggle(column, heads[n]);
  });

  function addSelect(column) {
    const rows = new Map(column.values.map((_, row) => [display(column, row), row]));
    if (rows.size < 2 || rows.size > MAX_CHOICES) return;
    if (!["varies", "outcome", "run"].includes(column.role)) return;
    const order = comparator(column, false);
    const label = createElement("label", {}, `${column.key} `), select = createElement("select");
    select.append(createElement("option", { value: "" }, "all"));
    for (const [text] of [...rows].sort((a, b) => order(a[1], b[1]))) {
      select.append(createElement("option", { value: `=${text}` }, text));
    }
    select.addEventListener("change", () => {
      if (select.value) selected.set(column, select.value.slice(1));
      else selected.delete(column);
      filter();
    });
    label.append(select);
    byId("selects").append(label);
  }

  function addColumnToggle(column, head) {
    const label = createElement("label"), box = createElement("input", { type: "checkbox" });
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
    const quote = (value) => {
      const text = String(value ?? "");
      return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
    };
    const visible = columns.filter((column) => !hidden.has(column));
    const lines = [visible.map((column) => quote(column.key))];
    for (const row of rowsFound) lines.push(visible.map((column) => quote(column.values[row])));
    const text = lines.map((line) => line.join(",") + "\r\n").join("");
    const link = createElement("a", { download: "cells-shown.csv" });
    link.href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }

  const controls = document.querySelector(".controls");
  controls.hidden = false;
  controls.addEventListener("submit", (event) => event.preventDefault());
  byId("filter").addEventListener("input", filter);
  byId("download").addEventListener("click", download);
  byId("previous").addEventListener("click", () => changePage(-1));
  byId("next").addEventListener("click", () => changePage(1));
  document.querySelector(".pager").hidden = count <= PER_PAGE;
  draw();
}

// ---- Zoom of figures

function initZoom() {
  const dialog = byId("zoom"), stage = byId("stage");
  if (!dialog) return;
  let svg = null, svgParent = null, fullView = null, view = null;

  function open(card) {
    svg = card.querySelector("svg");
    svgParent = card;
    fullView = svg.getAttribute("viewBox").split(/[\s,]+/).map(Number);
    card.style.height = `${card.offsetHeight}px`; // keep the page layout
    stage.append(svg); // move it, so that ids stay unique
    show([...fullView]);
    dialog.showModal();
    stage.focus();
  }

  function show(next) {
    view = next;
    svg.setAttribute("viewBox", view.join(" "));
  }

  // Pixels per figure unit. The browser scales the figure to fit and centers it.
  function scale() {
    const box = svg.getBoundingClientRect();
    return Math.min(box.width / view[2], box.height / view[3]);
  }

  function pointAt(event) {
    const box = svg.getBoundingClientRect();
    return [view[0] + view[2] / 2 + (event.clientX - box.left - box.width / 2) / scale(),
      view[1] + view[3] / 2 + (event.clientY - box.top - box.height / 2) / scale()];
  }

  function zoom(factor, [x, y] = [view[0] + view[2] / 2, view[1] + view[3] / 2]) {
    const width = Math.min(Math.max(view[2] * factor, fullView[2] / 40), fullView[2] * 1.5);
    const ratio = width / view[2];
    show([x - (x - view[0]) * ratio, y - (y - view[1]) * ratio, width, view[3] * ratio]);
  }

  function move(x, y) {
    show([view[0] + x, view[1] + y, view[2], view[3]]);
  }

  dialog.addEventListener("close", () => { // also with Escape; the browser restores the focus
    svg.setAttribute("viewBox", fullView.join(" "));
    svgParent.append(svg);
    svgParent.style.height = "";
    svg = null;
  });
  dialog.addEventListener("click", (event) => {
    const action = event.target.closest("[data-zoom]")?.dataset.zoom;
    if (action === "in") zoom(1 / 1.4);
    if (action === "out") zoom(1.4);
    if (action === "reset") show([...fullView]);
    if (action === "close" || event.target === dialog) dialog.close();
  });
  dialog.addEventListener("keydown", (event) => {
    const [right, down] = [view[2] / 10, view[3] / 10];
    const action = {
      "+": () => zoom(1 / 1.4), "=": () => zoom(1 / 1.4), "-": () => zoom(1.4),
      "0": () => show([...fullView]),
      ArrowLeft: () => move(-right, 0), ArrowRight: () => move(right, 0),
      ArrowUp: () => move(0, -down), ArrowDown: () => move(0, down),
    }[event.key];
    if (!action || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    action();
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
    const button = createElement("button", { type: "button", class: "enlarge" }, "Enlarge");
    button.append(createElement("span", { class: "visually-hidden" }, `: ${title}`));
    button.addEventListener("click", () => open(card));
    card.addEventListener("click", () => { button.focus({ preventScroll: true }); open(card); });
    card.classList.add("enlargeable");
    card.after(button);
  }
}

// ---- Copy buttons

function initCopyButtons() {
  for (const command of document.querySelectorAll(".command")) {
    const button = createElement("button", { type: "button", class: "copy" }, "Copy");
    button.addEventListener("click", async () => {
      const code = command.querySelector("code");
      try {
        await navigator.clipboard.writeText(code.textContent);
        button.textContent = "Copied";
      } catch { // clipboard denied: select the text instead
        getSelection().selectAllChildren(code);
        button.textContent = "Selected";
      }
      setTimeout(() => { button.textContent = "Copy"; }, 2000);
    });
    command.append(button);
  }
}

// ---- Only boxes that scroll are in the tab order

function initScrollBoxes() {
  const observer = new ResizeObserver((entries) => {
    for (const { target } of entries) {
      if (target.scrollWidth > target.clientWidth) target.tabIndex = 0;
      else target.removeAttribute("tabindex");
    }
  });
  for (const box of document.querySelectorAll(".scroll")) observer.observe(box);
}

// ---- Print with all details open

function initPrinting() {
  let closed = [];
  addEventListener("beforeprint", () => {
    closed = [...document.querySelectorAll("details:not([open])")];
    for (const details of closed) details.open = true;
  });
  addEventListener("afterprint", () => { for (const details of closed) details.open = false; });
}

if (byId("cells-data")) initCellTable();
initZoom();
initCopyButtons();
initScrollBoxes();
initPrinting();
