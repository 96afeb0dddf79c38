// Parts of a page that change by themselves: the server renders them anew, this puts them in place.
"use strict";

const EVERY_MS = 2000;

function replace(part, html) {
  const fresh = new DOMParser().parseFromString(html, "text/html");
  for (const details of part.querySelectorAll("details[open][id]")) {
    fresh.getElementById(details.id)?.setAttribute("open", "");
  }
  const focused = document.activeElement;
  const within = part.contains(focused) ? focused.closest("details[id]")?.id : null;
  part.replaceChildren(...fresh.body.childNodes);
  if (within) {
    document.getElementById(within)?.querySelector("summary").focus();
  }
}

function version(part) {
  return part.querySelector("[data-version]")?.dataset.version;
}

async function refresh(part) {
  if (!document.hidden) {
    try {
      const answer = await fetch(part.dataset.live, { credentials: "same-origin", redirect: "error" });
      if (answer.status === 401) {
        location.reload();  // the page of the login
        return;
      }
      if (answer.ok) {
        const before = version(part);
        replace(part, await answer.text());
        if (version(part) !== before) {
          location.reload();  // the page has other buttons now, or a report
          return;
        }
      }
    } catch {
      // The server is away for a moment; the next try shows.
    }
  }
  setTimeout(refresh, EVERY_MS, part);
}

for (const part of document.querySelectorAll("[data-live]")) {
  setTimeout(refresh, EVERY_MS, part);
}
