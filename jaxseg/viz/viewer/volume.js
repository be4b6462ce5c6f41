"use strict";
// Volumes, drawn by NiiVue. All layers of a case lie on one grid.
jaxseg.volumeStage = (holder, tell) => {
  const VIEWS = ["planes", "axial", "coronal", "sagittal", "3D", "all"];
  const canvas = holder.querySelector("canvas");
  let viewer = null; // made with the first volume: the library is large
  let shown = null; // { content, layers: [{ about, image, ids }] } of the case on the screen
  let asked = 0;

  const start = async (manifest) => {
    if (!window.niivue) await jaxseg.load("vendor/niivue.umd.js");
    const { Niivue, DRAG_MODE } = window.niivue;
    viewer = new Niivue({
      backColor: [0, 0, 0, 1], crosshairColor: [0.42, 0.7, 1, 0.75], crosshairWidth: 0.4,
      crosshairWidthUnit: "percent", crosshairGap: 12,
      fontColor: [0.75, 0.79, 0.84, 1], show3Dcrosshair: false, isOrientCube: false, multiplanarPadPixels: 6,
      dragAndDropEnabled: false, loadingText: "", isRadiologicalConvention: true, sagittalNoseLeft: true,
      dragMode: DRAG_MODE.windowing, logLevel: "error",
      clipPlaneHotKey: "", cycleClipPlaneHotKey: "", viewModeHotKey: "", isNearestInterpolation: false,
    });
    await viewer.attachToCanvas(canvas, true);
    const heat = manifest.heat, last = heat.length - 1;
    viewer.addColormap("jaxseg-heat", {
      R: heat.map((color) => color[0]), G: heat.map((color) => color[1]), B: heat.map((color) => color[2]),
      // as in the pictures of the report: clear where it is certain
      A: heat.map((_, step) => Math.round(255 * Math.sqrt(step / last))),
      I: heat.map((_, step) => Math.round((255 * step) / last)),
    });
    viewer.onLocationChange = located;
    viewer.onIntensityChange = (image) => tell.contrast(image.cal_min, image.cal_max);
  };

  const located = () => {
    if (!shown) return;
    const mm = Array.from(viewer.frac2mm(viewer.scene.crosshairPos)).slice(0, 3);
    const values = shown.layers.map(({ about, image, ids }) => {
      const drawn = image.img;
      if (ids) image.img = ids; // what is drawn may be an outline
      const value = image.getValue(...image.mm2vox(mm));
      image.img = drawn;
      return { layer: about, value };
    });
    tell.located({ mm, values });
  };

  const open = async (about, read) => {
    const colormap = about.kind === "heat" ? "jaxseg-heat" : "gray";
    const buffer = await read(about.file);
    const [low, high] = about.window;
    const image = await window.niivue.NVImage.new(buffer, about.file, colormap, 1, null, low, high);
    return { about, image, ids: about.kind === "labels" ? image.img.slice() : null };
  };

  const derived = (truth) => {
    const image = truth.image.clone();
    image.img = new truth.image.img.constructor(truth.ids.length);
    return { about: { kind: "errors", name: "errors", key: "errors" }, image, ids: new Uint8Array(truth.ids.length) };
  };

  const show = async (content, state, manifest) => {
    const mine = ++asked;
    if (!viewer) await start(manifest);
    const images = content.layers.filter((about) => about.kind === "image");
    const wanted = [images[state.channel] || images[0], ...content.layers.filter((about) => about.kind !== "image")];
    const layers = await Promise.all(wanted.map((about) => open(about, content.read)));
    if (mine !== asked) return; // another case was chosen meanwhile
    const labels = layers.filter((layer) => layer.ids);
    if (labels.length === 2) layers.push(derived(labels[0]));
    const same = shown && shown.content === content;
    shown = { content, layers };
    viewer.volumes = layers.map((layer) => layer.image);
    viewer.back = viewer.volumes[0];
    viewer.overlays = viewer.volumes.slice(1);
    apply(state, manifest);
    if (!same) {
      viewer.setPan2Dxyzmm([0, 0, 0, 1]);
      viewer.scene.crosshairPos = viewer.mm2frac(content.focus);
      viewer.setRenderAzimuthElevation(120, 12);
    }
    viewer.drawScene();
    located();
  };

  const fill = ({ image }, ids, outline) =>
    image.img.set(outline ? jaxseg.outline(ids, image.hdr.dims.slice(1, 4)) : ids);

  const paint = (layer, state, manifest) => {
    const { about, image, ids } = layer;
    const option = state.layers[about.key];
    image.opacity = state.bare && about.kind !== "image" ? 0 : option.visible ? option.opacity : 0;
    if (about.kind === "image") {
      [image.cal_min, image.cal_max] = state.contrast;
    } else if (ids && image.opacity) {
      const errors = about.kind === "errors";
      const drawn = `${option.outline} ${errors ? [...state.hidden] : ""}`;
      if (layer.drawn !== drawn) fill(layer, errors ? difference(state, manifest) : ids, option.outline);
      layer.drawn = drawn;
      const table = jaxseg.palette(errors ? jaxseg.ERRORS : manifest.classes, errors ? new Set() : state.hidden,
        option.tint || 0);
      const column = (place) => table.map((color) => color[place]);
      image.setColormapLabel({ R: column(0), G: column(1), B: column(2), A: column(3), I: table.map((_, id) => id) });
    }
  };

  const difference = (state, manifest) => {
    const [truth, prediction] = shown.layers.filter((layer) => layer.about.kind === "labels");
    const ignored = manifest.classes.find((one) => one.extra).id;
    return jaxseg.difference(truth.ids, prediction.ids, state.hidden, ignored);
  };

  const apply = (state, manifest) => {
    if (!shown) return;
    for (const layer of shown.layers) paint(layer, state, manifest);
    const { SHOW_RENDER } = window.niivue; // rendering is slow without a graphics card: only where it is asked for
    viewer.opts.multiplanarShowRender = state.view === "all" ? SHOW_RENDER.ALWAYS : SHOW_RENDER.NEVER;
    viewer.opts.sliceType = [3, 0, 1, 2, 4, 3][VIEWS.indexOf(state.view)];
    viewer.updateGLVolume();
  };

  // Goes through the slices of the plane in view, or turns what is rendered by as many times 5 degrees.
  const move = (state, across, along) => {
    if (!shown) return;
    if (state.view === "3D") {
      const { renderAzimuth, renderElevation } = viewer.scene;
      viewer.setRenderAzimuthElevation(renderAzimuth + 5 * across, renderElevation + 5 * along);
      return;
    }
    const axis = { coronal: 1, sagittal: 0 }[state.view] ?? 2;
    const steps = [0, 0, 0];
    steps[axis] = across + along;
    viewer.moveCrosshairInVox(...steps);
  };

  const reset = (state, manifest) => {
    if (!shown) return;
    viewer.setPan2Dxyzmm([0, 0, 0, 1]);
    viewer.setScale(1);
    viewer.scene.crosshairPos = viewer.mm2frac(shown.content.focus);
    viewer.setRenderAzimuthElevation(120, 12);
    apply(state, manifest);
    located();
  };

  return { VIEWS, show, apply, move, reset, zoom: () => {}, leave: () => { asked++; } };
};
