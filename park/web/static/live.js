// Events for one tab. All tabs of a browser share one stream: through a SharedWorker, or, where there is none, through the
// tab that holds a lock and a BroadcastChannel. A hidden tab gets no events, and asks again when it is seen.

import { Stream } from "./stream.js";

const base = new URL("./", location.href).pathname;

/** Call *listener* with each event {type, boot, number, data} while this tab is visible. */
export function follow(listener) {
  if (window.SharedWorker && !new URLSearchParams(location.search).has("noworker")) withWorker(listener);
  else withChannel(listener);
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
