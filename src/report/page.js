"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
  const digit = new Map([...digits].map((c, i) => [c, i]));
  const steps = data.scale.length / 6;
  const colour = i => "#" + data.scale.slice(6 * i, 6 * i + 6);
  const minus = s => s.replace("-", "\u2212");

  const show = x => {
    if (x === undefined) return "undefined";
    const a = Math.abs(x);
    if (a === 0) return "0";
    if (a < 9.95e-4) return minus(x.toExponential(1));
    return minus(x.toFixed(a < 1 ? 3 : Number.isInteger(x) ? 0 : a < 10 ? 2 : a < 100 ? 1 : 0));
  };

  // Two digits a cell; of a half only what is right of the diagonal is there, and the diagonal unless it is trivial.
  const unpack = t => {
    if (t.values) return t.values;
    const cells = Array.from({ length: t.rows }, () => Array(t.cols));
    let at = 0;
    for (let i = 0; i < t.rows; i++) {
      for (let j = t.half ? i + (t.trivial ? 1 : 0) : 0; j < t.cols; j++) {
        const level = 64 * digit.get(t.data[at++]) + digit.get(t.data[at++]);
        const x = level === 4095 ? undefined : t.lo + (t.hi - t.lo) * level / 4094;
        cells[i][j] = x;
        if (t.half) cells[j][i] = x;
      }
    }
    return t.values = cells;
  };

  const tableOf = svg => {
    const [id, panel] = svg.dataset.heat.split(".");
    return data.figures[id].panels[panel][svg.dataset.key];
  };

  const draw = (svg, t) => {
    const cells = svg.querySelector("g.cells");
    const [left, top, width, height] = cells.dataset.box.split(" ").map(Number);
    const note = svg.querySelector("text.note");
    if (!t) {
      cells.innerHTML = "";
      note.textContent = "not measured, or in analysis.json only";
      svg.setAttribute("aria-label", note.textContent);
      return;
    }
    const paths = new Map();
    unpack(t).forEach((row, i) => {
      for (let j = 0; j < t.cols; j++) {
        const x = row[j];
        const share = t.hi > t.lo ? (x - t.lo) / (t.hi - t.lo) : 0;
        const how = t.trivial && i === j ? 'class="same"' : x === undefined ? 'class="undefined"'
          : `fill="${colour(Math.min(steps - 1, Math.max(0, Math.floor(share * steps))))}"`;
        paths.set(how, (paths.get(how) ?? "") + `M${j} ${i}h1v1h-1z`);
      }
    });
    cells.setAttribute("transform", `translate(${left} ${top}) scale(${width / t.cols} ${height / t.rows})`);
    cells.innerHTML = [...paths].map(([how, d]) => `<path ${how} d="${d}"/>`).join("");
    note.textContent = t.note;
    svg.setAttribute("aria-label", `Heat map. ${svg.querySelector("text.heading").textContent}. ${t.note}.`);
    svg.querySelector("text.lo").textContent = t.ends[0];
    svg.querySelector("text.hi").textContent = t.ends[1];
    for (const name of ["chance", "control"]) {
      const g = svg.querySelector("g." + name), m = t[name];
      g.setAttribute("display", m.text ? "inline" : "none");
      g.setAttribute("transform", `translate(${m.x} 0)`);
      const text = g.querySelector("text");
      text.textContent = m.text;
      text.setAttribute("text-anchor", m.x < 110 ? "start" : m.x > 230 ? "end" : "middle");
    }
  };

  for (const choices of document.querySelectorAll(".choices")) {
    const id = choices.dataset.for, f = data.figures[id];
    choices.hidden = choices.children.length === 0;
    choices.addEventListener("change", () => {
      for (const select of choices.querySelectorAll("select")) {
        f.chosen[f.selects.findIndex(s => s[0] === select.dataset.name)] = select.value;
      }
      for (const svg of document.querySelectorAll(`svg[data-heat^="${id}."]`)) {
        svg.dataset.key = f.chosen.join("|");
        draw(svg, tableOf(svg));
      }
    });
  }

  // One tooltip for all charts, for the mouse and for fingers.
  const tip = document.getElementById("tip");
  let mark;
  const hide = () => { tip.hidden = true; mark?.remove(); };
  const at = (svg, event) => {
    const p = svg.createSVGPoint();
    p.x = event.clientX;
    p.y = event.clientY;
    return p.matrixTransform(svg.getScreenCTM().inverse());
  };
  const put = (svg, event, text, element) => {
    mark?.remove();
    mark = element;
    svg.append(mark);
    tip.textContent = text;
    tip.hidden = false;
    const box = tip.getBoundingClientRect();
    const x = Math.min(Math.max(8, event.clientX + 14), innerWidth - box.width - 8);
    const y = event.clientY - box.height - 14;
    tip.style.left = x + "px";
    tip.style.top = (y < 8 ? event.clientY + 22 : y) + "px";
  };
  const shape = (name, attributes) => {
    const e = document.createElementNS("http://www.w3.org/2000/svg", name);
    e.setAttribute("class", "at");
    for (const [key, value] of Object.entries(attributes)) e.setAttribute(key, value);
    return e;
  };

  const overHeat = (svg, event) => {
    const t = tableOf(svg), p = at(svg, event);
    const [left, top, width, height] = svg.querySelector("g.cells").dataset.box.split(" ").map(Number);
    const j = Math.floor((p.x - left) / width * (t?.cols ?? 0)), i = Math.floor((p.y - top) / height * (t?.rows ?? 0));
    if (!t || i < 0 || j < 0 || i >= t.rows || j >= t.cols) return hide();
    const [id, panel] = svg.dataset.heat.split(".");
    const one = (what, i) => t.block === 1 ? `${what} ${i}`
      : `${what}s ${i * t.block}\u2013${Math.min((i + 1) * t.block, t.count) - 1}`;
    const row = data.figures[id].names[panel][i] ?? one(svg.dataset.row, i);
    const same = t.trivial && i === j;
    const w = width / t.cols, h = height / t.rows;
    put(svg, event, `${row} \u00d7 ${one(svg.dataset.column, j)}: ${same ? "itself" : show(unpack(t)[i][j])}`,
      shape("rect", { x: left + j * w, y: top + i * h, width: w, height: h }));
  };

  const axis = text => {
    const [p0, p1, lo, hi, log] = text.split(" ").map(Number);
    return p => {
      const s = (p - p0) / (p1 - p0);
      return log ? lo * Math.pow(hi / lo, s) : lo + s * (hi - lo);
    };
  };
  const overLines = (svg, event) => {
    const p = at(svg, event);
    let best = 40, found;
    for (const g of svg.querySelectorAll("g[data-label]")) {
      const points = [...g.querySelectorAll("circle")].map(c => [c.cx.baseVal.value, c.cy.baseVal.value]);
      for (const line of g.querySelectorAll("polyline")) for (const q of line.points) points.push([q.x, q.y]);
      for (const [x, y] of points) {
        // Nearness across counts for more: one follows a line from left to right.
        const distance = Math.hypot(1.5 * (x - p.x), y - p.y);
        if (distance < best) { best = distance; found = [x, y, g.dataset.label]; }
      }
    }
    if (!found) return hide();
    const [x, y, label] = found;
    const across = axis(svg.dataset.x)(x), value = axis(svg.dataset.y)(y);
    const whole = Math.abs(across - Math.round(across)) < 0.02 * Math.max(1, Math.abs(across) / 50);
    put(svg, event, `${label}, ${svg.dataset.name} ${whole ? Math.round(across) : show(across)}: ${show(value)}`,
      shape("circle", { cx: x, cy: y, r: 4.5 }));
  };

  for (const svg of document.querySelectorAll("svg.panel")) {
    const over = event => svg.dataset.heat ? overHeat(svg, event) : overLines(svg, event);
    svg.addEventListener("pointermove", over);
    svg.addEventListener("pointerdown", over);
    svg.addEventListener("pointerleave", event => { if (event.pointerType === "mouse") hide(); });
  }
  addEventListener("scroll", hide, { passive: true });
  document.addEventListener("pointerdown", event => { if (!event.target.closest("svg.panel")) hide(); });
})();
