// Boxes that scroll can be reached by keyboard, formulas and tables among them, and those that go on to the right say so
// by a class. Wide or not is known once drawn. A figure of several panels scrolls on a telephone, where it could not be read.
window.addEventListener("load", () => {
  for (const image of document.querySelectorAll(".bd-article figure img")) {
    if (image.naturalWidth <= 640) continue;
    const box = document.createElement("div");
    box.className = "wide-figure";
    image.replaceWith(box);
    box.append(image);
  }
  let asked = 0;
  const mark = (box) => box.classList?.toggle("goes-on", box.scrollLeft + box.clientWidth < box.scrollWidth - 2);
  const reach = () => {
    for (const box of document.querySelectorAll("body *")) {
      const style = getComputedStyle(box);
      const wide = ["auto", "scroll"].includes(style.overflowX) && box.scrollWidth > box.clientWidth;
      const high = ["auto", "scroll"].includes(style.overflowY) && box.scrollHeight > box.clientHeight;
      if ((wide || high) && box.tabIndex < 0) box.tabIndex = 0;
      if ((wide || box.classList.contains("goes-on")) && box.closest("article") && !box.closest("span.math")) mark(box);
    }
  };
  const soon = () => {
    cancelAnimationFrame(asked);
    asked = requestAnimationFrame(reach);
  };
  reach();
  new MutationObserver(soon).observe(document.body, { childList: true, subtree: true });
  document.fonts.addEventListener("loadingdone", soon);
  window.addEventListener("resize", soon);
  document.addEventListener("scroll", (event) => event.target.closest?.("article") && !event.target.closest("span.math") && mark(event.target), true);
  document.addEventListener("toggle", soon, true);
});
