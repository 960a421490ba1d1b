"use strict";
(() => {
  const { layouts, datasets, themes } = JSON.parse(document.getElementById("charts").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");

  // Placeholders such as "@ink" become the theme's colours; the widest layout that fits is taken.
  function spec(name, width) {
    const fitting = layouts[name].filter((layout) => layout.width <= width);
    const layout = fitting.length ? fitting[fitting.length - 1] : layouts[name][0];
    const theme = themes[dark.matches ? "dark" : "light"];
    const fill = (_, value) => (typeof value === "string" && value[0] === "@" ? theme[value.slice(1)] ?? value : value);
    const filled = JSON.parse(JSON.stringify({ ...layout.spec, datasets: datasets[name] }), fill);
    return { layout: layout.width, spec: { ...filled, background: "transparent" } };
  }

  const drawn = new Map();
  function draw() {
    for (const element of document.querySelectorAll("[data-chart]")) {
      const wanted = spec(element.dataset.chart, element.parentNode.clientWidth);
      const key = JSON.stringify([wanted.layout, dark.matches]);
      if (drawn.get(element)?.key === key) continue;
      drawn.get(element)?.view.then((result) => result.finalize());
      const options = { actions: false, renderer: "svg", ast: true, tooltip: { theme: dark.matches ? "dark" : "light" } };
      drawn.set(element, { key, view: vegaEmbed(element, wanted.spec, options) });
    }
  }

  // A click on a heading puts the best on top, another one the worst; rows without a figure stay last. All tables have
  // the same rows, so all follow.
  const tables = [...document.querySelectorAll("table")];
  const falls = (head) => head.getAttribute("aria-sort") === "descending";
  function sort(button) {
    const head = button.closest("th");
    const sorted = head.getAttribute("aria-sort") !== "none";
    const descending = sorted ? !falls(head) : head.dataset.first === "descending";
    for (const other of document.querySelectorAll("[aria-sort]")) other.setAttribute("aria-sort", "none");
    const own = head.closest("table");
    for (const table of head.cellIndex ? [own] : tables) {
      table.tHead.rows[0].cells[head.cellIndex].setAttribute("aria-sort", descending ? "descending" : "ascending");
    }
    const order = (row) => row.cells[head.cellIndex].dataset.order;
    const rows = [...own.tBodies[0].rows].sort((a, b) => {
      const [left, right] = [order(a), order(b)];
      if (left === undefined || right === undefined) return (left === undefined) - (right === undefined);
      return (descending ? -1 : 1) * (Number(left) - Number(right));
    });
    const places = new Map(rows.map((row, place) => [row.dataset.row, place]));
    for (const { tBodies } of tables) {
      const place = (row) => places.get(row.dataset.row);
      tBodies[0].append(...[...tBodies[0].rows].sort((a, b) => place(a) - place(b)));
    }
  }

  // A row is shown where its name has every word of the text, and where of each kind of chip one of its own is pressed,
  // or none at all.
  const bar = document.querySelector(".filter");
  const chips = [...bar.querySelectorAll("button")];
  const pressed = (chip) => chip.getAttribute("aria-pressed") === "true";
  function filter() {
    const words = bar.querySelector("input").value.toLowerCase().split(/\s+/).filter(Boolean);
    const wanted = new Map();
    for (const { dataset } of chips.filter(pressed)) {
      wanted.set(dataset.key, [...(wanted.get(dataset.key) ?? []), dataset.value]);
    }
    const fits = ({ dataset }) =>
      words.every((word) => dataset.name.toLowerCase().includes(word)) &&
      [...wanted].every(([key, values]) => values.includes(dataset[key]));
    for (const table of tables) for (const row of table.tBodies[0].rows) row.hidden = !fits(row);
    const rows = tables.length ? [...tables[0].tBodies[0].rows] : [];
    bar.querySelector("output").value = `${rows.filter((row) => !row.hidden).length} of ${rows.length} rows`;
  }

  bar.hidden = !tables.length;
  bar.querySelector("input").addEventListener("input", filter);
  for (const chip of chips) {
    chip.addEventListener("click", () => {
      chip.setAttribute("aria-pressed", String(!pressed(chip)));
      filter();
    });
  }
  for (const button of document.querySelectorAll("thead button")) button.addEventListener("click", () => sort(button));
  dark.addEventListener("change", draw);
  addEventListener("resize", draw);
  draw();
})();
