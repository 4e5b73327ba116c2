// The live page. It draws what `data` tells, and asks again every two seconds while it is seen.
// Every text goes through textContent: names and keys come from strangers.
"use strict";

const EVERY = 2000;
const KEPT = 600; // seconds of lines
const SVG = "http://www.w3.org/2000/svg";
const at = new URLSearchParams(location.search).getAll("at");
const $ = (id) => document.getElementById(id);

const page = { by: "entries", falls: true, search: "", paused: false, points: [], columns: [], last: null, before: null, failed: 0, timer: 0, begun: false };

// ------------------------------------------------------------------ elements

function make(name, options = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(options)) {
    if (key === "text") element.textContent = value;
    else if (key === "class") element.className = value;
    else if (value !== null && value !== undefined) element.setAttribute(key, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

function draw(name, attributes) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}

const name = (text) => make("bdi", { text, title: text });

function track(parts, mark) {
  const line = make("div", { class: "track", "aria-hidden": "true" });
  for (const [part, kind] of parts) {
    const piece = make("i", { class: kind });
    piece.style.width = `${Math.max(0, Math.min(1, part || 0)) * 100}%`;
    line.append(piece);
  }
  if (mark !== undefined && mark !== null) {
    const tick = make("b");
    tick.style.left = `${Math.max(0, Math.min(1, mark)) * 100}%`;
    line.append(tick);
  }
  return line;
}

// ------------------------------------------------------------------ figures

const grouped = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
const whole = (value) => grouped.format(value);
const brief = (value) => (Math.abs(value) < 10000 ? (Math.abs(value) < 10 && value % 1 ? value.toFixed(1) : grouped.format(value)) : short.format(value));
const percent = (part) => (part === null ? "–" : `${(part * 100).toFixed(part > 0.9995 || part < 0.0005 ? 0 : 1)} %`);

function lasting(seconds) {
  if (seconds < 0.001) return `${(seconds * 1e6).toFixed(0)} µs`;
  if (seconds < 1) return `${(seconds * 1000).toFixed(seconds < 0.1 ? 1 : 0)} ms`;
  if (seconds < 60) return `${seconds.toFixed(seconds < 10 ? 1 : 0)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${Math.floor(seconds % 60)} s`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
  return `${Math.floor(seconds / 86400)} d ${Math.floor((seconds % 86400) / 3600)} h`;
}

function ratio(from) {
  const asked = from.hits + from.stale_hits + from.misses;
  return asked ? (from.hits + from.stale_hits) / asked : null;
}

function over(seconds) {
  // The growth of each figure over the last seconds, or null without two points.
  const points = page.points;
  if (points.length < 2) return null;
  const end = points[points.length - 1];
  let begin = points[0];
  for (const point of points) if (point.at >= end.at - seconds) { begin = point; break; }
  if (begin === end) begin = points[points.length - 2];
  const growth = { span: end.at - begin.at };
  for (const column of page.columns) if (column !== "at") growth[column] = end[column] - begin[column];
  return growth.span > 0 ? growth : null;
}

function rates(read) {
  const told = [];
  for (let n = 1; n < page.points.length; n += 1) {
    const before = page.points[n - 1], now = page.points[n];
    if (now.at > before.at) told.push([now.at, read(before, now) / (now.at - before.at)]);
  }
  return told;
}

// ------------------------------------------------------------------ asking

function query(more = {}) {
  const fields = new URLSearchParams();
  for (const part of at) fields.append("at", part);
  const asked = SORTED_HERE.has(page.by) ? "entries" : page.by;
  for (const [key, value] of Object.entries({ by: asked, search: page.search, ...more })) if (value) fields.set(key, value);
  return fields.toString();
}

async function poll() {
  clearTimeout(page.timer);
  if (document.hidden || (page.paused && page.begun)) return;
  const since = page.points.length ? page.points[page.points.length - 1].at : 0;
  try {
    const answer = await fetch(`data?${query({ since })}`, { headers: { accept: "application/json" } });
    await take(answer);
  } catch (error) {
    fail(error);
  }
  if (page.failed >= 0) page.timer = setTimeout(poll, EVERY * Math.min(8, 2 ** page.failed));
}

async function take(answer) {
  if (answer.status === 403 || answer.status === 401) {
    page.failed = -1;
    state("bad", "forbidden");
    say("You may not see this page any more. Sign in, and load it again.");
    return;
  }
  if (!answer.ok) throw new Error(`status ${answer.status}`);
  const told = await answer.json();
  page.failed = 0;
  page.begun = true;
  page.columns = told.history.columns;
  if (page.last && told.history.reset_at && told.history.reset_at !== page.last.history.reset_at) page.points = [];
  for (const values of told.history.points) {
    const point = {};
    told.history.columns.forEach((column, n) => { point[column] = values[n]; });
    if (!page.points.length || point.at > page.points[page.points.length - 1].at) page.points.push(point);
  }
  const oldest = told.at - KEPT;
  page.points = page.points.filter((point) => point.at >= oldest);
  page.before = page.last;
  page.last = told;
  show(told);
}

function fail() {
  page.failed += 1;
  state("bad", "no answer");
  say(`The process does not answer. The figures are those of ${page.last ? new Date(page.last.at * 1000).toLocaleTimeString("en-GB") : "no time yet"}; it is asked again.`);
}

function state(kind, text) {
  $("state").className = `state ${kind}`;
  if ($("state-text").textContent !== text) $("state-text").textContent = text;
}

function say(text) {
  const notice = $("notice");
  notice.hidden = !text;
  if (notice.textContent !== text) notice.textContent = text;
}

// ------------------------------------------------------------------ the whole

function show(told) {
  const where = [told.cache, ...(told.role === "tenant" ? [told.tenant] : []), ...told.path];
  document.title = `${where[where.length - 1]} · flowcache`;
  crumbs(told);
  const workers = told.workers || [];
  const gone = workers.filter((one) => one.state === "gone");
  const living = workers.length - gone.length;
  const first = workers.find((one) => one.state !== "gone");
  let process = "";
  if (workers.length > 1) process = `${living} of ${workers.length} workers · `;
  else if (first) process = `process ${first.pid} · `;
  $("process").textContent = `${process}shown for ${lasting(told.uptime || 0)}${told.revealed ? " · keys are readable" : ""}`;
  const asked = told.stats.hits + told.stats.stale_hits + told.stats.misses;
  let notice = "";
  if (told.state === "gone") notice = "No worker answers.";
  else if (told.state === "closed") notice = "The cache is closed. Its process is about to end.";
  else if (told.state === "absent") notice = "There is nothing here yet: no call has used this namespace, or it has been idle for long.";
  else if (!told.enabled) notice = "Switched off: nothing is stored here, and every look-up misses.";
  else if (gone.length) notice = `${gone.map((one) => `Worker ${one.pid || "?"} is gone: ${one.why}`).join(". ")}. The sums are those of the others.`;
  else if (told.history.reset_at) notice = `Counting began anew at ${new Date(told.history.reset_at * 1000).toLocaleTimeString("en-GB")}: the counters were reset, or a worker has ended.`;
  else if (!asked && !told.stats.sets) notice = "Nothing has been asked yet.";
  say(notice);
  if (page.paused) state("", "paused");
  else state(told.state === "live" ? "live" : "bad", told.state);
  cards(told);
  charts(told);
  tenants(told);
  loads(told);
  keys(told);
  functions(told);
  tags(told);
  shownWorkers(workers);
  tier(told);
}

function crumbs(told) {
  const parts = [];
  const root = told.role === "tenant" ? `${told.cache} · ${told.tenant}` : told.cache;
  [root, ...told.path].forEach((text, n) => {
    if (n) parts.push(make("span", { class: "sep", text: "›", "aria-hidden": "true" }));
    if (n === told.path.length) parts.push(make("h1", { class: "here", "aria-current": "page" }, name(text)));
    else parts.push(make("a", { href: place(told.path.slice(0, n)) }, name(text)));
  });
  const nav = $("crumbs");
  if (nav.textContent !== parts.map((part) => part.textContent).join("")) nav.replaceChildren(...parts);
  for (const heading of nav.querySelectorAll("h1")) { heading.style.font = "inherit"; heading.style.margin = "0"; }
}

const place = (path) => (path.length ? `?${path.map((part) => `at=${encodeURIComponent(part.isWellFormed?.() === false ? part.toWellFormed() : part)}`).join("&")}` : "./");

// ------------------------------------------------------------------ cards

function card(title, figure, unit, options = {}) {
  const told = make("article", { class: "card" }, make("h2", { text: title }));
  told.append(make("p", { class: "figure", text: figure }, unit ? make("small", { text: unit }) : null));
  if (options.more) told.append(make("p", { class: "more", text: options.more }));
  if (options.track) told.append(options.track);
  if (options.line && options.line.length > 1) { told.classList.add("lined"); told.append(spark(options.line)); }
  return told;
}

function spark(points) {
  const svg = draw("svg", { class: "spark", viewBox: "0 0 100 38", preserveAspectRatio: "none", "aria-hidden": "true" });
  const begin = points[0][0], end = points[points.length - 1][0];
  const most = Math.max(...points.map((point) => point[1]), 1e-9);
  const path = points.map(([when, value]) => `${(((when - begin) / (end - begin || 1)) * 100).toFixed(2)},${(36 - (value / most) * 30).toFixed(2)}`);
  svg.append(draw("path", { class: "area", d: `M0,38 L${path.join(" L")} L100,38 Z` }), draw("path", { class: "line", d: `M${path.join(" L")}` }));
  return svg;
}

function cards(told) {
  const { stats, limits } = told;
  const now = over(10), long = over(300);
  const asked = now && now.hits + now.stale_hits + now.misses;
  const fill = limits.max_entries ? stats.entries / limits.max_entries : null;
  const made = [
    card("Fill", fill === null ? whole(stats.entries) : percent(fill), fill === null ? "entries" : "", {
      more: fill === null ? "no limit is set" : `${whole(stats.entries)} of ${whole(limits.max_entries)} entries`,
      track: fill === null ? null : track([[fill, "cool"]]),
    }),
  ];
  if (stats.weight || limits.max_weight) {
    const heavy = limits.max_weight ? stats.weight / limits.max_weight : null;
    made.push(card("Weight", heavy === null ? brief(stats.weight) : percent(heavy), "", {
      more: limits.max_weight ? `${brief(stats.weight)} of ${brief(limits.max_weight)}` : "no limit is set",
      track: heavy === null ? null : track([[heavy, "cool"]]),
    }));
  }
  const ever = stats.hits + stats.stale_hits + stats.misses;
  const from = now && asked ? now : stats;
  const base = from.hits + from.stale_hits + from.misses;
  made.push(card("Hit ratio", percent(ratio(from)), now && asked ? "now" : ever ? "since the start" : "", {
    more: ever ? `5 min ${percent(long ? ratio(long) : null)} · since the start ${percent(ratio(stats))}` : "nothing asked yet",
    track: base ? track([[from.hits / base, "hit"], [from.stale_hits / base, "stale"], [from.misses / base, "miss"]]) : track([]),
  }));
  made.push(card("Look-ups", now ? brief(asked / now.span) : "–", "per second", {
    more: `${brief(ever)} since the start`,
    line: rates((a, b) => b.hits - a.hits + b.stale_hits - a.stale_hits + b.misses - a.misses),
  }));
  const loadsNow = now ? now.loads + now.load_failures : 0;
  made.push(card("Loads", now ? brief(loadsNow / now.span) : "–", "per second", {
    more: `${whole(stats.pending)} running · ${stats.loads ? lasting(stats.load_seconds / (stats.loads + stats.load_failures)) : "–"} each · ${brief(stats.load_failures)} failed`,
    line: rates((a, b) => b.loads - a.loads + b.load_failures - a.load_failures),
  }));
  made.push(card("Evictions", now ? brief(now.evictions / now.span) : "–", "per second", {
    more: `${brief(stats.evictions)} since the start · ${brief(stats.sets)} stores`,
    line: rates((a, b) => b.evictions - a.evictions),
  }));
  $("cards").replaceChildren(...made);
}

// ------------------------------------------------------------------ charts

function chart(id, series, { stacked = false, bound = null, unit = "" } = {}) {
  const box = $(id);
  const times = series[0].points.map((point) => point[0]);
  if (times.length < 2) {
    box.replaceChildren(make("p", { class: "empty", text: "The line begins with the second reading." }));
    return;
  }
  const width = Math.max(240, box.clientWidth), height = window.innerWidth <= 700 ? 130 : 170, left = 44, top = 8, bottom = 20;
  const begin = times[0], end = times[times.length - 1];
  const sums = times.map(() => 0);
  const layers = series.map((one) => one.points.map(([, value], n) => { const low = stacked ? sums[n] : 0; sums[n] = low + value; return [low, low + value]; }));
  const peak = Math.max(...layers.flat().map((pair) => pair[1]), 0);
  // A bound far above would press the line flat: it is drawn only where it is near.
  const near = bound !== null && bound < peak * 3;
  const most = nice(Math.max(peak, near ? bound : 0) || 1);
  const x = (when) => left + ((when - begin) / (end - begin || 1)) * (width - left - 4);
  const y = (value) => top + (1 - value / most) * (height - top - bottom);
  const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${series.map((one) => `${one.name} ${brief(one.points[one.points.length - 1][1])}`).join(", ")}` });
  for (const step of [0, 0.5, 1]) {
    svg.append(draw("line", { class: "grid", x1: left, x2: width - 4, y1: y(most * step), y2: y(most * step) }));
    const label = draw("text", { x: left - 6, y: y(most * step) + 4, "text-anchor": "end" });
    label.textContent = brief(most * step);
    svg.append(label);
  }
  for (const [when, anchor] of [[begin, "start"], [end, "end"]]) {
    const label = draw("text", { x: x(when), y: height - 4, "text-anchor": anchor });
    label.textContent = anchor === "end" ? "now" : `${lasting(end - begin)} ago`;
    svg.append(label);
  }
  series.forEach((one, n) => {
    const upper = layers[n].map(([, high], k) => `${x(times[k]).toFixed(1)},${y(high).toFixed(1)}`);
    const lower = layers[n].map(([low], k) => `${x(times[k]).toFixed(1)},${y(low).toFixed(1)}`).reverse();
    svg.append(draw("path", { class: `area-${one.kind}`, d: `M${upper.join(" L")} L${lower.join(" L")} Z` }));
    if (!stacked) svg.append(draw("path", { class: `line-${one.kind}`, d: `M${upper.join(" L")}` }));
  });
  if (near) svg.append(draw("line", { class: "bound", x1: left, x2: width - 4, y1: y(bound), y2: y(bound) }));
  const cross = draw("line", { class: "over", y1: top, y2: height - bottom, visibility: "hidden" });
  svg.append(cross);
  const legend = make("div", { class: "legend" });
  const tell = (n) => {
    legend.replaceChildren(...series.map((one) => make("span", {}, make("i", { class: one.kind }), `${one.name} ${brief(one.points[n][1])}${unit}`)));
    if (bound !== null) legend.append(make("span", { text: `bound ${brief(bound)}` }));
    if (n !== times.length - 1) legend.append(make("span", { text: `${lasting(end - times[n])} ago` }));
  };
  tell(times.length - 1);
  svg.addEventListener("pointermove", (event) => {
    const frame = svg.getBoundingClientRect();
    const when = begin + ((((event.clientX - frame.left) / frame.width) * width - left) / (width - left - 4)) * (end - begin);
    let nearest = 0;
    times.forEach((one, n) => { if (Math.abs(one - when) < Math.abs(times[nearest] - when)) nearest = n; });
    cross.setAttribute("x1", x(times[nearest]));
    cross.setAttribute("x2", x(times[nearest]));
    cross.setAttribute("visibility", "visible");
    tell(nearest);
  });
  svg.addEventListener("pointerleave", () => { cross.setAttribute("visibility", "hidden"); tell(times.length - 1); });
  box.replaceChildren(legend, svg);
}

function nice(value) {
  const scale = 10 ** Math.floor(Math.log10(value));
  for (const step of [1, 2, 4, 5, 10]) if (step * scale >= value) return step * scale;
  return value;
}

function charts(told) {
  chart("chart-asked", [
    { name: "hit", kind: "hit", points: rates((a, b) => b.hits - a.hits) },
    { name: "stale", kind: "stale", points: rates((a, b) => b.stale_hits - a.stale_hits) },
    { name: "miss", kind: "miss", points: rates((a, b) => b.misses - a.misses) },
  ], { stacked: true, unit: "/s" });
  chart("chart-held", [{ name: "entries", kind: "cool", points: page.points.map((point) => [point.at, point.entries]) }], { bound: told.limits.max_entries });
}

// ------------------------------------------------------------------ tenants

const SORTED_HERE = new Set(["name", "hit_rate", "fair"]);
const COLUMNS = [
  ["name", "Name", "ascending"],
  ["entries", "Entries", "descending"],
  ["fair", "Fair share", "descending"],
  ["hit_rate", "Hit ratio", "ascending"],
  ["hits", "Hits", "descending"],
  ["misses", "Misses", "descending"],
  ["evictions", "Evicted", "descending"],
  ["evictions_caused", "Evicts", "descending"],
  ["pending", "Loading", "descending"],
];

function columns() {
  $("columns").replaceChildren(...COLUMNS.map(([key, title], n) => {
    const button = make("button", { type: "button", text: title, title: `Sort (${n + 1})` });
    button.addEventListener("click", () => sort(key));
    const cell = make("th", { scope: "col", "data-key": key }, button);
    return cell;
  }));
  marks();
}

function marks() {
  for (const cell of $("columns").children) {
    if (cell.dataset.key === page.by) cell.setAttribute("aria-sort", page.falls ? "descending" : "ascending");
    else cell.removeAttribute("aria-sort");
  }
}

function sort(key) {
  const usual = COLUMNS.find((column) => column[0] === key)[2] === "descending";
  page.falls = page.by === key ? !page.falls : usual;
  page.by = key;
  marks();
  if (page.last) tenants(page.last);
  poll();
}

function cell(kind, label, ...children) {
  return make("td", { class: kind, "data-label": label }, ...children);
}

function row(one, told, before) {
  const asked = one.hits + one.stale_hits + one.misses;
  const bound = told.limits.max_entries;
  const most = Math.max(1, ...told.tenants.rows.map((each) => Math.max(each.entries, each.fair || 0)));
  // Within its fair share, and yet others take its entries.
  const suffers = before && one.fair !== null && one.entries <= one.fair && one.evictions - before.evictions > one.evictions_caused - before.evictions_caused;
  const own = make("a", { href: place([...told.path, one.name]) }, name(one.name));
  return make("tr", { "data-name": one.name },
    cell("name", "", own),
    cell("", "Entries", whole(one.entries), track([[one.entries / most, one.fair !== null && one.entries > one.fair * 1.02 ? "stale" : "cool"]], one.fair === null ? null : one.fair / most)),
    cell("", "Fair share", one.fair === null ? "–" : bound ? brief(Math.round(one.fair)) : "–"),
    cell("", "Hit ratio", percent(asked ? one.hit_rate : null), asked ? track([[one.hits / asked, "hit"], [one.stale_hits / asked, "stale"], [one.misses / asked, "miss"]]) : track([])),
    cell("", "Hits", brief(one.hits)),
    cell("", "Misses", brief(one.misses)),
    cell(suffers ? "warn" : "", "Evicted", brief(one.evictions)),
    cell("", "Evicts", brief(one.evictions_caused)),
    cell("", "Loading", whole(one.pending)));
}

function tenants(told) {
  const { rows, rest, count, others, own, matches } = told.tenants;
  const focused = document.activeElement && document.activeElement.closest("#rows tr");
  const kept = focused ? focused.dataset.name : null;
  const sorted = [...rows];
  const way = page.falls ? -1 : 1;
  const read = (one) => (page.by === "name" ? one.name : page.by === "fair" ? one.fair || 0 : one[page.by]);
  sorted.sort((a, b) => { const left = read(a), right = read(b); return left < right ? -way : left > right ? way : a.name < b.name ? -1 : 1; });
  const earlier = new Map((page.before ? page.before.tenants.rows : []).map((one) => [one.name, one]));
  const made = sorted.map((one) => row(one, told, earlier.get(one.name)));
  if (rows.length && (others > 0 || own > 0)) {
    const asked = rest.hits + rest.stale_hits + rest.misses;
    const label = [others > 0 ? `${whole(others)} more` : "", own > 0 ? `${whole(own)} entries of no tenant` : ""].filter(Boolean).join(", ");
    made.push(make("tr", { class: "rest" }, cell("name", "", label), cell("", "Entries", whole(rest.entries)), cell("", "Fair share", "–"), cell("", "Hit ratio", percent(asked ? rest.hit_rate : null)), cell("", "Hits", brief(rest.hits)), cell("", "Misses", brief(rest.misses)), cell("", "Evicted", brief(rest.evictions)), cell("", "Evicts", brief(rest.evictions_caused)), cell("", "Loading", whole(rest.pending))));
  }
  $("rows").replaceChildren(...made);
  if (kept !== null) {
    const again = [...$("rows").children].find((one) => one.dataset.name === kept);
    const link = again && again.querySelector("a");
    if (link) link.focus({ preventScroll: true });
  }
  $("tenants-title").textContent = told.role === "tenant" || told.path.length ? "Namespaces below" : "Tenants";
  const server = SORTED_HERE.has(page.by) ? "entries" : COLUMNS.find((column) => column[0] === page.by)[1].toLowerCase();
  let note = `${whole(count)} in all`;
  if (matches !== null) note = `${whole(matches)} of ${whole(count)} match`;
  else if (others > 0) note = `the first ${rows.length} of ${whole(count)} by ${server}`;
  $("tenants-note").textContent = count ? note : "";
  $("tenants").hidden = !rows.length;
  const empty = $("tenants-empty");
  empty.hidden = rows.length > 0;
  empty.textContent = matches !== null ? "No name matches." : told.role === "tenant" || told.path.length ? "There are no namespaces below this one." : "There are no tenants yet. Each has a row from its first call on.";
}

// ------------------------------------------------------------------ panels

const empty = (text) => make("p", { class: "empty", text });
const path = (parts) => (parts.length ? `${parts.join(" › ")} › ` : "");

function put(id, items, nothing, ...more) {
  $(id).replaceChildren(...(items.length || more.length ? [make("ul", { class: "list" }, ...items), ...more] : [empty(nothing)]));
}

function loads(told) {
  const total = told.stats.pending;
  const limit = told.limits.max_pending;
  $("loads-note").textContent = `${whole(total)} running${limit === null || limit === undefined ? "" : ` of ${whole(limit)}`} · ${brief(told.stats.coalesced)} joined`;
  const oldest = Math.max(...told.loads.map((one) => one.age), 1);
  const items = told.loads.slice(0, 8).map((one) => make("li", {},
    make("span", { class: "main key" }, name(path(one.path) + one.key), one.background ? make("span", { class: "chip", text: "background" }) : null),
    make("span", { text: lasting(one.age) }), track([[one.age / oldest, "cool"]])));
  const failed = Object.entries(told.failures).map(([kind, count]) => make("li", {}, make("span", { class: "main" }, name(kind), make("span", { class: "chip bad", text: "failed" })), make("span", { text: brief(count) })));
  put("loads", [...items, ...failed], told.stats.loads ? "No load runs now." : "No load has run yet.");
}

function keys(told) {
  const hot = told.hot, button = $("record");
  const sampling = hot !== null && hot.state === "sampling";
  button.disabled = sampling || told.state !== "live";
  $("keys-note").textContent = "";
  if (hot === null) {
    put("keys", [], "Not sampled yet. A sample of the look-ups is taken for ten seconds, and dropped.");
    return;
  }
  if (sampling) {
    const bar = make("progress", { max: 10, value: Math.max(0, 10 - hot.left), "aria-label": "Sampling" });
    $("keys").replaceChildren(make("div", { class: "empty" }, bar, make("p", { text: `Sampling: ${Math.ceil(hot.left)} s left, ${brief(hot.seen)} look-ups seen.` })));
    return;
  }
  $("keys-note").textContent = `${brief(hot.seen)} look-ups, ${brief(hot.kept)} sampled, ${lasting(hot.age)} ago`;
  const most = Math.max(...hot.keys.map((one) => one.part), 0.001);
  const items = hot.keys.slice(0, 10).map((one) => {
    const facts = [];
    if (one.held) facts.push(one.fresh ? (one.ttl === null ? "never expires" : `${lasting(one.ttl)} left`) : "stale");
    else facts.push("not held");
    if (one.weight) facts.push(`weight ${brief(one.weight)}`);
    if (one.misses > 0.005) facts.push(`${percent(one.misses)} misses`);
    if (one.tags && one.tags.length) facts.push(`tags ${one.tags.join(", ")}`);
    return make("li", {}, make("span", { class: "main key" }, name(path(one.path) + one.key)), make("span", { text: `${percent(one.part)} · ${brief(one.rate)}/s` }), track([[one.part / most, "hit"]]), make("span", { class: "below" }, make("bdi", { text: facts.join(" · ") })));
  });
  if (hot.families.length) {
    items.push(make("li", {}, make("h3", { text: "Families" })));
    for (const one of hot.families.slice(0, 8)) items.push(make("li", {}, make("span", { class: "main key" }, name(one.family)), make("span", { text: percent(one.part) }), track([[one.part, "cool"]])));
  }
  if (hot.recent.length) {
    items.push(make("li", {}, make("h3", { text: "Looked up last" })));
    for (const one of hot.recent.slice(0, 5)) items.push(make("li", {}, make("span", { class: "main key" }, name(path(one.path) + one.key))));
  }
  put("keys", items, "No look-up came while it was sampled.");
}

function functions(told) {
  put("functions", told.functions.slice(0, 10).map((one) => make("li", {},
    make("span", { class: "main key" }, name(one.function)), make("span", { text: percent(one.calls ? 1 - one.misses / one.calls : null) }),
    track(one.calls ? [[1 - one.misses / one.calls, "hit"], [one.misses / one.calls, "miss"]] : []),
    make("span", { class: "below", text: `${brief(one.calls)} calls · ${brief(one.misses)} misses · ${brief(one.entries)} entries` }))), "No function is cached here.");
}

function tags(told) {
  const most = Math.max(...told.tags.map((one) => one.entries), 1);
  const items = told.tags.slice(0, 12).map((one) => make("li", {}, make("span", { class: "main" }, name(one.tag)), make("span", { text: whole(one.entries) }), track([[one.entries / most, "cool"]])));
  const more = told.more_tags + Math.max(0, told.tags.length - 12);
  if (more > 0) items.push(make("li", {}, make("span", { class: "main quiet", text: `${whole(more)} more` })));
  put("tags", items, "No entry bears a tag.");
}

function shownWorkers(workers) {
  $("workers-panel").hidden = workers.length < 2;
  put("workers", workers.map((one) => make("li", {},
    make("span", { class: "main" }, `Process ${one.pid || "?"}`, one.state === "live" ? null : make("span", { class: "chip bad", text: one.state })),
    make("span", { text: one.stats ? `${brief(one.stats.entries)} entries` : "" }),
    make("span", { class: "below", text: one.state === "gone" ? one.why : `shown for ${lasting(one.uptime)} · ${percent(ratio(one.stats))} hits · ${brief(one.stats.hits + one.stats.stale_hits + one.stats.misses)} look-ups` }))), "");
}

function tier(told) {
  const figures = Object.entries(told.tier);
  $("tier-panel").hidden = !figures.length;
  put("tier", figures.map(([key, value]) => make("li", {}, make("span", { class: "main", text: key.replace("tier_", "").replaceAll("_", " ") }), make("span", { text: typeof value === "number" ? brief(value) : value }))), "");
}

// ------------------------------------------------------------------ what the reader does

async function record() {
  if ($("record").disabled) return;
  $("record").disabled = true;
  try {
    await take(await fetch(`record?${query()}`, { method: "POST", headers: { "x-flowcache": "1" } }));
  } catch (error) {
    fail(error);
  }
}

function pause() {
  page.paused = !page.paused;
  $("pause").setAttribute("aria-pressed", String(page.paused));
  if (page.paused) { clearTimeout(page.timer); state("", "paused"); } else poll();
}

function theme() {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  try { localStorage.setItem("flowcache-theme", root.dataset.theme); } catch { /* It is kept for this visit. */ }
}

function step(by) {
  const links = [...$("rows").querySelectorAll("a")];
  if (!links.length) return;
  const now = links.indexOf(document.activeElement);
  links[Math.max(0, Math.min(links.length - 1, now < 0 ? 0 : now + by))].focus();
}

let typing = 0;
$("search").addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(() => { page.search = $("search").value.trim(); poll(); }, 150);
});
$("search").addEventListener("keydown", (event) => {
  if (event.key === "Escape") { $("search").value = ""; page.search = ""; $("search").blur(); poll(); }
  else if (event.key === "ArrowDown" || event.key === "Enter") { event.preventDefault(); step(0); }
  event.stopPropagation();
});
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || $("keyboard").open) return;
  const actions = {
    "/": () => $("search").focus(), j: () => step(1), k: () => step(-1), ArrowDown: () => step(1), ArrowUp: () => step(-1),
    p: pause, t: theme, h: record, "?": () => $("keyboard").showModal(),
    u: () => { if (at.length) location.href = place(at.slice(0, -1)); },
  };
  const column = /^[1-9]$/.test(event.key) ? COLUMNS[Number(event.key) - 1] : null;
  const action = column ? () => sort(column[0]) : actions[event.key];
  if (!action) return;
  if (event.key.startsWith("Arrow") && !document.activeElement.closest("#rows")) return;
  event.preventDefault();
  action();
});
$("pause").addEventListener("click", pause);
$("theme").addEventListener("click", theme);
$("help").addEventListener("click", () => $("keyboard").showModal());
$("record").addEventListener("click", record);
document.addEventListener("visibilitychange", () => { if (!document.hidden) poll(); });
addEventListener("resize", () => { if (page.last) charts(page.last); });
try { const kept = localStorage.getItem("flowcache-theme"); if (kept) document.documentElement.dataset.theme = kept; } catch { /* No storage: the system's theme. */ }
columns();
poll();
