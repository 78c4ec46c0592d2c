// A region that scrolls must be reachable by keyboard: wide formulas, tables and outputs get into the tab order
// only while they are wider than the page.
const WIDE = "mjx-container[display='true'], .cell_output .text_html, .pst-scrollable-table-container, pre";

function markScrolling() {
  for (const region of document.querySelectorAll(WIDE)) {
    const scrolls = region.scrollWidth > region.clientWidth;
    if (scrolls) region.tabIndex = 0;
    else if (region.getAttribute("tabindex") === "0") region.removeAttribute("tabindex");
  }
}

window.addEventListener("load", async () => {
  await window.MathJax?.startup?.promise; // formulas get their width when MathJax has set them
  await document.fonts.ready; // and once more when its fonts have come
  const watcher = new ResizeObserver(markScrolling); // it reports each box at once, then every change
  document.querySelectorAll(`${WIDE}, mjx-container[display='true'] > mjx-math`).forEach((box) => watcher.observe(box));
});
