// What is wrong with a page for who does not see it, or not well: WCAG 2.2 level AA, as far as a program can tell.
() => {
  const found = [];
  const visible = (element) => element.checkVisibility({ checkOpacity: true, checkVisibilityCSS: true });
  const say = (what, element) => found.push(`${what}: ${element.outerHTML.slice(0, 120)}`);

  // Structure
  if (!document.documentElement.lang) found.push("the page has no language");
  if (!document.title.trim()) found.push("the page has no title");
  if (document.querySelectorAll("main").length !== 1) found.push("there is not one main part");
  const levels = [...document.querySelectorAll("h1, h2, h3, h4")].filter(visible).map((h) => Number(h.tagName[1]));
  if (levels.filter((level) => level === 1).length !== 1) found.push(`there is not one h1 but ${levels}`);
  levels.forEach((level, i) => { if (level > (levels[i - 1] ?? 0) + 1) found.push(`a heading is skipped: ${levels}`); });
  const ids = [...document.querySelectorAll("[id]")].map((element) => element.id);
  ids.filter((id, i) => ids.indexOf(id) !== i).forEach((id) => found.push(`two elements have the id ${id}`));
  for (const element of document.querySelectorAll("[aria-labelledby], [aria-describedby]")) {
    for (const id of `${element.getAttribute("aria-labelledby") ?? ""} ${element.getAttribute("aria-describedby") ?? ""}`.split(/\s+/)) {
      if (id && !document.getElementById(id)) say("it is named by what is not there", element);
    }
  }
  const first = document.querySelector("a[href], button, input:not([type=hidden])");
  if (!first?.classList.contains("skip")) found.push("the first thing to reach is no link that skips the navigation");

  // Names
  for (const control of document.querySelectorAll("input:not([type=hidden]), select, textarea, meter, progress")) {
    if (!control.labels?.length && !control.getAttribute("aria-label") && !control.closest("[aria-hidden=true]")) {
      if (control.tagName !== "METER") say("a control has no label", control);
    }
  }
  for (const control of document.querySelectorAll("a[href], button, summary")) {
    if (!(control.textContent.trim() || control.getAttribute("aria-label"))) say("a control has no name", control);
  }
  for (const picture of document.querySelectorAll("img, svg")) {
    const named = picture.getAttribute("alt") ?? picture.getAttribute("aria-label");
    if (named === null && picture.getAttribute("aria-hidden") !== "true") say("a picture has no text", picture);
  }

  // Tables
  for (const table of document.querySelectorAll("table")) {
    if (!table.caption?.textContent.trim()) say("a table has no caption", table);
    for (const head of table.querySelectorAll("th")) if (!head.scope) say("a table's head has no scope", head);
    const columns = table.tHead.rows[0].cells.length;
    const spans = [];
    for (const row of table.tBodies[0]?.rows ?? []) {
      const carried = spans.filter((left) => left > 0).length;
      spans.forEach((left, i) => { spans[i] = left - 1; });
      const cells = [...row.cells].reduce((sum, cell) => sum + cell.colSpan, 0);
      [...row.cells].forEach((cell) => { if (cell.rowSpan > 1) spans.push(cell.rowSpan - 1); });
      if (cells + carried !== columns) say(`a row has ${cells + carried} cells of ${columns}`, row);
    }
  }

  // Contrast (WCAG 1.4.3): every visible text against what is behind it.
  const parse = (color) => {
    const numbers = color.match(/[\d.]+/g).map(Number);
    return { rgb: numbers.slice(0, 3), alpha: numbers[3] ?? 1 };
  };
  const luminance = (rgb) => {
    const [r, g, b] = rgb.map((v) => v / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const { rgb, alpha } = parse(getComputedStyle(at).backgroundColor);
      if (alpha === 1) return rgb;
      if (alpha > 0) found.push("a background is half transparent, its contrast is not known");
    }
    return [255, 255, 255];
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const seen = new Set();
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || seen.has(element) || !visible(element)) continue;
    if (element.closest(".unseen, .skip, script, style, noscript, meter, progress, option")) continue;
    seen.add(element);
    const style = getComputedStyle(element);
    const front = parse(element instanceof SVGElement ? style.fill : style.color).rgb;
    const [light, dark] = [luminance(front), luminance(behind(element))].sort((a, b) => b - a);
    const contrast = (light + 0.05) / (dark + 0.05);
    if (contrast < 4.5) say(`contrast ${contrast.toFixed(2)}`, element);
  }
  return { found, texts: seen.size };
}
