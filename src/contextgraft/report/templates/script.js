// A mark of a chart, or a square of the matrix, tells its figures where the pointer, a finger or the focus is.
(() => {
  const tip = document.getElementById("tip");
  const told = (target) => target.closest?.("figure svg .role-mark [aria-label], [data-tip]") ?? target.querySelector?.(":scope > [aria-label]");
  const tell = (mark, x, y) => {
    tip.hidden = !mark;
    if (!mark) return;
    tip.textContent = mark.getAttribute("aria-label");
    const room = document.documentElement.clientWidth;
    tip.style.left = `${Math.max(8, Math.min(x + 14, room - tip.offsetWidth - 8))}px`;
    tip.style.top = `${Math.max(8, y - tip.offsetHeight - 14)}px`;
  };
  const point = (event) => tell(told(event.target), event.clientX, event.clientY);
  document.addEventListener("pointermove", point);
  document.addEventListener("pointerdown", point);
  document.addEventListener("focusin", (event) => {
    const mark = event.target.matches(":focus-visible") && event.target.matches("a") ? told(event.target) : null;
    const box = mark?.getBoundingClientRect();
    tell(mark, box?.left, box?.top);
  });
  document.addEventListener("scroll", () => { tip.hidden = true; }, { passive: true });
})();
