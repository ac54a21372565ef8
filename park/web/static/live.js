// Events for one tab. All tabs of a browser share one stream: through a SharedWorker, or, where there is none, through the
// tab that holds a lock and a BroadcastChannel. A hidden tab gets no events, and asks again when it is seen.

import { Stream } from "./stream.js";

const base = new URL("./", location.href).pathname;

/** Call *tell* with the events {type, boot, number, data} while this tab is visible, once a frame at most. */
export function follow(tell) {
  const listener = paced(tell);
  if (window.SharedWorker && !new URLSearchParams(location.search).has("noworker")) withWorker(listener);
  else withChannel(listener);
}

/** A listener that keeps events until the next frame: a tab that draws slowly draws less often, and is not late. */
function paced(listener) {
  let kept = [];
  return (event) => {
    const last = kept.at(-1);
    if (last && last.type === "delta" && event.type === "delta" && last.boot === event.boot) kept[kept.length - 1] = joined(last, event);
    else if (event.type === "snapshot") kept = [event];
    else kept.push(event);
    if (last === undefined) requestAnimationFrame(() => {
      const events = kept;
      kept = [];
      events.forEach(listener);
    });
  };
}

/** Two deltas as one. */
function joined(first, second) {
  const [a, b] = [first.data, second.data];
  const data = { ...a, ...b, fresh: Boolean(a.fresh || b.fresh), many: Boolean(a.many || b.many) };
  if (a.jobs && b.jobs) data.jobs = [...new Map([...a.jobs, ...b.jobs].map((row) => [row.job, row])).values()];
  if (a.gone && b.gone) data.gone = [...a.gone, ...b.gone];
  if (a.feeds && b.feeds) data.feeds = { ...a.feeds, ...b.feeds };
  return { ...second, data };
}

const state = () => (document.visibilityState === "visible" ? "visible" : "hidden");

function withWorker(listener) {
  const { port } = new SharedWorker(new URL("live-worker.js", import.meta.url), { type: "module", name: "park" });
  port.addEventListener("message", ({ data }) => listener(data));
  port.start();
  port.postMessage(state());
  document.addEventListener("visibilitychange", () => port.postMessage(state()));
  window.addEventListener("pagehide", () => port.postMessage("bye"));
  window.addEventListener("pageshow", ({ persisted }) => persisted && port.postMessage(state()));
}

function withChannel(listener) {
  const channel = new BroadcastChannel(`park${base}`);
  let stream = null;
  let release = null;
  const hear = (event) => state() === "visible" && listener(event);
  channel.addEventListener("message", ({ data }) => {
    if (data !== "hello") hear(data);
    else if (stream && stream.head) stream.tell("snapshot", stream.head);
  });

  // The visible tab that holds the lock has the stream; when it is hidden or closed another one takes over.
  async function lead() {
    const held = new Promise((resolve) => { release = resolve; });
    const run = () => {
      stream = new Stream(base, (event) => { hear(event); channel.postMessage(event); });
      stream.open();
      return held.then(() => { stream.close(); stream = null; });
    };
    if (navigator.locks) await navigator.locks.request(`park-stream${base}`, run);
    else await run();
  }

  function look() {
    if (state() === "visible") {
      if (!release) { lead(); channel.postMessage("hello"); }
    } else if (release) {
      release();
      release = null;
    }
  }
  document.addEventListener("visibilitychange", look);
  look();
}
