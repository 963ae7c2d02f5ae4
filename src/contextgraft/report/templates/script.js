// A mark of a chart tells its figures where the pointer, or a finger, is.
(() => {
  const tip = document.getElementById("tip");
  const told = (target) => target.closest?.("figure svg .role-mark [aria-label]");
  const show = (event) => {
    const mark = told(event.target);
    tip.hidden = !mark;
    if (!mark) return;
    tip.textContent = mark.getAttribute("aria-label");
    const width = tip.offsetWidth, room = document.documentElement.clientWidth;
    tip.style.left = `${Math.max(8, Math.min(event.clientX + 14, room - width - 8))}px`;
    tip.style.top = `${Math.max(8, event.clientY - tip.offsetHeight - 14)}px`;
  };
  document.addEventListener("pointermove", show);
  document.addEventListener("pointerdown", show);
  document.addEventListener("scroll", () => { tip.hidden = true; }, { passive: true });
})();
