"use strict";
// What both viewers do with arrays of class ids: outlines, differences and colours. Nothing here touches the page.
Object.assign(window.jaxseg, (() => {
  const ERRORS = [
    { id: 1, name: "missed", color: [255, 60, 120] },
    { id: 2, name: "too much", color: [70, 220, 255] },
    { id: 3, name: "another class", color: [255, 235, 110] },
  ];

  // Keeps the ids of voxels that have a neighbour of a lower id along an axis, so that a border between two classes is
  // one voxel wide and not two; x runs fastest.
  const outline = (ids, [nx, ny, nz]) => {
    const found = new ids.constructor(ids.length);
    const sheet = nx * ny;
    for (let z = 0, i = 0; z < nz; z++)
      for (let y = 0; y < ny; y++)
        for (let x = 0; x < nx; x++, i++) {
          const id = ids[i];
          if (!id) continue;
          const border =
            (x > 0 && ids[i - 1] < id) || (x < nx - 1 && ids[i + 1] < id) ||
            (y > 0 && ids[i - nx] < id) || (y < ny - 1 && ids[i + nx] < id) ||
            (z > 0 && ids[i - sheet] < id) || (z < nz - 1 && ids[i + sheet] < id);
          if (border) found[i] = id;
        }
    return found;
  };

  // 1 where the truth's class was missed, 2 where one was found that is not there, 3 where one stands for another.
  // Hidden classes count as background; what is not scored never differs.
  const difference = (truth, prediction, hidden, ignored) => {
    const found = new Uint8Array(truth.length);
    for (let i = 0; i < truth.length; i++) {
      if (truth[i] === ignored) continue;
      const a = hidden.has(truth[i]) ? 0 : truth[i];
      const b = hidden.has(prediction[i]) ? 0 : prediction[i];
      if (a !== b) found[i] = b === 0 ? 1 : a === 0 ? 2 : 3;
    }
    return found;
  };

  const lighter = (color, amount) => color.map((channel) => Math.round(channel + (255 - channel) * amount));

  // [red, green, blue, alpha] by id; the ids that are hidden, and 0, are clear.
  const palette = (classes, hidden, tint) => {
    const table = Array.from({ length: Math.max(...classes.map((one) => one.id)) + 1 }, () => [0, 0, 0, 0]);
    for (const one of classes) table[one.id] = [...lighter(one.color, tint), hidden.has(one.id) ? 0 : 255];
    return table;
  };

  const number = (value) => {
    if (typeof value !== "number") return value === null || value === undefined ? "n/a" : String(value);
    return Math.abs(value) >= 1000 || Number.isInteger(value) ? String(Math.round(value)) : value.toPrecision(3);
  };

  // Scores in the three digits of the report, so that a Dice of 0.9 and one of 0.899 can be told apart.
  const score = (value) => (typeof value !== "number" ? number(value) : value.toFixed(value < 10 ? 3 : 1));

  return { ERRORS, outline, difference, lighter, palette, number, score };
})());
