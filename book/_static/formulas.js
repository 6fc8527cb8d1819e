// Displayed formulas that are wider than the column are set smaller, down to two thirds; what is wider still scrolls.
window.addEventListener("load", () => {
  const LEAST = 0.65;
  const fit = () => {
    for (const formula of document.querySelectorAll('mjx-container[display="true"]')) {
      const size = (formula.dataset.size ??= formula.style.fontSize || "100%");
      formula.style.fontSize = size;
      const box = formula.parentElement, column = box.clientWidth;
      const left = box.getBoundingClientRect().left;
      const wide = Math.max(...[...formula.querySelectorAll("mjx-math")].map((one) =>
        Math.max(one.getBoundingClientRect().right - left, one.getBoundingClientRect().width)));
      if (column && wide > column) formula.style.fontSize = `${parseFloat(size) * Math.max(LEAST, 0.97 * column / wide)}%`;
    }
  };
  window.MathJax?.startup?.promise?.then(() => document.fonts.ready).then(fit);
  window.addEventListener("resize", () => requestAnimationFrame(fit));
});
