// Groups of clips on one clock. The first clip is the clock: others follow it by their rate, and seek where far off.
(() => {
  const groups = new WeakMap();
  const CLOSE = 0.004, FAR = 0.2, GAIN = 5; // seconds, seconds, change of the rate per second of distance

  class Players {
    constructor(root) {
      this.root = root;
      this.version = version(root);
      this.removal = new AbortController();
      const options = { signal: this.removal.signal };
      this.settings = JSON.parse(root.dataset.settings);
      this.videos = [...root.querySelectorAll("video")];
      this.output = root.querySelector("output");
      this.slider = root.querySelector("[data-do=seek]");
      this.loop = root.querySelector("[data-do=loop]");
      this.button = root.querySelector("[data-do=play]");
      this.playing = false;
      root.addEventListener("click", (event) => this.click(event.target.closest("[data-do]")), options);
      root.addEventListener("keydown", (event) => this.key(event), options);
      this.slider.addEventListener("input", () => this.show(Number(this.slider.value)), options);
      this.ready().then(() => {
        if (this.removal.signal.aborted) return;
        if (this.settings.start === null) this.play();
        else this.show(this.settings.start);
      });
    }

    remove() {
      this.removal.abort();
      this.pause();
    }

    ready() {
      return Promise.all(this.videos.map((video) => video.readyState >= 2 || new Promise((done) => {
        video.addEventListener("loadeddata", done, { once: true });
        video.addEventListener("error", done, { once: true });
      })));
    }

    click(target) {
      if (!target || !this.root.contains(target)) return;
      const actions = {
        play: () => (this.playing ? this.pause() : this.play()),
        back: () => this.step(-1),
        forward: () => this.step(1),
        sound: () => this.unmute(target.closest("figure").querySelector("video")),
      };
      actions[target.dataset.do]?.();
    }

    key(event) {
      if (event.target !== this.root) return;
      const actions = { " ": "play", ArrowLeft: "back", ArrowRight: "forward" };
      const action = actions[event.key];
      if (!action) return;
      event.preventDefault();
      this.root.querySelector(`[data-do=${action}]`).click();
    }

    get frame() {
      return Math.min(Math.floor(this.videos[0].currentTime * this.settings.fps + 0.001), this.settings.frames - 1);
    }

    unmute(chosen) {
      for (const video of this.videos) video.muted = video !== chosen || !video.muted;
    }

    step(change) {
      const count = this.settings.frames;
      this.show((this.frame + change + count) % count);
    }

    async show(frame) {
      this.pause();
      await this.seek((frame + 0.5) / this.settings.fps);
      this.report(frame);
    }

    seek(time) {
      return Promise.all(this.videos.map((video) => new Promise((done) => {
        if (!Number.isFinite(video.duration)) return done();
        video.addEventListener("seeked", done, { once: true });
        video.currentTime = Math.min(time, Math.max(video.duration - 0.001, 0));
      })));
    }

    async play() {
      if (this.playing) return;
      this.playing = true;
      this.button.textContent = "pause";
      const ended = this.videos[0].ended || this.frame >= this.settings.frames - 1;
      await this.start(ended ? 0 : this.videos[0].currentTime);
      requestAnimationFrame(() => this.follow());
    }

    async start(time) {
      this.videos.forEach((video) => video.pause());
      await this.seek(time);
      if (!this.playing) return;
      await Promise.all(this.videos.map((video) => video.play().catch(() => {})));
    }

    pause() {
      this.playing = false;
      this.button.textContent = "play";
      for (const video of this.videos) {
        video.pause();
        video.playbackRate = 1;
      }
      this.align();
    }

    align() {
      for (const video of this.videos) {
        if (Math.abs(video.currentTime - this.videos[0].currentTime) > CLOSE) {
          video.currentTime = this.videos[0].currentTime;
        }
      }
    }

    async follow() {
      if (!this.playing) return;
      if (!this.root.isConnected) return this.remove();
      const [clock, ...others] = this.videos;
      if (clock.ended || this.videos.every((video) => video.ended)) {
        if (!this.loop.checked) return this.pause();
        await this.start(0);
      } else {
        others.filter((video) => !video.ended).forEach((video) => this.correct(video, clock.currentTime));
      }
      this.report(this.frame);
      requestAnimationFrame(() => this.follow());
    }

    correct(video, time) {
      const ahead = video.currentTime - time;
      if (Math.abs(ahead) > FAR) video.currentTime = time;
      video.playbackRate = Math.abs(ahead) < CLOSE ? 1 : Math.min(Math.max(1 - GAIN * ahead, 0.5), 2);
    }

    report(frame) {
      this.slider.value = frame;
      this.output.textContent = `frame ${frame} of ${this.settings.frames}`;
    }
  }

  // Gradio changes the elements of a page in place: a group with other clips is a new one.
  const version = (root) => [root.dataset.settings, ...[...root.querySelectorAll("video")].map((one) => one.src)].join(" ");

  function scan() {
    for (const root of document.querySelectorAll(".vg-players")) {
      const group = groups.get(root);
      if (group?.version === version(root)) continue;
      group?.remove();
      groups.set(root, new Players(root));
    }
  }

  window.vidguide = Object.assign(window.vidguide || {}, { playersOf: (root) => groups.get(root) });
  new MutationObserver(scan).observe(document.documentElement, { childList: true, subtree: true, attributeFilter: ["src", "data-settings"] });
  document.addEventListener("DOMContentLoaded", scan);
})();
