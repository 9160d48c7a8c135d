"use strict";
(() => {
  const { data, h, text, hue, dots, lines, draw } = kaggleops;
  for (const place of document.querySelectorAll("[data-side]")) place.style.color = hue(Number(place.dataset.side));
  for (const place of document.querySelectorAll("[data-chart]")) {
    const [kind, at] = place.dataset.chart.split(" ");
    const found = data[kind][Number(at)];
    const side = (each) => ({ ...data.sides[each.side], ...each, colour: each.side });
    const chart = kind === "scores"
      ? dots(found.groups.map(side), "Dot: run, or fold of one. Bar: mean. Whiskers: its 95 % interval. Point at a dot.")
      : lines(found.series.map((each) => ({ ...side(each), label: `${data.sides[each.side].short} · ${each.run}` })), "Line: run. Point at one.");
    place.append(h("h3", {}, text(found.name)), ...chart);
  }
  draw();
})();
