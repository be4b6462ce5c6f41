"use strict";
// Where the page's data come from: a server that makes a case when it is asked for, or scripts beside the page
// (browsers refuse to fetch from file://, but load a script).
window.jaxseg = (() => {
  const received = new Map();

  const receive = (name, content) => received.set(name, content);

  const load = (address) =>
    new Promise((resolve, reject) => {
      const element = document.createElement("script");
      element.src = address;
      element.onload = resolve;
      element.onerror = () => reject(new Error(`${address} cannot be read; is the folder of this page whole?`));
      document.head.append(element);
    });

  const manifest = () => {
    if (!received.has("manifest")) throw new Error("manifest.js is missing; write this folder again.");
    return received.get("manifest");
  };

  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)).buffer;

  const fetched = async (address) => {
    let reply;
    try {
      reply = await fetch(address);
    } catch {
      throw new Error("The program that served this page has ended; start it again.");
    }
    if (reply.ok) return reply;
    const said = await reply.json().catch(() => ({}));
    throw new Error(said.error || `${address}: ${reply.status} ${reply.statusText}`);
  };

  // What is known of a case, and `read(file) -> ArrayBuffer` for the files of its layers.
  const openCase = async (number) => {
    if (!manifest().embedded) {
      const content = await (await fetched(`cases/${number}.json`)).json();
      return { ...content, read: async (file) => (await fetched(`cases/${number}/${file}`)).arrayBuffer() };
    }
    await load(`cases/${number}.js`);
    const content = received.get(String(number));
    received.delete(String(number)); // a script may be loaded again; what it brought need not stay
    return { ...content, read: async (file) => bytes(content.files[file]) };
  };

  return { receive, load, manifest, openCase };
})();
