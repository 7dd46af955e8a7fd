// What the pages do in the browser: times in the reader's zone, charts, and swaps that disturb nobody.
"use strict";

const exact = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
const ofHour = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
const ofDayHere = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short" });
const ofDay = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short", timeZone: "UTC" });
const ofToday = new Intl.DateTimeFormat(undefined, { timeStyle: "medium" });

function localise(root) {
  const today = new Date().toDateString();
  for (const element of root.querySelectorAll("time[datetime]:not([title], [data-day])")) {
    const at = new Date(element.dateTime);
    if (Number.isNaN(at.getTime())) continue;
    element.title = element.textContent;
    element.textContent = (at.toDateString() === today ? ofToday : exact).format(at);
  }
}

// A field for a time holds the reader's own time; the address holds UTC.
const FIELD = "input[type=datetime-local]";

function pad(number) {
  return String(number).padStart(2, "0");
}

function fillTimes(root) {
  for (const field of root.querySelectorAll(FIELD)) {
    const at = new Date(field.dataset.at);
    if (Number.isNaN(at.getTime())) continue;
    field.value = `${at.getFullYear()}-${pad(at.getMonth() + 1)}-${pad(at.getDate())}T${pad(at.getHours())}:${pad(at.getMinutes())}:${pad(at.getSeconds())}`;
  }
}

document.addEventListener("submit", (event) => {
  const form = event.target;
  if (!form.matches("form[data-tidy]")) return;
  event.preventDefault();
  const asked = new URLSearchParams();
  for (const [name, value] of new FormData(form)) {
    if (!value) continue;
    const isTime = form.elements[name].matches(FIELD);
    asked.set(name, isTime ? new Date(value).toISOString() : value);
  }
  location.assign(`${form.getAttribute("action")}${asked.size ? `?${asked}` : ""}`);
});

// A button that does something does it once.
document.addEventListener("submit", (event) => {
  if (event.target.method !== "post") return;
  for (const button of event.target.querySelectorAll("button")) button.disabled = true;
});

function colour(name) {
  const probe = document.createElement("span");
  probe.style.color = `var(--${name})`;
  document.body.append(probe);
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
}

const short = new Intl.NumberFormat(undefined, { notation: "compact", maximumSignificantDigits: 3 });

// A chart is drawn from the table beside it, which says the same to whoever cannot see it.
function draw(figure) {
  const table = figure.querySelector("table");
  const place = figure.querySelector(".plot");
  const names = [...table.tHead.rows[0].cells].slice(1);
  const rows = [...table.tBodies[0].rows];
  if (!rows.length) return;
  const times = rows.map((row) => new Date(row.cells[0].querySelector("time").dateTime).getTime() / 1000);
  const values = names.map((_, n) => rows.map((row) => (row.cells[n + 1].dataset.value === "" ? null : Number(row.cells[n + 1].dataset.value))));
  const isStacked = figure.dataset.chart === "stacked";
  const isLog = figure.dataset.chart === "log";
  const shown = isStacked ? values.map((_, n) => times.map((_, i) => values.slice(0, n + 1).reduce((sum, each) => sum + (each[i] || 0), 0))) : values;
  const unit = figure.dataset.unit || "";
  const say = (value) => (value == null ? "–" : unit === "$" ? `$${short.format(value)}` : `${short.format(value)}${unit}`);
  const bars = uPlot.paths.bars({ size: [0.8, 40], align: 1 });
  const series = names.map((cell, n) => {
    const stroke = colour(cell.dataset.colour || "accent");
    return {
      label: cell.textContent,
      stroke,
      width: isStacked ? 0 : 2,
      fill: isStacked ? stroke : undefined,
      paths: isStacked ? bars : undefined,
      points: { show: !isStacked && rows.length < 40 },
      value: (_, __, ___, at) => (at == null ? "–" : say(values[n][at])),
    };
  });
  const isDaily = rows[0].cells[0].querySelector("[data-day]") !== null;
  const sayTime = (at) => {
    const day = new Date(at * 1000);
    if (isDaily) return ofDay.format(day);
    return day.getHours() + day.getMinutes() === 0 ? ofDayHere.format(day) : ofHour.format(day);
  };
  const axis = { stroke: colour("muted"), grid: { stroke: colour("line"), width: 1 }, ticks: { stroke: colour("line"), width: 1 } };
  const order = names.map((_, n) => (isStacked ? names.length - 1 - n : n));
  place.replaceChildren();
  figure.plot = new uPlot(
    {
      width: place.clientWidth,
      height: 240,
      cursor: { y: false },
      scales: { y: isLog ? { distr: 3 } : { range: (_, __, most) => [0, most > 0 ? most * 1.08 : 1] } },
      axes: [{ ...axis, values: (_, ticks) => ticks.map(sayTime) }, { ...axis, size: 62, values: (_, ticks) => ticks.map((tick) => (tick == null ? "" : say(tick))) }],
      series: [{ label: isDaily ? "Day" : "Hour", value: (_, at) => (at == null ? "–" : (isDaily ? ofDay : exact).format(new Date(at * 1000))) }, ...order.map((n) => series[n])],
    },
    [times, ...order.map((n) => shown[n])],
    place,
  );
}

function drawAll(root) {
  for (const figure of root.querySelectorAll("figure[data-chart]")) draw(figure);
}

let width = innerWidth;
addEventListener("resize", () => {
  if (innerWidth === width) return;
  width = innerWidth;
  drawAll(document);
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawAll(document));

// Nobody looks: nothing is fetched. Nothing has changed: nothing is swapped, and a selection stays.
let last = "";
document.addEventListener("htmx:beforeRequest", (event) => {
  if (document.hidden) event.preventDefault();
});
document.addEventListener("htmx:beforeSwap", (event) => {
  const isSame = event.detail.serverResponse === last;
  last = event.detail.serverResponse;
  if (isSame || document.querySelector("#live figure details[open], #live pre:focus")) event.detail.shouldSwap = false;
});
document.addEventListener("htmx:afterSwap", () => {
  localise(document);
  drawAll(document);
});

// "Today" on the overview begins at the reader's midnight.
document.cookie = `zone=${Intl.DateTimeFormat().resolvedOptions().timeZone}; path=/; max-age=31536000; SameSite=Lax`;

localise(document);
fillTimes(document);
drawAll(document);
