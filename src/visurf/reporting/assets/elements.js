"use strict";
// Small pieces that all views share. Whatever a model or a data set wrote becomes text, never markup.
const SVG = "http://www.w3.org/2000/svg";

function make(tag, options = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(options)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "class") element.className = value;
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

function draw(tag, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

function shown(value, digits = 3) {
  if (value === null || value === undefined) return "–";
  if (typeof value !== "number") return String(value);
  if (Number.isInteger(value) && Math.abs(value) < 1e6) return String(value);
  const size = Math.abs(value);
  return size !== 0 && (size < 0.001 || size >= 1e5) ? value.toExponential(2) : value.toFixed(size >= 100 ? 1 : digits);
}

function signed(value) {
  return value > 0 ? "+" + shown(value, 2) : shown(value, 2).replace("-", "−");
}

function duration(seconds) {
  if (!seconds) return "–";
  if (seconds < 90) return `${seconds.toFixed(0)} s`;
  return seconds < 5400 ? `${(seconds / 60).toFixed(1)} min` : `${(seconds / 3600).toFixed(1)} h`;
}

const PALETTE = ["#3b73e8", "#d9622b", "#14936b", "#a24ac4", "#b58900", "#d13b76", "#4b8ea8", "#7a6a58"];
const colour = (index) => PALETTE[index % PALETTE.length];

function swatch(index) {
  const square = make("span", { class: "swatch", "aria-hidden": "true" });
  square.style.background = colour(index);
  return square;
}

// Characters that a terminal or a text direction would obey: controls other than tab and line feed, marks of direction, zero widths.
const OBEYED = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g;

function visible(text) {
  const pieces = [];
  let from = 0;
  for (const match of text.matchAll(OBEYED)) {
    if (match.index > from) pieces.push(text.slice(from, match.index));
    const code = match[0].charCodeAt(0);
    const name = code < 0x20 ? String.fromCharCode(0x2400 + code) : "U+" + code.toString(16).toUpperCase().padStart(4, "0");
    pieces.push(make("span", { class: "control", title: "U+" + code.toString(16).padStart(4, "0") }, name));
    from = match.index + 1;
  }
  if (from < text.length) pieces.push(text.slice(from));
  return pieces;
}

// A completion with its tags told apart: what is thought, what is answered.
function highlighted(text) {
  const pieces = [];
  let inside = "";
  for (const part of text.split(/(<\/?[a-z_]{1,24}>)/)) {
    if (part === "") continue;
    const tag = /^<(\/?)([a-z_]{1,24})>$/.exec(part);
    if (tag) {
      inside = tag[1] ? "" : tag[2];
      pieces.push(make("span", { class: "tag" }, part));
    } else {
      const kind = inside === "think" || inside === "answer" ? inside : "";
      pieces.push(make("span", kind ? { class: kind } : {}, ...visible(part)));
    }
  }
  return pieces;
}

function textBlock(member, label) {
  const pre = make("pre", { tabindex: "0", "aria-label": label, role: "region" }, ...highlighted(member.text));
  const parts = [pre];
  if (member.cut) pre.append(make("span", { class: "tag" }, ` … cut here: the run folder has all ${member.cut} characters`));
  if (member.text.length > 700) {
    const more = make("button", { class: "more", type: "button", "aria-expanded": "false" }, `Show all ${member.text.length} characters`);
    more.addEventListener("click", () => {
      const open = pre.classList.toggle("open");
      more.setAttribute("aria-expanded", String(open));
      more.textContent = open ? "Show less" : `Show all ${member.text.length} characters`;
    });
    parts.push(more);
  }
  return parts;
}
