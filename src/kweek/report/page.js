// Two conveniences; the page works without them. Nothing is stored, sent or loaded.
"use strict";

// The theme: the system's until the button is pressed, then the other one, until the page is closed.
const root = document.documentElement;
const button = document.getElementById("theme");
const system = matchMedia("(prefers-color-scheme: dark)");
const isDark = () => (root.dataset.theme ?? (system.matches ? "dark" : "light")) === "dark";
const name = () => {
  button.textContent = isDark() ? "Light" : "Dark";
  button.setAttribute("aria-label", isDark() ? "Switch to light colours" : "Switch to dark colours");
};
button.hidden = false;
button.addEventListener("click", () => {
  root.dataset.theme = isDark() ? "light" : "dark";
  name();
});
system.addEventListener("change", name);
name();

// A term opens its entry of the glossary where the reader is, instead of leading away.
const dialog = document.getElementById("definition");
const show = (entry) => {
  const [heading, body, close] = ["h2", "p", "button"].map((kind) => document.createElement(kind));
  heading.id = "definition-name";
  heading.textContent = entry.querySelector("dt").textContent;
  body.textContent = entry.querySelector("dd").textContent;
  close.textContent = "Close";
  close.type = "button";
  close.addEventListener("click", () => dialog.close());
  dialog.replaceChildren(heading, body, close);
  dialog.showModal();
};
document.addEventListener("click", (event) => {
  if (event.target === dialog) dialog.close(); // outside of the words
  const link = event.target.closest?.("a.term");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
  const entry = document.getElementById(link.hash.slice(1));
  if (!entry || !dialog.showModal) return;
  event.preventDefault();
  show(entry);
});
