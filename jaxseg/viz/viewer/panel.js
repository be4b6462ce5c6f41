"use strict";
// The controls beside the image. Every text from the data goes in as text, never as markup.
jaxseg.panel = (manifest, act) => {
  const at = (id) => document.getElementById(id);

  const make = (kind, attributes = {}, ...children) => {
    const element = document.createElement(kind);
    for (const [name, value] of Object.entries(attributes))
      if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else if (name in element) element[name] = value;
      else element.setAttribute(name, value);
    element.append(...children);
    return element;
  };

  const swatch = (color) => {
    const element = make("span", { className: "swatch" });
    element.style.background = `rgb(${color.join(",")})`;
    return element;
  };

  // ---- the list of cases

  const rows = manifest.cases.map((one, number) => {
    const bar = make("canvas", { className: "bar", width: 100, height: 3 });
    if (typeof one.score === "number") fillBar(bar, one.score);
    const button = make("button", { type: "button", title: one.name, onclick: () => act.open(number) },
      make("span", { className: "case-name" }, one.name),
      make("span", { className: "score" }, one.score === null ? "" : jaxseg.score(one.score)),
      ...(one.score === null ? [] : [bar]));
    const item = make("li", {}, button);
    at("list").append(item);
    return { item, button, name: one.name };
  });

  function fillBar(bar, score) {
    const context = bar.getContext("2d"), share = Math.max(0, Math.min(1, score));
    context.fillStyle = "#2a313a";
    context.fillRect(0, 0, 100, 3);
    context.fillStyle = `hsl(${Math.round(10 + 120 * share)} 55% 50%)`;
    context.fillRect(0, 0, 100 * share, 3);
  }

  at("title").textContent = document.title = manifest.title;
  const ranked = manifest.ranking ? `${manifest.ranking}, worst first` : "";
  at("note").textContent = [`${rows.length} ${rows.length === 1 ? "case" : "cases"}`, ranked, manifest.note]
    .filter(Boolean).join(". ");
  at("footer").textContent = manifest.footer;
  at("find").addEventListener("input", (event) => {
    const wanted = event.target.value.trim().toLowerCase();
    for (const row of rows) row.item.hidden = !row.name.toLowerCase().includes(wanted);
  });

  const current = (number) => {
    rows.forEach((row, place) => row.button.setAttribute("aria-current", String(place === number)));
    rows[number].button.scrollIntoView({ block: "nearest" });
    at("case").textContent = manifest.cases[number].name;
    at("place").textContent = `${number + 1} of ${rows.length}`;
  };

  // The cases that the search leaves, in order.
  const listed = () => rows.map((_, number) => number).filter((number) => !rows[number].item.hidden);

  // ---- layers

  const slider = (label, value, change, [low, high, step] = [0, 1, 0.05]) =>
    make("input", { type: "range", min: low, max: high, step, value, "aria-label": label, className: "wide",
      oninput: (event) => change(Number(event.target.value)) });

  const layerRow = (key, name, state) => {
    const option = state.layers[key];
    const box = make("input", { type: "checkbox", id: `layer-${key}`, checked: option.visible,
      onchange: (event) => act.layer(key, { visible: event.target.checked }) });
    const parts = [box, make("label", { htmlFor: box.id }, name)];
    if ("outline" in option)
      parts.push(make("button", { type: "button", className: "link", "aria-label": `${name}: outline or filled`,
        onclick: () => act.layer(key, { outline: !option.outline }) }, option.outline ? "outline" : "filled"));
    else parts.push(make("span"));
    parts.push(slider(`${name}: opacity`, option.opacity, (opacity) => act.layer(key, { opacity })));
    return make("div", { className: "row" }, ...parts);
  };

  const section = (id, ...children) => {
    const title = at(id).querySelector("h2");
    at(id).replaceChildren(title, ...children);
  };

  const layers = (content, state) => {
    const found = [];
    const images = content.layers.filter((about) => about.kind === "image");
    found.push(layerRow("image", "image", state));
    if (images.length > 1) {
      const choice = make("select", { "aria-label": "Channel",
        onchange: (event) => act.channel(Number(event.target.value)) },
        ...images.map((about, number) =>
          make("option", { value: number, selected: number === state.channel }, about.name)));
      found.push(make("div", { className: "pair" }, "channel", choice));
    }
    for (const about of content.layers) if (about.kind !== "image") found.push(layerRow(about.key, about.name, state));
    if (state.layers.errors) {
      found.push(layerRow("errors", "differences", state));
      if (state.layers.errors.visible)
        found.push(...jaxseg.ERRORS.map((one) => make("div", { className: "faint" }, swatch(one.color), one.name)));
    }
    section("layers", ...found);
  };

  // ---- contrast: black and white as numbers and as sliders over the image's own range

  const contrast = (state) => {
    const [low, high] = state.contrast, [least, most] = state.range;
    const step = (most - least) / 500 || 0.01;
    const line = (label, value, place) =>
      make("label", { className: "pair" }, label,
        slider(label, value, (chosen) => act.contrast(place === 0 ? [chosen, high] : [low, chosen]),
          [least, most, step]),
        make("span", { className: "value" }, jaxseg.number(value)));
    section("contrast", line("black", low, 0), line("white", high, 1));
  };

  // ---- classes with the scores of this case

  const classes = (number, content, state) => {
    const scores = manifest.cases[number].scores;
    const metrics = Object.entries(manifest.metrics);
    const shown = manifest.classes.filter((one) => !one.extra || state.ignored);
    const found = shown.map((one, place) => {
      const box = make("input", { type: "checkbox", id: `class-${one.id}`, checked: !state.hidden.has(one.id),
        onchange: () => act.toggle(one.id) });
      const label = make("label", { htmlFor: box.id, title: one.name }, swatch(one.color), one.name);
      const key = place < 9 && !one.extra ? make("span", { className: "key" }, String(place + 1)) : make("span");
      const row = scores[one.name];
      const values = metrics.filter(([name]) => row && name in row)
        .map(([name, title]) => `${title} ${jaxseg.score(row[name])}`).join(", ");
      return make("div", { className: "row" }, box, label, key,
        ...(values ? [make("span", { className: "value wide" }, values)] : []));
    });
    const others = Object.entries(scores).filter(([name]) => !shown.some((one) => one.name === name));
    for (const [name, row] of others) // such as regions of several classes, or all objects together
      found.push(make("div", { className: "faint" }, `${name}: ` + metrics.filter(([key]) => key in row)
        .map(([key, title]) => `${title} ${jaxseg.score(row[key])}`).join(", ")));
    section("classes", ...found);
  };

  const objects = (content, state) => {
    const given = Object.entries(content.objects || {});
    at("objects").hidden = !given.length;
    if (!given.length) return;
    const check = (name, title) => {
      const box = make("input", { type: "checkbox", id: `show-${name}`, checked: state[name],
        onchange: (event) => act.set({ [name]: event.target.checked }) });
      return make("div", { className: "row" }, box, make("label", { htmlFor: box.id }, title), make("span"));
    };
    section("objects", check("boxes", "boxes and scores"), check("outlines", "outlines"),
      ...given.map(([name, all]) => layerRow(`${name} objects`, `${name}: ${all.length}`, state)),
      make("label", { className: "pair" }, "score",
        slider("least score", state.least, (least) => act.set({ least })),
        make("span", { className: "value" }, state.least.toFixed(2))));
  };

  const views = (names, state) => {
    at("views").replaceChildren(...names.map((name) =>
      make("button", { type: "button", "aria-pressed": String(name === state.view), onclick: () => act.view(name) },
        name)));
  };

  const message = (text, warn = false) => {
    at("message").textContent = text;
    at("message").classList.toggle("warn", warn);
  };

  const className = (id) =>
    (manifest.classes.find((one) => one.id === id) || { name: id ? `class ${id}` : "none" }).name;

  const located = (found) => {
    if (!found) return void (at("location").textContent = "");
    const parts = [found.mm ? `${found.mm.map((value) => value.toFixed(1)).join(", ")} mm (R, A, S)`
      : `pixel ${found.pixel.join(", ")}`];
    for (const { layer, value } of found.values) {
      if (layer.kind === "errors") continue;
      const text = layer.kind === "labels" ? className(value)
        : Array.isArray(value) ? value.join(", ") : jaxseg.number(value);
      parts.push(`${layer.name} ${text}`);
    }
    at("location").textContent = parts.join("   ·   ");
  };

  const keys = (table) =>
    at("keys").replaceChildren(...table.flatMap(([key, what]) => [make("dt", {}, key), make("dd", {}, what)]));

  return { current, listed, layers, contrast, classes, objects, views, message, located, keys };
};
