/** A TCP proxy in front of the gateway, to be cut, made deaf in one direction, silenced and mended. */

import net from "node:net";

export class CuttingProxy {
  #server;
  #pairs = new Set();
  #held = [];
  accepted = 0;
  refusing = false;
  /** What the gateway says is thrown away, while it hears everything. */
  deaf = false;
  silent = false;

  /** @param {string} target */
  static async listen(target) {
    const proxy = new CuttingProxy();
    const { hostname, port } = new URL(target);
    proxy.#server = net.createServer((client) => proxy.#serve(client, Number(port), hostname));
    await new Promise((resolve) => proxy.#server.listen(0, "127.0.0.1", resolve));
    proxy.url = `http://127.0.0.1:${proxy.#server.address().port}`;
    return proxy;
  }

  cut() {
    for (const pair of this.#pairs) for (const socket of pair) socket.resetAndDestroy();
  }

  mend() {
    this.refusing = this.deaf = this.silent = false;
    for (const pass of this.#held.splice(0)) pass();
  }

  async close() {
    this.cut();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  #serve(client, port, host) {
    this.accepted += 1;
    client.on("error", () => {});
    if (this.refusing) {
      client.resetAndDestroy();
      return;
    }
    const upstream = net.connect(port, host);
    upstream.on("error", () => {});
    const pair = [client, upstream];
    this.#pairs.add(pair);
    const pass = (to, data) => {
      if (this.silent) this.#held.push(() => to.destroyed || to.write(data));
      else to.write(data);
    };
    client.on("data", (data) => pass(upstream, data));
    upstream.on("data", (data) => this.deaf || pass(client, data));
    for (const [one, other] of [pair, [...pair].reverse()]) {
      one.on("close", () => {
        this.#pairs.delete(pair);
        other.destroy();
      });
    }
  }
}
