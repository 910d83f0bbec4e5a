// "Try it": a form for each model made from its inputs, the answer with its time split, and the request as lines to copy.
import { html, useEffect, useState } from "/status/htm-preact.js";

const DEFAULT_SIZE = 1;
const NUMPY = { BOOL: "bool", FP16: "float16", FP32: "float32", FP64: "float64", BYTES: "object" };

/** A value of the input's shape, as JSON: zeros, or empty texts. */
export function example(input, batches) {
  const dims = [...(batches ? [1] : []), ...input.dims].map((size) => size < 0 ? DEFAULT_SIZE : size);
  const value = input.datatype === "BYTES" ? "" : input.datatype === "BOOL" ? false : 0;
  return JSON.stringify(dims.reduceRight((inner, size) => Array(size).fill(inner), value));
}

export function shape(value) {
  return Array.isArray(value) ? [value.length, ...(value.length ? shape(value[0]) : [])] : [];
}

/** The KServe v2 request of what the fields hold; throws where one of them is no JSON. */
export function tensors(inputs, fields) {
  const filled = inputs.filter((input) => !(input.optional && !fields[input.name]));
  return { inputs: filled.map((input) => {
    let value;
    try { value = JSON.parse(fields[input.name]); } catch { throw new Error(`${input.name}: expected JSON, such as ${example(input, false)}`); }
    return { name: input.name, datatype: input.datatype, shape: shape(value), data: value };
  }) };
}

const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
const numpy = (datatype) => NUMPY[datatype] || datatype.toLowerCase();

/** The same request for curl, requests and tritonclient; `at` is the address of the inference port. */
export function lines(at, model, version, kind, body, file, secret) {
  const key = secret ? "$JITNEY_TOKEN" : "", v2 = `${at}/v2/models/${encodeURIComponent(model)}/versions/${version}/infer`;
  const predictions = `${at}/predictions/${encodeURIComponent(model)}/${version}`, url = kind === "tensors" ? v2 : predictions;
  const curlKey = key ? ` -H "Authorization: Bearer ${key}"` : "", headers = key ? ', headers={"Authorization": f"Bearer {token}"}' : "";
  if (kind === "file") {
    const name = file ? file.name : "FILE";
    return { curl: `curl${curlKey} ${url} -T ${quoted(name)}`, requests: `requests.post("${url}", data=open(${JSON.stringify(name)}, "rb")${headers}).json()` };
  }
  if (kind === "text") {
    return { curl: `curl${curlKey} ${url} -H "Content-Type: ${typeOf(body)}" --data-binary ${quoted(body)}`,
      requests: `requests.post("${url}", data=${JSON.stringify(body)}.encode()${key ? ', headers={"Authorization": f"Bearer {token}", ' : ", headers={"}"Content-Type": "${typeOf(body)}"}).text` };
  }
  const document = JSON.parse(body), given = document.inputs;
  const made = given.map((one, n) => `inputs[${n}].set_data_from_numpy(np.array(${python(one.data)}, dtype="${numpy(one.datatype)}"))`);
  return {
    curl: `curl${curlKey} ${url} -d ${quoted(body)}`,
    requests: `requests.post("${url}", json=${python(document)}${headers}).json()`,
    tritonclient: [`import numpy as np, tritonclient.http as http`, `client = http.InferenceServerClient("${at.replace(/^https?:\/\//, "")}")`,
      `inputs = [${given.map((one) => `http.InferInput("${one.name}", ${JSON.stringify(one.shape)}, "${one.datatype}")`).join(", ")}]`, ...made,
      `answer = client.infer("${model}", inputs, model_version="${version}"${key ? ', headers={"Authorization": f"Bearer {token}"}' : ""})`, `print(answer.get_response())`].join("\n"),
  };
}

const python = (value) => JSON.stringify(value, (_, inner) => inner === true ? "\u0001T" : inner === false ? "\u0001F" : inner === null ? "\u0001N" : inner)
  .replaceAll('"\\u0001T"', "True").replaceAll('"\\u0001F"', "False").replaceAll('"\\u0001N"', "None");

function typeOf(text) {
  try { JSON.parse(text); return "application/json"; } catch { return "text/plain"; }
}

/** Where examples go: the inference port, under the name by which the page itself was found. */
export function address(server) {
  const at = server.inference;
  if (!at) return location.origin;
  const host = location.hostname || at.host;
  return `${at.scheme}://${host}:${at.port}`;
}

function split(header) {
  return (header || "").split(", ").filter(Boolean).map((part) => {
    const [name, duration] = part.split(";dur=");
    return `${name} ${Number(duration).toFixed(2)} ms`;
  }).join(" · ");
}

/** Pairs of class and number, where an answer is made of them: largest first. */
export function classes(answer) {
  const found = answer && !Array.isArray(answer) && typeof answer === "object" ? Object.entries(answer) : [];
  if (!found.length || !found.every(([, value]) => typeof value === "number" && value >= 0 && value <= 1)) return [];
  return found.sort((a, b) => b[1] - a[1]).slice(0, 5);
}

function Answer({ answer }) {
  const top = classes(answer.json);
  return html`<div data-test="answer" role="status"><p class=${answer.ok ? "" : "bad"}>${answer.ok ? "✓" : "✗"} HTTP ${answer.code}, ${answer.ms.toFixed(1)} ms in this browser${answer.split ? html`; in the server: ${answer.split}` : ""}</p>
    ${top.length ? html`<div class="bars">${top.map(([name, share]) => html`<span>${name}</span><span class="bar"><i class="c1" style=${{ width: `${100 * share}%` }}></i></span><span class="n">${(100 * share).toFixed(1)} %</span>`)}</div>` : ""}
    <pre tabindex="0" aria-label="The answer">${answer.text}</pre></div>`;
}

function Line({ name, text }) {
  const [copied, mark] = useState(false);
  const copy = async () => { await navigator.clipboard.writeText(text); mark(true); setTimeout(() => mark(false), 1500); };
  return html`<div><div class="row"><strong>${name}</strong>${navigator.clipboard ? html`<button onClick=${copy}>${copied ? "Copied" : "Copy"}</button>` : ""}</div>
    <pre tabindex="0" aria-label=${name} data-line=${name}>${text}</pre></div>`;
}

function Form({ version, server, secret }) {
  const usesTensors = version.inputs.length > 0 && !version.archive && !version.decoupled;
  const kinds = [...(usesTensors ? ["tensors"] : []), "text", "file"], pictures = /image|pixel/.test(version.codec);
  const [kind, setKind] = useState(pictures ? "file" : kinds[0]);
  const [fields, setFields] = useState(Object.fromEntries(version.inputs.map((input) => [input.name, input.optional ? "" : example(input, version.batching.max_batch_size > 0)])));
  const [text, setText] = useState("");
  const [file, setFile] = useState(null), [preview, setPreview] = useState("");
  const [answer, setAnswer] = useState(null), [problem, setProblem] = useState(""), [busy, setBusy] = useState(false);
  useEffect(() => {
    if (!file || !file.type.startsWith("image/")) { setPreview(""); return undefined; }
    const url = URL.createObjectURL(file);
    setPreview(url);
    return () => URL.revokeObjectURL(url);
  }, [file]);
  const body = () => kind === "tensors" ? JSON.stringify(tensors(version.inputs, fields)) : text;
  const send = async (event) => {
    event.preventDefault();
    setProblem("");
    try {
      if (kind === "file" && !file) throw new Error("choose a file");
      setBusy(true);
      setAnswer(await ask(version, kind, kind === "file" ? file : body(), secret));
    } catch (error) { setProblem(error.message); }
    setBusy(false);
  };
  let told = {};
  try { told = lines(address(server), version.name, version.version, kind, kind === "file" ? "" : body(), file, secret); } catch { /* said when it is sent */ }
  return html`<form onSubmit=${send} class="card" data-try=${version.name}>
    <div class="row" role="group" aria-label="What to send">${kinds.map((name) => html`<button type="button" aria-pressed=${String(kind === name)} onClick=${() => setKind(name)}>${name === "text" ? "text or JSON" : name}</button>`)}</div>
    ${kind === "tensors" ? version.inputs.map((input) => html`<label for=${"in-" + input.name}>${input.name} <span class="faint">${input.datatype} [${input.dims.join(", ")}]${input.optional ? ", optional" : ""}</span></label>
      <textarea id=${"in-" + input.name} rows="3" spellcheck="false" value=${fields[input.name]} onInput=${(event) => setFields({ ...fields, [input.name]: event.target.value })}></textarea>`) : ""}
    ${kind === "text" ? html`<label for="body">Body</label><textarea id="body" rows="5" spellcheck="false" value=${text} onInput=${(event) => setText(event.target.value)}></textarea>` : ""}
    ${kind === "file" ? html`<label for="file">File</label><input id="file" type="file" onChange=${(event) => setFile(event.target.files[0] || null)} />
      ${preview ? html`<img class="preview" src=${preview} alt=${`Preview of ${file.name}`} />` : ""}` : ""}
    <div class="row"><button class="go" disabled=${busy}>${busy ? "Waiting …" : "Send"}</button><span class="bad" role="alert">${problem}</span></div>
    ${answer ? html`<${Answer} answer=${answer} />` : ""}
    <details><summary>The same request from a terminal or from Python</summary>${Object.entries(told).map(([name, line]) => html`<${Line} key=${name} name=${name} text=${line} />`)}</details></form>`;
}

async function ask(version, kind, body, secret) {
  const model = encodeURIComponent(version.name), number = encodeURIComponent(version.version);
  const path = kind === "tensors" ? `v2/models/${model}/versions/${number}/infer` : `predictions/${model}/${number}`;
  const type = kind === "file" ? body.type || "application/octet-stream" : kind === "tensors" ? "application/json" : typeOf(body);
  const headers = { "content-type": type, ...(secret ? { authorization: `Bearer ${secret}` } : {}) };
  const began = performance.now(), reply = await fetch(`/status/try/${path}`, { method: "POST", headers, body });
  const text = await reply.text(), ms = performance.now() - began;
  let json = null, shown = text;
  try { json = JSON.parse(text); shown = JSON.stringify(json, null, 2); } catch { /* an answer need not be JSON */ }
  return { ok: reply.ok, code: reply.status, ms, json, text: shown.slice(0, 20000) || "(empty)", split: split(reply.headers.get("server-timing")) };
}

export function TryIt({ versions, server, secret }) {
  const [chosen, choose] = useState(""), names = versions.map((version) => `${version.name} ${version.version}`);
  const at = Math.max(0, names.indexOf(chosen)), version = versions[at];
  return html`<section aria-labelledby="try"><h2 id="try">Try it</h2>${version ? html`
    <div class="row"><label for="model">Model</label><select id="model" value=${names[at]} onChange=${(event) => choose(event.target.value)}>
      ${names.map((name) => html`<option value=${name}>${name}</option>`)}</select></div>
    <${Form} key=${names[at]} version=${version} server=${server} secret=${secret} />` : html`<p class="faint">No model is served.</p>`}</section>`;
}
