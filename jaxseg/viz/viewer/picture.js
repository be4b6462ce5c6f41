"use strict";
// Flat images on a canvas: layers are mixed pixel by pixel at the image's own size, then drawn magnified, so that every
// pixel stays a sharp square; boxes and outlines of objects are drawn on top as lines.
jaxseg.pictureStage = (holder, tell) => {
  const canvas = holder.querySelector("canvas");
  const context = canvas.getContext("2d");
  const mixed = document.createElement("canvas");
  const eye = { scale: 1, x: 0, y: 0 }; // screen = image * scale + (x, y), in CSS pixels
  let shown = null; // { content, layers: [{ about, values }] }
  let last = null; // state and manifest, to draw again with
  let asked = 0;

  const decode = async (about, buffer, [height, width]) => {
    const blob = new Blob([buffer], { type: "image/png" });
    const bitmap = await createImageBitmap(blob, { colorSpaceConversion: "none", premultiplyAlpha: "none" });
    const plain = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
    plain.drawImage(bitmap, 0, 0);
    const bytes = plain.getImageData(0, 0, width, height).data;
    if (about.encoding === "rgb8") return bytes;
    const values = about.kind === "labels" ? new Uint16Array(width * height) : new Float32Array(width * height);
    const [low, high] = about.range || [0, 65535];
    for (let i = 0; i < values.length; i++)
      values[i] = about.encoding === "grey8" ? bytes[4 * i]
        : low + ((high - low) * (256 * bytes[4 * i] + bytes[4 * i + 1])) / 65535;
    return values;
  };

  const show = async (content, state, manifest) => {
    const mine = ++asked;
    const images = content.layers.filter((about) => about.kind === "image");
    const wanted = [images[state.channel] || images[0], ...content.layers.filter((about) => about.kind !== "image")];
    const layers = await Promise.all(
      wanted.map(async (about) => {
        const buffer = await content.read(about.file);
        return { about, values: await decode(about, buffer, content.shape) };
      }),
    );
    if (mine !== asked) return;
    if (layers.filter((layer) => layer.about.kind === "labels").length === 2)
      layers.push({ about: { kind: "errors", name: "errors", key: "errors" }, values: null });
    const same = shown && shown.content === content;
    shown = { content, layers };
    [mixed.height, mixed.width] = content.shape;
    if (!same) fit();
    apply(state, manifest);
  };

  const stretch = (value, [low, high]) => Math.max(0, Math.min(255, (255 * (value - low)) / (high - low || 1)));

  const base = (layer, state, pixels) => {
    const { values, about } = layer;
    const step = about.encoding === "rgb8" ? 4 : 1;
    const visible = state.layers[about.key].visible ? state.layers[about.key].opacity : 0;
    for (let i = 0; i < pixels.length / 4; i++) {
      for (let channel = 0; channel < 3; channel++)
        pixels[4 * i + channel] = visible * stretch(values[step * i + (step === 4 ? channel : 0)], state.contrast);
      pixels[4 * i + 3] = 255;
    }
  };

  const blend = (pixels, i, color, opacity) => {
    for (let channel = 0; channel < 3; channel++)
      pixels[4 * i + channel] += (color[channel] - pixels[4 * i + channel]) * opacity;
  };

  const idsOf = (layer, state, manifest) => {
    if (layer.about.kind === "labels") return layer.values;
    const [truth, prediction] = shown.layers.filter((other) => other.about.kind === "labels");
    const ignored = manifest.classes.find((one) => one.extra).id;
    return jaxseg.difference(truth.values, prediction.values, state.hidden, ignored);
  };

  const cover = (layer, state, manifest, pixels) => {
    const option = state.layers[layer.about.key];
    if (state.bare || !option.visible || !option.opacity) return;
    if (layer.about.kind === "heat") {
      const top = manifest.heat.length - 1;
      for (let i = 0; i < layer.values.length; i++) {
        const value = layer.about.encoding === "grey8" ? layer.values[i] / 255 : layer.values[i];
        if (value > 0) blend(pixels, i, manifest.heat[Math.round(value * top)], option.opacity * Math.sqrt(value));
      }
      return;
    }
    const errors = layer.about.kind === "errors";
    let ids = idsOf(layer, state, manifest);
    if (option.outline) ids = jaxseg.outline(ids, [shown.content.shape[1], shown.content.shape[0], 1]);
    const table = jaxseg.palette(errors ? jaxseg.ERRORS : manifest.classes, errors ? new Set() : state.hidden,
      option.tint || 0);
    for (let i = 0; i < ids.length; i++) {
      const color = table[ids[i]];
      if (color && color[3]) blend(pixels, i, color, option.opacity);
    }
  };

  const apply = (state, manifest) => {
    last = { state, manifest };
    if (!shown) return;
    const plain = mixed.getContext("2d");
    const data = plain.createImageData(mixed.width, mixed.height);
    base(shown.layers[0], state, data.data);
    for (const layer of shown.layers.slice(1)) cover(layer, state, manifest, data.data);
    plain.putImageData(data, 0, 0);
    draw();
  };

  // A pixel is as high and wide as its spacing says, scaled so that the smaller side is 1.
  const aspect = () => {
    const [dy, dx] = shown.content.spacing;
    return [dx / Math.min(dx, dy), dy / Math.min(dx, dy)];
  };

  const fit = () => {
    const [height, width] = shown.content.shape, [ax, ay] = aspect();
    const { clientWidth, clientHeight } = holder;
    eye.scale = Math.min((clientWidth - 32) / (width * ax), (clientHeight - 32) / (height * ay));
    eye.x = (clientWidth - width * ax * eye.scale) / 2;
    eye.y = (clientHeight - height * ay * eye.scale) / 2;
  };

  const draw = () => {
    if (!shown || !last) return;
    const ratio = window.devicePixelRatio || 1, [ax, ay] = aspect();
    canvas.width = Math.round(holder.clientWidth * ratio);
    canvas.height = Math.round(holder.clientHeight * ratio);
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.imageSmoothingEnabled = eye.scale < 1;
    context.drawImage(mixed, eye.x, eye.y, mixed.width * ax * eye.scale, mixed.height * ay * eye.scale);
    if (!last.state.bare) drawObjects(ax * eye.scale, ay * eye.scale);
  };

  const drawObjects = (sx, sy) => {
    const { state, manifest } = last;
    for (const [name, objects] of Object.entries(shown.content.objects || {})) {
      const option = state.layers[name + " objects"];
      if (!option || !option.visible) continue;
      context.globalAlpha = option.opacity;
      for (const one of objects) {
        if (state.hidden.has(one.class) || one.score < state.least) continue;
        const about = manifest.classes.find((other) => other.id === one.class);
        const color = about ? jaxseg.lighter(about.color, option.tint || 0) : [255, 255, 255];
        context.strokeStyle = context.fillStyle = `rgb(${color.join(",")})`;
        context.lineWidth = name === "prediction" ? 1.5 : 2;
        context.setLineDash(name === "prediction" ? [5, 3] : []);
        if (state.outlines) one.outlines.forEach((points) => trace(points, sx, sy));
        if (state.boxes) box(one, about, name, sx, sy);
      }
    }
    context.globalAlpha = 1;
    context.setLineDash([]);
  };

  const trace = (points, sx, sy) => {
    context.beginPath();
    for (let i = 0; i < points.length; i += 2) context.lineTo(eye.x + points[i] * sx, eye.y + points[i + 1] * sy);
    context.stroke();
  };

  const box = (one, about, name, sx, sy) => {
    const [left, top, right, bottom] = one.box;
    context.strokeRect(eye.x + left * sx, eye.y + top * sy, (right - left) * sx, (bottom - top) * sy);
    if (name !== "prediction" || (right - left) * sx < 26) return; // a label needs room
    context.font = "11px system-ui, sans-serif";
    context.fillText(one.score.toFixed(2), eye.x + left * sx + 2, eye.y + top * sy - 3);
  };

  const zoom = (factor, x = holder.clientWidth / 2, y = holder.clientHeight / 2) => {
    const scale = Math.max(0.02, Math.min(200, eye.scale * factor));
    eye.x = x - ((x - eye.x) * scale) / eye.scale;
    eye.y = y - ((y - eye.y) * scale) / eye.scale;
    eye.scale = scale;
    draw();
  };

  const pan = (dx, dy) => {
    eye.x += dx;
    eye.y += dy;
    draw();
  };

  const located = (event) => {
    const [height, width] = shown.content.shape, [ax, ay] = aspect();
    const x = Math.floor((event.offsetX - eye.x) / (ax * eye.scale));
    const y = Math.floor((event.offsetY - eye.y) / (ay * eye.scale));
    if (x < 0 || y < 0 || x >= width || y >= height) return tell.located(null);
    const i = x + width * y;
    const values = shown.layers.filter((layer) => layer.values).map(({ about, values }) => ({
      layer: about,
      value: about.encoding === "rgb8" ? Array.from(values.slice(4 * i, 4 * i + 3))
        : about.kind === "heat" && about.encoding === "grey8" ? values[i] / 255 : values[i],
    }));
    tell.located({ pixel: [x, y], values });
  };

  canvas.addEventListener("wheel", (event) => {
    if (!shown) return;
    event.preventDefault();
    zoom(Math.exp(-event.deltaY / 400), event.offsetX, event.offsetY);
  }, { passive: false });
  canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    canvas.classList.add("dragging");
  });
  canvas.addEventListener("pointerup", () => canvas.classList.remove("dragging"));
  canvas.addEventListener("pointermove", (event) => {
    if (!shown) return;
    if (event.buttons === 1) pan(event.movementX, event.movementY);
    else if (event.buttons === 2)
      tell.drag(event.movementX / holder.clientWidth, event.movementY / holder.clientHeight);
    located(event);
  });
  new ResizeObserver(() => { if (shown && !holder.hidden) draw(); }).observe(holder);

  const move = (state, across, along) => pan(-24 * across, 24 * along);
  const reset = (state, manifest) => {
    if (!shown) return;
    fit();
    apply(state, manifest);
  };
  return { VIEWS: [], show, apply, move, reset, zoom, leave: () => { asked++; } };
};
