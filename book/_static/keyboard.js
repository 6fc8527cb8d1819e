// Boxes that scroll can be reached by keyboard, formulas and tables among them. Wide or not is known once drawn.
window.addEventListener("load", async () => {
  const reach = () => {
    for (const box of document.querySelectorAll("body *")) {
      const style = getComputedStyle(box);
      const wide = ["auto", "scroll"].includes(style.overflowX) && box.scrollWidth > box.clientWidth + 1;
      const high = ["auto", "scroll"].includes(style.overflowY) && box.scrollHeight > box.clientHeight + 1;
      if ((wide || high) && box.tabIndex < 0) box.tabIndex = 0;
    }
  };
  if (window.MathJax?.startup?.promise) await window.MathJax.startup.promise;
  await document.fonts.ready;
  reach();
  new ResizeObserver(reach).observe(document.querySelector("main") ?? document.body);
  window.addEventListener("resize", reach);
  document.addEventListener("toggle", reach, true);
});
