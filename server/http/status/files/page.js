// The status page: reads /status.json once a second and shows it. Sections stand in the order in which one looks for trouble.
import { html, render, useEffect, useRef, useState } from "/status/htm-preact.js";
import { TryIt } from "/status/try.js";

const EVERY_MS = 1000, KEPT = 120;
const REASONS = { full: "c1", preferred: "c3", delay: "c2", idle: "c5", flush: "c4", alone: "c6" };
const PARTS = { decode: "c5", queue: "c2", way: "c6", compute: "c1", encode: "c3" };
const TOLD = { decode: "read and decoded", queue: "in the queue", way: "to the worker and back", compute: "in the model", encode: "encoded and sent" };
const number = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
const MARKS = { READY: "✓", LOADING: "…", UNLOADING: "…", UNAVAILABLE: "✗", "NOT LOADED": "–" };

const ms = (value) => value >= 100 ? `${Math.round(value)} ms` : value >= 1 ? `${value.toFixed(1)} ms` : `${value.toFixed(2)} ms`;
const mib = (bytes) => `${number.format(bytes / 2 ** 20)} MiB`;
const sum = (values) => values.reduce((all, one) => all + one, 0);
const served = (status) => status.models.flatMap((model) =>
  model.versions.filter((version) => version.counters).map((version) => ({ ...version, name: model.name })));

function since(seconds) {
  const s = Math.max(0, Math.round(seconds));
  return s < 90 ? `${s} s` : s < 5400 ? `${Math.round(s / 60)} min` : s < 172800 ? `${Math.round(s / 3600)} h` : `${Math.round(s / 86400)} days`;
}

// -- what is shown ----------------------------------------------------------------------------------------------------------

function Header({ server }) {
  const state = server.stopping ? "stopping" : server.ready ? "✓ ready" : "✗ not ready";
  return html`<header>
    <h1>jitney <span>${server.version}</span></h1>
    <strong class=${server.ready ? "" : "bad"} data-test="ready">${state}</strong>
    <span>up ${since(server.time - server.started)}</span>
    <span>${server.in_flight} of ${server.max_waiting} requests in flight</span>
    <a href="/status.json">JSON</a></header>`;
}

function Models({ models }) {
  const rows = models.flatMap((model) => model.versions.map((version) => ({ model, version })));
  return html`<section aria-labelledby="models"><h2 id="models" tabindex="-1">Models</h2><div class="scroll"><table>
    <thead><tr><th>model</th><th>version</th><th>state</th><th>backend</th><th class="n">workers</th><th class="n">requests</th><th class="n">failed</th></tr></thead>
    <tbody>${rows.length ? rows.map(Model) : html`<tr><td colspan="7" class="faint">No model is known to this server.</td></tr>`}</tbody>
  </table></div></section>`;
}

function Model({ model, version }) {
  const ready = version.ready, workers = version.workers || [];
  const stranded = version.state === "READY" && !ready ? "no worker is ready" : "";
  const why = version.reason || stranded || (workers.find((worker) => worker.error) || {}).error || "";
  return html`<tr key=${model.name + "/" + version.version} data-model=${model.name}>
    <td><strong>${model.name}</strong></td>
    <td>${version.version || "–"}${model.default === version.version && version.version ? html` <span class="faint">default</span>` : ""}</td>
    <td class=${ready || version.state === "NOT LOADED" ? "" : "bad"}>${stranded ? "✗" : MARKS[version.state] || ""} ${version.state}</td>
    <td>${version.backend || "–"}</td>
    <td class="n">${version.counters ? `${workers.filter((w) => w.state === "READY" || w.state === "BUSY").length} of ${version.wanted_workers}` : "–"}</td>
    <td class="n">${version.counters ? version.counters.requests : "–"}</td>
    <td class="n">${version.counters ? sum(Object.values(version.counters.failures)) : "–"}</td>
  </tr>${why ? html`<tr key=${model.name + "/" + version.version + "/why"} data-why=${model.name}><td colspan="7"><div class=${ready ? "why" : "why bad"}>${why}</div></td></tr>` : ""}`;
}

function Workers({ status }) {
  const rows = served(status).flatMap((version) => version.workers.map((worker) => ({ version, worker })));
  return html`<section aria-labelledby="workers"><h2 id="workers">Workers</h2><div class="scroll"><table>
    <thead><tr><th>model</th><th>worker</th><th>pid</th><th>state</th><th>device</th><th class="n">memory</th><th class="n">restarts</th><th>up</th><th>last error</th></tr></thead>
    <tbody>${rows.map(({ version, worker }) => html`<tr key=${worker.id}>
      <td>${version.name} ${version.version}</td><td>${worker.id}</td><td>${worker.pid || "–"}</td>
      <td class=${["BACKOFF", "FAILED"].includes(worker.state) ? "bad" : ""}>${worker.state}</td><td>${worker.device}</td>
      <td class="n">${mib(worker.memory_bytes)}</td><td class="n">${worker.restarts}</td>
      <td>${worker.pid && worker.started ? since(status.server.time - worker.started) : "–"}</td><td><div class="why">${worker.error}</div></td></tr>`)}
    ${rows.length ? "" : html`<tr><td colspan="9" class="faint">No model has workers.</td></tr>`}</tbody></table></div></section>`;
}

function Plot({ title, series, data }) {
  const place = useRef(null), plot = useRef(null);
  useEffect(() => {
    const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
    const axis = () => ({ stroke: () => colour("--faint"), grid: { stroke: () => colour("--line"), width: 1 }, ticks: { stroke: () => colour("--line") } });
    const width = () => Math.max(200, place.current.clientWidth);
    plot.current = new window.uPlot({
      width: width(), height: 180, series: [{}, ...series.map((one) => ({ ...one, stroke: () => colour(one.colour), width: 2, points: { show: false } }))],
      axes: [axis(), axis()], scales: { y: { range: (_, low, high) => [0, Math.max(1, high * 1.1)] } },
    }, data, place.current);
    const observer = new ResizeObserver(() => plot.current.setSize({ width: width(), height: 180 }));
    observer.observe(place.current);
    return () => { observer.disconnect(); plot.current.destroy(); };
  }, []);
  useEffect(() => { plot.current.setData(data); }, [data]);
  return html`<div class="card"><h3>${title}</h3><div class="plot" ref=${place} role="img" aria-label=${title}></div></div>`;
}

function Live({ history, status }) {
  const column = (name) => history.map((point) => point[name]);
  const last = history[history.length - 1], waiting = served(status).filter((version) => version.waiting.requests);
  const lanes = waiting.flatMap((version) => version.waiting.lanes.map((lane) => ({ ...lane, of: `${version.name} ${version.version}` })));
  return html`<section aria-labelledby="live"><h2 id="live">Now</h2>
    <p data-test="rates">${number.format(last.requests)} requests/s, ${number.format(last.rows)} rows/s, ${last.waiting} waiting${last.waiting ? `, the oldest for ${ms(last.oldest)}` : ""}</p>
    <div class="cards">
      <${Plot} title="Requests and rows a second" data=${[column("at"), column("requests"), column("rows")]}
        series=${[{ label: "requests/s", colour: "--c1" }, { label: "rows/s", colour: "--c2", dash: [6, 4] }]} />
      <${Plot} title="Waiting for a worker" data=${[column("at"), column("waiting"), column("oldest")]}
        series=${[{ label: "requests", colour: "--c1" }, { label: "age of the oldest, ms", colour: "--c2", dash: [6, 4] }]} />
    </div>
    <details><summary>Lanes and priorities (${lanes.length})</summary><div class="scroll"><table>
      <thead><tr><th>model</th><th>lane</th><th>priority</th><th class="n">requests</th><th class="n">rows</th><th class="n">oldest</th></tr></thead>
      <tbody>${lanes.map((lane) => html`<tr><td>${lane.of}</td><td>${lane.lane || "all"}</td><td>${lane.priority || "none"}${lane.overdue ? ", overdue" : ""}</td>
        <td class="n">${lane.requests}</td><td class="n">${lane.rows}</td><td class="n">${ms(lane.oldest_ms)}</td></tr>`)}</tbody></table></div></details></section>`;
}

function Batches({ version }) {
  const sizes = version.last_minute.batches, limits = version.batching;
  const most = Math.max(1, ...sizes.map((size) => sum(Object.values(size.left))));
  const all = sum(sizes.map((size) => sum(Object.values(size.left))));
  const rows = sum(sizes.map((size) => size.rows * sum(Object.values(size.left))));
  const allowed = limits.enabled
    ? `Up to ${limits.max_batch_size || "any number of"} rows; ${limits.max_queue_delay_ms ? `a batch waits ${limits.max_queue_delay_ms} ms for more` : "no delay: a batch leaves when a worker is idle"}${limits.preferred_batch_size.length ? `; preferred: ${limits.preferred_batch_size.join(", ")}` : ""}.`
    : "Each request runs alone: the configuration has no dynamic_batching, or no batch axis.";
  const used = Object.keys(REASONS).filter((reason) => sizes.some((size) => size.left[reason]));
  return html`<div class="card" data-batches=${version.name}><h3>${version.name} ${version.version}</h3>
    <p class="faint">${allowed}</p>
    <p>${all ? `${all} batches in ${Math.round(version.last_minute.seconds)} s, ${number.format(rows / all)} rows on average` : "No batch in the last minute."}</p>
    <div class="bars">${sizes.map((size) => {
      const count = sum(Object.values(size.left));
      const words = Object.entries(size.left).map(([reason, times]) => `${times} ${reason}`).join(", ");
      return html`<span class="n">${size.rows} ${size.rows === 1 ? "row" : "rows"}</span>
        <span class="bar" role="img" aria-label=${words} title=${words}>${Object.entries(size.left).map(([reason, times]) =>
          html`<i class=${REASONS[reason] || "c6"} style=${{ width: `${100 * times / most}%` }}></i>`)}</span><span class="n">${count}</span>`;
    })}</div>
    <ul class="key">${used.map((reason) => html`<li><i class=${REASONS[reason]}></i>${reason}: ${sum(sizes.map((size) => size.left[reason] || 0))}</li>`)}</ul></div>`;
}

export function advice(version) {
  const parts = version.last_minute.parts, whole = sum(Object.values(parts).map((part) => part.mean_ms));
  const [name, part] = Object.entries(parts).sort((a, b) => b[1].mean_ms - a[1].mean_ms)[0] || [];
  if (!name || part.mean_ms < whole / 2) return "";
  const share = `${Math.round(100 * part.mean_ms / whole)} %`, delay = version.batching.max_queue_delay_ms;
  const told = {
    queue: delay && part.p50_ms <= 1.2 * delay ? `the declared delay of ${delay} ms is most of it: a smaller max_queue_delay_microseconds`
      : `a second worker, or a larger batch: jitney tune ${version.name}`,
    decode: "send tensors or smaller pictures, or let several processes decode: front_ends",
    way: "large tensors, or a busy machine: look at its cores and its memory",
    compute: "the model itself: a GPU, a faster format, or a smaller model",
    encode: "large answers: ask for binary outputs, or for fewer of them",
  };
  return `${share} ${TOLD[name]}: ${told[name]}.`;
}

function Times({ version }) {
  const parts = Object.entries(version.last_minute.parts), whole = sum(parts.map(([, part]) => part.p50_ms)) || 1;
  let before = 0;
  return html`<div class="card" data-times=${version.name}><h3>${version.name} ${version.version}</h3>
    ${parts.length ? "" : html`<p class="faint">No request in the last minute.</p>`}
    <div class="bars falls">${parts.map(([name, part]) => {
      const left = before;
      before += part.p50_ms;
      return html`<span>${TOLD[name]}</span>
        <span class="fall" aria-hidden="true"><i class=${PARTS[name]} style=${{ left: `${100 * left / whole}%`, width: `${100 * part.p50_ms / whole}%` }}></i></span>
        <span class="n">${ms(part.p50_ms)} <span class="faint">p99 ${ms(part.p99_ms)}</span></span>`;
    })}</div><p class="advice">${advice(version)}</p></div>`;
}

function Gpus({ gpus }) {
  return html`<section aria-labelledby="gpus"><h2 id="gpus">GPU</h2>${gpus.length ? html`<div class="bars">${gpus.map((gpu) => html`
    <span>GPU ${gpu.index}</span><span class="bar"><i class="c1" style=${{ width: `${gpu.utilization}%` }}></i></span>
    <span>${Math.round(gpu.utilization)} % busy, ${Math.round(gpu.memory_used_mib)} of ${Math.round(gpu.memory_total_mib)} MiB</span>`)}</div>`
    : html`<p class="faint">This server sees no GPU.</p>`}</section>`;
}

// -- what is read -----------------------------------------------------------------------------------------------------------

/** The figures of one reading; rates against the reading before. */
export function point(status, last) {
  const versions = served(status), count = (name) => sum(versions.map((version) => version.counters[name]));
  const all = { requests: count("requests"), rows: count("rows"), clock: status.server.clock };
  const rate = (name) => last ? Math.max(0, (all[name] - last.all[name]) / Math.max(0.001, all.clock - last.all.clock)) : 0;
  return {
    all, at: status.server.time, requests: rate("requests"), rows: rate("rows"),
    waiting: sum(versions.map((version) => version.waiting.requests)), oldest: Math.max(0, ...versions.map((version) => version.waiting.oldest_ms)),
  };
}

async function read(key) {
  const answer = await fetch("/status.json", { headers: key ? { authorization: `Bearer ${key}` } : {}, cache: "no-store" });
  if (answer.ok) return answer.json();
  const said = await answer.json().catch(() => ({}));
  throw Object.assign(new Error(said.message || said.error || `status ${answer.status}`), { locked: answer.status === 400 || answer.status === 401 || answer.status === 403 });
}

function Key({ problem, keep }) {
  const field = useRef(null);
  return html`<main><h1>jitney</h1><p>This server wants its management key: ${problem}</p>
    <form onSubmit=${(event) => { event.preventDefault(); keep(field.current.value.trim()); }}>
      <label for="key">Management key</label><input id="key" type="password" autocomplete="off" ref=${field} /> <button class="go">Show the status</button></form></main>`;
}

function App() {
  const [state, change] = useState({ status: null, history: [], problem: "", locked: false });
  const [key, setKey] = useState(sessionStorage.getItem("jitney-key") || "");
  useEffect(() => {
    let timer = 0, over = false;
    const turn = async () => {
      try {
        const status = document.hidden && timer ? null : await read(key);
        if (status && !over) change((old) => ({ status, problem: "", locked: false, history: [...old.history, point(status, old.history[old.history.length - 1])].slice(-KEPT) }));
      } catch (error) {
        if (!over) change((old) => ({ ...old, problem: error.message, locked: Boolean(error.locked) }));
        if (error.locked) return;
      }
      if (!over) timer = setTimeout(turn, EVERY_MS);
    };
    turn();
    return () => { over = true; clearTimeout(timer); };
  }, [key]);
  if (state.locked) return html`<${Key} problem=${state.problem} keep=${(text) => { sessionStorage.setItem("jitney-key", text); setKey(text); }} />`;
  const { status, history } = state;
  if (!status) return html`<p class="wait">${state.problem ? `The status cannot be read: ${state.problem}` : "Reading the status …"}</p>`;
  const versions = served(status);
  return html`<${Header} server=${status.server} /><main>
    <p class="stale" role="status">${state.problem ? `Not up to date: ${state.problem}` : ""}</p>
    <${Models} models=${status.models} /><${Workers} status=${status} /><${Live} history=${history} status=${status} />
    <section aria-labelledby="batches"><h2 id="batches">Batches of the last minute, and why each left</h2><div class="cards">
      ${versions.filter((version) => version.backend !== "ensemble").map((version) => html`<${Batches} key=${version.name + version.version} version=${version} />`)}</div></section>
    <section aria-labelledby="times"><h2 id="times">Where a request's time goes</h2><div class="cards">
      ${versions.map((version) => html`<${Times} key=${version.name + version.version} version=${version} />`)}</div></section>
    <${Gpus} gpus=${status.gpus} /><${TryIt} versions=${versions} server=${status.server} secret=${key} /></main>`;
}

render(html`<${App} />`, document.getElementById("page"));
