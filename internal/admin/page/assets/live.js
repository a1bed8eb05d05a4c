"use strict";
// Keeps the page live, and lets who may steer do so. What it puts into the page was escaped by the server.
(() => {
  const silence = 5_000; // ms without an update, of which there is one each second, after which the connection counts as lost
  const longestWait = 10_000; // ms between attempts to connect
  const el = (id) => document.getElementById(id);
  const cards = [...document.querySelectorAll(".lane")];
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

  // morph makes the content of an element that of another one, and touches only what differs: what has the focus, is hovered or
  // selected stays there. Elements with a data-key are found again wherever they were.
  function morph(from, to) {
    const keys = new Map([...from.children].map((c) => [c.dataset.key, c]));
    let at = from.firstChild;
    for (const want of [...to.childNodes]) {
      let have = want.dataset?.key === undefined ? at : keys.get(want.dataset.key);
      while (have && have.nodeName !== want.nodeName) have = have.nextSibling; // what is between is gone
      if (!have) {
        from.insertBefore(want, at);
        continue;
      }
      while (want.dataset?.key === undefined && at !== have) {
        const next = at.nextSibling;
        at.remove();
        at = next;
      }
      if (have === at) at = at.nextSibling;
      else from.insertBefore(have, at);
      if (have.nodeType !== Node.ELEMENT_NODE) {
        if (have.data !== want.data) have.data = want.data;
        continue;
      }
      for (const { name } of [...have.attributes]) if (!want.hasAttribute(name)) have.removeAttribute(name);
      for (const { name, value } of want.attributes) if (have.getAttribute(name) !== value) have.setAttribute(name, value);
      morph(have, want);
    }
    while (at) {
      const next = at.nextSibling;
      at.remove();
      at = next;
    }
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
    if (!("hold" in e.dataset)) {
      const focused = e.contains(document.activeElement) ? document.activeElement : null;
      const fresh = document.createElement("template");
      fresh.innerHTML = html;
      morph(e, fresh.content);
      for (const chart of e.querySelectorAll(".chart")) reread(chart);
      if (focused?.isConnected && focused !== document.activeElement) focused.focus({ preventScroll: true }); // it has moved
      return;
    }
    const open = new Set([...e.querySelectorAll("details[open]")].map((d) => d.dataset.key));
    const top = e.firstElementChild?.scrollTop || 0;
    e.innerHTML = html;
    for (const d of e.querySelectorAll("details")) d.open = open.has(d.dataset.key);
    if (top) e.firstElementChild.scrollTop = top;
  }

  // units, span and rate write values as the server does.
  const units = (s, large, largeName, small, smallName) =>
    Math.floor(s / large) + " " + largeName + (s % large >= small ? " " + Math.floor((s % large) / small) + " " + smallName : "");
  function span(s) {
    if (s < 10) return Math.floor(s * 10 + 1e-6) / 10 + " s";
    if (s < 60) return Math.floor(s) + " s";
    if (s < 3600) return units(s, 60, "min", 1, "s");
    if (s < 86400) return units(s, 3600, "h", 60, "min");
    return units(s, 86400, "d", 3600, "h");
  }
  const rate = (r) => (r < 0.005 ? "0" : r < 1 ? r.toFixed(2) : r < 100 ? r.toFixed(1) : Math.floor(r + 0.5).toLocaleString("en-US")) + "/s";

  // A chart tells its values where the pointer is, and to the keyboard: it has an invisible slider over its points.
  const readings = new WeakMap(); // the time that is read, by the slider

  function pointsOf(slider) {
    const right = Number(slider.dataset.right);
    return slider.dataset.points.split(",").map((p) => {
      const [before, value] = p.split(" ");
      return { at: right - 1000 * before, value: value === "" ? null : Number(value) };
    });
  }

  const nearest = (points, at) => points.reduce((best, p, i) => (Math.abs(p.at - at) < Math.abs(points[best].at - at) ? i : best), 0);

  function read(slider, at) {
    const points = pointsOf(slider), i = nearest(points, at), p = points[i], chart = slider.closest(".chart");
    const value = p.value === null ? "unknown" : chart.closest(".lag") ? span(p.value) : rate(p.value);
    const text = new Date(p.at).toISOString().slice(11, 19) + " UTC: " + value;
    readings.set(slider, p.at);
    slider.value = i;
    slider.setAttribute("aria-valuetext", text);
    const [cursor, reading] = [chart.querySelector(".cursor"), chart.querySelector(".reading")];
    cursor.hidden = reading.hidden = false;
    reading.textContent = text;
    cursor.style.left = 100 * Math.max(0, 1 - (slider.dataset.right - p.at) / slider.dataset.shown) + "%";
  }

  function unread(slider) {
    readings.delete(slider);
    slider.value = slider.max;
    for (const e of slider.closest(".chart").querySelectorAll(".cursor, .reading")) e.hidden = true;
  }

  // reread keeps what is read of a chart that has got new points.
  function reread(chart) {
    const slider = chart.querySelector(".scrub");
    if (slider && readings.has(slider)) read(slider, readings.get(slider));
    else if (slider) slider.value = slider.max;
  }

  for (const [event, then] of Object.entries({
    focusin: (slider) => { if (!readings.has(slider)) read(slider, Number.MAX_SAFE_INTEGER); },
    focusout: unread,
    input: (slider) => read(slider, pointsOf(slider)[slider.value].at),
    pointermove: (slider, e) => {
      const box = slider.getBoundingClientRect();
      read(slider, slider.dataset.right - slider.dataset.shown * (1 - (e.clientX - box.left) / box.width));
    },
    pointerout: (slider) => { if (slider !== document.activeElement) unread(slider); },
  })) document.addEventListener(event, (e) => { if (e.target.matches?.(".scrub")) then(e.target, e); });

  // choose shows another range of time.
  function choose(link) {
    history.replaceState(null, "", link.getAttribute("href"));
    for (const a of link.parentElement.querySelectorAll("a")) a.toggleAttribute("aria-current", false);
    link.setAttribute("aria-current", "true");
    follow();
  }

  // offer shows a button if it has an effect now. One that has the focus keeps it, and does nothing.
  function offer(button, possible) {
    const focused = button === document.activeElement;
    button.hidden = !possible && !focused;
    if (!possible && focused) button.setAttribute("aria-disabled", "true");
    else if (possible && !("busy" in button.dataset)) button.removeAttribute("aria-disabled");
  }

  function fold(card, folded) {
    card.classList.toggle("folded", folded);
    card.querySelector(".fold").setAttribute("aria-expanded", String(!folded));
  }

  // adapt makes the card of a lane fit its state. What was folded or unfolded by hand stays so until the health of the lane changes.
  function adapt(card, lane, writable) {
    const actions = card.querySelector(".actions");
    const [toggle, poll] = actions.querySelectorAll("button");
    actions.hidden = !writable;
    actions.dataset.state = lane.state;
    if (lane.toggle) {
      const label = toggle.querySelector("span"), text = lane.toggle === "resume" ? "Resume" : "Pause";
      if (label.textContent !== text) label.textContent = text;
    }
    offer(toggle, lane.toggle !== "");
    offer(poll, lane.poll);
    if (card.dataset.health !== lane.health) {
      card.dataset.health = lane.health;
      delete card.dataset.chosen;
    }
    if (!lane.folds || "chosen" in card.dataset) return;
    const folded = lane.health === "healthy";
    const body = card.querySelector(".body");
    if (folded && (body.contains(document.activeElement) || (hovers.matches && body.matches(":hover")) || hasSelection(body))) return; // it is read
    if (folded !== card.classList.contains("folded")) fold(card, folded);
  }

  // unfold shows the details of the card to which an address leads.
  function unfold(hash) {
    const card = hash.startsWith("#lane-") && el(hash.slice(1))?.closest(".lane.folds");
    if (!card) return;
    card.dataset.chosen = "";
    fold(card, false);
  }

  // lose greys everything out, and says since when it is not known whether it is still so. The time is the server's.
  function lose() {
    if (document.body.classList.contains("lost")) return;
    document.body.classList.add("lost");
    const time = document.querySelector("#clock time").textContent;
    el("lost").textContent = "No connection to relay since " + time + " UTC. Everything below is as it was then.";
    el("lost").hidden = false;
    document.title = "? " + document.querySelector("h1").textContent + ": no connection";
    el("icon").setAttribute("href", el("icon").dataset.lost);
    for (const b of document.querySelectorAll("[data-action]")) b.setAttribute("aria-disabled", "true");
  }

  function find() {
    if (!document.body.classList.contains("lost")) return;
    document.body.classList.remove("lost");
    el("lost").hidden = true;
    el("lost").textContent = "";
    for (const b of document.querySelectorAll("[data-action]:not([data-busy])")) b.removeAttribute("aria-disabled");
  }

  function apply(u) {
    if (u.shape !== document.body.dataset.shape) { // another relay, or other lanes
      following.abort();
      location.reload();
      return;
    }
    find();
    document.title = u.title;
    if (el("icon").getAttribute("href") !== u.icon) el("icon").setAttribute("href", u.icon);
    for (const [id, html] of new Map([...waiting, ...Object.entries(u.fragments ?? {})])) swap(id, html);
    cards.forEach((e, i) => adapt(e, u.lanes[i], u.writable));
  }

  const pause = (ms, signal) => new Promise((done) => {
    setTimeout(done, ms);
    signal.addEventListener("abort", done);
  });

  // follow reads one stream after another for as long as the page can be seen.
  async function follow() {
    following?.abort();
    if (document.hidden) return; // others may want the connection
    connection("Connecting", false);
    const { signal } = following = new AbortController();
    for (let failures = 0; !signal.aborted; failures++) {
      try {
        await stream(signal, () => { failures = 0; });
      } catch (err) {
        if (!signal.aborted) {
          connection(err instanceof Refused ? err.message : "No connection, trying again", false);
          lose();
        }
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
      const url = api("stream");
      const range = new URLSearchParams(location.search).get("range");
      if (range) url.searchParams.set("range", range);
      const response = await fetch(url, { signal: AbortSignal.any([signal, once.signal]), cache: "no-store" });
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
    button.dataset.busy = "";
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
      delete button.dataset.busy;
      if (!document.body.classList.contains("lost")) button.removeAttribute("aria-disabled");
    }
  }

  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-action]");
    if (button) act(button);
    const folding = event.target.closest(".fold");
    if (folding) {
      const card = folding.closest(".lane");
      card.dataset.chosen = "";
      fold(card, !card.classList.contains("folded"));
    }
    const link = event.target.closest('a[href^="#"]');
    const range = event.target.closest("a[data-range]");
    if (range && !event.ctrlKey && !event.metaKey && !event.shiftKey) {
      event.preventDefault();
      choose(range);
    }
    if (link) unfold(link.getAttribute("href"));
  });
  addEventListener("hashchange", () => unfold(location.hash));
  document.addEventListener("visibilitychange", follow);
  unfold(location.hash);
  fetch(new URL(el("icon").dataset.lost, location.origin + location.pathname)).catch(() => {}); // kept for when relay does not answer
  follow();
})();
