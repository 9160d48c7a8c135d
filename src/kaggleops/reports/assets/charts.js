"use strict";
/* What the pages share: making elements of what others wrote, and charts with uPlot. */
const kaggleops = (() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const root = document.getElementById("page");
  const PALETTES = {
    light: ["#0a58ca", "#c2410c", "#1a7f37", "#8250df", "#b8860b", "#be185d", "#0e7490", "#5b6470"],
    dark: ["#58a6ff", "#ff9d5c", "#4cc26a", "#b992ff", "#e3b341", "#ff7eb6", "#39c5cf", "#aab4bf"],
  };
  const STEPS = [...Array(10).keys()].flatMap((power) => [1, 2, 5].map((each) => each * 10 ** power));

  // All that others wrote goes through here, and becomes text nodes and attributes, never markup.
  const h = (tag, of = {}, ...parts) => fill(document.createElement(tag), of, parts);
  const s = (tag, of = {}, ...parts) =>
    fill(document.createElementNS("http://www.w3.org/2000/svg", tag), of, parts);
  function fill(element, of, parts) {
    for (const [key, value] of Object.entries(of)) {
      if (value === undefined || value === null || value === false) continue;
      if (key === "style") Object.assign(element.style, value);
      else if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
      else element.setAttribute(key, value);
    }
    element.append(...parts.flat(Infinity).filter((part) => part !== null && part !== undefined && part !== ""));
    return element;
  }
  const text = (value, of = {}) => h("span", { ...of, class: `text ${of.class || ""}` }, String(value));

  const number = (value, digits = 4) => {
    if (value === null || value === undefined) return "–";
    if (typeof value !== "number") return String(value);
    if (value === 0) return "0";
    const size = Math.abs(value);
    if (Number.isInteger(value) && size < 1e6) return value.toLocaleString("en");
    if (size >= 1e5 || size < 1e-4) return value.toExponential(2);
    return String(+value.toPrecision(size < 1 ? digits : digits + 1));
  };
  const plural = (count, word) => `${count.toLocaleString("en")} ${word}${count === 1 ? "" : "s"}`;
  const clip = (name, most) => (name.length > most ? `${name.slice(0, Math.max(1, most - 1))}…` : name);

  // -- charts ------------------------------------------------------------------------------------

  const dark = matchMedia("(prefers-color-scheme: dark)");
  const shade = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  const drawn = []; // what is drawn anew at another width or theme

  function sized(box, draw) {
    let width = 0;
    const again = (force) => {
      const now = Math.floor(box.clientWidth);
      if (!now || (now === width && force !== true)) return;
      width = now;
      box.replaceChildren();
      draw(now);
    };
    new ResizeObserver(() => requestAnimationFrame(again)).observe(box);
    drawn.push(() => again(true));
  }

  const hue = (place) => PALETTES[dark.matches ? "dark" : "light"][place % PALETTES.light.length];
  const axis = () => ({ stroke: shade("soft"), grid: { stroke: shade("grid"), width: 1 }, ticks: { stroke: shade("grid"), width: 1 }, font: "12px system-ui" });
  const ticks = (_, found) => found.map((value) => number(value));

  /** Draw into a new box whenever its width or the theme changes; what is drawn is a uPlot. */
  function plotted(make, hint) {
    const box = h("div", { class: "chart" });
    const readout = h("div", { class: "readout small soft" }, hint);
    const say = (said) => (readout.textContent = said || hint);
    sized(box, (width) => {
      const chart = make(box, width, say);
      if (box.chart) box.chart.destroy(); // nobody looks at the one before any more
      box.chart = chart;
    });
    return [box, readout];
  }
  /** The series that is pointed at, and the place of its value; null for none. */
  const pointed = (plot) => {
    const at = plot.series.findIndex((one, index) => index && one._focus && plot.cursor.idxs[index] !== null);
    return plot.cursor.idx === null || plot.cursor.idx === undefined || at < 1 ? null : [at, plot.cursor.idxs[at]];
  };

  /**
   * Curves over steps: [{ label, points: [[step, value]], colour, width, dashed }], a value that is
   * no number being a gap.
   */
  function lines(series, hint) {
    const steps = [...new Set(series.flatMap(({ points }) => points.map(([step]) => step)))].sort((a, b) => a - b);
    const place = new Map(steps.map((step, at) => [step, at]));
    const values = series.map(({ points }) => {
      const line = new Array(steps.length).fill(undefined);
      for (const [step, value] of points) line[place.get(step)] = typeof value === "number" ? value : null;
      return line;
    });
    return plotted((box, width, say) => new uPlot({
      width, height: Math.max(220, Math.min(340, Math.round(width * 0.55))),
      legend: { show: false }, scales: { x: { time: false } }, focus: { alpha: 0.2 },
      cursor: { focus: { prox: 24 }, points: { size: 6 }, drag: { x: true, y: false } },
      axes: [{ ...axis(), incrs: STEPS, values: ticks }, { ...axis(), size: 58, values: ticks }],
      series: [{}, ...series.map((each) => ({
        label: each.label, stroke: hue(each.colour), width: each.width || 1.5, spanGaps: true,
        dash: each.dashed ? [4, 4] : undefined, points: { show: false },
      }))],
      hooks: { setCursor: [(plot) => {
        const found = pointed(plot);
        say(found && `${series[found[0] - 1].label} · step ${number(steps[found[1]])} · ${number(plot.data[found[0]][found[1]])}`);
      }] },
    }, [steps, ...values], box), hint);
  }

  /**
   * A row of dots for each group: [{ label, short, points: [[value, name]], mean, low, high, colour }],
   * with the mean as a bar and its interval as whiskers, where there are these.
   */
  function dots(groups, hint) {
    const known = (value) => typeof value === "number";
    const values = [...new Set(groups.flatMap(({ points }) => points.map(([value]) => value)))].sort((a, b) => a - b);
    const ends = [...values, ...groups.flatMap(({ mean, low, high }) => [mean, low, high])].filter(known);
    const low = Math.min(...ends), high = Math.max(...ends), pad = (high - low || Math.abs(high) || 1) * 0.05;
    const row = (at) => groups.length - 1 - at;
    const named = groups.map(({ points }) => values.map((value) => points.filter((one) => one[0] === value).map((one) => one[1]).join(", ")));
    const rows = groups.map(({ points }, at) => values.map((value) => (points.some((one) => one[0] === value) ? row(at) : undefined)));
    return plotted((box, width, say) => {
      const wide = width >= 620;
      const room = Math.min(wide ? 260 : 92, 16 + 7 * Math.max(...groups.map((each) => (wide ? each.label : each.short).length)));
      const labels = groups.map((each) => clip(wide ? each.label : each.short, Math.floor((room - 14) / 6.6)));
      return new uPlot({
        width, height: 46 + Math.max(2, groups.length) * 34, padding: [8, 18, 0, 0],
        legend: { show: false }, focus: { alpha: 0.35 },
        cursor: { focus: { prox: 24 }, points: { size: 10 }, drag: { x: false, y: false } },
        scales: { x: { time: false, range: [low - pad, high + pad] }, y: { range: [-0.6, groups.length - 0.4] } },
        axes: [
          { ...axis(), values: ticks },
          { ...axis(), size: room, grid: { show: false }, ticks: { show: false }, splits: groups.map((_, at) => row(at)), values: () => labels },
        ],
        series: [{}, ...groups.map((each) => ({
          label: each.label, stroke: hue(each.colour), fill: hue(each.colour), paths: () => null,
          points: { show: true, size: 9, stroke: hue(each.colour), fill: shade("card"), width: 2 },
        }))],
        hooks: {
          draw: [(plot) => groups.forEach((each, at) => {
            const y = plot.valToPos(row(at), "y", true), scale = devicePixelRatio;
            const { ctx } = plot;
            const stroke = (size, ...ways) => {
              ctx.save();
              ctx.strokeStyle = hue(each.colour);
              ctx.lineWidth = size * scale;
              ctx.beginPath();
              for (const [x1, y1, x2, y2] of ways) { ctx.moveTo(x1, y1); ctx.lineTo(x2, y2); }
              ctx.stroke();
              ctx.restore();
            };
            const x = (value) => plot.valToPos(value, "x", true);
            if (known(each.mean)) stroke(3, [x(each.mean), y - 10 * scale, x(each.mean), y + 10 * scale]);
            if (known(each.low) && known(each.high)) {
              const edge = 5 * scale;
              stroke(1.5, [x(each.low), y, x(each.high), y], ...[x(each.low), x(each.high)].map((end) => [end, y - edge, end, y + edge]));
            }
          })],
          setCursor: [(plot) => {
            const found = pointed(plot);
            say(found && `${groups[found[0] - 1].label} · ${named[found[0] - 1][found[1]]} · ${number(values[found[1]], 5)}`);
          }],
        },
      }, [values, ...rows], box);
    }, hint);
  }

  /** Points that have names: [{ label, x, y }]. */
  function places(points, across, up, hint) {
    const sorted = [...points].sort((a, b) => a.x - b.x);
    return plotted((box, width, say) => new uPlot({
      width, height: Math.max(240, Math.min(380, Math.round(width * 0.6))),
      legend: { show: false }, cursor: { points: { size: 10 }, drag: { x: false, y: false } },
      scales: { x: { time: false, range: (_, low, high) => [low - (high - low || 1) / 20, high + (high - low || 1) / 20] } },
      axes: [{ ...axis(), values: ticks, label: across, labelSize: 22, labelFont: "12px system-ui" }, { ...axis(), size: 58, values: ticks, label: up, labelSize: 20, labelFont: "12px system-ui" }],
      series: [{}, { stroke: hue(0), paths: () => null, points: { show: true, size: 9, stroke: hue(0), fill: shade("card"), width: 2 } }],
      hooks: { setCursor: [(plot) => {
        const found = sorted[plot.cursor.idx];
        say(found && `${found.label} · ${across} ${number(found.x, 5)} · ${up} ${number(found.y, 5)}`);
      }] },
    }, [sorted.map(({ x }) => x), sorted.map(({ y }) => y)], box), hint);
  }

  function draw() {
    for (const again of drawn) again();
    dark.addEventListener("change", () => drawn.forEach((again) => again()));
  }

  return { data, root, h, s, fill, text, number, plural, dark, hue, lines, dots, places, draw };
})();
