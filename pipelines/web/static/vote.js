// Votes on the pair that is shown: its token, the choice, and the milliseconds since both clips could be seen.
(() => {
  const KEYS = { 1: "left", 2: "right", 0: "tie", s: "skip" };
  const POLL = 20; // milliseconds
  const WAIT = 3000; // milliseconds after which a vote without a reply may be given again
  let token = "", started = null, sent = -Infinity;

  const pair = () => document.querySelector("#vg-vote [data-token]");

  function scan() {
    const shown = pair()?.dataset.token ?? "";
    if (shown === token) return;
    [token, started, sent] = [shown, null, -Infinity];
    if (shown) setTimeout(start, POLL, shown);
  }

  // Gradio may replace the videos of a pair while they load, so that their events are not enough.
  function start(shown) {
    if (token !== shown || started !== null) return;
    const videos = [...(pair()?.querySelectorAll("video") ?? [])];
    if (videos.length && videos.every((video) => video.readyState >= 2)) started = performance.now();
    else setTimeout(start, POLL, shown);
  }

  function vote(choice) {
    const now = performance.now();
    if (now - sent < WAIT || (started === null && choice !== "skip")) return JSON.stringify({ token: "", choice, milliseconds: 0 });
    sent = now;
    return JSON.stringify({ token, choice, milliseconds: Math.round(now - (started ?? now)) });
  }

  function key(event) {
    const choice = KEYS[event.key.toLowerCase()];
    const root = pair();
    if (!choice || !root || root.offsetParent === null || event.repeat || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.closest("textarea, [contenteditable=true], input:not([type=range]):not([type=checkbox])")) return;
    event.preventDefault();
    document.querySelector(`#vg-vote-${choice}`).click();
  }

  window.vidguide = Object.assign(window.vidguide || {}, { vote });
  new MutationObserver(scan).observe(document.documentElement, { childList: true, subtree: true, attributeFilter: ["data-token"] });
  document.addEventListener("keydown", key);
})();
