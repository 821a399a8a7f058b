"use strict";
// The page follows the pools: each message brings a part of the page, and what differs is changed in
// place, so that a selection, the focus and what is unfolded stay.
(() => {
  const state = document.getElementById("state");
  const show = (text) => {
    state.textContent = text;
    document.body.classList.toggle("live", text === "live");
  };

  // patch makes an element the same as another.
  const patch = (old, now) => {
    for (const {name} of [...old.attributes]) {
      if (name !== "open" && !now.hasAttribute(name)) old.removeAttribute(name);
    }
    for (const {name, value} of now.attributes) {
      if (old.getAttribute(name) !== value) old.setAttribute(name, value);
    }
    patchChildren(old, now);
  };

  // patchChildren makes the children of a node the same as those of another. Elements with an id are
  // the same if that is; others are compared by their place.
  const patchChildren = (old, now) => {
    const known = new Map();
    for (const child of old.children) if (child.id) known.set(child.id, child);
    let at = old.firstChild;
    for (const child of [...now.childNodes]) {
      let same = null;
      if (child.id) same = known.get(child.id) || null;
      else if (at && !at.id && at.nodeName === child.nodeName) same = at;
      if (!same) {
        if (child.id && document.body.classList.contains("live")) child.classList.add("new");
        old.insertBefore(child, at);
        continue;
      }
      if (same === at) at = at.nextSibling;
      else old.insertBefore(same, at);
      if (same.nodeType === Node.ELEMENT_NODE) patch(same, child);
      else if (same.nodeValue !== child.nodeValue) same.nodeValue = child.nodeValue;
    }
    while (at) {
      const next = at.nextSibling;
      at.remove();
      at = next;
    }
  };

  let source = null;
  let retry = 0;
  const open = () => {
    clearTimeout(retry);
    if (source || document.hidden) return;
    source = new EventSource("?live&" + location.search.slice(1));
    for (const part of ["clock", "overview", "figures", "connections", "events"]) {
      source.addEventListener(part, ({data}) => {
        const element = document.getElementById(part);
        const fresh = document.createElement("template");
        fresh.innerHTML = data;
        if (element) patchChildren(element, fresh.content);
        show("live");
      });
    }
    source.onerror = () => {
      show("out of touch since");
      if (source && source.readyState === EventSource.CLOSED) { // refused: it does not try again by itself
        close();
        retry = setTimeout(open, 10000);
      }
    };
  };
  const close = () => {
    clearTimeout(retry);
    if (source) source.close();
    source = null;
  };

  // A page that nobody sees does not keep the sampler at work.
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) close();
    else open();
  });
  addEventListener("pagehide", close);
  addEventListener("pageshow", open);

  document.addEventListener("submit", async (e) => {
    const form = e.target;
    e.preventDefault();
    if (form.dataset.ask && !confirm(form.dataset.ask)) return;
    const button = form.querySelector("button");
    button.disabled = true;
    try {
      const answer = await fetch(form.getAttribute("action"), {method: "POST", body: new URLSearchParams(new FormData(form)), redirect: "manual"});
      if (answer.type !== "opaqueredirect") alert(await answer.text());
    } catch (err) {
      alert(err);
    }
    button.disabled = false;
  });
})();
