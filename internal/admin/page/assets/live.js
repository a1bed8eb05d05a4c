"use strict";
// Keeps the page live, and lets who may steer do so. What it puts into the page was escaped by the server.
(() => {
  const silence = 10_000; // ms without an update, after which a connection counts as lost
  const longestWait = 10_000; // ms between attempts to connect
  const el = (id) => document.getElementById(id);
  const lanes = [...document.querySelectorAll(".actions")];
  const hovers = matchMedia("(hover: hover)");
  // Not relative to the document itself: its address may hold a password, which fetch refuses.
  const api = (path) => new URL("api/v1/" + path, location.origin + location.pathname);
  let following = null; // the AbortController of the stream that is read, and of the wait for the next one

  function connection(text, live) {
    const e = el("connection");
    e.hidden = false;
    e.classList.toggle("live", live);
    if (e.textContent !== text) e.textContent = text;
  }

  function tell(text, tone) {
    el("result").className = "result " + tone;
    el("result").textContent = text;
  }

  // A list that somebody reads is left as it is, and what it would show waits.
  const waiting = new Map();
  const isRead = (e) => "hold" in e.dataset && (e.contains(document.activeElement) || (hovers.matches && e.matches(":hover")) || hasSelection(e));

  function hasSelection(e) {
    const s = getSelection();
    return s !== null && !s.isCollapsed && e.contains(s.anchorNode);
  }

  // swap replaces the content of an element; what is unfolded or scrolled in it stays so.
  function swap(id, html) {
    const e = el(id);
    if (!e) return;
    const read = isRead(e);
    const note = e.closest("section")?.querySelector(".held");
    if (note) note.hidden = !read;
    if (read) {
      waiting.set(id, html);
      return;
    }
    waiting.delete(id);
    const open = new Set([...e.querySelectorAll("details[open]")].map((d) => d.dataset.key));
    const top = e.firstElementChild?.scrollTop || 0;
    e.innerHTML = html;
    for (const d of e.querySelectorAll("details")) d.open = open.has(d.dataset.key);
    if (top) e.firstElementChild.scrollTop = top;
  }

  function apply(u) {
    if (u.shape !== document.body.dataset.shape) { // another relay, or other lanes
      following.abort();
      location.reload();
      return;
    }
    document.title = u.title;
    if (el("icon").getAttribute("href") !== u.icon) el("icon").setAttribute("href", u.icon);
    for (const [id, html] of new Map([...waiting, ...Object.entries(u.fragments ?? {})])) swap(id, html);
    lanes.forEach((e, i) => {
      e.hidden = !u.writable;
      e.dataset.state = u.states[i];
      const label = e.querySelector("[data-action=toggle] span");
      const text = u.states[i] === "paused" ? "Resume" : "Pause";
      if (label.textContent !== text) label.textContent = text;
    });
  }

  const pause = (ms, signal) => new Promise((done) => {
    setTimeout(done, ms);
    signal.addEventListener("abort", done);
  });

  // follow reads one stream after another for as long as the page can be seen.
  async function follow() {
    following?.abort();
    if (document.hidden) return; // others may want the connection
    const { signal } = following = new AbortController();
    for (let failures = 0; !signal.aborted; failures++) {
      try {
        await stream(signal, () => { failures = 0; });
      } catch (err) {
        if (!signal.aborted) connection(err instanceof Refused ? err.message : "No connection, trying again", false);
      }
      await pause(Math.min(longestWait, 250 * 2 ** failures), signal);
    }
  }

  class Refused extends Error {}

  async function stream(signal, heard) {
    const once = new AbortController();
    let lost;
    const patience = () => {
      clearTimeout(lost);
      lost = setTimeout(() => once.abort(), silence);
    };
    patience();
    try {
      const response = await fetch(api("stream"), { signal: AbortSignal.any([signal, once.signal]), cache: "no-store" });
      if (!response.ok) throw new Refused(await reason(response));
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      for (let text = ""; ;) {
        const { value, done } = await reader.read();
        if (done || signal.aborted) return;
        patience();
        text += value;
        for (let end; (end = text.indexOf("\n\n")) >= 0; text = text.slice(end + 2)) {
          const line = text.slice(0, end).split("\n").find((l) => l.startsWith("data: "));
          if (!line) continue;
          heard();
          connection("Live", true);
          apply(JSON.parse(line.slice("data: ".length)));
        }
      }
    } finally {
      clearTimeout(lost);
    }
  }

  // reason is what an answer other than 2xx says.
  async function reason(response) {
    try {
      return (await response.json()).error || "relay answered " + response.status;
    } catch {
      return "relay answered " + response.status;
    }
  }

  const done = {
    pause: (lane, rest) => "Lane " + lane + (rest ? " is paused." : " pauses when what is under way is done."),
    resume: (lane) => "Lane " + lane + " goes on.",
    poll: (lane) => "Lane " + lane + " asks WorkOS now.",
  };

  async function act(button) {
    if (button.getAttribute("aria-disabled") === "true") return;
    const { lane, state } = button.closest(".actions").dataset;
    const verb = button.dataset.action === "poll" ? "poll" : state === "paused" ? "resume" : "pause";
    button.setAttribute("aria-disabled", "true"); // not disabled, which would take the focus away
    try {
      const url = api(verb);
      url.searchParams.set("lane", lane);
      const response = await fetch(url, { method: "POST", headers: { "Relay-Request": "status page" } });
      if (response.ok) tell(done[verb](lane, response.status === 200), "good");
      else tell("Lane " + lane + ": " + await reason(response), "bad");
    } catch {
      tell("relay does not answer.", "bad");
    } finally {
      button.removeAttribute("aria-disabled");
    }
  }

  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-action]");
    if (button) act(button);
  });
  document.addEventListener("visibilitychange", follow);
  connection("Connecting", false);
  follow();
})();
