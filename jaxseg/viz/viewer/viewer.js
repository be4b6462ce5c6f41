"use strict";
// The page: what is shown (`state`), and what changes it. Nothing is kept after the page is closed.
(() => {
  const KEYS = [
    ["j, k", "next, previous case"],
    ["arrows, Page Up, Page Down", "slices, one or ten at a time; turns the 3D view; moves a flat image"],
    ["v", "next view: planes, axial, coronal, sagittal, 3D, all of them"],
    ["1 to 9, 0", "a class on or off; all classes"],
    ["t, p, u, d, i", "truth, prediction, uncertainty, differences, image on or off"],
    ["o", "opacity of the labels: 25, 50, 75, 100 %"],
    ["f", "labels filled or as outlines"],
    ["b", "boxes of objects on or off"],
    ["c", "next channel of the image"],
    ["+, -", "larger, smaller (flat images; the wheel too)"],
    ["space", "hold: the image alone"],
    ["r", "back to the first view and contrast"],
    ["right mouse button", "drag: contrast (across: width, up and down: level)"],
    ["h, ?", "these keys"],
  ];
  const STEPS = { ArrowUp: [0, 1], ArrowDown: [0, -1], ArrowLeft: [-1, 0], ArrowRight: [1, 0], PageUp: [0, 10],
    PageDown: [0, -10] };
  const LETTERS = { t: "truth", p: "prediction", u: "uncertainty", d: "errors", i: "image" };
  const at = (id) => document.getElementById(id);

  const state = {
    number: 0, view: "planes", channel: 0, contrast: [0, 1], range: [0, 1], layers: {}, hidden: new Set(), bare: false,
    boxes: true, outlines: true, least: 0, ignored: false,
  };
  let content = null; // of the case on the screen
  let stage = null;
  let opening = 0;
  let waiting = false;

  const manifest = jaxseg.manifest();
  const panel = jaxseg.panel(manifest, {
    open: (number) => open(number),
    layer: (key, change) => {
      Object.assign(state.layers[key], change);
      if (key === "errors" && "visible" in change) aside(change.visible);
      refresh();
    },
    channel: (number) => channel(number),
    contrast: (levels) => { setContrast(levels); refresh(); },
    toggle: (id) => { state.hidden.has(id) ? state.hidden.delete(id) : state.hidden.add(id); refresh(); },
    set: (change) => { Object.assign(state, change); refresh(); },
    view: (name) => { state.view = name; refresh(); },
  });
  const tell = {
    located: panel.located,
    contrast: (low, high) => { setContrast([low, high]); panel.contrast(state); },
    drag: (across, down) => {
      const [low, high] = state.contrast, extent = state.range[1] - state.range[0];
      const width = Math.max(extent / 500, high - low + across * extent), middle = (low + high) / 2 + down * extent;
      setContrast([middle - width / 2, middle + width / 2]);
      refresh();
    },
  };
  const stages = {
    3: () => jaxseg.volumeStage(at("volume"), tell),
    2: () => jaxseg.pictureStage(at("picture"), tell),
  };
  const made = {};

  const setContrast = ([low, high]) => { state.contrast = high > low ? [low, high] : [high, low]; };

  // What a case starts with; choices made for an earlier case stay.
  const prepare = () => {
    const labels = content.layers.filter((about) => about.kind === "labels");
    const objects = content.objects || {};
    const start = (key, option) => { state.layers[key] ??= option; };
    start("image", { visible: true, opacity: 1 });
    labels.forEach((about, place) => {
      const first = place === 0 && labels.length > 1; // the truth, under a prediction
      start(about.key, { visible: !(about.name in objects), opacity: first ? 0.9 : 0.45, outline: first, tint: 0 });
    });
    if (labels.length > 1) start("errors", { visible: false, opacity: 0.75, outline: false });
    else {
      if (state.layers.errors && state.layers.errors.visible) aside(false);
      delete state.layers.errors;
    }
    if (content.layers.some((about) => about.kind === "heat"))
      start("uncertainty", { visible: false, opacity: 0.85 });
    for (const name of Object.keys(objects))
      start(`${name} objects`, { visible: true, opacity: 1, tint: name === "prediction" ? 0.45 : 0 });
    state.ignored = Boolean(content.ignored);
    const images = content.layers.filter((about) => about.kind === "image");
    state.channel = Math.min(state.channel, images.length - 1);
    [state.contrast, state.range] = [images[state.channel].window, images[state.channel].extent];
  };

  const open = async (number) => {
    const mine = ++opening;
    state.number = number;
    panel.current(number);
    panel.message("Opening…");
    panel.located(null);
    try {
      const found = await jaxseg.openCase(number);
      if (mine !== opening) return;
      for (const about of found.layers) about.key = about.kind === "image" ? "image" : about.name;
      content = found;
      if (found.classes) manifest.classes = found.classes; // label files without names: their own values
      prepare();
      await display();
      if (mine === opening) panel.message("");
    } catch (error) {
      if (mine === opening) panel.message(error.message, true);
    }
  };

  const display = async () => {
    const ndim = content.ndim;
    made[ndim] ??= stages[ndim]();
    if (stage && stage !== made[ndim]) stage.leave();
    stage = made[ndim];
    at("volume").hidden = ndim !== 3;
    at("picture").hidden = ndim !== 2;
    controls();
    await stage.show(content, state, manifest);
  };

  const channel = async (number) => {
    const images = content.layers.filter((about) => about.kind === "image");
    state.channel = (number + images.length) % images.length;
    [state.contrast, state.range] = [images[state.channel].window, images[state.channel].extent];
    await display();
  };

  const controls = () => {
    const focus = document.activeElement && document.activeElement.id;
    panel.layers(content, state);
    panel.contrast(state);
    panel.classes(state.number, content, state);
    panel.objects(content, state);
    panel.views(stage.VIEWS, state);
    if (focus && at(focus)) at(focus).focus({ preventScroll: true });
  };

  // Draws once a frame however often something changes; a slider that is being dragged is left in place.
  const refresh = () => {
    if (waiting || !stage) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      if (!(document.activeElement && document.activeElement.type === "range")) controls();
      else panel.views(stage.VIEWS, state);
      stage.apply(state, manifest);
    });
  };

  const step = (by) => {
    const listed = panel.listed();
    const place = listed.indexOf(state.number) + by;
    if (place >= 0 && place < listed.length) open(listed[place]);
  };

  const reset = () => {
    const images = content.layers.filter((about) => about.kind === "image");
    state.contrast = images[state.channel].window;
    controls();
    stage.reset(state, manifest);
  };

  const overlays = () =>
    content.layers.filter((about) => about.kind === "labels").map((about) => state.layers[about.key]);

  const opacity = () => {
    const all = overlays();
    if (!all.length) return;
    const next = [0.25, 0.5, 0.75, 1].find((value) => value > all[all.length - 1].opacity + 0.01) || 0.25;
    for (const option of all) option.opacity = next;
    refresh();
  };

  const digit = (key) => {
    const ids = manifest.classes.filter((one) => !one.extra).map((one) => one.id);
    if (key === "0") {
      const any = ids.some((id) => state.hidden.has(id));
      state.hidden = new Set(any ? [] : ids);
    } else if (Number(key) <= ids.length) {
      const id = ids[Number(key) - 1];
      state.hidden.has(id) ? state.hidden.delete(id) : state.hidden.add(id);
    }
    refresh();
  };

  // Where truth and prediction differ is seen best without them; they come back as they were.
  const aside = (away) => {
    const all = content.layers.filter((about) => about.kind === "labels").map((about) => about.key);
    if (away) state.before = Object.fromEntries(all.map((key) => [key, state.layers[key].visible]));
    for (const key of all) state.layers[key].visible = away ? false : state.before?.[key] ?? true;
  };

  const toggle = (key) => {
    const wanted = key === "truth" && !state.layers.truth ? "labels" : key;
    const own = [wanted, `${wanted} objects`].map((name) => state.layers[name]).filter(Boolean);
    if (!own.length) return;
    const visible = !own.some((option) => option.visible);
    // of objects the outlines come back, not the filled classes under them
    own[own.length - 1].visible = visible;
    if (!visible) own.forEach((option) => { option.visible = false; });
    if (key === "errors") aside(visible);
    refresh();
  };

  const bare = (on) => {
    if (state.bare === on || !stage) return;
    state.bare = on;
    stage.apply(state, manifest);
  };

  const pressed = (event) => {
    const key = event.key;
    if (event.ctrlKey || event.metaKey || event.altKey || at("help").open) return false;
    if (key === "h" || key === "?") return at("help").showModal(), true;
    if (key === "j" || key === "k") return step(key === "j" ? 1 : -1), true;
    if (!content || !stage) return false;
    if (key in STEPS) {
      const times = event.shiftKey ? 10 : 1;
      stage.move(state, ...STEPS[key].map((by) => by * times));
    } else if (key === "v" && stage.VIEWS.length) {
      state.view = stage.VIEWS[(stage.VIEWS.indexOf(state.view) + 1) % stage.VIEWS.length];
      refresh();
    } else if (/^[0-9]$/.test(key)) digit(key);
    else if (key in LETTERS) toggle(LETTERS[key]);
    else if (key === "o") opacity();
    else if (key === "f") {
      const outline = !overlays().some((option) => option.outline);
      for (const option of overlays()) option.outline = outline;
      refresh();
    } else if (key === "b") { state.boxes = !state.boxes; refresh(); }
    else if (key === "c") channel(state.channel + 1);
    else if (key === "+" || key === "=") stage.zoom(1.25);
    else if (key === "-") stage.zoom(0.8);
    else if (key === "r") reset();
    else if (key === " ") bare(true);
    else return false;
    return true;
  };

  // Fields and sliders keep the keys that they know; NiiVue, which listens on its canvas, gets none.
  const typing = (event) => {
    const kind = event.target.type;
    if (kind === "search" || event.target.tagName === "SELECT") return true;
    if (kind === "range") return event.key in STEPS;
    return event.key === " " && (kind === "checkbox" || event.target.tagName === "BUTTON");
  };
  document.addEventListener("keydown", (event) => {
    if (typing(event)) return;
    if (pressed(event)) event.preventDefault();
    if (event.target.tagName === "CANVAS") event.stopPropagation();
  }, true);
  document.addEventListener("keyup", (event) => {
    if (event.key === " ") bare(false);
    if (event.target.tagName === "CANVAS") event.stopPropagation();
  }, true);
  window.addEventListener("blur", () => bare(false));
  at("reset").addEventListener("click", () => { if (stage) reset(); });
  at("ask").addEventListener("click", () => at("help").showModal());

  panel.keys(KEYS);
  if (manifest.cases.length) open(0);
  else panel.message("There is no case to show.");
})();
