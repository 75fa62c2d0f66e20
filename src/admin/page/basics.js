// What the rest is made of: text that goes into the page, requests, and lists that keep their rows.
"use strict";
const ANSWER_MS = 15000;
const TOKEN_KEY = "rocketride-ingest-token";
const byId = (id) => document.getElementById(id);
const rowsOf = new Map();

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
