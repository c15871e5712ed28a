// Keeps the page up to date: when the daemon tells of something, the parts marked data-live are fetched again.
// Without this file the page is the same, as of its loading.
"use strict";

const LEAST_MS = 1000; // between two looks
const QUIET_MS = 30000; // with nothing told: the next night comes nearer, a part may have gone down
const AGAIN_MS = 5000; // after the stream was refused
const TOLD = ["run_started", "task_started", "task_progressed", "task_ended", "run_ended"];
const REACHED = "a, button, summary, input, select";
const sign = document.getElementById("live");
let due = null;
let looking = false;
let lastLook = Date.now();
// What the server's clock is ahead of ours.
let ahead = new Date(document.querySelector("footer time").dateTime) - Date.now();

function soon() {
  if (due === null) due = setTimeout(look, Math.max(0, lastLook + LEAST_MS - Date.now()));
}

async function look() {
  due = null;
  if (document.hidden || document.querySelector("[data-live]") === null) return;
  if (looking) return soon();
  looking = true;
  lastLook = Date.now();
  try {
    const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
    if (answer.ok) show(new DOMParser().parseFromString(await answer.text(), "text/html"));
  } catch {
    // The daemon is away; the event stream says so, and when it is back.
  } finally {
    looking = false;
  }
}

function show(fresh) {
  for (const part of document.querySelectorAll("[data-live]")) {
    const now = fresh.querySelector(`[data-live="${part.dataset.live}"]`);
    if (now !== null && now.innerHTML !== part.innerHTML && !isBeingRead(part)) swap(part, now);
  }
  const time = fresh.querySelector("footer time");
  ahead = new Date(time.dateTime) - Date.now();
  document.querySelector("footer time").replaceWith(time);
  document.title = fresh.title;
  tick();
}

// What is unfolded stays so, and the keyboard stays where it is.
function swap(part, now) {
  for (const open of part.querySelectorAll("details[open]")) now.querySelector(`details[id="${open.id}"]`)?.setAttribute("open", "");
  const place = [...part.querySelectorAll(REACHED)].indexOf(document.activeElement);
  part.className = now.className;
  part.replaceChildren(...now.childNodes);
  if (place >= 0) part.querySelectorAll(REACHED)[place]?.focus({ preventScroll: true });
}

// Somebody is about to copy something of it.
function isBeingRead(part) {
  const marked = getSelection();
  return !marked.isCollapsed && marked.containsNode(part, true);
}

function tick() {
  const now = Date.now() + ahead;
  for (const each of document.querySelectorAll("[data-elapsed]")) each.textContent = spell((now - new Date(each.dataset.elapsed)) / 1000);
  for (const each of document.querySelectorAll("[data-until]")) each.textContent = "in " + spell((new Date(each.dataset.until) - now) / 1000);
}

// As filters.py writes durations, with its narrow blanks.
function spell(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 60) return `${whole}\u202fs`;
  if (whole < 3600) return `${Math.floor(whole / 60)}\u202fmin ${whole % 60}\u202fs`;
  const hours = Math.floor(whole / 3600);
  if (hours < 48) return `${hours}\u202fh ${Math.floor((whole % 3600) / 60)}\u202fmin`;
  return `${Math.floor(hours / 24)}\u202fd ${hours % 24}\u202fh`;
}

function listen() {
  const stream = new EventSource("/api/v1/events");
  stream.onopen = () => { sign.textContent = "live"; sign.classList.add("on"); soon(); };
  stream.onerror = () => {
    sign.textContent = "not connected";
    sign.classList.remove("on");
    // A browser comes back by itself after a cut, not after a refusal.
    if (stream.readyState === EventSource.CLOSED) setTimeout(listen, AGAIN_MS);
  };
  for (const name of TOLD) stream.addEventListener(name, soon);
}

listen();
setInterval(tick, 1000);
setInterval(soon, QUIET_MS);
document.addEventListener("visibilitychange", () => { if (!document.hidden) soon(); });
