// Under the pointer: a line in the chart and each endpoint's sessions at that time.
const tip = document.getElementById("tip");
for (const figure of document.querySelectorAll("figure")) {
  const svg = figure.querySelector("svg"), cross = figure.querySelector(".cross");
  const data = JSON.parse(figure.querySelector("script").textContent);
  const number = (name) => Number(svg.dataset[name]);
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const x = (event.clientX - box.left) * number("width") / box.width;
    const t = (x - number("left")) / (number("right") - number("left")) * number("seconds");
    let at = data.t.findIndex((time) => time >= t);
    if (at < 0) at = data.t.length - 1;
    if (at < 0) return;
    const place = number("left") + data.t[at] / number("seconds") * (number("right") - number("left"));
    cross.setAttribute("x1", place);
    cross.setAttribute("x2", place);
    cross.style.opacity = 0.45;
    tip.replaceChildren();
    const head = document.createElement("b");
    head.textContent = data.t[at].toFixed(1) + " s";
    tip.append(head);
    for (const line of data.lines) {
      if (line.open[at] === 0 && line.open.every((open, i) => i < at || open === 0)) continue;
      const row = document.createElement("div"), mark = document.createElement("i");
      mark.className = "s" + line.slot;
      row.append(mark, line.name + "  " + line.open[at]);
      tip.append(row);
    }
    tip.hidden = false;
    const left = event.clientX + 16;
    tip.style.left = (left + tip.offsetWidth > innerWidth ? event.clientX - tip.offsetWidth - 16 : left) + "px";
    tip.style.top = Math.min(event.clientY + 12, innerHeight - tip.offsetHeight - 8) + "px";
  });
  svg.addEventListener("pointerleave", () => { tip.hidden = true; cross.style.opacity = 0; });
}
