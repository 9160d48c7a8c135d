"use strict";
(() => {
  const { data, root, h, s, fill, text, number, plural, lines, draw } = kaggleops;
  // On a server of ours MLflow's pages are beside this one; in a bucket there are none.
  const served = location.pathname === "/kaggleops/";
  const WORDS = {
    RUNNING: "running", SCHEDULED: "waiting", FINISHED: "finished", FAILED: "failed",
    KILLED: "stopped", PRUNED: "pruned", LOST: "lost",
  };
  const ORDER = ["FINISHED", "PRUNED", "KILLED", "FAILED", "LOST", "RUNNING", "SCHEDULED"];
  const ROWS = 10;
  // -- numbers and times ------------------------------------------------------------------------

  const money = (value) => `$${value.toFixed(2)}`;
  const span = (ms) => {
    const minutes = Math.round(ms / 6e4);
    if (minutes < 1) return "under a minute";
    if (minutes < 90) return `${minutes} min`;
    const hours = ms / 36e5;
    if (hours < 36) return hours < 10 ? `${hours.toFixed(1)} h` : `${Math.round(hours)} h`;
    return `${Math.round(hours / 24)} days`;
  };
  const ago = (ms) => (ms > 45e3 ? `${span(ms)} ago` : "just now");
  const passing = []; // what is written anew as time passes
  const live = (write) => {
    const element = h("span", { class: "num" });
    const again = () => (element.textContent = write(Date.now()));
    passing.push(again);
    again();
    return element;
  };
  const date = (ms) => new Date(ms).toLocaleString(undefined, {
    weekday: "short", month: "short", day: "numeric", hour: "2-digit", minute: "2-digit",
  });
  const since = (ms) => (ms ? fill(live((now) => ago(now - ms)), { title: date(ms) }, []) : null);

  // -- small parts ------------------------------------------------------------------------------

  const tone = (status) => (ORDER.includes(status) ? status : "OTHER");
  const dot = (status) => h("span", { class: `dot ${tone(status)}` });
  const word = (status) => WORDS[status] || String(status).toLowerCase();
  const run = (experiment, id, shown) => {
    const path = `/#/experiments/${encodeURIComponent(experiment)}/runs/${encodeURIComponent(id)}`;
    return served && id ? h("a", { href: path }, shown) : shown;
  };
  const cell = (key, content, kind = "") => h("td", { "data-k": key || null, class: kind || null }, content);
  const table = (heads, rows) => h("div", { class: "wrap" }, h("table", { class: "rows" },
    h("thead", {}, h("tr", {}, heads.map(([name, kind]) => h("th", { class: kind || null }, name)))),
    h("tbody", {}, rows)));
  const section = (title, ...parts) => [h("h2", {}, title), ...parts];
  const pairs = (found) => h("span", { class: "best-params" },
    found.map(([name, value]) => h("code", { class: "text" }, `${name}=${value}`)));

  function bar(counts, total) {
    const found = ORDER.filter((status) => counts[status]);
    const others = Object.keys(counts).filter((status) => !ORDER.includes(status));
    return h("div", { class: "bar", role: "img", "aria-label": legend(counts) }, [...found, ...others].map((status) =>
      h("i", { class: tone(status), style: { width: `${(100 * counts[status]) / total}%` } })));
  }
  const legend = (counts) => Object.entries(counts).map(([status, n]) => `${n} ${word(status)}`).join(", ");
  const key = (counts, total) => {
    const known = Object.values(counts).reduce((sum, n) => sum + n, 0);
    const rest = total > known ? [["to come", total - known]] : [];
    return h("div", { class: "key small soft" },
      ORDER.concat(Object.keys(counts).filter((each) => !ORDER.includes(each)))
        .filter((status) => counts[status])
        .map((status) => h("span", {}, dot(status), `${counts[status].toLocaleString("en")} ${word(status)}`)),
      rest.map(([name, n]) => h("span", {}, `${n.toLocaleString("en")} ${name}`)));
  };

  // -- the parts of the page ---------------------------------------------------------------------

  function header() {
    return h("header", {},
      h("h1", {}, "KaggleOps"), text(data.bucket, { class: "soft" }),
      h("span", { class: "age soft" }, "updated ", since(data.now)));
  }

  function stale() {
    if (!data.live) return null;
    const element = h("div", { class: "card banner", id: "stale" });
    passing.push(() => show());
    const show = () => {
      const age = Date.now() - data.now;
      element.hidden = age < 2 * data.every * 1000;
      element.textContent = `This page is ${span(age)} old. While something runs it is rewritten ` +
        `every ${span(data.every * 1000)}: nobody seems to be watching. Start: kaggleops watch`;
    };
    show();
    return element;
  }

  function told() {
    const lines = data.sweeps.filter((each) => each.problem || (each.told && each.status === "RUNNING")).map((each) =>
      h("p", {}, h("b", { class: "text" }, each.name), ": ", text(each.problem || each.told)));
    const bad = data.sweeps.some((each) => each.problem);
    return lines.length ? h("div", { class: `card banner ${bad ? "bad" : ""}`, id: "told" }, lines) : null;
  }

  function tiles() {
    const made = [];
    const tile = (value, name, title) => made.push(h("div", { class: "card tile", title }, h("b", {}, value), h("span", { class: "soft small" }, name)));
    const counts = data.counts;
    const first = data.sweeps.find((each) => each.best !== null);
    if (first) tile(number(first.trials.find((trial) => trial[0] === first.best)[2][0]), h("span", { class: "text" }, `best ${first.metrics[0]} of ${first.name}`));
    tile(number(counts.RUNNING || 0), "running");
    tile(number(counts.SCHEDULED || 0), "waiting");
    const trials = {};
    for (const each of data.sweeps) for (const [status, n] of Object.entries(each.counts)) trials[status] = (trials[status] || 0) + n;
    if (data.sweeps.length) tile(number(trials.FINISHED || 0), "trials finished");
    if (trials.PRUNED) tile(number(trials.PRUNED), "trials pruned");
    const wrong = (counts.FAILED || 0) + (counts.LOST || 0);
    if (wrong) tile(number(wrong), "failed or lost");
    const spent = data.sweeps.reduce((sum, each) => sum + each.spent, 0);
    if (spent) tile(money(spent), "spent");
    const quotas = (data.offers || []).filter((each) => each.hours !== null);
    for (const each of quotas.slice(0, 2)) tile(`${number(each.hours, 3)} h`, h("span", { class: "text" }, `${each.backend} ${each.accelerator} quota left`, each.told ? [" ", since(each.told)] : null));
    return h("div", { class: "tiles" }, made);
  }

  function nothing() {
    return h("div", { class: "card stack", id: "nothing" },
      h("p", { class: "name" }, "No sweep has been started in this bucket."),
      h("p", {}, "Start one in a repository with an MLproject:"),
      h("p", {}, h("code", {}, "kaggleops sweep -b local fold=0,1,2,3,4")),
      h("p", {}, "and keep it going, here or on any machine:"),
      h("p", {}, h("code", {}, "kaggleops watch")));
  }

  /** A table of which so many rows are there, and a button for the others. */
  function long(heads, rows, most, step = 100) {
    const box = table(heads, rows.slice(0, most));
    if (rows.length <= most) return box;
    let shown = most;
    const more = h("button", { type: "button", onclick: () => {
      box.querySelector("tbody").append(...rows.slice(shown, shown + step));
      shown += step;
      label();
    } });
    const label = () => {
      more.hidden = shown >= rows.length;
      more.textContent = `Show ${Math.min(step, rows.length - shown)} more of ${rows.length.toLocaleString("en")}`;
    };
    label();
    return h("div", {}, box, more);
  }

  function jobs() {
    const parts = [];
    const names = (each) => text(each.names.join(", "), { class: "soft" });
    if (data.running.length) {
      parts.push(...section("Running now", h("div", { class: "card", id: "running" },
        long([["job"], ["where"], ["step", "n"], ["score", "n"], ["started"], ["time left"]], data.running.map((each) =>
          h("tr", { class: each.status },
            h("td", { class: "lead" }, dot(each.status), run(each.experiment, each.run, text(each.sweep ? `${each.sweep} · ${each.name}` : each.name))),
            cell("", h("span", { title: each.why }, text([each.where, each.accelerator].filter(Boolean).join(" · ") || "–"))),
            cell("step", each.step === null ? "" : number(each.step), "n"),
            cell(each.metric || "score", each.score === null ? "" : number(each.score), "n"),
            cell("started", since(each.begun)),
            cell("left", each.until ? live((now) => (each.until > now ? `≈ ${span(each.until - now)}` : "any minute")) : ""))), 6, 60),
        data.more_running ? h("p", { class: "soft small" }, `… ${data.more_running} more are not listed.`) : null)));
    }
    const groups = (title, id, found, status) => found.length && parts.push(...section(title, h("div", { class: "card", id },
      long([["jobs"], ["of"], ["why", "rest"]], found.map((each) =>
        h("tr", {}, h("td", { class: "lead" }, dot(each.status || status), plural(each.count, "job")),
          cell("", [each.sweep ? [text(each.sweep), " "] : null, names(each)]),
          cell("", [text(each.why || (status === "FAILED" ? "no reason was told" : each.where ? "waits there for a machine" : "not placed yet")), each.where ? [" ", text(each.where, { class: "soft" })] : null], "rest"))), 6))));
    groups("Waiting", "waiting", data.waiting, "SCHEDULED");
    groups("Failed or lost", "wrong", data.wrong, "FAILED");
    return parts;
  }

  // -- a sweep -----------------------------------------------------------------------------------

  function sweeps() {
    if (!data.sweeps.length) return [];
    const cards = data.sweeps.map((each, at) => {
      const card = h("details", { class: "card sweep" });
      const done = each.total ? each.total : 1;
      const finished = each.total - (each.counts.RUNNING || 0) - (each.counts.SCHEDULED || 0) - Math.max(0, each.total - Object.values(each.counts).reduce((a, b) => a + b, 0));
      card.append(h("summary", {}, dot(each.status), run(each.experiment, each.id, text(each.name, { class: "name" })),
        h("span", { class: "soft small" }, `${finished.toLocaleString("en")} of ${plural(each.total, "trial")} done`),
        bar(each.counts, done)));
      card.firstChild.firstChild.classList.add(tone(each.status));
      let drawn = false;
      const draw = () => {
        if (!card.open || drawn) return;
        drawn = true;
        card.append(sweep(each));
      };
      card.addEventListener("toggle", draw);
      card.open = at === 0 || (at < 3 && each.status === "RUNNING");
      draw();
      return card;
    });
    return section(data.sweeps.length === 1 ? "Sweep" : "Sweeps", ...cards,
      data.more_sweeps ? h("p", { class: "soft small" }, `${plural(data.more_sweeps, "older sweep")} not shown.`) : null);
  }

  function sweep(each) {
    const metric = each.metrics[0] || "";
    const lower = each.directions[0] === "minimize";
    const said = [
      each.sampler && `${each.sampler} search`, each.pruner && `pruned by ${each.pruner}`,
      (each.spent > 0 || each.budget !== null) && `${money(each.spent)}${each.budget === null ? "" : ` of ${money(each.budget)}`} spent`,
    ].filter(Boolean).join(" · ");
    const body = h("div", { class: "stack" }, h("div", {},
      key(each.counts, each.total),
      h("p", { class: "soft small about" }, [
        said && text(said), each.begun && ["started ", since(each.begun)], each.ended && ["ended ", since(each.ended)],
      ].filter(Boolean).flatMap((part, at) => (at ? [" · ", part] : [part]))),
      each.axes.length ? h("div", { class: "best-params" }, each.axes.map((axis) => h("code", { class: "text soft" }, axis))) : null));
    const shorts = each.params.map((name) => name.split(".").at(-1));
    const params = each.params.map((name, at) => ({ name, at, short: shorts.filter((one) => one === shorts[at]).length > 1 ? name : shorts[at], values: new Set(each.trials.map((trial) => trial[3][at])) }));
    const varied = params.filter((param) => param.values.size > 1);
    const best = each.trials.find((trial) => trial[0] === each.best);
    const charts = h("div", { class: "grid" });
    body.append(charts);
    if (best) {
      charts.append(h("div", {}, h("h3", {}, each.status === "RUNNING" ? "Best so far" : "Best"),
        h("div", {}, h("span", { class: "big" }, number(best[2][0])), best[4] !== null ? h("span", { class: "soft" }, ` ± ${number(best[4], 2)}`) : null,
          h("span", { class: "soft" }, " ", text(metric), ` · trial ${best[0]}`)),
        pairs(varied.length ? varied.map((param) => [param.name, best[3][param.at]]) : []),
        parallel(each, varied, lower)));
    } else if (each.trials.length) {
      charts.append(h("p", { class: "soft" }, each.counts.FINISHED && metric ? [`${plural(each.counts.FINISHED, "trial")} finished, and none has logged `, text(metric), "."] : "No trial has finished with a score yet."));
    }
    if (each.curves.length) charts.append(curves(each, metric));
    if (each.trials.length) body.append(trials(each, varied, lower));
    return body;
  }

  function trials(each, varied, lower) {
    const rank = (trial) => (typeof trial[2][0] === "number" ? (lower ? trial[2][0] : -trial[2][0]) : Infinity);
    const ordered = [...each.trials].sort((a, b) => rank(a) - rank(b) || b[0] - a[0]);
    const heads = [["trial"], ...each.metrics.map((name) => [text(name), "n"]), ...varied.map((param) => [text(param.short, { title: param.name })]), ["took", "n"], [""]];
    const row = (trial) => h("tr", {
      "data-trial": trial[0], class: `${tone(trial[1])} ${trial[0] === each.best ? "best" : ""}`,
      onmouseenter: () => light(trial[0]), onmouseleave: () => light(null),
    },
      h("td", { class: "lead" }, dot(trial[1]), `${trial[0]}`,
        trial[1] === "FINISHED" ? null : h("span", { class: "soft" }, ` ${word(trial[1])}`)),
      each.metrics.map((name, at) => cell(at ? name : "", trial[2][at] === undefined
        ? (at || trial[7] === null ? "" : h("span", { class: "soft", title: "So far" }, `(${number(trial[7])})`))
        : [number(trial[2][at]), !at && trial[4] !== null ? h("span", { class: "soft" }, ` ± ${number(trial[4], 2)}`) : null], "n")),
      varied.map((param) => cell(param.short, trial[3][param.at] === "" ? "" : text(trial[3][param.at]))),
      cell("took", trial[5] === null ? "" : span(trial[5]), "n"),
      cell("", trial[6] ? text(trial[6], { class: "soft small" }) : "", "full"));
    const light = (trial) => part.closest("details").querySelectorAll("polyline").forEach((line) =>
      line.classList.toggle("lit", line.getAttribute("data-trial") === String(trial)));
    const part = h("div", {}, h("h3", {}, "Trials, the best first"), long(heads, ordered.map(row), ROWS));
    if (each.more) part.append(h("p", { class: "soft small" }, `${plural(each.more, "trial")} more ${each.more === 1 ? "is" : "are"} not on this page: MLflow's table has all.`));
    return part;
  }

  // -- charts ------------------------------------------------------------------------------------

  function curves(each, metric) {
    const series = each.curves.map(([trial, status, points], at) => ({
      points, colour: at, width: trial === each.best ? 3 : 1.5, dashed: status === "PRUNED" || status === "KILLED",
      label: `trial ${trial} (${word(status)})`,
    }));
    const hint = `${plural(each.curves.length, "curve")}: what runs, and the best. Point at one.`;
    return h("div", { class: "curves" }, h("h3", {}, text(metric), " over steps"), lines(series, hint));
  }

  /** Parallel coordinates: an axis a row, the scores' last, and a line a trial, the best on top. */
  function parallel(each, varied, lower) {
    const scored = each.trials.filter((trial) => typeof trial[2][0] === "number");
    scored.sort((a, b) => (lower ? b[2][0] - a[2][0] : a[2][0] - b[2][0]));
    if (!varied.length || scored.length < 2) return null;
    const axes = [
      ...varied.map(({ name, short, at }) => ({ name, short, ...scale(scored.map((trial) => trial[3][at])) })),
      ...each.metrics.map((name, at) => ({ name, short: name, ...scale(scored.map((trial) => trial[2][at] ?? "")) })),
    ];
    const line = (trial, order) => s("polyline", {
      // Upright where names and numbers may hide it, aslant from there to the next axis.
      points: axes.flatMap(({ shares }, at) => [at, at + 0.55].map((y) => `${shares[order].toFixed(4)},${y}`)).join(" "),
      class: trial[0] === each.best ? "best" : null, "data-trial": trial[0],
      style: { stroke: `color-mix(in oklab, var(--accent) ${Math.round(10 + 90 * (order / (scored.length - 1)) ** 2.5)}%, var(--line))` },
    }, s("title", {}, [`trial ${trial[0]}: ${number(trial[2][0])}`, ...varied.map(({ short, at }) => `${short}=${trial[3][at]}`)].join(" · ")));
    const row = ({ name, short, log, ticks }) => h("div", { class: "axis" },
      h("b", { class: "text", title: name }, short, log ? " (log)" : ""),
      h("div", { class: "ticks" }, ticks.map(([share, value]) => h("span", { class: "text", title: value, style: {
        left: `${100 * share}%`, transform: `translateX(${-100 * share}%)`, maxWidth: `${90 / ticks.length}%`,
      } }, value))));
    return h("div", { class: "parallel small" }, h("h3", {}, "Parameters and score"),
      h("div", {}, s("svg", { viewBox: `0 0 1 ${axes.length}`, preserveAspectRatio: "none", role: "img", "aria-label": "Parameters and scores of the trials" },
        scored.map(line)), axes.map(row)),
      h("p", { class: "soft" }, `${plural(scored.length, "trial")} with a score: the stronger the colour, the better.`));
  }

  /** Where on an axis each value stands, from 0 to 1, and what is written there. */
  function scale(values) {
    const numbers = values.map((value) => (value === "" ? NaN : Number(value)));
    const low = Math.min(...numbers), high = Math.max(...numbers);
    if (high === low) return { shares: numbers.fill(0.5), ticks: [[0.5, number(low, 3)]] };
    if (Number.isFinite(high - low)) {
      const log = low > 0 && high / low >= 50;
      const [from, to, ...on] = [low, high, ...numbers].map((value) => (log ? Math.log(value) : value));
      return { shares: on.map((value) => (value - from) / (to - from)), ticks: [[0, number(low, 3)], [1, number(high, 3)]], log };
    }
    const names = [...new Set(values.map(String))].sort();
    const share = (name) => (names.length > 1 ? names.indexOf(String(name)) / (names.length - 1) : 0.5);
    const every = Math.ceil(names.length / 6);
    return { shares: values.map(share), ticks: names.filter((_, at) => at % every === 0).map((name) => [share(name), name || "(none)"]) };
  }

  // -- leaderboard, platforms --------------------------------------------------------------------

  function boards() {
    return data.boards.flatMap((board) => {
      const ends = board.rows.flatMap((row) => [row.mean, ...(row.ends || [])]).filter((value) => typeof value === "number");
      const low = Math.min(...ends), high = Math.max(...ends);
      const x = (value) => 6 + (108 * (value - low)) / (high - low || 1);
      const picture = (row) => {
        if (typeof row.mean !== "number") return "";
        const art = s("svg", { viewBox: "0 0 120 18", width: 120, height: 18, style: { width: "120px" }, role: "img", "aria-label": row.ends ? `95 % interval from ${number(row.ends[0])} to ${number(row.ends[1])}` : "one run" });
        if (row.ends && row.ends.every((end) => typeof end === "number")) art.append(s("path", { class: "whisker", d: `M${x(row.ends[0])} 5v8m0-4H${x(row.ends[1])}m0-4v8` }));
        art.append(s("circle", { class: "mean", cx: x(row.mean), cy: 9, r: 4 }));
        return art;
      };
      const names = [...new Set(board.rows.flatMap((row) => row.cells.map(([name]) => name)))];
      return section(h("span", {}, "Leaderboard of ", text(board.name)), h("div", { class: "card board" },
        table([["commit"], [text(board.metric), "n"], ["95 % interval"], ["runs", "n"], ...names.map((name) => [name.replace("_", " ")])],
          board.rows.map((row, at) => h("tr", { class: at ? "" : "best" },
            h("td", { class: "lead" }, `${at + 1}. `, run(board.experiment, row.run, h("code", {}, row.commit))),
            cell("", number(row.mean), "n"), cell("", picture(row)), cell("runs", String(row.runs), "n"),
            names.map((name) => {
              const found = row.cells.find(([own]) => own === name);
              return cell(typeof (found && found[1]) === "number" ? name.replace("_", " ") : "", !found || found[1] === "" ? "" : typeof found[1] === "number" ? number(found[1]) : text(found[1]));
            })))),
        h("p", { class: "soft small", style: { marginTop: "8px" } },
          `The best training of each commit; ${board.higher ? "higher" : "lower"} is better. Whiskers: 95 % interval of the mean over folds and seeds.`,
          board.more ? ` ${plural(board.more, "commit")} more.` : "")));
    });
  }

  function offers() {
    if (!data.offers || !data.offers.length) return [];
    return section("Platforms", h("div", { class: "card", id: "offers" },
      table([["platform"], ["free sessions", "n"], ["quota left", "n"], ["refreshes"], ["price", "n"], [""]], data.offers.map((each) =>
        h("tr", {}, h("td", { class: "lead" }, text([each.backend, each.accelerator].filter(Boolean).join(" · "))),
          cell("free sessions", String(each.sessions), "n"),
          cell("quota left", each.hours === null ? "" : `${number(each.hours, 3)} h`, "n"),
          cell("refreshes", each.refreshes ? fill(live((now) => (each.refreshes > now ? `in ${span(each.refreshes - now)}` : "now")), { title: date(each.refreshes) }, []) : ""),
          cell("price", each.price ? `${money(each.price)}/h` : "free", "n"),
          cell("", [each.problem ? text(each.problem, { class: "soft" }) : null, each.told ? h("span", { class: "soft" }, each.problem ? " · " : "", "as of ", since(each.told)) : null], "full")))),
      data.told ? h("p", { class: "soft small" }, "As the watcher was told, ", since(data.told), ".") : null));
  }

  // -- all of it ---------------------------------------------------------------------------------

  const empty = !data.sweeps.length;
  root.append(...[
    header(), stale(), told(), empty && !data.running.length && !data.waiting.length && !data.wrong.length ? null : tiles(),
    empty ? nothing() : null, ...jobs(), ...sweeps(), ...boards(), ...offers(),
    h("footer", { class: "soft small" }, served ? [h("a", { href: "/" }, "MLflow"), " · ", h("a", { href: "/kaggleops/health" }, "health")] : "Written by kaggleops watch. MLflow's own UI over this bucket: kaggleops ui"),
  ].filter(Boolean));
  draw();
  setInterval(() => passing.forEach((write) => write()), 20e3);
  if (served) setInterval(() => document.hidden || scrollY > 200 || location.reload(), 60e3);
})();
