// What is shown, and the refresh that keeps it so.
const REFRESH_MS = 2000;
// Failures that are shown; requests for them in one go (10,000 records each); how much rarer a long search is made.
const MANY = 50, MOST_PAGES = 30, REST_MS = 5000;
let round = 0, timer = 0, answered = 0, mayWrite = false;
let search = { jobs: [], until: 0, counts: "" };

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
  const path = make("span", "name"), button = make("button", "", "Retry"), why = make("span", "note slim"), hint = make("span", "note slim"), about = make("span", "note slim dim small");
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
  return { node: make("div", "", path, button, why, hint, about), put(item) {
    job = item;
    say(path, job.watch + "/" + job.path);
    button.setAttribute("aria-label", "Retry " + job.watch + "/" + job.path);
    button.hidden = !mayWrite;
    say(why, job.last_error || "no reason is known");
    sayOrHide(hint, job.hint || "");
    const told = [job.state, size(job.size), job.attempts + (job.attempts === 1 ? " attempt" : " attempts")];
    if (job.last_attempt_at) told.push("last " + ago(job.last_attempt_at));
    if (job.sidecar) told.push("see " + job.sidecar + (job.sidecar.startsWith("/") ? "" : " beside it"));
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
