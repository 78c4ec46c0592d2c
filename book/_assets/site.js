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

// The ledger of claims: every row is there without this script; here come the filters.
const LEDGER_CONTROLS = `
  <div class="ledger-controls" role="search" aria-label="Filter the claims">
    <label>Contains <input type="search" name="text"></label>
    <label>Kind <select name="kind"><option value="">all</option></select></label>
    <label>Verdict <select name="status"><option value="">all</option></select></label>
    <span role="status"></span>
  </div>`;

function addLedgerFilters(ledger) {
  const list = ledger.querySelector("ul");
  const rows = [...list.children];
  list.insertAdjacentHTML("beforebegin", LEDGER_CONTROLS);
  const controls = ledger.querySelector(".ledger-controls");
  for (const select of controls.querySelectorAll("select")) {
    const values = new Set(rows.map((row) => row.dataset[select.name]));
    select.append(...[...values].map((value) => new Option(value, value)));
  }
  const apply = () => {
    const [text, kind, status] = [...controls.querySelectorAll("input, select")].map((control) => control.value);
    for (const row of rows) {
      const fits = (!kind || row.dataset.kind === kind) && (!status || row.dataset.status === status);
      row.hidden = !fits || !row.textContent.toLowerCase().includes(text.trim().toLowerCase());
    }
    const shown = rows.filter((row) => !row.hidden).length;
    controls.querySelector("[role=status]").textContent = `${shown} of ${rows.length} shown`;
  };
  controls.addEventListener("input", apply);
  apply();
}

function openLinkedClaim() {
  const row = document.getElementById(location.hash.slice(1));
  row?.closest(".claims-ledger")?.querySelector(`#${row.id} > details`)?.setAttribute("open", "");
}

document.querySelectorAll(".claims-ledger").forEach(addLedgerFilters);
openLinkedClaim();
window.addEventListener("hashchange", openLinkedClaim);
