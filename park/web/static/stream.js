// One stream of events from the web process: it heals by itself and goes on from the event that came last.

const RETRY_MS = 2000;
const HEAD = ["user", "admin", "stale", "summary", "kernels", "owners", "next"];

export class Stream {
  /** *emit* gets {type: "snapshot" | "delta" | "down" | "refused", boot, number, data}. */
  constructor(base, emit) {
    this.base = base;
    this.emit = emit;
    this.last = "";
    this.head = null;
    this.state = "closed";
    this.source = null;
  }

  open() {
    if (this.source) return;
    clearTimeout(this.timer);
    const source = new EventSource(`${this.base}events${this.last ? `?last=${encodeURIComponent(this.last)}` : ""}`);
    this.source = source;
    source.addEventListener("open", () => {
      // a stream that goes on may have nothing to tell for a while
      if (this.state !== "live" && this.head) this.tell("snapshot", this.head);
      this.state = "live";
    });
    for (const type of ["snapshot", "delta"]) {
      source.addEventListener(type, (event) => this.take(type, event));
    }
    source.addEventListener("error", () => this.failed(source));
  }

  take(type, event) {
    this.last = event.lastEventId;
    const data = JSON.parse(event.data);
    this.head = type === "snapshot" ? {} : this.head || {};
    for (const name of HEAD) if (name in data) this.head[name] = data[name];
    this.state = "live";
    this.tell(type, data);
  }

  tell(type, data) {
    const [boot, number] = this.last.split(".");
    this.emit({ type, boot, number: Number(number || 0), data });
  }

  async failed(source) {
    if (source !== this.source) return;
    this.state = "down";
    this.tell("down", null);
    if (source.readyState !== EventSource.CLOSED) return; // the browser tries again
    this.source = null;
    const answer = await fetch(`${this.base}api/jobs`).catch(() => null);
    if (answer && answer.status === 401) {
      this.tell("refused", null);
      return;
    }
    this.timer = setTimeout(() => this.open(), RETRY_MS);
  }

  close() {
    clearTimeout(this.timer);
    if (this.source) this.source.close();
    this.source = null;
    this.state = "closed";
  }
}
