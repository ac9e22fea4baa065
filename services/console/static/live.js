// Renews the part of a page marked data-live every few seconds, without losing what is opened or
// focused in it, until something in it is marked data-settled. A page works without it: it then
// reloads itself as a whole.
"use strict";
const live = document.querySelector("[data-live]");
const note = document.querySelector("[data-live-note]");
const SECONDS = 3;

function openParts() {
  const open = live.querySelectorAll("details[open][data-key]");
  return new Set(Array.from(open, (part) => part.dataset.key));
}

async function renew() {
  if (document.hidden) return;
  let answer;
  try {
    answer = await fetch(live.dataset.live, { redirect: "manual", cache: "no-store" });
  } catch {
    note.textContent = "The console does not answer; the figures below are old.";
    return;
  }
  if (answer.type === "opaqueredirect") {
    location.reload();
    return;
  }
  if (!answer.ok) {
    note.textContent = "The figures cannot be read at the moment; those below are old.";
    return;
  }
  const text = await answer.text();
  const open = openParts();
  const active = document.activeElement?.closest("[data-key]");
  const focused = active && live.contains(active) ? active.dataset.key : null;
  const part = new DOMParser().parseFromString(text, "text/html");
  live.replaceChildren(...part.body.childNodes);
  for (const each of live.querySelectorAll("details[data-key]")) {
    each.open = open.has(each.dataset.key);
    if (each.dataset.key === focused) each.querySelector("summary").focus();
  }
  tell();
}

function tell() {
  if (live.querySelector("[data-settled]")) {
    clearInterval(timer);
    note.textContent = "";
  } else {
    note.textContent = `Renewed every ${SECONDS} seconds.`;
  }
}

const timer = setInterval(renew, SECONDS * 1000);
tell();
