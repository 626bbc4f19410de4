"use strict";
// A picture with what the label says and what each rollout answered, in pixels of the original picture.

function shapesOf(answer) {
  if (!answer) return { boxes: [], points: [] };
  const four = (box) => Array.isArray(box) && box.length === 4 && box.every(Number.isFinite);
  const two = (point) => Array.isArray(point) && point.length === 2 && point.every(Number.isFinite);
  return { boxes: (answer.boxes || []).filter(four), points: (answer.points || []).filter(two) };
}

const RGB = { label: [18, 161, 80], up: [47, 111, 222], down: [224, 83, 42], flat: [141, 150, 168] };

function maskImage(mask, kind, size) {
  const [width, height] = mask.size;
  if (!(width > 0 && height > 0 && width * height <= 1 << 18)) return null;
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(width, height);
  let at = 0;
  mask.runs.forEach((run, index) => {
    const end = Math.min(at + run, width * height);
    if (index % 2) for (; at < end; at++) pixels.data.set([...RGB[kind], 105], at * 4);
    at = end;
  });
  context.putImageData(pixels, 0, 0);
  return draw("image", { href: canvas.toDataURL(), width: size[0], height: size[1], preserveAspectRatio: "none", class: "pixel" });
}

// `layers`: [{ name, kind, answer, masks, badge }], the last on top.
function picture(source, size, layers, description) {
  const [width, height] = size && size[0] > 0 && size[1] > 0 ? size : [100, 100];
  const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": description });
  if (source) {
    const small = Math.max(width, height) <= 256 ? "pixel" : "";
    svg.append(draw("image", { href: source, width, height, preserveAspectRatio: "none", class: small }));
  } else {
    svg.append(draw("text", { x: width / 2, y: height / 2, "text-anchor": "middle", "font-size": height / 16, fill: "#7d8799" }, "picture not recorded"));
  }
  const mark = Math.max(width, height) / 90;
  for (const layer of layers) {
    const group = draw("g", { class: "member-shape", "data-name": layer.name });
    for (const mask of layer.masks || []) {
      const image = maskImage(mask, layer.kind, [width, height]);
      if (image) group.append(image);
    }
    const { boxes, points } = shapesOf(layer.answer);
    for (const [x1, y1, x2, y2] of boxes) {
      const place = { x: Math.min(x1, x2), y: Math.min(y1, y2), width: Math.abs(x2 - x1), height: Math.abs(y2 - y1) };
      group.append(draw("rect", { ...place, class: "halo" }), draw("rect", { ...place, class: `s c-${layer.kind}` }));
    }
    for (const [x, y] of points) {
      group.append(draw("circle", { cx: x, cy: y, r: mark, class: `f-${layer.kind}`, stroke: "#fff", "stroke-width": mark / 3 }));
    }
    svg.append(group);
  }
  return svg;
}

function answerInWords(answer, error) {
  if (error) return `no answer (${error})`;
  if (!answer) return "no answer";
  if (Array.isArray(answer.boxes)) {
    if (!answer.boxes.length) return "nothing there";
    return answer.boxes.length === 1 ? "1 box" : `${answer.boxes.length} boxes`;
  }
  if (Array.isArray(answer.points)) return answer.points.length === 1 ? "1 point" : `${answer.points.length} points`;
  const said = answer.text ?? answer.letter ?? answer.masks ?? "";
  return String(said).slice(0, 80) || "an answer";
}
