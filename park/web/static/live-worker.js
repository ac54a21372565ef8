// The one stream of all tabs of a browser. It is open while any tab is visible.

import { Stream } from "./stream.js";

const LINGER_MS = 1500;
const tabs = new Map(); // port -> whether its tab is visible
let closing = null;

const stream = new Stream("../", (event) => {
  for (const [port, visible] of tabs) if (visible) port.postMessage(event);
});

function look() {
  clearTimeout(closing);
  if ([...tabs.values()].some(Boolean)) stream.open();
  else closing = setTimeout(() => stream.close(), LINGER_MS);
}

self.addEventListener("connect", ({ ports: [port] }) => {
  port.addEventListener("message", ({ data }) => {
    if (data === "bye") tabs.delete(port);
    else tabs.set(port, data === "visible");
    if (data === "visible" && stream.state === "live" && stream.head) {
      const [boot, number] = stream.last.split(".");
      port.postMessage({ type: "snapshot", boot, number: Number(number), data: stream.head });
    }
    look();
  });
  port.start();
});
