// The variants of the tab Try: a card each, with the controls that the server derives from the guidances' dataclasses.
(() => {
  const make = (tag, attributes = {}, ...children) => {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value);
    }
    element.append(...children.filter((child) => child !== null));
    return element;
  };

  class Editor {
    constructor(root) {
      this.root = root;
      this.version = root.dataset.version;
      this.schema = JSON.parse(root.dataset.schema);
      this.state = JSON.parse(root.dataset.state);
      this.draw();
    }

    draw() {
      const lock = make("label", { class: "vg-lock" },
        make("input", { type: "checkbox", name: "same_noise", checked: this.state.same_noise, onchange: (event) => {
          this.state.same_noise = event.target.checked;
          this.draw();
        } }), " same noise in all variants");
      const cards = this.state.variants.map((variant, index) => this.card(variant, index));
      const more = this.state.variants.length < this.schema.max_variants
        ? make("button", { type: "button", class: "vg-add", onclick: () => this.add() }, "add variant") : null;
      this.root.replaceChildren(lock, make("div", { class: "vg-cards" }, ...cards), ...(more ? [more] : []));
    }

    add() {
      const last = this.state.variants.at(-1);
      this.state.variants.push({ ...structuredClone(last), seed: last.seed + 1 });
      this.draw();
    }

    card(variant, index) {
      const only = this.state.variants.length === 1;
      const head = make("div", { class: "vg-head" }, make("b", {}, `variant ${index + 1}`),
        only ? null : make("button", { type: "button", "aria-label": `remove variant ${index + 1}`, onclick: () => {
          this.state.variants.splice(index, 1);
          this.draw();
        } }, "remove"));
      const seed = this.state.same_noise ? null : make("label", { class: "vg-seed" }, "seed ",
        make("input", { type: "number", min: 0, step: 1, value: variant.seed, name: "seed",
          oninput: (event) => { variant.seed = event.target.valueAsNumber; } }));
      const unused = Object.keys(this.schema.guidances).filter((name) => !variant.guidances.some((one) => one.name === name));
      const select = make("select", { "aria-label": `add guidance to variant ${index + 1}`, onchange: (event) => {
        variant.guidances.push({ name: event.target.value, values: {} });
        this.draw();
      } }, make("option", { value: "" }, "add guidance"), ...unused.map((name) => make("option", { value: name }, this.schema.guidances[name].title)));
      return make("section", { class: "vg-card", "data-variant": index }, head, seed,
        ...variant.guidances.map((guidance) => this.guidance(variant, guidance)), select);
    }

    guidance(variant, guidance) {
      const { title, parameters } = this.schema.guidances[guidance.name];
      const remove = make("button", { type: "button", "aria-label": `remove ${title}`, onclick: () => {
        variant.guidances.splice(variant.guidances.indexOf(guidance), 1);
        this.draw();
      } }, "remove");
      const first = parameters.filter((one) => one.main), rest = parameters.filter((one) => !one.main);
      const changed = rest.some((one) => one.name in guidance.values);
      return make("fieldset", { "data-guidance": guidance.name }, make("legend", {}, title, " ", remove),
        ...first.map((one) => this.control(guidance, one)),
        make("details", { open: changed }, make("summary", {}, "more"), ...rest.map((one) => this.control(guidance, one))));
    }

    control(guidance, parameter) {
      const value = guidance.values[parameter.name] ?? parameter.default;
      const set = (text) => {
        if (text === parameter.default) delete guidance.values[parameter.name];
        else guidance.values[parameter.name] = text;
      };
      const name = make("span", { title: parameter.about }, parameter.name);
      return make("label", { class: "vg-control", "data-parameter": parameter.name }, name, ...this.inputs(parameter, value, set));
    }

    inputs(parameter, value, set) {
      if (parameter.kind === "choice") {
        return [make("select", { onchange: (event) => set(event.target.value) },
          ...parameter.choices.map((one) => make("option", { value: one, selected: one === value }, one)))];
      }
      if (parameter.kind === "switch") {
        return [make("input", { type: "checkbox", checked: value === "true", onchange: (event) => set(String(event.target.checked)) })];
      }
      const field = make("input", { type: "text", value, class: parameter.kind, spellcheck: "false",
        placeholder: parameter.name === "negative_prompt" ? "that of the request" : "",
        oninput: (event) => { set(event.target.value); if (range) range.value = event.target.value; } });
      const range = parameter.step === null ? null : make("input", { type: "range", min: parameter.low, max: parameter.high,
        step: parameter.step, value, "aria-label": parameter.name,
        oninput: (event) => { field.value = event.target.value; set(event.target.value); } });
      return range ? [range, field] : [field];
    }
  }

  const editors = new WeakMap();
  function scan() {
    const root = document.getElementById("vg-editor");
    // Gradio changes the elements of a page in place: another version is another state.
    if (root && editors.get(root)?.version !== root.dataset.version) editors.set(root, new Editor(root));
  }

  function copy(button) {
    const text = button.parentElement.querySelector("pre").textContent;
    const area = Object.assign(document.createElement("textarea"), { value: text });
    const old = () => { document.body.append(area); area.select(); document.execCommand("copy"); area.remove(); };
    (navigator.clipboard ? navigator.clipboard.writeText(text).catch(old) : Promise.resolve(old())).then(() => {
      const label = button.dataset.label ?? (button.dataset.label = button.textContent);
      button.textContent = "copied";
      setTimeout(() => { button.textContent = label; }, 1500);
    });
  }

  document.addEventListener("click", (event) => {
    const button = event.target.closest(".vg-copy");
    if (button) copy(button);
  });
  window.vidguide = Object.assign(window.vidguide || {}, {
    editorState: () => JSON.stringify(editors.get(document.getElementById("vg-editor")).state),
  });
  new MutationObserver(scan).observe(document.documentElement, { childList: true, subtree: true, attributeFilter: ["data-version"] });
  document.addEventListener("DOMContentLoaded", scan);
})();
