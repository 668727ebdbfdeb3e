"use strict";
// Without this script both pictures of a pair stand side by side; with it one lies over the other.
for (const pair of document.querySelectorAll("[data-pair]")) {
  const layers = pair.querySelector(".layers");
  const range = pair.querySelector("input");
  const flip = pair.querySelector("button");
  const show = (percent) => {
    range.value = percent;
    layers.style.setProperty("--split", `${range.value}%`);
  };
  const follow = (event) => {
    const box = layers.getBoundingClientRect();
    show(((event.clientX - box.left) / box.width) * 100);
  };
  range.addEventListener("input", () => show(range.value));
  flip.addEventListener("click", () => show(Number(range.value) >= 50 ? 0 : 100));
  layers.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    layers.setPointerCapture(event.pointerId);
    follow(event);
  });
  layers.addEventListener("pointermove", (event) => {
    if (layers.hasPointerCapture(event.pointerId)) follow(event);
  });
  pair.classList.add("stacked");
  pair.querySelector(".controls").hidden = false;
  show(50);
}
