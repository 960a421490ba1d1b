"use strict";
(() => {
  const { layouts, datasets, themes } = JSON.parse(document.getElementById("charts").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");

  // Placeholders such as "@ink" become the theme's colours; the widest layout that fits is taken.
  function spec(name, width) {
    const fitting = layouts[name].filter((layout) => layout.width <= width);
    const layout = fitting.length ? fitting[fitting.length - 1] : layouts[name][0];
    const theme = themes[dark.matches ? "dark" : "light"];
    const fill = (_, value) => (typeof value === "string" && value[0] === "@" ? theme[value.slice(1)] : value);
    const filled = JSON.parse(JSON.stringify(layout.spec), fill);
    return { ...filled, datasets: datasets[name], background: "transparent" };
  }

  const drawn = new Map();
  function draw() {
    for (const element of document.querySelectorAll("[data-chart]")) {
      const wanted = spec(element.dataset.chart, element.parentNode.clientWidth);
      const key = JSON.stringify([wanted.width, wanted.hconcat, dark.matches]);
      if (drawn.get(element)?.key === key) continue;
      drawn.get(element)?.view.then((result) => result.finalize());
      const options = { actions: false, renderer: "svg", ast: true, tooltip: { theme: dark.matches ? "dark" : "light" } };
      drawn.set(element, { key, view: vegaEmbed(element, wanted, options) });
    }
  }

  // A click on a heading sorts upwards, another one downwards; rows without a figure stay last.
  function sort(button) {
    const head = button.closest("th");
    const body = head.closest("table").tBodies[0];
    const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    for (const other of head.parentNode.querySelectorAll("[aria-sort]")) other.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
    const order = (row) => row.cells[head.cellIndex].dataset.order;
    const rows = [...body.rows].sort((a, b) => {
      const [left, right] = [order(a), order(b)];
      if (left === undefined || right === undefined) return (left === undefined) - (right === undefined);
      return sign * (Number(left) - Number(right));
    });
    body.append(...rows);
  }

  for (const button of document.querySelectorAll("thead button")) button.addEventListener("click", () => sort(button));
  dark.addEventListener("change", draw);
  addEventListener("resize", draw);
  draw();
})();
