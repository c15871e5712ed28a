// Keeps the page up to date: an event of the daemon refreshes the elements marked data-live.
// Without this script the page works, and stays as it was loaded.
"use strict";

// Below whatever path the page is: this file is in static/.
const EVENTS_URL = new URL("../api/v1/events", document.currentScript.src);
const LEAST_MS = 1000; // between two refreshes
const QUIET_MS = 30000; // between refreshes without an event: a component may have gone down meanwhile
const RECONNECT_MS = 5000; // after the stream was refused
const EVENTS = ["run_started", "task_started", "task_progressed", "task_ended", "older_day_audited", "run_ended"];
const FOCUSABLE = "a, button, summary, input, select";
const indicator = document.getElementById("live");
let due = null;
let refreshing = false;
let lastRefresh = Date.now();
// How far the server's clock is ahead of the browser's.
let ahead = new Date(document.querySelector("footer time").dateTime) - Date.now();

function soon() {
  if (due === null) due = setTimeout(refresh, Math.max(0, lastRefresh + LEAST_MS - Date.now()));
}

async function refresh() {
  due = null;
  if (document.hidden || document.querySelector("[data-live]") === null) return;
  if (refreshing) return soon();
  refreshing = true;
  lastRefresh = Date.now();
  try {
    const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
    if (answer.ok) show(new DOMParser().parseFromString(await answer.text(), "text/html"));
  } catch {
    // The daemon is down; the event stream shows that, and reconnects.
  } finally {
    refreshing = false;
  }
}

function show(fresh) {
  for (const element of document.querySelectorAll("[data-live]")) {
    const now = fresh.querySelector(`[data-live="${element.dataset.live}"]`);
    if (now !== null && now.innerHTML !== element.innerHTML && !hasSelection(element)) swap(element, now);
  }
  const time = fresh.querySelector("footer time");
  ahead = new Date(time.dateTime) - Date.now();
  document.querySelector("footer time").replaceWith(time);
  document.title = fresh.title;
  tick();
}

// Open details stay open, and the focus stays where it is.
function swap(element, now) {
  for (const open of element.querySelectorAll("details[open]")) now.querySelector(`#${CSS.escape(open.id)}`)?.setAttribute("open", "");
  const place = [...element.querySelectorAll(FOCUSABLE)].indexOf(document.activeElement);
  element.className = now.className;
  element.replaceChildren(...now.childNodes);
  if (place >= 0) element.querySelectorAll(FOCUSABLE)[place]?.focus({ preventScroll: true });
}

// Text of the element is selected, perhaps to be copied.
function hasSelection(element) {
  const selection = getSelection();
  return !selection.isCollapsed && selection.containsNode(element, true);
}

function tick() {
  const now = Date.now() + ahead;
  for (const each of document.querySelectorAll("[data-elapsed]")) each.textContent = spell((now - new Date(each.dataset.elapsed)) / 1000);
  for (const each of document.querySelectorAll("[data-until]")) each.textContent = "in " + spell((new Date(each.dataset.until) - now) / 1000);
}

// Durations as formats.py writes them, with the page's narrow spaces.
function spell(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 60) return `${whole}\u202fs`;
  if (whole < 3600) return `${Math.floor(whole / 60)}\u202fmin ${whole % 60}\u202fs`;
  const hours = Math.floor(whole / 3600);
  if (hours < 48) return `${hours}\u202fh ${Math.floor((whole % 3600) / 60)}\u202fmin`;
  return `${Math.floor(hours / 24)}\u202fd ${hours % 24}\u202fh`;
}

function listen() {
  const stream = new EventSource(EVENTS_URL);
  stream.onopen = () => { indicator.textContent = "live"; indicator.classList.add("on"); soon(); };
  stream.onerror = () => {
    indicator.textContent = "not connected";
    indicator.classList.remove("on");
    // A browser reconnects by itself after a lost connection, not after a refusal.
    if (stream.readyState === EventSource.CLOSED) setTimeout(listen, RECONNECT_MS);
  };
  for (const name of EVENTS) stream.addEventListener(name, soon);
}

listen();
setInterval(tick, 1000);
setInterval(soon, QUIET_MS);
document.addEventListener("visibilitychange", () => { if (!document.hidden) soon(); });
