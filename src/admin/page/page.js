"use strict";
const REFRESH_MS = 2000, ANSWER_MS = 15000;
// Failures that are shown; requests for them in one go (10,000 records each); how much rarer a long search is made.
const MANY = 50, MOST_PAGES = 30, REST_MS = 5000;
const TOKEN_KEY = "rocketride-ingest-token";
const byId = (id) => document.getElementById(id);
let round = 0, timer = 0, answered = 0, mayWrite = false, samples = [];
const rowsOf = new Map();
let search = { jobs: [], until: 0, counts: "" };

// Everything that comes from outside goes in as text, never as markup.
function make(tag, classes, ...children) {
  const node = document.createElement(tag);
  if (classes) node.className = classes;
  node.append(...children);
  return node;
}
// What is unchanged is left alone: nothing is announced twice, and what somebody has selected stays so.
function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}
function sayOrHide(node, text) {
  say(node, text);
  node.hidden = !text;
}
function dress(node, classes) {
  if (node.className !== classes) node.className = classes;
}
function size(bytes) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (bytes >= 1023.95 && unit + 1 < units.length) { bytes /= 1024; unit += 1; }
  return (unit ? bytes.toFixed(1) : bytes) + " " + units[unit];
}
function span(seconds) {
  seconds = Math.max(0, Math.round(seconds));
  const steps = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
  const at = steps.findIndex(([length]) => seconds >= length);
  if (at < 0) return "0 s";
  const [length, unit] = steps[at], next = steps[at + 1];
  const rest = next ? Math.floor((seconds % length) / next[0]) : 0;
  return Math.floor(seconds / length) + " " + unit + (rest ? " " + rest + " " + next[1] : "");
}
const ago = (millis) => millis ? span((Date.now() - millis) / 1000) + " ago" : "never";
const number = (value) => value.toLocaleString("en", { maximumFractionDigits: value < 10 ? 1 : 0 });

async function ask(path, body, token = sessionStorage.getItem(TOKEN_KEY)) {
  const headers = {};
  if (token) headers.Authorization = "Bearer " + token;
  if (body) headers["Content-Type"] = "application/json";
  const options = { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body), cache: "no-store", signal: AbortSignal.timeout(ANSWER_MS) };
  let response, answer;
  try {
    response = await fetch(path, options);
    answer = await response.json();
  } catch (error) {
    throw Object.assign(new Error("the daemon does not answer"), { status: 0, cause: error });
  }
  if (!response.ok) throw Object.assign(new Error(answer.error || response.statusText), { status: response.status });
  return answer;
}

// Shows items as rows that stay the same elements from one refresh to the next, so that neither the keyboard's focus nor a
// button under the mouse is taken away. `build` makes a row: its element and how an item is put into it.
function show(id, items, key, build) {
  const list = byId(id), focused = list.contains(document.activeElement) ? document.activeElement : null;
  const old = rowsOf.get(id) || new Map(), rows = new Map();
  const place = focused ? [...list.children].findIndex((row) => row.contains(focused)) : -1;
  for (const item of items) rows.set(key(item), old.get(key(item)) || build());
  for (const [name, row] of old) if (!rows.has(name)) row.node.remove();
  let next = list.firstElementChild;
  for (const item of items) {
    const row = rows.get(key(item));
    row.put(item);
    if (row.node === next) next = next.nextElementSibling;
    else list.insertBefore(row.node, next);
  }
  rowsOf.set(id, rows);
  const none = byId(id + "-none");
  if (none) none.hidden = items.length > 0;
  if (!focused || document.activeElement === focused) return;
  // The row is gone: the keyboard goes on at the one that took its place.
  const heir = list.contains(focused) ? focused : list.children[Math.min(place, list.children.length - 1)];
  const target = heir && (heir === focused ? heir : heir.querySelector("button:enabled")) || byId(id + "-title");
  if (target) target.focus({ preventScroll: true });
}

function cells(...classes) {
  const made = classes.map((name) => make("td", name));
  for (const cell of made) cell.setAttribute("role", "cell");
  const node = make("tr", "", ...made);
  node.setAttribute("role", "row");
  return { node, made };
}
function count(cell, label, value, red) {
  cell.dataset.label = label;
  dress(cell, "n" + (red && value ? " red" : value ? "" : " dim"));
  say(cell, number(value || 0));
}
function state(badge, kind, text) {
  dress(badge, "badge " + kind);
  say(badge, text);
}
function watchRow() {
  const { node, made } = cells("", "", "n", "n", "n", "n", "n", "n");
  const name = make("span", "name"), path = make("span", "note dim small"), notes = make("span", "note small"), badge = make("span");
  made[0].append(name, path, notes);
  made[1].append(badge);
  return { node, put(watch) {
    say(name, watch.name);
    say(path, watch.path + " → " + watch.pipeline);
    if (watch.paused_since) state(badge, "warn", "paused");
    else if (!watch.up) state(badge, "bad", "down");
    else if (watch.trouble) state(badge, "warn", "held");
    else state(badge, "good", "up");
    const told = [];
    if (watch.trouble) told.push(watch.trouble);
    if (watch.paused_since) told.push("paused since " + new Date(watch.paused_since).toLocaleString());
    const due = watch.oldest_pending && (Date.now() - watch.oldest_pending) / 1000;
    if (due > 5) told.push("the oldest pending file has been due for " + span(due));
    for (const other of ["spooled", "vanished", "ignored", "parked"]) if (watch.jobs[other]) told.push(number(watch.jobs[other]) + " " + other);
    sayOrHide(notes, told.join("; "));
    count(made[2], "Settling", watch.settling);
    count(made[3], "Pending", watch.jobs.pending);
    count(made[4], "Sending", watch.jobs.sending);
    count(made[5], "Done", (watch.jobs.done || 0) + (watch.jobs.delivered || 0));
    count(made[6], "Failed", watch.jobs.failed, true);
    count(made[7], "Blocked", watch.jobs.blocked, true);
  } };
}
function pipelineRow() {
  const { node, made } = cells("", "", "n", "n");
  const name = make("span", "name"), uri = make("span", "note dim small"), notes = make("span", "note small"), badge = make("span");
  made[0].append(name, uri, notes);
  made[1].append(badge);
  made[3].dataset.label = "Last success";
  return { node, put(pipeline) {
    say(name, pipeline.name);
    say(uri, pipeline.uri);
    const down = pipeline.down_seconds == null ? "" : " (down for " + span(pipeline.down_seconds) + ")";
    sayOrHide(notes, (pipeline.trouble || "") + down);
    if (!pipeline.up) state(badge, "bad", "down");
    else if (pipeline.paused_since) state(badge, "warn", "paused");
    else if (pipeline.trouble) state(badge, "warn", "failing");
    else state(badge, "good", "up");
    count(made[2], "In flight", pipeline.in_flight);
    say(made[3], ago(pipeline.last_success));
  } };
}
function reasonRow() {
  const node = make("li");
  // A command stands between backquotes.
  return { node, put(reason) {
    if (node.told === reason) return;
    node.told = reason;
    node.replaceChildren(...reason.split("`").map((part, at) => at % 2 ? make("code", "", part) : part));
  } };
}
function transferRow() {
  const path = make("span", "name"), time = make("span", "dim small"), bar = make("progress"), about = make("span", "note dim small");
  return { node: make("div", "", path, time, bar, about), put(transfer) {
    const total = Math.max(1, transfer.size), sent = { opening: 0, sending: transfer.sent }[transfer.phase];
    const words = { opening: "waits for a slot", sending: size(transfer.sent) + " of " + size(transfer.size), processing: "sent; the pipeline works on it", recording: "its result is written" };
    say(path, transfer.watch + "/" + transfer.path);
    say(time, span(transfer.seconds));
    bar.max = total;
    bar.value = sent === undefined ? total : sent;
    bar.setAttribute("aria-label", transfer.path);
    say(about, (words[transfer.phase] || transfer.phase) + " → " + transfer.pipeline);
  } };
}
function failureRow() {
  const path = make("span", "name"), button = make("button", "", "Retry"), why = make("span", "note slim"), about = make("span", "note slim dim small");
  let job = null;
  button.type = "button";
  button.addEventListener("click", async () => {
    if (button.getAttribute("aria-disabled")) return;
    // Not `disabled`, which would drop the keyboard's focus.
    button.setAttribute("aria-disabled", "true");
    say(button, "asked…");
    let said = job.watch + "/" + job.path + " is sent again.";
    try {
      const done = await ask("/api/retry", { keys: [job.key] });
      if (done.refused.length) said = "Refused: " + done.refused[0];
      else if (!done.changed) said = job.watch + "/" + job.path + " has moved on in the meantime.";
    } catch (error) {
      said = "Not sent again: " + error.message;
    }
    sayOrHide(byId("said"), said);
    button.removeAttribute("aria-disabled");
    say(button, "Retry");
    search.until = 0;
    refresh();
  });
  return { node: make("div", "", path, button, why, about), put(item) {
    job = item;
    say(path, job.watch + "/" + job.path);
    button.setAttribute("aria-label", "Retry " + job.watch + "/" + job.path);
    button.hidden = !mayWrite;
    say(why, job.last_error || "no reason is known");
    const told = [job.state, size(job.size), job.attempts + (job.attempts === 1 ? " attempt" : " attempts")];
    if (job.last_attempt_at) told.push("last " + ago(job.last_attempt_at));
    if (job.sidecar) told.push("see " + job.sidecar + " beside it");
    say(about, told.join(" · "));
  } };
}

// Failed and blocked jobs. The journal has no index of them, so a search among many files is repeated less often.
async function failures(status) {
  const counts = ["failed", "blocked"].map((name) => [name, status.watches.reduce((sum, watch) => sum + (watch.jobs[name] || 0), 0)]);
  const total = counts.reduce((sum, [, count]) => sum + count, 0);
  if (search.until > Date.now() && search.counts === String(counts)) return [search.jobs, total];
  const jobs = [];
  let pages = 0;
  for (const [name, count] of counts) {
    const wanted = jobs.length + Math.min(count, MANY);
    let after = "";
    while (jobs.length < wanted && after !== null && pages < MOST_PAGES) {
      const page = await ask("/api/jobs?state=" + name + "&limit=" + MANY + (after && "&after=" + after));
      jobs.push(...page.jobs);
      after = page.next || null;
      pages += 1;
    }
  }
  jobs.sort((a, b) => (b.last_attempt_at || 0) - (a.last_attempt_at || 0) || (a.key < b.key ? -1 : 1));
  search = { jobs: jobs.slice(0, MANY), until: pages > 2 ? Date.now() + pages * REST_MS : 0, counts: String(counts) };
  return [search.jobs, total];
}

function svg(tag, attributes, text) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text !== undefined) node.textContent = text;
  return node;
}
// The next of 1, 2, 3, 4, 6, 8, 10, 20, ...: an axis ends at a round number.
function roundUp(value) {
  const ten = 10 ** Math.floor(Math.log10(Math.max(1, value)));
  return [1, 2, 3, 4, 6, 8, 10].map((step) => step * ten).find((end) => end >= value);
}
function plot(id, what, points) {
  const chart = byId(id), caption = byId(id + "-caption");
  const values = points.map((point) => point.value), most = Math.max(0, ...values);
  const told = points.length ? number(values.at(-1)) + " now, " + number(most) + " at most" : "known within half a minute";
  if (caption.told !== told) {
    caption.told = told;
    caption.replaceChildren(make("b", "", what), ": " + told);
  }
  const width = chart.clientWidth || 480, height = 132, left = 44, right = width - 2, head = 8, foot = height - 20;
  // A daemon that has just started has not much to show: the axis is as long as that needs.
  const now = Date.now(), age = points.length ? (now - points[0].at) / 60000 : 0;
  const minutes = [4, 10, 20, 60].find((length) => age <= length) || 60;
  const top = roundUp(most);
  const x = (at) => (left + Math.max(0, 1 - (now - at) / 60000 / minutes) * (right - left)).toFixed(1);
  const y = (value) => (foot - value / top * (foot - head)).toFixed(1);
  const shapes = [];
  for (const value of [0, top / 2, top]) {
    shapes.push(svg("line", { class: "grid", x1: left, x2: right, y1: y(value), y2: y(value) }));
    if (Number.isInteger(value)) shapes.push(svg("text", { x: left - 6, y: Number(y(value)) + 4, "text-anchor": "end" }, number(value)));
  }
  for (const [part, anchor] of [[1, "start"], [0.5, "middle"], [0, "end"]]) {
    const label = part ? minutes * part + " min ago" : "now";
    shapes.push(svg("text", { x: left + (1 - part) * (right - left), y: height - 4, "text-anchor": anchor }, label));
  }
  const shown = points.filter((point) => now - point.at <= 3600e3);
  if (shown.length > 1) {
    const line = shown.map((point) => x(point.at) + "," + y(point.value)).join(" L");
    shapes.push(svg("path", { class: "area", d: "M" + x(shown[0].at) + "," + foot + " L" + line + " L" + x(shown.at(-1).at) + "," + foot + " Z" }));
    shapes.push(svg("path", { class: "line", d: "M" + line }));
  }
  chart.setAttribute("viewBox", "0 0 " + width + " " + height);
  chart.replaceChildren(...shapes);
}
function plots() {
  // Each over the minute before it: samples come every ten seconds.
  const rates = samples.slice(1).map((sample, at) => {
    const before = samples[Math.max(0, at - 5)], seconds = (sample.at - before.at) / 1000;
    return { at: sample.at, value: seconds > 0 ? Math.max(0, sample.delivered - before.delivered) * 60 / seconds : 0 };
  });
  plot("delivered", "Files delivered a minute", rates);
  plot("waiting", "Files waiting", samples.map((sample) => ({ at: sample.at, value: sample.backlog })));
}

function health(kind, text) {
  state(byId("health"), kind, text);
  const title = (kind === "good" ? "" : "(!) ") + "rocketride-ingest";
  if (document.title !== title) document.title = title;
}
// Content is shown as long as it may be seen, also when it is old.
function reveal(content, old) {
  for (const id of ["content", "lists"]) {
    byId(id).hidden = !content;
    byId(id).classList.toggle("old", old);
  }
}
function render(status, found, total, access) {
  mayWrite = access.write;
  sayOrHide(byId("stale"), "");
  byId("login").hidden = access.write || !access.token_helps;
  say(byId("login-title"), "Token for changes");
  reveal(true, false);
  if (status.stopping) health("warn", "stopping");
  else if (status.health === "healthy") health("good", "healthy");
  else health("bad", "needs a look");
  const free = status.state.free_bytes == null ? "" : " · " + size(status.state.free_bytes) + " free for state";
  say(byId("about"), "version " + status.version + " · up " + span((Date.now() - status.started_at) / 1000) + free + " · " + status.config);
  byId("trouble").hidden = !status.reasons.length;
  show("reasons", status.reasons, (reason) => reason, reasonRow);
  show("watches", status.watches, (watch) => watch.name, watchRow);
  show("pipelines", status.pipelines, (pipeline) => pipeline.name, pipelineRow);
  plots();
  const note = [];
  if (total > found.length) note.push(number(found.length) + " of " + number(total) + " are shown; rocketride-ingest list shows all.");
  if (total && !access.write) note.push(access.token_helps ? "Unlock with the token to send them again." : "Send them again on the host: rocketride-ingest retry --failed");
  sayOrHide(byId("failures-note"), note.join(" "));
  show("failures", found, (job) => job.key, failureRow);
  show("transfers", status.transfers, (transfer) => transfer.watch + "/" + transfer.path, transferRow);
}
async function refresh() {
  // Of several at a time the last one counts, and goes on.
  const mine = round += 1;
  clearTimeout(timer);
  try {
    const [status, history, access] = await Promise.all([ask("/api/status"), ask("/api/history"), ask("/api/access")]);
    const [found, total] = await failures(status);
    if (mine !== round) return;
    samples = history.samples;
    answered = Date.now();
    render(status, found, total, access);
  } catch (error) {
    if (mine !== round) return;
    if (error.status === 401) {
      // Also when the token was replaced. What may be seen without one is shown by the next refresh.
      const had = sessionStorage.getItem(TOKEN_KEY);
      sessionStorage.removeItem(TOKEN_KEY);
      if (had) return void refresh();
      byId("login").hidden = false;
      say(byId("login-title"), "Token");
      sayOrHide(byId("stale"), "");
      reveal(false, false);
      health("plain", "locked");
    } else if (error.status === 403) {
      sayOrHide(byId("stale"), error.message);
      byId("login").hidden = true;
      reveal(false, false);
      health("plain", "locked");
    } else if (error.status === undefined) {
      console.error(error);
      sayOrHide(byId("stale"), "This page has a defect; rocketride-ingest status says the same as it. " + error.message);
      health("bad", "page defect");
    } else {
      const since = answered ? " since " + new Date(answered).toLocaleTimeString() + "; what is shown is as it was then." : ".";
      sayOrHide(byId("stale"), "The daemon does not answer" + since + (error.status ? " It said: " + error.message : ""));
      reveal(answered > 0 && !byId("content").hidden, true);
      health("bad", "no answer");
    }
  }
  timer = setTimeout(refresh, document.hidden ? REFRESH_MS * 15 : REFRESH_MS);
}

byId("token-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const token = byId("token").value.trim();
  try {
    await ask("/api/access", null, token);
    sessionStorage.setItem(TOKEN_KEY, token);
    byId("token").value = "";
    sayOrHide(byId("token-said"), "");
    await refresh();
    byId("failures-title").focus({ preventScroll: true });
  } catch (error) {
    sayOrHide(byId("token-said"), error.status === 401 ? "That is not the token." : error.message);
    byId("token").select();
  }
});
document.addEventListener("visibilitychange", () => { if (!document.hidden) refresh(); });
addEventListener("resize", plots);
refresh();
