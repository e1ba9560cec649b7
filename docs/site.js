// What the theme leaves to those who read by ear or by keyboard: names, and places to scroll from.

function name() {
  for (const dialog of document.querySelectorAll(".md-search[role=dialog]:not([aria-label])")) {
    dialog.setAttribute("aria-label", "Search");
  }
  document.querySelectorAll(".md-code__nav:not([aria-label])").forEach((nav) => {
    nav.setAttribute("aria-label", nav.querySelector("[data-clipboard-target]")?.dataset.clipboardTarget ?? "code");
  });
  for (const wide of document.querySelectorAll(".md-typeset__scrollwrap:not([tabindex])")) {
    wide.tabIndex = 0;
  }
}

new MutationObserver(name).observe(document.documentElement, { childList: true, subtree: true });
name();
