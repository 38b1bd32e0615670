"use strict";

// Containers of the last five minutes with their CPU use, and links to their flamegraphs.
async function refresh() {
  const state = document.getElementById("state");
  try {
    const [status, list] = await Promise.all(
      ["/api/v1/status", "/api/v1/containers?from=-5m"].map(async (path) => {
        const answer = await fetch(path);
        const body = await answer.json();
        if (!answer.ok) throw new Error(body.error);
        return body;
      }));
    document.getElementById("node").textContent = status.node;
    state.textContent = `${list.window.duration_s.toFixed(0)} s up to ${status.history.to}`;
    const body = document.querySelector("#containers tbody");
    body.replaceChildren(...list.containers.map((container) => row(container, list.window.duration_s)));
  } catch (error) {
    state.textContent = error.message;
  }
}

function row(container, seconds) {
  const ledger = container.ledger;
  const cells = [
    container.name,
    ((ledger.cpu_user_s + ledger.cpu_kernel_s) / seconds).toFixed(3),
    ((ledger.runnable_self_s + ledger.runnable_other_s + ledger.throttled_s) / seconds).toFixed(3),
  ];
  const line = document.createElement("tr");
  for (const text of cells) line.insertCell().textContent = text;
  const links = line.insertCell();
  for (const kind of ["cpu", "offcpu", "wall"]) {
    const link = document.createElement("a");
    link.href = `/flamegraph.svg?from=-5m&kind=${kind}&container=${encodeURIComponent(container.name)}`;
    link.textContent = kind;
    links.append(link, " ");
  }
  return line;
}

refresh();
setInterval(refresh, 10000);
