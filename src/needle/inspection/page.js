"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const element = (name, text, kind) => {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (kind) made.className = kind;
  return made;
};

// -- light and dark ------------------------------------------------------------------------------

const root = document.documentElement;
const dark = matchMedia("(prefers-color-scheme: dark)");
root.dataset.theme = dark.matches ? "dark" : "light";
document.getElementById("theme").onclick = () => {
  root.dataset.theme = root.dataset.theme === "dark" ? "light" : "dark";
};

// -- the table -----------------------------------------------------------------------------------

const body = document.querySelector("#kernels tbody");
all("#kernels th").forEach((head, column) => {
  head.onclick = () => {
    const down = head.getAttribute("aria-sort") !== "descending";
    all("#kernels th").forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const key = (row) => {
      const cell = row.cells[column];
      return cell.dataset.value === undefined ? cell.textContent : Number(cell.dataset.value);
    };
    const rows = [...body.rows].sort((a, b) => {
      const [x, y] = [key(a), key(b)];
      return (x < y ? -1 : x > y ? 1 : 0) * (down ? -1 : 1);
    });
    body.append(...rows);
  };
});
document.getElementById("filter").oninput = (event) => {
  const wanted = event.target.value.toLowerCase();
  for (const row of body.rows) row.hidden = !row.textContent.toLowerCase().includes(wanted);
};

// -- one kernel ----------------------------------------------------------------------------------

async function unpacked(text) {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(stream).text();
}

function folded(title, fill) {
  const details = element("details");
  details.append(element("summary", title));
  details.ontoggle = async () => {
    if (details.open && details.children.length === 1) details.append(await fill());
  };
  return details;
}

function code(title, packed) {
  return folded(title, async () => element("pre", await unpacked(packed)));
}

function show(number, move) {
  const kernel = data.kernels[number];
  all(".chosen").forEach((item) => item.classList.remove("chosen"));
  all(`[data-kernel="${number}"]`).forEach((item) => item.classList.add("chosen"));
  all("path.lit").forEach((path) => path.classList.remove("lit"));
  all(`path[data-from="${number}"], path[data-to="${number}"]`).forEach((path) =>
    path.classList.add("lit"));
  const panel = document.getElementById("detail");
  panel.replaceChildren(element("h3", `Kernel ${number}: ${kernel.title}`));
  const list = element("dl");
  for (const [name, value] of kernel.facts) list.append(element("dt", name), element("dd", value));
  panel.append(list);
  if (kernel.lines.length) panel.append(element("h4", "Source"));
  if (kernel.lines.length) panel.append(element("pre", kernel.lines.join("\n")));
  panel.append(element("h4", "Fused primitives"), element("pre", kernel.primitives.join("\n")));
  if (kernel.graph !== null) {
    const inner = element("div", undefined, "inner");
    inner.innerHTML = data.graphs[kernel.graph];
    panel.append(folded("their graph", async () => inner));
  }
  for (const [name, address] of kernel.codes) {
    const texts = data.codes[address];
    if (!texts) continue;
    panel.append(element("h4", `Machine code of ${name}`), element("pre", texts.key));
    panel.append(code("LLVM", texts.ir), code("Assembly", texts.assembly));
  }
  history.replaceState(null, "", `#kernel-${number}`);
  if (move) document.getElementById("kernel").scrollIntoView();
}
document.addEventListener("click", (event) => {
  const target = event.target.closest("[data-kernel]");
  if (target) show(Number(target.dataset.kernel), !target.closest("svg"));
});

// -- pictures to move in -------------------------------------------------------------------------

for (const view of all(".view")) {
  const svg = view.querySelector("svg");
  const whole = svg.getAttribute("viewBox").split(" ").map(Number);
  const across = view.dataset.axes === "x";
  let box = [...whole];
  const draw = () => {
    svg.setAttribute("viewBox", box.join(" "));
    if (!across) return;
    const scale = box[2] / svg.getBoundingClientRect().width; // what is stretched is not the words
    for (const text of all("text", svg)) {
      const x = text.getAttribute("x");
      text.setAttribute("transform", `translate(${x} 0) scale(${scale} 1) translate(${-x} 0)`);
    }
  };
  const fit = () => { box = [...whole]; draw(); };
  const zoom = (factor, x = 0.5, y = 0.5) => {
    if (box[2] * factor > 1.5 * whole[2]) return;
    box[0] += box[2] * (1 - factor) * x;
    box[2] *= factor;
    if (!across) {
      box[1] += box[3] * (1 - factor) * y;
      box[3] *= factor;
    }
    draw();
  };
  if (view.dataset.start) box = view.dataset.start.split(" ").map(Number);
  draw();
  addEventListener("resize", draw);
  svg.addEventListener("wheel", (event) => {
    if (!event.ctrlKey && !event.shiftKey && !view.matches(":focus-within")) return;
    event.preventDefault();
    const frame = svg.getBoundingClientRect();
    zoom(Math.exp(event.deltaY / 400), (event.clientX - frame.left) / frame.width,
      (event.clientY - frame.top) / frame.height);
  }, { passive: false });
  let last = null;
  svg.addEventListener("pointerdown", (event) => { last = [event.clientX, event.clientY]; view.focus(); });
  addEventListener("pointerup", () => { last = null; });
  svg.addEventListener("pointermove", (event) => {
    if (!last) return;
    const frame = svg.getBoundingClientRect();
    const scale = across ? box[2] / frame.width
      : Math.max(box[2] / frame.width, box[3] / frame.height);
    box[0] -= (event.clientX - last[0]) * scale;
    if (!across) box[1] -= (event.clientY - last[1]) * scale;
    last = [event.clientX, event.clientY];
    draw();
  });
  const tools = element("div", undefined, "tools");
  for (const [sign, act] of [["+", () => zoom(0.7)], ["−", () => zoom(1 / 0.7)], ["whole", fit]]) {
    const button = element("button", sign);
    button.onclick = act;
    tools.append(button);
  }
  tools.prepend(element("span", "drag to move, Ctrl and wheel to zoom"));
  view.before(tools);
}

const asked = /^#kernel-(\d+)$/.exec(location.hash);
show(asked ? Number(asked[1]) : data.first, Boolean(asked));
