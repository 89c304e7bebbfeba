// The script of the site: sorts and filters tables, keeps the state in the address and draws charts.
// Every figure comes from the page or from a file beside it, and text is set as text, never as HTML.
"use strict";

const chipmark = (() => {
  const root = document.body ? document.body.dataset.root : "";
  const waiting = new Map(); // key -> what to do with a data file once it is here
  const $ = (selector, within = document) => within.querySelector(selector);
  const $$ = (selector, within = document) => [...within.querySelectorAll(selector)];

  function make(tag, properties = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(properties)) {
      if (name in element) element[name] = value;
      else element.setAttribute(name, value);
    }
    element.append(...children);
    return element;
  }

  // ---- state in the address, so that a link shows what its sender saw -------------------------

  let state = new URLSearchParams(location.hash.slice(1));
  const listeners = [];

  function setState(changes) {
    for (const [name, value] of Object.entries(changes)) {
      if (value === null || value === undefined) state.delete(name);
      else state.set(name, value);
    }
    const text = state.toString().replace(/%2F/g, "/").replace(/%2C/g, ",");
    history.replaceState(null, "", text ? "#" + text : location.pathname + location.search);
  }

  addEventListener("hashchange", () => {
    const target = location.hash.slice(1);
    if (document.getElementById(target)) return; // a link within the page
    state = new URLSearchParams(target);
    for (const listener of listeners) listener();
  });

  // ---- data files ------------------------------------------------------------------------------

  const loaded = new Map();

  function put(key, value) {
    loaded.set(key, value);
    for (const then of waiting.get(key) || []) then(value);
    waiting.delete(key);
  }

  // A page from disk may not fetch, but may load a script.
  function load(key, folder = "data") {
    if (loaded.has(key)) return Promise.resolve(loaded.get(key));
    return new Promise((resolve, reject) => {
      if (waiting.has(key)) { waiting.get(key).push(resolve); return; }
      waiting.set(key, [resolve]);
      const script = make("script", { src: `${root}${folder}/${key}.js` });
      script.onerror = () => reject(new Error(`${key} is not there`));
      document.head.append(script);
    });
  }

  let plotting = null;
  function plotly() {
    plotting ||= new Promise((resolve, reject) => {
      const script = make("script", { src: `${root}assets/plotly.js` });
      script.onload = () => resolve(window.Plotly);
      script.onerror = () => reject(new Error("the script of the charts is not there"));
      document.head.append(script);
    });
    return plotting;
  }

  // ---- numbers -----------------------------------------------------------------------------------

  function si(value) {
    if (!(Math.abs(value) > 0)) return "0 ";
    const prefixes = [[1e15, "P"], [1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"], [1, ""], [1e-3, "m"], [1e-6, "u"], [1e-9, "n"]];
    const [scale, prefix] = prefixes.find(([scale]) => Math.abs(value) >= scale * 0.9995) || prefixes[8];
    const scaled = value / scale;
    const places = Math.abs(scaled) >= 99.95 ? 0 : Math.abs(scaled) >= 9.995 ? 1 : 2;
    return `${scaled.toFixed(places)} ${prefix}`;
  }
  const digits = (value) => String(Number(value.toPrecision(3)));

  // ---- tables --------------------------------------------------------------------------------------

  const tables = new Map();
  const PAGE_ROWS = 300; // rows drawn at once: a table of thousands freezes a browser

  function enhance(table) {
    const head = $$("thead th", table);
    const view = {
      table,
      head,
      body: table.tBodies[0],
      rows: [...table.tBodies[0].rows],
      sort: null,
      shown: PAGE_ROWS,
      filter: () => true,
      changed: [],
    };
    view.order = new Map(view.rows.map((row, index) => [row, index]));
    tables.set(table.id, view);
    head.forEach((th, column) => {
      const button = make("button", { type: "button" }, ...th.childNodes);
      th.replaceChildren(button);
      button.addEventListener("click", () => {
        const number = th.classList.contains("n");
        const now = view.sort && view.sort[0] === column ? view.sort[1] : null;
        const first = number ? "descending" : "ascending";
        const second = number ? "ascending" : "descending";
        const next = now === null ? first : now === first ? second : null;
        view.sort = next ? [column, next] : null;
        setState({ [`${table.id}.sort`]: next ? `${column}-${next}` : null });
        show(view);
      });
    });
    const csv = $(`[data-csv="${table.id}"]`);
    csv.hidden = false;
    csv.setAttribute("aria-label", `Download this table as CSV: ${$(`#${table.id}-caption`).textContent}`);
    csv.addEventListener("click", () => download(view));
    return view;
  }

  function raw(cell) {
    return cell.dataset.v !== undefined ? cell.dataset.v : cell.textContent.trim();
  }

  function compare(a, b) {
    const [x, y] = [Number(a), Number(b)];
    if (a !== "" && b !== "" && !Number.isNaN(x) && !Number.isNaN(y)) return x - y;
    return a.localeCompare(b, "en", { numeric: true });
  }

  function visible(view) {
    const rows = view.rows.filter(view.filter);
    if (view.sort) {
      const [column, direction] = view.sort;
      const sign = direction === "ascending" ? 1 : -1;
      const keys = new Map(rows.map((row) => [row, raw(row.cells[column])]));
      // What is not known stands last either way.
      rows.sort((a, b) => {
        const [x, y] = [keys.get(a), keys.get(b)];
        if ((x === "") !== (y === "")) return x === "" ? 1 : -1;
        return sign * compare(x, y) || view.order.get(a) - view.order.get(b);
      });
    }
    return rows;
  }

  function show(view) {
    const rows = visible(view);
    view.head.forEach((th, column) => {
      const direction = view.sort && view.sort[0] === column ? view.sort[1] : null;
      if (direction) th.setAttribute("aria-sort", direction);
      else th.removeAttribute("aria-sort");
    });
    view.body.replaceChildren(...rows.slice(0, view.shown));
    const box = view.table.closest(".tablebox");
    $(".more", box)?.remove();
    if (rows.length > view.shown) {
      const more = make("button", { type: "button", className: "more" }, `Show ${rows.length - view.shown} more rows`);
      more.addEventListener("click", () => { view.shown = Infinity; show(view); });
      box.append(more);
    }
    const count = $(`[data-count="${view.table.id}"]`);
    const counted = (number) => `${number} ${number === 1 ? "row" : "rows"}`;
    count.textContent = rows.length === view.rows.length ? counted(rows.length) : `${rows.length} of ${counted(view.rows.length)}`;
    for (const listener of view.changed) listener(rows);
  }

  function restoreSort(view) {
    const [column, direction] = (state.get(`${view.table.id}.sort`) || "").split("-");
    const known = view.head[Number(column)] && ["ascending", "descending"].includes(direction);
    view.sort = column !== "" && known ? [Number(column), direction] : null;
  }

  function csvField(text) {
    // A spreadsheet takes these first letters for a formula.
    const safe = /^[=+@\t\r-]/.test(text) && Number.isNaN(Number(text)) ? `'${text}` : text;
    return /[",\n\r]/.test(safe) ? `"${safe.replace(/"/g, '""')}"` : safe;
  }

  function csvOf(view) {
    const lines = [view.head.map((th) => csvField(th.textContent))];
    for (const row of visible(view)) lines.push([...row.cells].map((cell) => csvField(raw(cell))));
    return lines.map((line) => line.join(",")).join("\r\n") + "\r\n";
  }

  function download(view) {
    const url = URL.createObjectURL(new Blob([csvOf(view)], { type: "text/csv" }));
    const link = make("a", { href: url, download: `chipmark-${view.table.id}.csv` });
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(url), 10000);
  }

  function replaceRows(id, rows) {
    const view = tables.get(id);
    view.rows = rows;
    view.order = new Map(rows.map((row, index) => [row, index]));
    show(view);
  }

  function cell(text, value, className) {
    const td = make("td", {}, text);
    if (value !== undefined) { td.dataset.v = value; td.className = "n"; }
    if (className) td.classList.add(className);
    return td;
  }

  // ---- filters -------------------------------------------------------------------------------------

  function filtering(form) {
    const id = form.dataset.filters;
    const view = tables.get(id);
    if (!view) return;
    const controls = [...form.elements].filter((element) => element.name);
    const initial = new Map(controls.map((control) => [control.name, control.value]));
    form.hidden = false;
    const apply = () => {
      const facets = controls.filter((control) => control.name !== "q" && control.value !== "");
      const words = ($("[name=q]", form)?.value || "").toLowerCase().split(/\s+/).filter(Boolean);
      const chosen = state.get("case");
      view.shown = PAGE_ROWS;
      view.filter = (row) =>
        facets.every((control) => row.dataset[control.name] === control.value) &&
        words.every((word) => row.textContent.toLowerCase().includes(word));
      for (const row of view.rows) row.classList.toggle("chosen", chosen !== null && row.dataset.case === chosen);
      show(view);
    };
    const restore = () => {
      for (const control of controls) {
        const value = state.has(control.name) ? state.get(control.name) : initial.get(control.name);
        control.value = value;
        if (control.value !== value) control.value = initial.get(control.name);
      }
      restoreSort(view);
      apply();
      const row = $("tr.chosen", view.table);
      if (row) row.scrollIntoView({ block: "center" });
    };
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("input", () => {
      setState(Object.fromEntries(controls.map((control) => [control.name, control.value === initial.get(control.name) ? null : control.value])));
      apply();
    });
    form.addEventListener("reset", (event) => {
      event.preventDefault();
      for (const control of controls) control.value = initial.get(control.name);
      setState(Object.fromEntries([...controls.map((control) => [control.name, null]), ["case", null]]));
      apply();
    });
    listeners.push(restore);
    restore();
  }

  // ---- charts --------------------------------------------------------------------------------------

  const ink = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const colours = () => [1, 2, 3, 4, 5, 6, 7, 8].map((number) => ink(`--c${number}`));
  const SYMBOLS = ["circle", "diamond", "square", "triangle-up", "x", "star", "triangle-down", "hexagon"];
  const drawn = new Map(); // id -> what draws it

  function axis(title, more = {}) {
    return { title: { text: title, standoff: 10 }, gridcolor: ink("--line"), zerolinecolor: ink("--line"), linecolor: ink("--line"), automargin: true, ...more };
  }
  const log = (title, more = {}) => axis(title, { type: "log", exponentformat: "SI", ...more });

  function draw(id, figure) {
    const place = document.getElementById(id);
    if (!place) return;
    drawn.set(id, figure);
    const plot = $(".plot", place);
    const result = figure();
    if (!result || typeof result === "string") {
      if (window.Plotly && plot.data) window.Plotly.purge(plot);
      plot.replaceChildren(make("p", { className: "message" }, result || "There is nothing to draw."));
      plot.dataset.ready = "empty";
      return;
    }
    plotly().then((Plotly) => {
      if ($(".message", plot) || !plot.data) plot.replaceChildren();
      const narrow = plot.clientWidth < 560;
      const layout = {
        paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
        font: { family: ink("--text"), size: 13, color: ink("--ink") },
        margin: { l: 60, r: 16, t: 12, b: 48 }, height: 430, colorway: colours(),
        hoverlabel: { bgcolor: ink("--sheet"), bordercolor: ink("--line"), font: { color: ink("--ink") }, align: "left" },
        legend: { orientation: "h", y: narrow ? -0.28 : -0.18, x: 0, font: { size: 12 } },
        ...result.layout,
      };
      // Words of reports are not markup: the chart's own few tags are taken away from them.
      Plotly.react(plot, result.data, layout, {
        responsive: true, displaylogo: false, displayModeBar: narrow ? false : "hover",
        modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
        toImageButtonOptions: { format: "svg", filename: `chipmark-${id}` },
      }).then(() => { plot.dataset.ready = "yes"; });
    }).catch((error) => {
      plot.replaceChildren(make("p", { className: "message" }, `No chart: ${error.message}.`));
    });
  }

  // The library reads <b> and its like in any text.
  const text = (words) => String(words).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

  const redraw = () => { for (const [id, figure] of drawn) draw(id, figure); };

  // ---- pages -----------------------------------------------------------------------------------------

  function overview() {
    const view = tables.get("best");
    view.changed.push((rows) => {
      draw("best-chart", () => {
        const units = new Set(rows.map((row) => row.dataset.unit));
        const ops = new Set(rows.map((row) => row.dataset.op));
        if (rows.length === 0) return "No row is left.";
        if (units.size > 1 || ops.size > 1) return "Choose one op to draw: different ones have no common axis.";
        const unit = [...units][0];
        const value = (row) => Number(raw(row.cells[4]));
        const best = [...rows].sort((a, b) => (unit === "s" ? value(b) - value(a) : value(a) - value(b))).slice(-24);
        const names = best.map((row) => text(`${raw(row.cells[0])}, ${raw(row.cells[1])}, ${raw(row.cells[3])}`));
        return {
          data: [{
            type: "bar", orientation: "h", x: best.map(value), y: names.map((_, index) => index),
            marker: { color: ink("--c1") }, text: best.map((row) => text(row.cells[4].textContent)), textposition: "auto",
            hovertext: best.map((row, index) => `${names[index]}<br>${text(row.cells[4].textContent)}<br>${text(raw(row.cells[9]))}`), hoverinfo: "text",
          }],
          layout: {
            height: Math.max(180, 70 + 34 * best.length), showlegend: false,
            xaxis: axis(unit === "s" ? "seconds" : unit, { exponentformat: "SI" }),
            yaxis: axis("", { tickvals: names.map((_, index) => index), ticktext: names, title: undefined }),
          },
        };
      });
    });
    show(view);
  }

  function chip(data) {
    const view = tables.get("cases");
    const runners = [...new Set(data.ceilings.map((ceiling) => ceiling.runner))];
    const roofline = (rows) => draw("roofline", () => {
      const wanted = new Set(rows.map((row) => `${row.dataset.runner} ${row.dataset.case}`));
      const chosen = state.get("case");
      const points = data.cases.filter((one) => one.intensity && one.flop_per_s && wanted.has(`${one.runner} ${one.id}`) && one.op !== "fma" && one.op !== "dot4" && one.op !== "matrix_fma");
      if (points.length === 0) return "No measured case of these has arithmetic and memory traffic.";
      const xs = points.map((one) => one.intensity);
      const [low, high] = [Math.min(...xs, 0.5) / 2, Math.max(...xs, 64) * 2];
      const traces = [];
      const palette = colours();
      runners.forEach((runner, number) => {
        const of = (unit) => data.ceilings.filter((ceiling) => ceiling.runner === runner && unit.includes(ceiling.unit));
        const slopes = of(["bytes_per_s"]).filter((ceiling) => !ceiling.name.startsWith("workgroup"));
        const flats = of(["flop_per_s", "op_per_s"]);
        const all = data.ceilings.filter((ceiling) => ["flop_per_s", "op_per_s"].includes(ceiling.unit));
        // Where no probe found the arithmetic of a runner, its roof ends at the highest of the others.
        const top = Math.max(...(flats.length ? flats : all).map((flat) => flat.value), 0);
        const line = { color: ink("--soft"), width: 1.5, dash: ["solid", "dash", "dot", "dashdot"][number % 4] };
        const bandwidth = Math.max(...slopes.map((slope) => slope.value), 0);
        for (const slope of slopes) {
          const end = top ? Math.min(top / slope.value, high) : high;
          if (end <= low) continue;
          traces.push({ type: "scatter", mode: "lines", x: [low, end], y: [low * slope.value, end * slope.value], line, showlegend: false, hoverinfo: "text", hovertext: text(`${runner}: ${slope.name} ${si(slope.value)}B/s`) });
        }
        for (const flat of flats) {
          const start = bandwidth ? Math.max(flat.value / bandwidth, low) : low;
          traces.push({ type: "scatter", mode: "lines+text", x: [start, high], y: [flat.value, flat.value], line, showlegend: false, hoverinfo: "text",
            hovertext: text(`${runner}: ${flat.name} ${si(flat.value)}FLOP/s`), text: ["", text(`${runner} ${flat.name}`)], textposition: "top left", textfont: { size: 11, color: ink("--soft") } });
        }
      });
      const groups = [...new Set(points.map((one) => `${one.runner} ${one.op}`))];
      const [names, ops] = [[...new Set(points.map((one) => one.runner))], [...new Set(points.map((one) => one.op))]];
      for (const group of groups) {
        const own = points.filter((one) => `${one.runner} ${one.op}` === group);
        traces.push({
          type: "scatter", mode: "markers", name: text(group), x: own.map((one) => one.intensity), y: own.map((one) => one.flop_per_s),
          marker: {
            size: own.map((one) => (one.id === chosen ? 17 : 9)), symbol: SYMBOLS[ops.indexOf(own[0].op) % 8], color: palette[names.indexOf(own[0].runner) % 8],
            line: { width: own.map((one) => (one.id === chosen ? 3 : 1)), color: ink("--sheet") },
          },
          hoverinfo: "text", hovertext: own.map((one) => text(`${one.id}, ${one.runner}\n${si(one.flop_per_s)}FLOP/s at ${digits(one.intensity)} FLOP/B\n${one.kernel || ""}`).replace(/\n/g, "<br>")),
        });
      }
      return { data: traces, layout: { height: 500, xaxis: log("operations on a byte (FLOP/B)"), yaxis: log("FLOP/s") } };
    });
    view.changed.push(roofline);
    show(view);
    const walks = data.memory;
    if (walks.length) draw("memory-chart", () => {
      const traces = [];
      const palette = colours();
      walks.forEach((walk, number) => {
        const line = { color: palette[number % 8] };
        const points = (list, unit, y, name) => list.length && traces.push({
          type: "scatter", mode: "lines+markers", x: list.map((p) => p.bytes), y: list.map((p) => p.value), yaxis: y, line, name: text(`${walk.runner} ${name}`),
          hoverinfo: "text", hovertext: list.map((p) => text(`${walk.runner}: ${si(p.value)}${unit} at ${si(p.bytes)}B`)),
        });
        points(walk.latency, "s", "y", "latency");
        points(walk.bandwidth, "B/s", "y2", "bandwidth");
      });
      const caches = [...new Set(walks.flatMap((walk) => walk.caches))];
      return {
        data: traces,
        layout: {
          height: 540, xaxis: log("working set (B)", { anchor: "y2" }), yaxis: log("latency of a load (s)", { domain: [0.56, 1] }), yaxis2: axis("bandwidth (B/s)", { domain: [0, 0.46], exponentformat: "SI", rangemode: "tozero" }),
          shapes: caches.map((size) => ({ type: "line", x0: size, x1: size, yref: "paper", y0: 0, y1: 1, line: { color: ink("--soft"), width: 1, dash: "dot" } })),
        },
      };
    });
  }

  function fastest(cases, runner) {
    const best = new Map();
    for (const one of cases) {
      if (runner && one.runner !== runner) continue;
      const key = `${one.id} ${one.terms}`;
      if (!best.has(key) || one.time_s < best.get(key).time_s) best.set(key, one);
    }
    return best;
  }

  // As the program does it: normal on the log scale, from the errors of both medians.
  function ratio(first, second) {
    const middle = Math.log(first.time_s / second.time_s);
    const half = 1.959963984540054 * Math.hypot(first.log_error, second.log_error);
    return { value: Math.exp(middle), low: Math.exp(middle - half), high: Math.exp(middle + half) };
  }

  const TIE = 0.01;
  function verdict(found) {
    if (found.low > 1 + TIE) return "faster";
    if (found.high < 1 / (1 + TIE)) return "slower";
    if (found.low >= 1 / (1 + TIE) && found.high <= 1 + TIE) return "same";
    return "ambiguous";
  }

  function comparePage(data) {
    const form = $("#pickers");
    const labels = new Map(data.devices.map((device) => [device.key, device.label]));
    const option = (value, label) => make("option", { value }, label);
    const base = form.elements.base;
    const checks = $(".checks", form);
    for (const device of data.devices) {
      base.append(option(device.key, device.label));
      checks.append(make("label", {}, make("input", { type: "checkbox", value: device.key, name: `chip-${device.key}` }), device.label));
    }
    const boxes = () => $$("input[type=checkbox]", checks);
    const table = tables.get("ratios");
    const chosen = () => {
      const asked = (state.get("chips") || "").split(",").filter((key) => labels.has(key));
      const list = asked.length ? asked : data.chosen;
      if (list.length !== 1) return list;
      const other = data.chosen.concat(data.devices.map((device) => device.key)).find((key) => key !== list[0]);
      return other ? [list[0], other] : list;
    };
    const fill = (select, values) => {
      const wanted = state.get(select.name) || "";
      select.replaceChildren(select.options[0], ...values.map((value) => option(value, value)));
      select.value = values.includes(wanted) ? wanted : "";
    };
    const refresh = async () => {
      const keys = chosen();
      if (keys.length < 2) return;
      let all;
      try { all = await Promise.all(keys.map((key) => load(key))); } catch (error) {
        $("#summary").textContent = `No comparison: ${error.message}.`;
        return;
      }
      base.value = keys[0];
      for (const box of boxes()) { box.checked = keys.includes(box.value); box.disabled = box.value === keys[0]; }
      const every = (name) => [...new Set(all.flatMap((cases) => cases.map((one) => one[name])))].sort();
      for (const name of ["runner", "op", "dtype"]) fill(form.elements[name], every(name));
      const [runner, op, dtype] = ["runner", "op", "dtype"].map((name) => form.elements[name].value);
      const first = fastest(all[0], runner);
      const rows = [];
      const series = keys.slice(1).map((key, index) => {
        const found = [];
        const other = fastest(all[index + 1], runner);
        for (const [key2, one] of first) {
          if ((op && one.op !== op) || (dtype && one.dtype !== dtype) || !other.has(key2)) continue;
          const against = other.get(key2);
          const found1 = { one, against, ...ratio(one, against) };
          found.push(found1);
          rows.push(make("tr", {}, cell(one.id, undefined, "code"), cell(`${labels.get(key)}, ${against.runner}`), cell(`${si(one.time_s)}s`, one.time_s), cell(`${si(against.time_s)}s`, against.time_s),
            cell(found1.value.toFixed(3), found1.value), cell(found1.low.toFixed(3), found1.low), cell(found1.high.toFixed(3), found1.high), cell(verdict(found1), undefined, verdict(found1))));
        }
        return { key, found };
      });
      for (const one of rows) one.cells[0].classList.add("code");
      replaceRows("ratios", rows);
      const sentences = series.map(({ key, found }) => {
        if (!found.length) return `${labels.get(key)} has no case in common with ${labels.get(keys[0])}.`;
        const mean = Math.exp(found.reduce((sum, one) => sum + Math.log(one.value), 0) / found.length);
        const count = (word) => found.filter((one) => verdict(one) === word).length;
        return `${labels.get(key)}: ${mean.toFixed(3)} times the speed of ${labels.get(keys[0])}, geometric mean of ${found.length} cases (${["faster", "slower", "same", "ambiguous"].map((word) => `${count(word)} ${word}`).join(", ")}).`;
      });
      $("#summary").textContent = sentences.join(" ");
      draw("ratio-chart", () => {
        const ids = [...new Set(series.flatMap(({ found }) => found.map((one) => one.one.id)))].slice(0, 60).reverse();
        if (!ids.length) return "These devices have no measured case in common.";
        return {
          data: series.map(({ key, found }, number) => {
            const own = found.filter((one) => ids.includes(one.one.id));
            const shift = series.length > 1 ? (number / (series.length - 1) - 0.5) * 0.5 : 0;
            return {
              type: "scatter", mode: "markers", name: text(labels.get(key)), x: own.map((one) => one.value), y: own.map((one) => ids.indexOf(one.one.id) + shift),
              error_x: { type: "data", symmetric: false, array: own.map((one) => one.high - one.value), arrayminus: own.map((one) => one.value - one.low), thickness: 1.5, width: 3 },
              marker: { size: 8, symbol: SYMBOLS[number % 8] }, hoverinfo: "text",
              hovertext: own.map((one) => text(`${one.one.id}\n${labels.get(key)}: ${one.value.toFixed(3)} (${one.low.toFixed(3)} to ${one.high.toFixed(3)}), ${verdict(one)}`).replace(/\n/g, "<br>")),
            };
          }),
          layout: {
            height: Math.max(240, 110 + 22 * ids.length), xaxis: axis("speed against the first (log)", { type: "log" }),
            yaxis: axis("", { title: undefined, tickvals: ids.map((_, index) => index), ticktext: ids.map(text), tickfont: { size: 11 }, range: [-0.7, ids.length - 0.3] }),
            shapes: [{ type: "line", x0: 1, x1: 1, yref: "paper", y0: 0, y1: 1, line: { color: ink("--soft"), width: 1.5, dash: "dash" } }],
          },
        };
      });
    };
    if (table) {
      // The still table has two columns less than one of several devices.
      const heads = [["Case"], ["Device"], ["First", 1], ["This", 1], ["Speed", 1], ["From", 1], ["To", 1], ["Verdict"]];
      const line = table.table.tHead.rows[0];
      line.replaceChildren(...heads.map(([name, number]) => make("th", { scope: "col", className: number ? "n" : "" }, name)));
      tables.set("ratios", enhance(table.table));
      $("#ratios-caption").textContent = "Speed of each device against the first";
      $("#compare-still").hidden = true;
      form.hidden = false;
      restoreSort(tables.get("ratios"));
      form.addEventListener("input", (event) => {
        const from = event.target;
        if (from.name === "base") {
          const rest = chosen().filter((key) => key !== from.value);
          setState({ chips: [from.value, ...rest].join(",") });
        } else if (from.type === "checkbox") {
          const on = boxes().filter((box) => box.checked && box.value !== base.value).map((box) => box.value);
          setState({ chips: [base.value, ...on].join(",") });
        } else setState({ [from.name]: from.value || null });
        refresh();
      });
      listeners.push(refresh);
      refresh();
    } else draw("ratio-chart", () => "A comparison needs two devices with reports.");
    gaps();
    cascades(data.cascades);
  }

  function gaps() {
    const view = tables.get("gaps");
    if (!view) return;
    view.changed.push((rows) => draw("gap-chart", () => {
      if (!rows.length) return "No row is left.";
      const shown = rows.slice(0, 60).reverse();
      const number = (row, column) => Number(raw(row.cells[column]));
      const names = shown.map((row) => text(`${raw(row.cells[1])}, ${raw(row.cells[2])}`));
      return {
        data: [{
          type: "scatter", mode: "markers", x: shown.map((row) => number(row, 4)), y: shown.map((_, index) => index), marker: { size: 8 },
          error_x: { type: "data", symmetric: false, array: shown.map((row) => number(row, 6) - number(row, 4)), arrayminus: shown.map((row) => number(row, 4) - number(row, 5)), thickness: 1.5, width: 3 },
          hoverinfo: "text", hovertext: shown.map((row, index) => `${names[index]}<br>${text(raw(row.cells[0]))}<br>${digits(number(row, 4))} times ${text(raw(row.cells[7]))}`),
        }],
        layout: {
          height: Math.max(220, 100 + 22 * shown.length), showlegend: false, xaxis: axis("time over the library's (log)", { type: "log" }),
          yaxis: axis("", { title: undefined, tickvals: names.map((_, index) => index), ticktext: names, tickfont: { size: 11 } }),
          shapes: [{ type: "line", x0: 1, x1: 1, yref: "paper", y0: 0, y1: 1, line: { color: ink("--soft"), width: 1.5, dash: "dash" } }],
        },
      };
    }));
    show(view);
  }

  function cascades(found) {
    const form = $("#cascade-pick");
    if (!form || !found.length) return;
    const select = form.elements.cascade;
    const name = (one) => `${one.case_id}, ${one.runner}, ${one.efficiency}`;
    found.forEach((one) => select.append(make("option", { value: name(one) }, `${one.case_id}, ${one.runner}, ${one.efficiency.replace(/_/g, " ")}`)));
    form.hidden = false;
    const refresh = () => {
      if (state.has("cascade")) select.value = state.get("cascade");
      if (select.selectedIndex < 0) select.selectedIndex = 0;
      const one = found[select.selectedIndex];
      draw("cascade-chart", () => ({
        data: [
          { type: "bar", name: "efficiency", x: one.cascade.map((step) => text(step.device)), y: one.cascade.map((step) => step.efficiency), marker: { color: ink("--c1") } },
          { type: "scatter", mode: "lines+markers", name: "portability so far", x: one.cascade.map((step) => text(step.device)), y: one.cascade.map((step) => step.performance_portability), line: { color: ink("--c2") } },
        ],
        layout: { height: 320, yaxis: axis("fraction", { range: [0, 1.05] }), xaxis: axis("") },
      }));
    };
    form.addEventListener("input", () => { setState({ cascade: select.value }); refresh(); });
    listeners.push(refresh);
    refresh();
  }

  function costPage(data) {
    const view = tables.get("costs");
    if (!view) return;
    const form = $("#prices");
    const [priced, slider, exact] = ["priced", "log-price", "price"].map((name) => form.elements[name]);
    const labels = new Map(data.points.map((point) => [point.key, point.label]));
    for (const [key, label] of labels) priced.append(make("option", { value: key }, label));
    form.hidden = false;
    const prices = new Map(); // prices that were moved
    const paid = (point) => (prices.has(point.key) ? prices.get(point.key) : point.usd_per_hour);
    const dollars = (price, rate) => (price / 3600 / rate) * 1e6;
    const pointOf = new Map(view.rows.map((row, index) => [row, data.points[index]]));
    const readState = () => {
      prices.clear();
      for (const part of (state.get("prices") || "").split(",")) {
        const at = part.lastIndexOf("=");
        const value = Number(part.slice(at + 1));
        if (at > 0 && labels.has(part.slice(0, at)) && value > 0 && value <= 1e4) prices.set(part.slice(0, at), value);
      }
      if (state.has("priced") && labels.has(state.get("priced"))) priced.value = state.get("priced");
    };
    const setControls = () => {
      const own = data.points.find((point) => point.key === priced.value);
      const price = own ? paid(own) : null;
      exact.value = price ? digits(price) : "";
      exact.placeholder = "none known";
      slider.value = price ? Math.log10(price) : 0;
      slider.setAttribute("aria-valuetext", price ? `${digits(price)} dollars an hour` : "no price");
    };
    const refresh = () => {
      view.rows.forEach((row) => {
        const point = pointOf.get(row);
        const price = paid(point);
        const set = (column, value) => {
          const td = row.cells[column];
          td.textContent = value ? digits(value) : "–";
          td.dataset.v = value || "";
        };
        set(8, price);
        set(9, price && point.fits ? dollars(price, point.rate.value) : null);
      });
      show(view);
    };
    view.changed.push((rows) => {
      const points = rows.map((row) => pointOf.get(row));
      draw("cost-chart", () => {
        const priceless = points.filter((point) => !paid(point) || !point.fits);
        const own = points.filter((point) => paid(point) && point.fits);
        if (!own.length) return priceless.length ? "None of these has a price and fits the device: give one above." : "No row is left.";
        const keys = [...new Set(own.map((point) => point.key))];
        return {
          data: keys.map((key, number) => {
            const mine = own.filter((point) => point.key === key);
            const cost = mine.map((point) => dollars(paid(point), point.rate.value));
            return {
              type: "scatter", mode: "markers", name: text(labels.get(key)), x: mine.map((point) => point.rate.value), y: cost,
              error_x: { type: "data", symmetric: false, array: mine.map((point) => point.rate.high - point.rate.value), arrayminus: mine.map((point) => point.rate.value - point.rate.low), thickness: 1.2 },
              error_y: { type: "data", symmetric: false, array: mine.map((point, i) => dollars(paid(point), point.rate.low) - cost[i]), arrayminus: mine.map((point, i) => cost[i] - dollars(paid(point), point.rate.high)), thickness: 1.2 },
              marker: { size: 11, symbol: SYMBOLS[number % 8] }, hoverinfo: "text",
              hovertext: mine.map((point, i) => text(`${point.label}, ${point.runner}\n${point.model} ${point.dtype}, ${point.phase}\n${digits(point.rate.value)} tokens/s, ${digits(cost[i])} dollars a million\nat ${digits(paid(point))} dollars an hour`).replace(/\n/g, "<br>")),
            };
          }),
          layout: { height: 460, xaxis: log("tokens a second"), yaxis: log("dollars of a million tokens") },
        };
      });
      breakeven(points);
    });
    const breakeven = (points) => {
      const groups = new Map();
      for (const point of points) if (point.fits) {
        const key = `${point.model} ${point.dtype} ${point.phase}`;
        if (!groups.has(key)) groups.set(key, []);
        groups.get(key).push(point);
      }
      const words = [];
      for (const [what, list] of groups) {
        const fastestOf = (filter) => list.filter(filter).sort((a, b) => b.rate.value - a.rate.value)[0];
        const mine = fastestOf((point) => point.key === priced.value);
        const others = list.filter((point) => point.key !== priced.value && paid(point));
        if (!mine || !others.length) continue;
        const best = others.sort((a, b) => paid(a) / a.rate.value - paid(b) / b.rate.value)[0];
        const even = (paid(best) * mine.rate.value) / best.rate.value;
        words.push(`${what}: ${mine.label} costs as much as ${best.label} (at ${digits(paid(best))}) when it asks ${digits(even)} dollars an hour` + (paid(mine) ? `; at ${digits(paid(mine))} it is ${paid(mine) < even ? "cheaper" : paid(mine) > even ? "dearer" : "even"}.` : "."));
      }
      $("#breakeven").textContent = words.slice(0, 4).join(" ") || (labels.size > 1 ? "Break-even: give prices to two devices that do the same work." : "");
    };
    const move = (value) => {
      if (value > 0 && value <= 1e4) prices.set(priced.value, Number(value.toPrecision(4)));
      setState({ prices: [...prices].map(([key, price]) => `${key}=${price}`).join(",") || null, priced: priced.value });
    };
    form.addEventListener("submit", (event) => event.preventDefault());
    slider.addEventListener("input", () => { move(10 ** Number(slider.value)); setControls(); refresh(); });
    exact.addEventListener("change", () => { move(Number(exact.value)); setControls(); refresh(); });
    priced.addEventListener("input", () => { setState({ priced: priced.value }); setControls(); refresh(); });
    form.elements.forget.addEventListener("click", () => { prices.clear(); setState({ prices: null }); setControls(); refresh(); });
    const restore = () => { readState(); setControls(); refresh(); };
    listeners.push(restore);
    restore();
  }

  function historyPage(data) {
    const form = $("#series");
    if (!data.devices.length) { draw("trend", () => "There is no report."); return; }
    const [chipSelect, seriesSelect] = [form.elements.chip, form.elements.series];
    for (const device of data.devices) chipSelect.append(make("option", { value: device.key }, device.label));
    const known = (key) => data.devices.some((device) => device.key === key);
    form.hidden = false;
    $("#points-place").hidden = false;
    const refresh = async () => {
      const key = known(state.get("chip")) ? state.get("chip") : data.devices[0].key;
      let all;
      try { all = await load(`history-${key}`); } catch (error) { draw("trend", () => `No history: ${error.message}.`); return; }
      chipSelect.value = key;
      // The liveliest and longest first, so that the page opens on something to see.
      const names = Object.keys(all).sort((a, b) => all[b].events.length - all[a].events.length || all[b].points.length - all[a].points.length || a.localeCompare(b, "en", { numeric: true }));
      const name = names.includes(state.get("series")) ? state.get("series") : names[0];
      seriesSelect.replaceChildren(...names.map((one) => make("option", { value: one }, `${one} (${all[one].points.length}${all[one].events.length ? ", " + all[one].events.length + " events" : ""})`)));
      seriesSelect.value = name || "";
      if (!name) { replaceRows("points", []); draw("trend", () => "Nothing was measured on this device."); return; }
      const { points, events } = all[name];
      const kinds = { split: "changed", change_point: "change point", outlier: "outlier" };
      const happened = (index) => events.filter((event) => event.at === index).map((event) => `${kinds[event.kind]} (${event.ratio.toFixed(3)}): ${event.what.join("; ")}`).join("; ");
      replaceRows("points", points.map((point, index) => make("tr", {}, cell(point.started_at.slice(0, 16)), cell(`${si(point.time_s)}s`, point.time_s), cell(`${si(point.ci95_low)}s`, point.ci95_low), cell(`${si(point.ci95_high)}s`, point.ci95_high),
        cell(happened(index), undefined, "why"), cell(point.kernel || "", undefined, "code"), cell(point.driver), cell((point.commit || "").slice(0, 12), undefined, "code"), cell(point.place, undefined, "code"))));
      draw("trend", () => {
        // Reports stand evenly: a week of many is as wide as a month of few.
        const mark = (event) => ({ type: "line", x0: event.at - 0.5, x1: event.at - 0.5, yref: "paper", y0: 0, y1: 1, line: { width: event.kind === "change_point" ? 2 : 1.2, dash: event.kind === "change_point" ? "solid" : "dot", color: event.ratio > 1 ? ink("--bad") : ink("--good") } });
        const every = Math.max(1, Math.ceil(points.length / 8));
        const ticks = points.map((_, index) => index).filter((index) => index % every === 0);
        return {
          data: [{
            type: "scatter", mode: points.length > 1 ? "lines+markers" : "markers", x: points.map((_, index) => index), y: points.map((point) => point.time_s), line: { width: 1 },
            error_y: { type: "data", symmetric: false, array: points.map((point) => point.ci95_high - point.time_s), arrayminus: points.map((point) => point.time_s - point.ci95_low), thickness: 1.2, width: 2, color: ink("--c1") },
            marker: { size: 7, color: points.map((_, index) => (events.some((event) => event.at === index && event.kind === "outlier") ? ink("--bad") : ink("--c1"))) },
            hoverinfo: "text", hovertext: points.map((point, index) => text(`${point.started_at.slice(0, 16)}\n${si(point.time_s)}s (${si(point.ci95_low)}s to ${si(point.ci95_high)}s)\n${point.driver}\n${happened(index)}`).replace(/\n/g, "<br>")),
          }],
          layout: {
            height: 440, showlegend: false, yaxis: axis("seconds of one call", { exponentformat: "SI", rangemode: "normal" }),
            xaxis: axis("report", { tickvals: ticks, ticktext: ticks.map((index) => points[index].started_at.slice(0, 10)) }), shapes: events.filter((event) => event.kind !== "outlier").map(mark),
          },
        };
      });
    };
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("input", (event) => {
      if (event.target === chipSelect) setState({ chip: chipSelect.value, series: null });
      else setState({ chip: chipSelect.value, series: seriesSelect.value });
      refresh();
    });
    listeners.push(refresh);
    refresh();
  }

  // ---- a site that is served ---------------------------------------------------------------------

  // Says that there are newer reports and leaves it to the reader to see them: a table that changes
  // under the eyes is worse than one of a minute ago. The state is in the address and survives.
  function watch(version) {
    let notice = null;
    const ask = async () => {
      try {
        const answer = await fetch(`${root}healthz`, { cache: "no-store" });
        const health = await answer.json();
        if (health.version && health.version !== version && !notice) {
          const button = make("button", { type: "button" }, "Show them");
          button.addEventListener("click", () => location.reload());
          notice = make("p", { className: "notice", role: "status" }, "The reports have changed. ", button);
          $("main").before(notice);
        }
      } catch { /* the server is gone; the page stays as it is */ }
    };
    setInterval(() => { if (!document.hidden && !notice) ask(); }, 2000);
  }

  const pages = { overview, chip, compare: comparePage, cost: costPage, history: historyPage };

  function start() {
    let theme = null;
    try { theme = localStorage.getItem("chipmark-theme"); } catch { /* from disk there may be no storage */ }
    if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
    const button = $("button.theme");
    button.hidden = false;
    button.addEventListener("click", () => {
      const dark = document.documentElement.dataset.theme ? document.documentElement.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
      document.documentElement.dataset.theme = dark ? "light" : "dark";
      try { localStorage.setItem("chipmark-theme", document.documentElement.dataset.theme); } catch { /* then it holds for this page */ }
      redraw();
    });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
    for (const table of $$("table.data")) { const view = enhance(table); restoreSort(view); show(view); }
    for (const form of $$("form[data-filters]")) filtering(form);
    const data = JSON.parse($("#data").textContent);
    pages[data.page]?.(data);
    if (document.body.dataset.version) watch(document.body.dataset.version);
    document.documentElement.dataset.started = "yes";
  }

  if (document.readyState === "loading") addEventListener("DOMContentLoaded", start);
  else start();
  return { put, csvOf: (id) => csvOf(tables.get(id)), pages };
})();
