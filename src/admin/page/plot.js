// The last hour, drawn.
let samples = [];

function svg(tag, attributes, text) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text !== undefined) node.textContent = text;
  return node;
}
// The next of 1, 2, 3, 4, 6, 8, 10, 20, ...: an axis ends at a round number.
function roundUp(value) {
  const ten = 10 ** Math.floor(Math.log10(Math.max(1, value)));
  return [1, 2, 3, 4, 6, 8, 10].map((step) => step * ten).find((end) => end >= value);
}
function plot(id, what, points) {
  const chart = byId(id), caption = byId(id + "-caption");
  const values = points.map((point) => point.value), most = Math.max(0, ...values);
  const told = points.length ? number(values.at(-1)) + " now, " + number(most) + " at most" : "known within half a minute";
  if (caption.told !== told) {
    caption.told = told;
    caption.replaceChildren(make("b", "", what), ": " + told);
  }
  const width = chart.clientWidth || 480, height = 132, left = 44, right = width - 2, head = 8, foot = height - 20;
  // A daemon that has just started has not much to show: the axis is as long as that needs.
  const now = Date.now(), age = points.length ? (now - points[0].at) / 60000 : 0;
  const minutes = [4, 10, 20, 60].find((length) => age <= length) || 60;
  const top = roundUp(most);
  const x = (at) => (left + Math.max(0, 1 - (now - at) / 60000 / minutes) * (right - left)).toFixed(1);
  const y = (value) => (foot - value / top * (foot - head)).toFixed(1);
  const shapes = [];
  for (const value of [0, top / 2, top]) {
    shapes.push(svg("line", { class: "grid", x1: left, x2: right, y1: y(value), y2: y(value) }));
    if (Number.isInteger(value)) shapes.push(svg("text", { x: left - 6, y: Number(y(value)) + 4, "text-anchor": "end" }, number(value)));
  }
  for (const [part, anchor] of [[1, "start"], [0.5, "middle"], [0, "end"]]) {
    const label = part ? minutes * part + " min ago" : "now";
    shapes.push(svg("text", { x: left + (1 - part) * (right - left), y: height - 4, "text-anchor": anchor }, label));
  }
  const shown = points.filter((point) => now - point.at <= 3600e3);
  if (shown.length > 1) {
    const line = shown.map((point) => x(point.at) + "," + y(point.value)).join(" L");
    shapes.push(svg("path", { class: "area", d: "M" + x(shown[0].at) + "," + foot + " L" + line + " L" + x(shown.at(-1).at) + "," + foot + " Z" }));
    shapes.push(svg("path", { class: "line", d: "M" + line }));
  }
  chart.setAttribute("viewBox", "0 0 " + width + " " + height);
  chart.replaceChildren(...shapes);
}
function plots() {
  // Each over the minute before it: samples come every ten seconds.
  const rates = samples.slice(1).map((sample, at) => {
    const before = samples[Math.max(0, at - 5)], seconds = (sample.at - before.at) / 1000;
    return { at: sample.at, value: seconds > 0 ? Math.max(0, sample.delivered - before.delivered) * 60 / seconds : 0 };
  });
  plot("delivered", "Files delivered a minute", rates);
  plot("waiting", "Files waiting", samples.map((sample) => ({ at: sample.at, value: sample.backlog })));
}
