// Opens what is folded around the target of a link.
(() => {
  const unfold = () => {
    const target = document.getElementById(location.hash.slice(1));
    const folded = target?.closest("details:not([open])");
    if (!folded) return;
    folded.open = true;
    target.scrollIntoView();
  };
  addEventListener("hashchange", unfold);
  unfold();
})();

// Filters the rows of the overview, and copies a command.
(() => {
  const field = document.getElementById("filter"), shown = document.getElementById("filtered");
  field?.addEventListener("input", () => {
    const text = field.value.trim().toLowerCase();
    let count = 0;
    for (const row of document.querySelectorAll(".overview tbody tr")) {
      row.hidden = !row.textContent.toLowerCase().includes(text);
      count += !row.hidden;
    }
    shown.textContent = text ? `${count.toLocaleString("en")} shown` : "";
  });
  document.addEventListener("click", async (event) => {
    if (!event.target.matches(".copy")) return;
    const command = event.target.parentElement.querySelector("code");
    try {
      await navigator.clipboard.writeText(command.textContent);
      event.target.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(command);
    }
  });
})();

// Shows the numbers of a chart's mark or a matrix square at the pointer, a finger or the focus.
(() => {
  const tip = document.getElementById("tip");
  const markOf = (target) => target.closest?.("figure svg .role-mark [aria-label], .spot a") ?? target.querySelector?.(":scope > [aria-label]");
  const show = (mark, x, y) => {
    tip.hidden = !mark;
    if (!mark) return;
    tip.textContent = mark.getAttribute("aria-label") ?? mark.querySelector(".tip").textContent;
    const width = document.documentElement.clientWidth;
    tip.style.left = `${Math.max(8, Math.min(x + 14, width - tip.offsetWidth - 8))}px`;
    tip.style.top = `${Math.max(8, y - tip.offsetHeight - 14)}px`;
  };
  const point = (event) => show(markOf(event.target), event.clientX, event.clientY);
  document.addEventListener("pointermove", point);
  document.addEventListener("pointerdown", point);
  document.addEventListener("focusin", (event) => {
    const mark = event.target.matches(":focus-visible") && event.target.matches("a") ? markOf(event.target) : null;
    const box = mark?.getBoundingClientRect();
    show(mark, box?.left, box?.top);
  });
  document.addEventListener("scroll", () => { tip.hidden = true; }, { passive: true });
})();
